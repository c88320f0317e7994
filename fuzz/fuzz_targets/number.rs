//! What is written to a membership file, against a slow model of the kernel's `strstrip` and `kstrtoint` with base 0.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vcgroupfs::fs::membership::pid_arg::{PidArg, parse};

/// asm-generic/errno-base.h.
const ESRCH: i32 = 3;
const EINVAL: i32 = 22;

/// `isspace`: lib/ctype.c.
fn is_space(byte: u8) -> bool {
    (9..=13).contains(&byte) || byte == 32 || byte == 160
}

/// lib/kstrtox.c, step by step; `None` for any error.
fn kstrtoint(text: &[u8]) -> Option<i64> {
    let mut rest = text;
    let negative = rest.first() == Some(&b'-');
    if negative || rest.first() == Some(&b'+') {
        rest = &rest[1..];
    }
    // _parse_integer_fixup_radix.
    let mut radix: u128 = 10;
    if rest.first() == Some(&b'0') {
        let second = rest.get(1).map(u8::to_ascii_lowercase);
        let digit = rest.get(2).is_some_and(u8::is_ascii_hexdigit);
        radix = if second == Some(b'x') && digit { 16 } else { 8 };
    }
    if radix == 16 {
        rest = &rest[2..];
    }
    // _parse_integer.
    let mut value: u128 = 0;
    let mut count = 0;
    while let Some(byte) = rest.get(count) {
        let digit = match byte.to_ascii_lowercase() {
            digit @ b'0'..=b'9' => digit - b'0',
            letter @ b'a'..=b'f' => letter - b'a' + 10,
            _ => break,
        };
        if u128::from(digit) >= radix {
            break;
        }
        value = (value * radix + u128::from(digit)).min(1 << 100);
        count += 1;
    }
    rest = &rest[count..];
    // One newline may follow.
    if rest.first() == Some(&b'\n') {
        rest = &rest[1..];
    }
    if count == 0 || !rest.is_empty() {
        return None;
    }
    let value = i64::try_from(value).ok()?;
    let value = if negative { -value } else { value };
    i32::try_from(value).ok().map(i64::from)
}

/// `strstrip` of a string.
fn stripped(data: &[u8]) -> &[u8] {
    let mut text = data.split(|byte| *byte == 0).next().unwrap_or_default();
    while text.first().is_some_and(|byte| is_space(*byte)) {
        text = &text[1..];
    }
    while text.last().is_some_and(|byte| is_space(*byte)) {
        text = &text[..text.len() - 1];
    }
    text
}

/// What a kernel since Linux 3.16 says to a text that names no process.
fn errno_of(text: &[u8]) -> i32 {
    match kstrtoint(stripped(text)) {
        Some(number) if number >= 0 => {
            assert!(number > 4_194_304, "{number} could be a process");
            ESRCH
        }
        _ => EINVAL,
    }
}

fuzz_target!(|data: &[u8]| {
    let expected = match kstrtoint(stripped(data)) {
        Some(0) => PidArg::Writer,
        Some(number) if number > 0 => PidArg::Number(i32::try_from(number).expect("an int")),
        _ => PidArg::Malformed,
    };
    let (written, question) = parse(data);
    let is_taken =
        question.is_none_or(|question| question.taken.map(|errno| errno as i32) == Some(errno_of(&question.text)));
    assert_eq!(if is_taken { written } else { PidArg::Malformed }, expected, "{data:?}");
});
