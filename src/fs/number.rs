//! The numbers that are written to membership files.

/// What a write to a membership file asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// `0`: the writer itself.
    Writer,
    /// This process or thread, in the writer's pid namespace.
    Number(i32),
    /// Nothing that the kernel takes for a number (`EINVAL`).
    Malformed,
}

/// Reads what was written, as `cgroup_procs_write_start` does: `strstrip`, then `kstrtoint` with base 0, not negative.
///
/// What comes out is written to the backing file as a plain decimal number, so that a difference to the kernel's parser could only
/// reject, never migrate something that wasn't checked.
pub fn parse(data: &[u8]) -> Written {
    // The kernel sees a string: it ends at the first NUL.
    let text = data.split(|byte| *byte == 0).next().unwrap_or_default();
    let text = trim(text);
    let (negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        rest => (false, rest),
    };
    let (radix, digits) = match digits {
        [b'0', b'x' | b'X', rest @ ..] if rest.first().is_some_and(u8::is_ascii_hexdigit) => (16, rest),
        [b'0', rest @ ..] if !rest.is_empty() => (8, digits),
        _ => (10, digits),
    };
    if digits.is_empty() || !digits.iter().all(|digit| char::from(*digit).is_digit(radix)) {
        return Written::Malformed;
    }
    let number = std::str::from_utf8(digits).ok().and_then(|digits| i32::from_str_radix(digits, radix).ok());
    match number {
        Some(0) => Written::Writer,
        Some(number) if !negative => Written::Number(number),
        _ => Written::Malformed,
    }
}

/// `isspace` of the kernel's ctype table: tab to carriage return, space, and Latin-1's no-break space.
pub(super) fn trim(text: &[u8]) -> &[u8] {
    let is_space = |byte: &u8| matches!(byte, b'\t'..=b'\r' | b' ' | 0xa0);
    let start = text.iter().position(|byte| !is_space(byte)).unwrap_or(text.len());
    let end = text.iter().rposition(|byte| !is_space(byte)).map_or(start, |last| last + 1);
    text.get(start..end).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn as_the_kernel() {
        use Written::{Malformed, Number, Writer};
        for (text, written) in [
            ("0", Writer),
            ("0x0", Writer),
            ("00", Writer),
            ("-0", Writer),
            ("7", Number(7)),
            (" 7\n", Number(7)),
            ("+7", Number(7)),
            ("0x10", Number(16)),
            ("010", Number(8)),
            ("2147483647", Number(i32::MAX)),
            ("2147483648", Malformed),
            ("-1", Malformed),
            ("", Malformed),
            ("\n", Malformed),
            ("1 2", Malformed),
            ("1\n2", Malformed),
            ("08", Malformed),
            ("0x", Malformed),
            ("++7", Malformed),
            ("7a", Malformed),
            ("7\08", Number(7)),
            ("\u{0}", Malformed),
        ] {
            assert_eq!(parse(text.as_bytes()), written, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(bytes in prop::collection::vec(any::<u8>(), 0..20)) {
            let _ = parse(&bytes);
        }

        #[test]
        fn every_number_comes_back(number in 1..i32::MAX) {
            prop_assert_eq!(parse(format!("{number}\n").as_bytes()), Written::Number(number));
            prop_assert_eq!(parse(format!("{number:#x}").as_bytes()), Written::Number(number));
        }
    }
}
