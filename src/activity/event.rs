//! A request that was answered, as words.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::kind::RequestKind;
use crate::policy::Rule;

/// The longest name of a command, in bytes. The kernel's have 15.
const COMMAND_MAX: usize = 16;

/// A request that was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// When it was answered.
    pub time: SystemTime,
    /// How long that took.
    pub took: Duration,
    /// What it asked for. `None` if it's a kind that this program doesn't know.
    pub kind: Option<RequestKind>,
    /// The errno that the caller got; 0 for none.
    pub errno: i32,
    /// The rule that rejected it.
    pub rule: Option<Rule>,
    /// The calling process, in the server's pid namespace.
    pub pid: i32,
    /// The user id that the caller acted with, in the server's user namespace.
    pub uid: u32,
    /// The name of the caller's command, of which a container may choose each byte.
    pub command: Vec<u8>,
    /// The path in the view, which likewise can have any bytes. Empty if it isn't known.
    pub path: Vec<u8>,
    /// Whether the path has lost its beginning.
    pub is_cut: bool,
}

impl Event {
    /// The words of all but the path.
    pub(super) const WORDS: usize = 7;

    pub(super) fn encode(&self, path_max: usize) -> ([u64; Self::WORDS], &[u8]) {
        let cut = self.path.len().saturating_sub(path_max);
        let path = self.path.get(cut..).unwrap_or_default();
        let nanoseconds = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let [first, second] = words_of(&self.command);
        let rule = self.rule.map_or(0, |rule| rule as u64 + 1);
        let kind = self.kind.map_or(u64::from(u8::MAX), |kind| kind as u64);
        let errno = u64::from(u16::try_from(self.errno).unwrap_or(u16::MAX));
        let is_cut = u64::from(cut > 0 || self.is_cut);
        let words = [
            nanoseconds(self.time.duration_since(UNIX_EPOCH).unwrap_or_default()),
            nanoseconds(self.took),
            u64::from(self.pid.cast_unsigned()) << 32 | u64::from(self.uid),
            kind | rule << 8 | errno << 16 | is_cut << 32,
            first,
            second,
            path.len() as u64,
        ];
        (words, path)
    }

    /// Reads the words, whatever they are.
    pub(super) fn decode(words: [u64; Self::WORDS], path: &[u8]) -> Self {
        let [time, took, caller, what, first, second, length] = words;
        let [kind, rule, low, high, is_cut, ..] = what.to_le_bytes();
        let command = [first.to_ne_bytes(), second.to_ne_bytes()].concat();
        let command = command.split(|byte| *byte == 0).next().unwrap_or_default().to_vec();
        let length = usize::try_from(length).unwrap_or(usize::MAX).min(path.len());
        Self {
            time: UNIX_EPOCH.checked_add(Duration::from_nanos(time)).unwrap_or(UNIX_EPOCH),
            took: Duration::from_nanos(took),
            kind: RequestKind::of_number(kind),
            errno: i32::from(u16::from_le_bytes([low, high])),
            rule: rule.checked_sub(1).and_then(|rule| Rule::ALL.get(usize::from(rule)).copied()),
            pid: ((caller >> 32) as u32).cast_signed(),
            uid: caller as u32,
            command,
            path: path.get(..length).unwrap_or_default().to_vec(),
            is_cut: is_cut != 0,
        }
    }
}

#[cfg(test)]
impl Event {
    /// An event for tests.
    pub(super) fn example(path: &str) -> Self {
        Self {
            time: UNIX_EPOCH + Duration::from_nanos(1_700_000_000_123_456_789),
            took: Duration::from_nanos(12_345),
            kind: Some(RequestKind::Mkdir),
            errno: libc::EACCES,
            rule: Some(Rule::OutsideSubtree),
            pid: 4711,
            uid: 65_534,
            command: b"systemd".to_vec(),
            path: path.as_bytes().to_vec(),
            is_cut: false,
        }
    }
}

/// The first bytes of a command's name.
fn words_of(command: &[u8]) -> [u64; 2] {
    let mut bytes = [0; COMMAND_MAX];
    bytes.iter_mut().zip(command).for_each(|(to, from)| *to = *from);
    let word = |range| <[u8; 8]>::try_from(bytes.get::<std::ops::Range<usize>>(range).unwrap_or_default());
    [word(0..8), word(8..16)].map(|word| u64::from_ne_bytes(word.unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_event_comes_back() {
        let nothing = Event { kind: None, errno: 0, rule: None, command: Vec::new(), ..Event::example("") };
        let full = Event { command: vec![0xff; COMMAND_MAX], pid: i32::MAX, uid: u32::MAX, ..Event::example("/a/b") };
        for event in [Event::example("/unified/x"), nothing, full] {
            let (words, path) = event.encode(64);
            assert_eq!(Event::decode(words, path), event);
        }
    }

    #[test]
    fn a_long_path_loses_its_beginning() {
        let long = Event::example("/very/long/end");
        let (words, path) = long.encode(4);
        let read = Event::decode(words, path);
        assert_eq!((read.path.as_slice(), read.is_cut), (b"/end".as_slice(), true));
    }

    proptest! {
        #[test]
        fn any_words_are_read(words in prop::array::uniform7(any::<u64>()), path in prop::collection::vec(any::<u8>(), 0..40)) {
            let read = Event::decode(words, &path);
            prop_assert!(read.path.len() <= path.len());
        }
    }
}
