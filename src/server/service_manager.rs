//! What the service manager is told of a server in the foreground (sd_notify(3)).

use std::ffi::OsString;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::thread;
use std::time::Duration;

/// The variable with the address of the manager's socket.
const VARIABLE: &str = "NOTIFY_SOCKET";

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

    /// What `systemctl status` shows.
    pub(crate) fn status(&self, text: &str) {
        // Lines are other messages.
        self.tell(&format!("STATUS={}", text.replace('\n', " ")));
    }

    fn tell(&self, message: &str) {
        if let Some(address) = &self.address
            && let Err(error) = send(address, message)
        {
            tracing::debug!(%error, "the service manager can't be told");
        }
    }
}

/// No socket stays open: the servers' descriptors are put in order without it.
fn send(address: &OsString, message: &str) -> io::Result<()> {
    let bytes = address.as_bytes();
    let address = match bytes.strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(address)?,
    };
    let socket = UnixDatagram::unbound()?;
    // A manager that doesn't read mustn't hold up the keeper.
    socket.set_nonblocking(true)?;
    socket.send_to_addr(message.as_bytes(), &address).map(drop)
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
