//! What a live view has done: its keeper hands it out, and commands read it.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use crate::activity::ActivityReader;
use crate::error::Error;
use crate::records::Records;
use crate::server::ask_view::ask_view;
use crate::server::control::{Answer, Client, Request, WATCH_TIME, Watch};
use crate::server::registry::record::Record;

/// How long a keeper may take to answer. It takes no requests while it starts a server.
const LIMIT: Duration = Duration::from_secs(5);

/// The same for a watcher that goes on, and that others wait for. It asks again soon.
const RENEWAL_LIMIT: Duration = Duration::from_millis(200);

/// Answers a client that asks for it. The client gets a descriptor that is open for reading only, so it can't change what
/// servers rely on.
pub(super) fn answer(client: Client, records: &Records, watch: &Watch) {
    let open = || {
        let file = records.activity().as_file().ok_or_else(|| io::Error::from_raw_os_error(libc::ENOSYS))?;
        File::open(format!("/proc/self/fd/{}", file.as_raw_fd()))
    };
    match open() {
        Ok(file) => {
            if watch.requests {
                records.activity().watch_for(WATCH_TIME);
            }
            client.answer_with(&Answer::Done, &[file.as_fd()]);
        }
        Err(error) => client.answer(&Answer::Failed(format!("it can't be opened for reading: {error}"))),
    }
}

/// What a live view has done. It goes on to change.
#[derive(Debug)]
pub(crate) struct ViewActivity {
    pub(crate) reader: ActivityReader,
    /// The file's inode number: after an upgrade there may be another one.
    file: u64,
}

impl ViewActivity {
    /// Asks for what a view has done. With `requests`, its server notes each request for the next [`WATCH_TIME`].
    ///
    /// # Errors
    /// If the view has no keeper, or that doesn't answer or is of another version; without CAP_SYS_ADMIN.
    pub(crate) fn of(view: &Record, requests: bool) -> Result<Self, Error> {
        let what = format!("can't watch the view on {} ({})", view.directory.printed(), view.target);
        let file = Self::ask(view, &what, requests, LIMIT)?;
        Self::open(file, &what)
    }

    /// Looks whether what the view does is noted in another memory now, which this has then. With `requests`, its server goes on
    /// to note each request.
    ///
    /// # Errors
    /// As [`Self::of`].
    pub(crate) fn renew(&mut self, view: &Record, requests: bool) -> Result<bool, Error> {
        let what = format!("can't go on to watch the view on {} ({})", view.directory.printed(), view.target);
        let file = Self::ask(view, &what, requests, RENEWAL_LIMIT)?;
        let other = Self::open(file, &what)?;
        let is_other = other.file != self.file;
        if is_other {
            *self = other;
        }
        Ok(is_other)
    }

    fn ask(view: &Record, what: &str, requests: bool, limit: Duration) -> Result<OwnedFd, Error> {
        const OTHER: &str = "'vcgroupfs upgrade' has it served by this program";
        match ask_view(view, what, &Request::Activity(Watch { requests }), &[], limit)? {
            (Answer::Done, Some(file)) => Ok(file),
            (Answer::Done, None) => Err(Error::failed(what).because("its keeper sent nothing")),
            // serde's words for a request that the keeper doesn't know.
            (Answer::Failed(reason), _) if reason.contains("unknown variant") => {
                Err(Error::unsupported(what).because("its keeper is of an older version").advise(OTHER))
            }
            (Answer::Failed(reason), _) => Err(Error::failed(what).because(reason)),
        }
    }

    fn open(file: OwnedFd, what: &str) -> Result<Self, Error> {
        let file = File::from(file);
        let number = file.metadata().map(|metadata| metadata.ino());
        let opened = number.and_then(|number| Ok(Self { reader: ActivityReader::open(file.into())?, file: number }));
        opened.map_err(|error| match error.raw_os_error() {
            Some(libc::EINVAL) => Error::unsupported(what)
                .because("its server is of another version, whose counters this program can't read")
                .advise("'vcgroupfs upgrade' has it served by this program"),
            _ => Error::system(what, error),
        })
    }
}
