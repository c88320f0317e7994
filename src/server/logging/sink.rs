//! The sinks of records. Writing may block and fail, but never panics.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tracing::Level;

/// The identifier of records in the journal (`journalctl -t vcgroupfs`) and in syslog.
const IDENTIFIER: &str = "vcgroupfs";

/// The socket of systemd's journal. In its native protocol each record is a datagram of lines NAME=VALUE.
const JOURNAL: &str = "/run/systemd/journal/socket";

/// The socket of syslog, which accepts datagrams of RFC 3164.
const SYSLOG: &str = "/dev/log";

/// The facility `daemon` (RFC 3164, 4.1.1), shifted so that a severity can be added.
const FACILITY: u8 = 3 << 3;

/// How long a log service, or a non-blocking descriptor, may take for a record, in ms.
const WRITE_TIMEOUT_MS: u16 = 1000;

/// A place to which the log is written.
#[derive(Debug)]
pub(crate) enum Sink {
    /// Standard error.
    Stderr,
    /// A file that is appended to.
    File {
        /// The open file.
        file: File,
        /// Its name, by which it's reopened.
        path: PathBuf,
    },
    /// The journal.
    Journal(UnixDatagram),
    /// syslog.
    Syslog(UnixDatagram),
    /// Nothing: records are dropped.
    Nowhere,
}

impl Sink {
    /// Finds the log service of this host: the journal, else syslog, else nothing.
    pub(crate) fn system() -> Self {
        let is_there = |path| std::fs::metadata(path).is_ok_and(|found| found.file_type().is_socket());
        let socket = || {
            let socket = UnixDatagram::unbound()?;
            socket.set_write_timeout(Some(Duration::from_millis(WRITE_TIMEOUT_MS.into())))?;
            Ok::<_, io::Error>(socket)
        };
        let find = || {
            Ok::<_, io::Error>(match (is_there(JOURNAL), is_there(SYSLOG)) {
                (true, _) => Self::Journal(socket()?),
                (false, true) => Self::Syslog(socket()?),
                (false, false) => Self::Nowhere,
            })
        };
        find().unwrap_or(Self::Nowhere)
    }

    /// Writes a record, which ends with a line feed. `begun` says whether the sink ends in an unfinished record, and is set accordingly.
    pub(crate) fn write(&self, level: Level, record: &str, begun: &mut bool) -> io::Result<()> {
        match self {
            Self::Stderr => write_line(io::stderr().as_fd(), record, begun),
            Self::File { file, .. } => write_line(file.as_fd(), record, begun),
            // The socket isn't connected, so that a restarted service is found again.
            Self::Journal(socket) => send(socket, journal_entry(level, record).as_bytes(), JOURNAL),
            Self::Syslog(socket) => send(socket, syslog_message(level, record).as_bytes(), SYSLOG),
            Self::Nowhere => Ok(()),
        }
    }

    /// Reopens the file by its name, after the old one was renamed. If that fails, the old one stays open.
    pub(crate) fn reopen(&mut self) -> io::Result<()> {
        let Self::File { file, path } = self else { return Ok(()) };
        // A server's umask is 0.
        let mode = file.metadata().map_or(0o600, |found| found.permissions().mode() & 0o666);
        *file = File::options().create(true).append(true).mode(mode).open(&*path)?;
        Ok(())
    }
}

fn write_line(file: BorrowedFd<'_>, record: &str, begun: &mut bool) -> io::Result<()> {
    if *begun {
        write_all(file, b"\n", &mut false)?;
        *begun = false;
    }
    write_all(file, record.as_bytes(), begun)
}

fn write_all(file: BorrowedFd<'_>, mut bytes: &[u8], begun: &mut bool) -> io::Result<()> {
    while !bytes.is_empty() {
        match nix::unistd::write(file, bytes) {
            Ok(0) => return Err(Errno::EIO.into()),
            Ok(count) => {
                bytes = bytes.get(count..).unwrap_or_default();
                *begun = !bytes.is_empty();
            }
            Err(Errno::EINTR) => {}
            // Another process with the same open file may have made it non-blocking.
            Err(Errno::EAGAIN) => {
                let mut waited = [PollFd::new(file, PollFlags::POLLOUT)];
                if poll(&mut waited, PollTimeout::from(WRITE_TIMEOUT_MS)) == Ok(0) {
                    return Err(Errno::EAGAIN.into());
                }
            }
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

fn send(socket: &UnixDatagram, message: &[u8], to: &str) -> io::Result<()> {
    loop {
        match socket.send_to(message, Path::new(to)) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            sent => return sent.map(drop),
        }
    }
}

/// The severity of a level, by syslog(3).
fn severity(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

/// Makes an entry of the journal (systemd's JOURNAL_NATIVE_PROTOCOL.md). Line feeds in a value would need another
/// encoding, so they are replaced.
fn journal_entry(level: Level, record: &str) -> String {
    let message = one_line(record);
    format!("PRIORITY={}\nSYSLOG_IDENTIFIER={IDENTIFIER}\nMESSAGE={message}\n", severity(level))
}

/// Makes a message for syslog, without the time, which syslogd adds.
fn syslog_message(level: Level, record: &str) -> String {
    format!("<{}>{IDENTIFIER}[{}]: {}", FACILITY | severity(level), std::process::id(), one_line(record))
}

fn one_line(record: &str) -> String {
    record.trim_end_matches('\n').replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_the_services() {
        assert_eq!(
            journal_entry(Level::WARN, "a\nFORGED=b\n"),
            "PRIORITY=4\nSYSLOG_IDENTIFIER=vcgroupfs\nMESSAGE=a FORGED=b\n"
        );
        let pid = std::process::id();
        assert_eq!(syslog_message(Level::ERROR, "a\n"), format!("<27>vcgroupfs[{pid}]: a"));
        assert_eq!(syslog_message(Level::TRACE, "a"), format!("<31>vcgroupfs[{pid}]: a"));
    }

    #[test]
    fn an_unfinished_record_gets_its_own_line() {
        let (read, write) = nix::unistd::pipe().unwrap();
        let mut begun = true;
        write_line(write.as_fd(), "whole\n", &mut begun).unwrap();
        assert!(!begun);
        let mut text = [0; 16];
        let count = nix::unistd::read(&read, &mut text).unwrap();
        assert_eq!(text.get(..count), Some(&b"\nwhole\n"[..]));
    }

    #[test]
    fn a_renamed_file_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let (path, old) = (folder.path().join("log"), folder.path().join("log.1"));
        let open = File::options().create(true).append(true).mode(0o640).open(&path).unwrap();
        let mut sink = Sink::File { file: open, path: path.clone() };
        sink.write(Level::INFO, "one\n", &mut false).unwrap();
        std::fs::rename(&path, &old).unwrap();
        sink.write(Level::INFO, "two\n", &mut false).unwrap();
        sink.reopen().unwrap();
        sink.write(Level::INFO, "three\n", &mut false).unwrap();
        assert_eq!(std::fs::read_to_string(&old).unwrap(), "one\ntwo\n");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "three\n");
        std::fs::remove_dir_all(folder.path()).unwrap();
        assert!(sink.reopen().is_err());
        sink.write(Level::INFO, "four\n", &mut false).unwrap();
    }
}
