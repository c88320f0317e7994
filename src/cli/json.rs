//! JSON for names and for output.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use serde_json::Value;

/// A name or path as JSON: a string, or an array of its bytes if it isn't UTF-8, as in `journalctl -o json`.
pub(super) fn name(name: impl AsRef<OsStr>) -> Value {
    let name = name.as_ref();
    match name.to_str() {
        Some(text) => Value::from(text),
        None => Value::from(name.as_bytes()),
    }
}

/// Formats JSON for printing. It also escapes characters that change how a terminal shows the rest, which JSON allows.
pub(super) fn text(value: &Value) -> String {
    let mut text = String::new();
    // Outside strings there is only ASCII, and strings contain no ASCII control character but DEL.
    for character in value.to_string().chars() {
        let stays = character == '\\' || character == '"' || character == '\'';
        if stays || character.escape_debug().len() == 1 {
            text.push(character);
        } else {
            for unit in character.encode_utf16(&mut [0; 2]) {
                text.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_survive_printing() {
        let value = serde_json::json!({"a": "\u{9b}31m\u{202e}\u{1b}\u{7f}\n\"'\\Größe\u{e0001}"});
        let text = text(&value);
        assert!(!text.chars().any(char::is_control) && !text.contains('\u{202e}') && text.contains("Größe"), "{text}");
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), value);
        assert_eq!(name("abc"), Value::from("abc"));
        assert_eq!(name(OsStr::from_bytes(b"a\xff")), serde_json::json!([97, 255]));
    }
}
