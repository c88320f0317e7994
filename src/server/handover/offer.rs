//! The command's side of an upgrade: it offers its own program to the keeper of a view.

use std::ffi::OsString;
use std::os::fd::AsFd;
use std::time::Duration;

use crate::error::Error;
use crate::records;
use crate::server::control::{Answer, Offer, Request, ask};
use crate::server::handover::document::VERSIONS;
use crate::server::handover::own_program;
use crate::server::registry::directory::Directory;
use crate::server::registry::record::Record;
use crate::server::registry::status::start_time;

/// How long the keeper may take: longer than it gives the new program for its looks, and for coming up, and the fallback for
/// noticing that it hasn't.
const LIMIT: Duration = Duration::from_secs(40);

/// Has a live view served by the program of this process.
///
/// # Errors
/// Why it isn't; then the program before goes on.
pub(crate) fn offer(view: &Record) -> Result<(), Error> {
    let what = format!("can't upgrade the view on {} ({})", view.directory.printed(), view.target);
    let Some(keeper) = view.status.keeper else {
        let why = "its server has no keeper: it's of an older version, or the kernel is older than Linux 4.2";
        return Err(Error::unsupported(what).because(why).advise("unmount or detach it, and make it again"));
    };
    if start_time(keeper).is_none() {
        let how = "unmount or detach it, and make it again";
        return Err(Error::failed(what).because("its keeper was killed").advise(how));
    }
    let request = Request::Upgrade(Offer { state: VERSIONS.to_vec(), records: records::FORMAT });
    let name = OsString::from(format!("{}.control", view.pid));
    let asked = Directory::find().and_then(|directory| {
        let directory = directory.ok_or_else(|| std::io::Error::from_raw_os_error(libc::ENOENT))?;
        ask(&directory, &name, view.pid, &request, own_program()?.as_fd(), LIMIT)
    });
    match asked {
        Ok(Answer::Done) => Ok(()),
        Ok(Answer::Failed(reason)) => Err(Error::failed(what)
            .because(reason)
            .advise("the program before it goes on: 'vcgroupfs list' shows its state")),
        Err(error) => match error.raw_os_error() {
            Some(libc::ENOENT | libc::ECONNREFUSED) => Err(Error::unsupported(what)
                .because("its keeper can't be asked: it's of an older version")
                .advise("unmount or detach it, and make it again")),
            Some(libc::EPERM) => {
                let why = "it takes CAP_SYS_ADMIN in the pid namespace of the keeper";
                Err(Error::not_permitted(what).because(why).advise("run it as root of the host"))
            }
            Some(libc::ETIMEDOUT) => Err(Error::failed(what).because("its keeper doesn't answer")),
            Some(libc::EPIPE) => Err(Error::failed(what).because("the view has ended meanwhile")),
            _ => Err(Error::system(what, error)),
        },
    }
}
