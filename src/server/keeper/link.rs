//! The connection between a server and its keeper.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::OnceLock;

use nix::errno::Errno;

use crate::error::{Error, ErrorKind};
use crate::sys;

/// The longest message: an error's text.
const MESSAGE_MAX: usize = 16 * 1024;

const LIVE: u8 = b'L';
const SELF_MOUNT_ENDED: u8 = b'M';
const COMMITTED: u8 = b'C';
const ENDING: u8 = b'E';
const ENDED: u8 = b'O';
const FAILED: u8 = b'F';

/// What a server tells its keeper.
#[derive(Debug)]
pub(crate) enum News {
    /// The view is live.
    Live,
    /// The server's own mount of the view is no longer needed. The keeper must let go of it, too, or the view never ends.
    SelfMountEnded,
    /// The command that attaches has finished.
    Committed,
    /// The server was told to end, and begins to.
    Ending,
    /// The server has undone its changes, and ends.
    Ended,
    /// The server ends because of an error.
    Failed(Error),
}

/// The server's end of the connection.
static LINK: OnceLock<OwnedFd> = OnceLock::new();

/// Makes `link` this server's connection to its keeper.
pub(super) fn connect(link: OwnedFd) {
    let _ = LINK.set(link);
}

/// Tells the keeper. Returns false without one.
pub(crate) fn tell(news: &News) -> bool {
    let Some(link) = LINK.get() else { return false };
    let (word, kind, text) = match news {
        News::Live => (LIVE, 0, String::new()),
        News::SelfMountEnded => (SELF_MOUNT_ENDED, 0, String::new()),
        News::Committed => (COMMITTED, 0, String::new()),
        News::Ending => (ENDING, 0, String::new()),
        News::Ended => (ENDED, 0, String::new()),
        News::Failed(error) => (FAILED, error.kind().to_byte(), error.to_string()),
    };
    let text = text.as_bytes().get(..text.len().min(MESSAGE_MAX - 2)).unwrap_or_default();
    sys::seqpacket::send(link.as_fd(), [&[word], &[kind], text], &[]).is_ok()
}

/// The keeper's end.
#[derive(Debug)]
pub(super) struct KeeperEnd(OwnedFd);

impl KeeperEnd {
    /// Makes a connection: the keeper's end, and the servers'.
    pub(super) fn pair() -> Result<(Self, OwnedFd), Errno> {
        let (keeper, server) = sys::seqpacket::seqpacket_pair()?;
        Ok((Self(keeper), server))
    }

    /// Returns the next news, if there are any.
    pub(super) fn next(&self) -> Option<News> {
        let mut message = vec![0; MESSAGE_MAX];
        loop {
            let length = sys::seqpacket::receive(self.0.as_fd(), &mut message, &mut []).ok()??;
            match *message.get(..length)? {
                [LIVE, ..] => return Some(News::Live),
                [SELF_MOUNT_ENDED, ..] => return Some(News::SelfMountEnded),
                [COMMITTED, ..] => return Some(News::Committed),
                [ENDING, ..] => return Some(News::Ending),
                [ENDED, ..] => return Some(News::Ended),
                [FAILED, kind, ref text @ ..] => {
                    let text = String::from_utf8_lossy(text);
                    return Some(News::Failed(Error::new(ErrorKind::from_byte(kind), text)));
                }
                [] => return None,
                [..] => {}
            }
        }
    }

    pub(super) fn number(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl AsFd for KeeperEnd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
