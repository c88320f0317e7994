//! Escapes names for printing, and for a shell. A cgroup's name can hold any byte but NUL, newline and '/', and a container can choose it.

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

/// Quotes a word for a POSIX shell, so that a command can be typed as it's printed. Common words stay as they are.
/// Others are quoted, and bytes that could control a terminal are written as octal escapes of printf(1). So the result
/// is always printable ASCII.
pub fn shell_word(word: impl AsRef<OsStr>) -> String {
    let bytes = word.as_ref().as_bytes();
    let is_common = |byte: &u8| byte.is_ascii_alphanumeric() || b"/._-:=,+@%".contains(byte);
    let text = |bytes: &[u8]| bytes.iter().map(|byte| char::from(*byte)).collect::<String>();
    if !bytes.is_empty() && bytes.iter().all(is_common) {
        return text(bytes);
    }
    if bytes.iter().all(|byte| matches!(byte, b' '..=b'~') && *byte != b'\'') {
        return format!("'{}'", text(bytes));
    }
    let escape = |byte: &u8| match byte {
        byte if is_common(byte) && *byte != b'%' => char::from(*byte).to_string(),
        byte => format!("\\{byte:03o}"),
    };
    // `--`: the text may begin with a dash.
    format!("\"$(printf -- '{}')\"", bytes.iter().map(escape).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn words_for_a_shell() {
        for (word, quoted) in [
            ("/sys/fs/cgroup/cpu,cpuacct/a.slice", "/sys/fs/cgroup/cpu,cpuacct/a.slice"),
            ("name=systemd=/a", "name=systemd=/a"),
            ("", "''"),
            ("a b;$(c)\\x2d", "'a b;$(c)\\x2d'"),
            ("it's", "\"$(printf -- 'it\\047s')\""),
            ("%\u{1b}", "\"$(printf -- '\\045\\033')\""),
        ] {
            assert_eq!(shell_word(word), quoted, "{word}");
        }
    }

    /// A shell reads each word as it was, but for line breaks at the end, which no cgroup's name has.
    #[test]
    fn a_shell_reads_the_words_again() {
        let words: [&[u8]; 7] =
            [b"a", b"-n", b"a b", b"it's \"x\"", b"\x1b[2J\xff%s\\", b"*?[a]~#!&|<>(){}$x`y`", b"\xc3\xa4\tb\nc"];
        for word in words {
            let quoted = shell_word(OsStr::from_bytes(word));
            let echo = format!("printf %s {quoted}");
            let said = std::process::Command::new("sh").args(["-c", &echo]).output().unwrap();
            assert_eq!(said.stdout, word, "{quoted}");
            assert!(quoted.bytes().all(|byte| matches!(byte, b' '..=b'~')), "{quoted}");
        }
    }

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
