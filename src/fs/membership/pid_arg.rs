//! The numbers that are written to membership files.
//!
//! Kernels differ in what they accept as a number. Since Linux 3.16 they use `kstrtoint` after `strstrip`, with base
//! 0, not negative. 3.15 uses `kstrtoull`: it rejects `-0` and drops the upper half of large numbers. Earlier kernels
//! use `simple_strtoull`, in a buffer of 64 bytes: it accepts no sign at all, and reads nothing but spaces as 0. This
//! module decides about the forms that all of them accept. About everything else it asks the kernel, by a text of the
//! same form that can't name a process.

use nix::errno::Errno;

/// The argument of a write to a membership file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PidArg {
    /// `0`, which means the writer itself.
    Writer,
    /// This process or thread, in the writer's pid namespace.
    Number(i32),
    /// Nothing that a kernel accepts as a process number (`EINVAL`).
    Malformed,
}

/// A write that asks the kernel about a form first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FormProbe {
    /// The text to write: it never names a process.
    pub text: Vec<u8>,
    /// The errno that the kernel returns if it accepts the form. `None`: its result is the answer.
    pub taken: Option<Errno>,
}

/// A number that no process has (`PID_MAX_LIMIT`), also in octal digits. A kernel that takes the lower half of a
/// larger number reads the same; one that looks at the whole finds it too large.
const UNUSED_PID: &str = "2147483647";
const UNUSED_PID_OCTAL: &str = "17777777777";
const TOO_LARGE_PID: &str = "6442450943";

/// The size of `cgroup_write_X64`'s buffer, before Linux 3.15.
const OLD_BUFFER_BYTES: usize = 64;

/// Parses a written number.
///
/// The caller writes the result to the backing file as a plain decimal number, so that a difference to the kernel's
/// parser could only reject a write, never migrate a process that wasn't checked.
pub fn parse(data: &[u8]) -> (PidArg, Option<FormProbe>) {
    // The kernel sees a string: it ends at the first NUL.
    let whole = data.split(|byte| *byte == 0).next().unwrap_or_default();
    let text = trim(whole);
    let (sign, digits) = match text {
        [sign @ (b'-' | b'+'), rest @ ..] => (Some(*sign), rest),
        rest => (None, rest),
    };
    let (radix, digits) = match digits {
        [b'0', b'x' | b'X', rest @ ..] if rest.first().is_some_and(u8::is_ascii_hexdigit) => (16, rest),
        [b'0', rest @ ..] if !rest.is_empty() => (8, digits),
        _ => (10, digits),
    };
    let probe_of = |number: &str, taken| Some(form_probe(data, whole, number, taken));
    if text.is_empty() {
        // Octal digits give the text the same length without spaces, which 3.15 would reject.
        let mut text = vec![b'0'; data.len().saturating_sub(UNUSED_PID_OCTAL.len()).max(2)];
        if let Some(sign) = text.first_mut() {
            *sign = b'+';
        }
        text.extend_from_slice(UNUSED_PID_OCTAL.as_bytes());
        return (PidArg::Writer, Some(FormProbe { text, taken: Some(Errno::EINVAL) }));
    }
    if digits.is_empty() || !digits.iter().all(|digit| char::from(*digit).is_digit(radix)) {
        return (PidArg::Malformed, None);
    }
    let number = std::str::from_utf8(digits).ok().and_then(|digits| i32::from_str_radix(digits, radix).ok());
    let written = match number {
        Some(0) => PidArg::Writer,
        Some(number) if sign != Some(b'-') => PidArg::Number(number),
        None if sign != Some(b'-') => return (PidArg::Malformed, probe_of(TOO_LARGE_PID, None)),
        _ => return (PidArg::Malformed, None),
    };
    let is_plain = whole.strip_suffix(b"\n").unwrap_or(whole) == text && data.len() < OLD_BUFFER_BYTES;
    let probe = match sign {
        Some(b'-') => probe_of(TOO_LARGE_PID, Some(Errno::EINVAL)),
        Some(_) => probe_of(&format!("+{UNUSED_PID}"), Some(Errno::ESRCH)),
        None if is_plain => None,
        None => probe_of(UNUSED_PID, Some(Errno::ESRCH)),
    };
    (written, probe)
}

/// Makes a probe with this number, with spaces in the same places and a text of the same length.
fn form_probe(data: &[u8], whole: &[u8], number: &str, taken: Option<Errno>) -> FormProbe {
    let before = whole.iter().take_while(|byte| is_space(byte)).count();
    let after = whole.get(before..).unwrap_or_default().iter().rev().take_while(|byte| is_space(byte)).count();
    let mut text = whole.get(..before.min(1)).unwrap_or_default().to_vec();
    text.extend_from_slice(number.as_bytes());
    let after = whole.get(whole.len() - after..).unwrap_or_default();
    text.extend(after.first());
    let last = after.get(1..).and_then(<[u8]>::last);
    text.resize(text.len().max(data.len() - usize::from(last.is_some())), b' ');
    text.extend(last);
    FormProbe { text, taken }
}

/// `isspace` of the kernel's ctype table: tab to carriage return, space, and Latin-1's no-break space.
fn is_space(byte: &u8) -> bool {
    matches!(byte, b'\t'..=b'\r' | b' ' | 0xa0)
}

/// Strips whitespace from both ends, as the kernel's `strstrip` does.
pub(in crate::fs) fn trim(text: &[u8]) -> &[u8] {
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
        use PidArg::{Malformed, Number, Writer};
        for (text, written) in [
            ("0", Writer),
            ("0x0", Writer),
            ("00", Writer),
            ("7", Number(7)),
            ("7\n", Number(7)),
            ("0x10", Number(16)),
            ("010", Number(8)),
            ("2147483647", Number(i32::MAX)),
            ("-1", Malformed),
            ("1 2", Malformed),
            ("1\n2", Malformed),
            ("08", Malformed),
            ("0x", Malformed),
            ("++7", Malformed),
            ("7a", Malformed),
            ("7\08", Number(7)),
        ] {
            assert_eq!(parse(text.as_bytes()), (written, None), "{text:?}");
        }
    }

    #[test]
    fn a_text_of_any_length_is_read() {
        // These are longer than a format string's maximum width.
        for data in [vec![b'\n'; 100_000], vec![0; 100_000], [b"+7", &[b' '; 100_000][..]].concat()] {
            let (_, probe) = parse(&data);
            assert_eq!(probe.map(|probe| probe.text.len() >= data.len()), Some(true));
        }
    }

    #[test]
    fn what_the_kernel_is_asked() {
        use PidArg::{Malformed, Number, Writer};
        let long = format!("7{}", " ".repeat(63));
        let asked_long = format!("2147483647{}", " ".repeat(54));
        for (text, written, asked, taken) in [
            ("+7", Number(7), "+2147483647", Some(Errno::ESRCH)),
            ("+0\n", Writer, "+2147483647\n", Some(Errno::ESRCH)),
            ("-0", Writer, "6442450943", Some(Errno::EINVAL)),
            ("", Writer, "+017777777777", Some(Errno::EINVAL)),
            ("\n", Writer, "+017777777777", Some(Errno::EINVAL)),
            ("\0x             ", Writer, "+00017777777777", Some(Errno::EINVAL)),
            (" 7", Number(7), " 2147483647", Some(Errno::ESRCH)),
            ("\t\t7 \n", Number(7), "\t2147483647 \n", Some(Errno::ESRCH)),
            ("2147483648", Malformed, "6442450943", None),
            ("99999999999999999999", Malformed, "6442450943          ", None),
            (&long, Number(7), &asked_long, Some(Errno::ESRCH)),
        ] {
            let probe = FormProbe { text: asked.into(), taken };
            assert_eq!(parse(text.as_bytes()), (written, Some(probe)), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(bytes in prop::collection::vec(any::<u8>(), 0..20)) {
            let _ = parse(&bytes);
        }

        #[test]
        fn every_number_comes_back(number in 1..i32::MAX) {
            prop_assert_eq!(parse(format!("{number}\n").as_bytes()), (PidArg::Number(number), None));
            prop_assert_eq!(parse(format!("{number:#x}").as_bytes()), (PidArg::Number(number), None));
        }
    }
}
