//! A command's side of the control socket: it asks the keeper of a view, and says what keeps it from doing so.

use std::ffi::OsString;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

use crate::error::Error;
use crate::server::control::{Answer, Request, ask};
use crate::server::registry::directory::Directory;
use crate::server::registry::record::Record;
use crate::server::registry::status::start_time;

/// Asks the keeper of a view, with these descriptors, and waits for its answer. `what` says what fails otherwise.
///
/// # Errors
/// Why the keeper doesn't answer.
pub(crate) fn ask_view(
    view: &Record,
    what: &str,
    request: &Request,
    files: &[BorrowedFd<'_>],
    limit: Duration,
) -> Result<(Answer, Option<OwnedFd>), Error> {
    const REMEDY: &str = "unmount or detach it, and make it again";
    let Some(keeper) = view.status.keeper else {
        let why = "its server has no keeper: it's of an older version, or the kernel is older than Linux 4.2";
        return Err(Error::unsupported(what).because(why).advise(REMEDY));
    };
    if start_time(keeper).is_none() {
        return Err(Error::failed(what).because("its keeper was killed").advise(REMEDY));
    }
    let name = OsString::from(format!("{}.control", view.pid));
    let asked = Directory::find().and_then(|directory| {
        let directory = directory.ok_or_else(|| io::Error::from_raw_os_error(libc::ENOENT))?;
        ask(&directory, &name, view.pid, request, files, limit)
    });
    asked.map_err(|error| match error.raw_os_error() {
        Some(libc::ENOENT | libc::ECONNREFUSED) => {
            Error::unsupported(what).because("its keeper can't be asked: it's of an older version").advise(REMEDY)
        }
        Some(libc::EPERM | libc::EACCES) => Error::not_permitted(what)
            .because("it takes CAP_SYS_ADMIN in the pid namespace of the keeper")
            .advise("run it as root of the host"),
        Some(libc::ETIMEDOUT) => Error::failed(what).because("its keeper doesn't answer"),
        Some(libc::EPIPE) => Error::failed(what).because("the view has ended meanwhile"),
        _ => Error::system(what, error),
    })
}
