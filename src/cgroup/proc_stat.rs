//! `/proc/TID/stat` and `/proc/loadavg`.

/// Returns a field of `/proc/TID/stat`, counted from 1. It must come after the second field, the command, which may
/// contain spaces and parentheses.
pub fn stat_field(stat: &str, number: usize) -> Option<&str> {
    let (_, behind) = stat.rsplit_once(')')?;
    behind.split_ascii_whitespace().nth(number.checked_sub(3)?)
}

/// The processor on which a thread last ran: `processor`, field 39 of `/proc/TID/stat` (proc_pid_stat(5)).
pub fn parse_processor(stat: &str) -> Option<usize> {
    stat_field(stat, 39)?.parse().ok()
}

/// How many threads run or wait for a processor: the first number of the fourth field of `/proc/loadavg` (proc_loadavg(5)).
pub fn parse_running(loadavg: &str) -> Option<usize> {
    loadavg.split_ascii_whitespace().nth(3)?.split_once('/')?.0.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_with_parentheses_shifts_no_field() {
        let fields: Vec<String> = (3..53).map(|number| number.to_string()).collect();
        let stat = format!("7 (a) 9 (b) {}", fields.join(" "));
        assert_eq!(parse_processor(&stat), Some(39));
        assert_eq!(stat_field(&stat, 9), Some("9"));
        assert_eq!(parse_processor("7 (a) S 1"), None);
    }

    #[test]
    fn running_threads() {
        assert_eq!(parse_running("0.58 1.49 2.30 3/345 23001\n"), Some(3));
        assert_eq!(parse_running("0.58 1.49 2.30 345 23001\n"), None);
    }
}
