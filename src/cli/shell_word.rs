//! Words of a command that is shown, so that it can be copied.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

/// Quotes a word for a shell, where that's needed. The result is printable ASCII: other bytes become escapes in `$'...'`,
/// which bash, zsh and busybox know.
pub(super) fn shell_word(word: impl AsRef<OsStr>) -> String {
    let bytes = word.as_ref().as_bytes();
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"/._-:=,@+%".contains(byte);
    let is_shown = |byte: &u8| byte.is_ascii_graphic() || *byte == b' ';
    if !bytes.is_empty() && bytes.iter().all(is_plain) {
        return bytes.iter().copied().map(char::from).collect();
    }
    if bytes.iter().all(is_shown) {
        let text: String = bytes.iter().copied().map(char::from).collect();
        return format!("'{}'", text.replace('\'', r"'\''"));
    }
    let mut text = String::from("$'");
    for byte in bytes {
        match byte {
            b'\'' | b'\\' => text.extend(['\\', char::from(*byte)]),
            shown if is_shown(shown) => text.push(char::from(*shown)),
            // Three octal digits end by themselves, and hexadecimal ones may not.
            other => text.push_str(&format!("\\{other:03o}")),
        }
    }
    text.push('\'');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_come_back_from_a_shell() {
        for (bytes, word) in [
            (b"/unified/a-b.slice".as_slice(), "/unified/a-b.slice"),
            (b"", "''"),
            (b"a b$(c)", "'a b$(c)'"),
            (b"it's", r"'it'\''s'"),
            (b"\x1b[2J'\\\xff1", r"$'\033[2J\'\\\3771'"),
        ] {
            let word_of = shell_word(OsStr::from_bytes(bytes));
            assert_eq!(word_of, word);
            let output = std::process::Command::new("bash").args(["-c", &format!("printf %s {word}")]).output();
            if let Ok(output) = output {
                assert_eq!(output.stdout, bytes, "{word}");
            }
        }
    }
}
