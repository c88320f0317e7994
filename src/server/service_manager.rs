//! What the service manager is told of a server in the foreground (sd_notify(3)).

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};

use crate::sys::seqpacket::send;

/// The variable with the address of the manager's socket.
const VARIABLE: &str = "NOTIFY_SOCKET";

/// How long to wait for a manager that has too many messages already.
const SEND_TIMEOUT_MS: u16 = 200;

/// How often the manager is told that the server works.
const ALIVE_INTERVAL: Duration = Duration::from_secs(5);

/// A service manager that wants to be told, if there's one.
#[derive(Clone, Debug)]
pub(crate) struct ServiceManager {
    address: Option<OsString>,
}

impl ServiceManager {
    /// The manager of this process. One in the background isn't the manager's.
    pub(crate) fn of_process(is_foreground: bool) -> Self {
        Self { address: std::env::var_os(VARIABLE).filter(|address| is_foreground && !address.is_empty()) }
    }

    /// The view answers.
    pub(crate) fn ready(&self) {
        self.tell("READY=1");
    }

    /// The keeper works, and its server too, as far as it can see.
    pub(crate) fn alive(&self) {
        self.tell("WATCHDOG=1");
    }

    /// Lets a thread of a server that has no keeper say that it works. The manager would end it otherwise.
    pub(crate) fn tell_without_a_keeper(self) {
        if self.address.is_some() {
            let tell = move || {
                loop {
                    thread::sleep(ALIVE_INTERVAL);
                    self.alive();
                }
            };
            let _ = thread::Builder::new().name("alive".to_owned()).stack_size(64 * 1024).spawn(tell);
        }
    }

    /// The view is about to end.
    pub(crate) fn stopping(&self) {
        self.tell("STOPPING=1");
    }

    /// Whether there's one that wants to be told.
    pub(crate) fn is_there(&self) -> bool {
        self.address.is_some()
    }

    /// Lets it keep a copy of a descriptor, by this name, for the next main process (`FileDescriptorStoreMax=`). One without
    /// room does nothing.
    ///
    /// # Errors
    /// EAGAIN if it doesn't read for a while.
    pub(crate) fn store(&self, name: &str, file: BorrowedFd<'_>) -> io::Result<()> {
        self.send(&format!("FDSTORE=1\nFDPOLL=0\nFDNAME={name}"), &[file])
    }

    /// Lets it close what it keeps by this name.
    ///
    /// # Errors
    /// As [`Self::store`].
    pub(crate) fn remove(&self, name: &str) -> io::Result<()> {
        self.send(&format!("FDSTOREREMOVE=1\nFDNAME={name}"), &[])
    }

    /// What `systemctl status` shows.
    pub(crate) fn status(&self, text: &str) {
        // Lines are other messages.
        self.tell(&format!("STATUS={}", text.replace('\n', " ")));
    }

    fn tell(&self, message: &str) {
        if let Err(error) = self.send(message, &[]) {
            tracing::debug!(%error, "the service manager can't be told");
        }
    }

    /// Sends a message, without waiting for long: a manager that doesn't read mustn't hold up the keeper. No socket stays
    /// open, since the servers' descriptors are put in order without it.
    fn send(&self, message: &str, files: &[BorrowedFd<'_>]) -> io::Result<()> {
        let Some(address) = &self.address else { return Ok(()) };
        let bytes = address.as_bytes();
        let address = match bytes.strip_prefix(b"@") {
            Some(name) => SocketAddr::from_abstract_name(name)?,
            None => SocketAddr::from_pathname(address)?,
        };
        let socket = UnixDatagram::unbound()?;
        socket.connect_addr(&address)?;
        let mut sent = send(socket.as_fd(), [message.as_bytes()], files);
        if sent == Err(Errno::EAGAIN) {
            let mut room = [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)];
            let _ = poll(&mut room, SEND_TIMEOUT_MS);
            sent = send(socket.as_fd(), [message.as_bytes()], files);
        }
        Ok(sent?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_by_path_and_by_abstract_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let name = format!("vcgroupfs-test-{}", std::process::id());
        let sockets = [
            (path.clone().into_os_string(), UnixDatagram::bind(&path).unwrap()),
            (
                format!("@{name}").into(),
                UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap(),
            ),
        ];
        for (address, socket) in sockets {
            let manager = ServiceManager { address: Some(address) };
            let mut message = [0; 100];
            manager.ready();
            let length = socket.recv(&mut message).unwrap();
            assert_eq!(&message[..length], b"READY=1");
            manager.status("two\nlines");
            let length = socket.recv(&mut message).unwrap();
            assert_eq!(&message[..length], b"STATUS=two lines");
        }
        // Nobody is there.
        ServiceManager { address: Some("/nonexistent/socket".into()) }.ready();
        ServiceManager { address: None }.ready();
    }
}
