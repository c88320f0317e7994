//! Names and texts in JSON.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use serde_json::Value;

/// A name or path: a string, or an array of its bytes where it isn't UTF-8, as `journalctl -o json` has it.
pub(super) fn name(name: impl AsRef<OsStr>) -> Value {
    let name = name.as_ref();
    match name.to_str() {
        Some(text) => Value::from(text),
        None => Value::from(name.as_bytes()),
    }
}

/// As it's printed. Characters that change how a terminal shows the rest are escaped beyond what JSON asks for, which means the same to programs.
pub(super) fn text(value: &Value) -> String {
    let mut text = String::new();
    // Outside strings there is only ASCII, and strings have no ASCII control characters any more but DEL.
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
    fn names_come_back() {
        let value = serde_json::json!({"a": "\u{9b}31m\u{202e}\u{1b}\u{7f}\n\"'\\Größe\u{e0001}"});
        let text = text(&value);
        assert!(!text.chars().any(char::is_control) && !text.contains('\u{202e}') && text.contains("Größe"), "{text}");
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), value);
        assert_eq!(name("abc"), Value::from("abc"));
        assert_eq!(name(OsStr::from_bytes(b"a\xff")), serde_json::json!([97, 255]));
    }
}
