//! Facts about processes, from `/proc`.

use std::fs;

/// The numbers of all processes that this one can see.
pub fn processes() -> Vec<u32> {
    numbers_in("/proc")
}

/// The children of a process that it hasn't waited for. `/proc/PID/task/TID/children` would tell them, but some kernels don't have it.
pub fn children_of(parent: u32) -> Vec<u32> {
    let parent = parent.to_string();
    processes().into_iter().filter(|pid| status_field(*pid, "PPid").as_ref() == Some(&parent)).collect()
}

/// A field of `/proc/PID/status`, such as `PPid`, without the blanks around it. `None` if there's no such process or field.
pub fn status_field(process: u32, field: &str) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let value = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    Some(value.trim().to_owned())
}

/// The resident memory of a process (`VmRSS`), in KiB.
///
/// # Panics
///
/// When there's no such process.
pub fn resident_kib(process: u32) -> u64 {
    let value = status_field(process, "VmRSS").expect("the status of a process");
    value.trim_end_matches(" kB").parse().expect("a number of KiB")
}

/// The user and system time of a process so far, in ticks of the clock (`sysconf(_SC_CLK_TCK)`).
///
/// # Panics
///
/// When there's no such process.
pub fn processor_ticks(process: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{process}/stat")).expect("the stat of a process");
    // utime and stime are the fields 14 and 15 of proc(5), and the fields begin with number 3 behind the name.
    stat_fields(&text).skip(14 - 3).take(2).map(|field| field.parse::<u64>().expect("ticks")).sum()
}

/// The states of a process' threads, such as `S`, as proc(5) has them. Empty if there's no such process.
pub fn thread_states(process: u32) -> Vec<char> {
    let tasks = format!("/proc/{process}/task");
    let state = |thread| {
        let stat = fs::read_to_string(format!("{tasks}/{thread}/stat")).ok()?;
        stat_fields(&stat).next()?.chars().next()
    };
    numbers_in(&tasks).into_iter().filter_map(state).collect()
}

/// How many threads of a process have this name.
pub fn threads_named(process: u32, name: &str) -> usize {
    let tasks = format!("/proc/{process}/task");
    let is_named =
        |thread: &u32| fs::read_to_string(format!("{tasks}/{thread}/comm")).is_ok_and(|comm| comm.trim_end() == name);
    numbers_in(&tasks).into_iter().filter(is_named).count()
}

/// The fields of a `stat` behind the process' name, which may have any characters.
fn stat_fields(stat: &str) -> impl Iterator<Item = &str> {
    stat.rsplit_once(") ").map_or("", |(_, fields)| fields).split_whitespace()
}

fn numbers_in(directory: &str) -> Vec<u32> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn proc_tells_of_a_process_and_its_child() {
        let own = std::process::id();
        let mut child = Command::new("sleep").arg("1000").spawn().expect("sleep");
        assert!(children_of(own).contains(&child.id()));
        assert_eq!(status_field(child.id(), "PPid"), Some(own.to_string()));
        assert_eq!(status_field(child.id(), "Nothing"), None);
        crate::wait_until("sleep sleeps", || {
            thread_states(child.id()) == ['S'] && threads_named(child.id(), "sleep") == 1
        });
        child.kill().and_then(|()| child.wait()).expect("its end");
        assert!(thread_states(child.id()).is_empty());
        assert!(resident_kib(own) > 0);
        assert!(processor_ticks(own) < u64::MAX);
    }
}
