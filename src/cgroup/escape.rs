//! Escapes names for printing. A cgroup's name can hold any byte but NUL, newline and '/', and a container can choose it.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

/// Escapes characters that control a terminal or change how it shows the rest. Control characters (C0 and C1),
/// direction marks, line separators and invisible characters become Rust's escapes (`\n`, `\u{1b}`), and bytes that
/// aren't UTF-8 become `\xff`. Printable characters stay, even backslashes, which many of systemd's names have. So
/// the text is for people and can't be decoded; programs use `--json`.
pub fn escaped(name: impl AsRef<OsStr>) -> String {
    let bytes = name.as_ref().as_bytes();
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for part in chunk.valid().split_inclusive(['\\', '\'', '"']) {
            let rest = part.strip_suffix(['\\', '\'', '"']).unwrap_or(part);
            text.extend(rest.escape_debug());
            text.push_str(part.get(rest.len()..).unwrap_or_default());
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_terminal_controls_are_escaped() {
        for plain in ["/a/b.slice", "dev-disk-by\\x2duuid.swap", "it's \"quoted\"", "Größe/日本/e\u{301}", " "] {
            assert_eq!(escaped(plain), plain);
        }
        for (name, printed) in [
            ("\u{1b}[2J", "\\u{1b}[2J"),
            ("a\nb\tc\r\u{7f}", "a\\nb\\tc\\r\\u{7f}"),
            ("\u{9b}31m\u{85}", "\\u{9b}31m\\u{85}"),
            ("\u{202e}\u{2066}\u{200f}", "\\u{202e}\\u{2066}\\u{200f}"),
            ("\u{2028}\u{feff}\u{e000}", "\\u{2028}\\u{feff}\\u{e000}"),
            ("\\\u{1b}", "\\\\u{1b}"),
        ] {
            assert_eq!(escaped(name), printed, "{name:?}");
        }
        assert_eq!(escaped(OsStr::from_bytes(b"a\xff\xc3(\x9bz")), "a\\xff\\xc3(\\x9bz");
    }

    proptest! {
        #[test]
        fn nothing_is_left_that_isnt_printed(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let text = escaped(OsStr::from_bytes(&bytes));
            prop_assert!(!text.chars().any(char::is_control));
            prop_assert_eq!(escaped(&text), text, "escaping twice is escaping once");
        }
    }
}
