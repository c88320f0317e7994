//! The styles of a log, and the one record that the log itself writes.

use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};

/// The style in which records are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    /// Lines with time and level.
    Text,
    /// Lines without time and level, for a service that adds its own.
    Bare,
    /// One JSON object a line.
    Json,
}

/// Makes the record that says how many others were lost: `lost` since the last such record, and `since_start` in all.
pub(crate) fn loss_record(style: Style, lost: u64, since_start: u64) -> String {
    let message = "records of this log were lost: they couldn't be written, or not fast enough";
    let mut time = String::new();
    // If formatting the time fails, it's left out.
    let _ = SystemTime.format_time(&mut Writer::new(&mut time));
    match style {
        Style::Text => format!("{time}  WARN {message} since_start={since_start} lost={lost}\n"),
        Style::Bare => format!("{message} since_start={since_start} lost={lost}\n"),
        Style::Json => {
            let counts = format!("\"since_start\":{since_start},\"lost\":{lost}");
            format!("{{\"timestamp\":\"{time}\",\"level\":\"WARN\",\"message\":\"{message}\",{counts}}}\n")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_are_reported_in_every_style() {
        let text = loss_record(Style::Text, 7, 9);
        assert!(text.contains("Z  WARN records of this log were lost") && text.ends_with(" since_start=9 lost=7\n"));
        assert!(loss_record(Style::Bare, 7, 9).starts_with("records of this log were lost"));
        let object: serde_json::Value = serde_json::from_str(&loss_record(Style::Json, 7, 9)).unwrap();
        assert_eq!((&object["lost"], &object["level"]), (&7.into(), &"WARN".into()));
    }
}
