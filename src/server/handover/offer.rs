//! The command's side of an upgrade: it offers its own program to the keeper of a view.

use std::os::fd::AsFd;
use std::time::Duration;

use crate::error::Error;
use crate::records;
use crate::server::ask_view::ask_view;
use crate::server::control::{Answer, Offer, Request};
use crate::server::handover::document::VERSIONS;
use crate::server::handover::own_program;
use crate::server::registry::record::Record;

/// How long the keeper may take: longer than it gives the new program for its looks, and for coming up, and the fallback for
/// noticing that it hasn't.
const LIMIT: Duration = Duration::from_secs(40);

/// Has a live view served by the program of this process.
///
/// # Errors
/// Why it isn't; then the program before goes on.
pub(crate) fn offer(view: &Record) -> Result<(), Error> {
    let what = format!("can't upgrade the view on {} ({})", view.directory.printed(), view.target);
    let request = Request::Upgrade(Offer { state: VERSIONS.to_vec(), records: records::FORMAT });
    let own = own_program().map_err(|error| Error::system(&what, error))?;
    match ask_view(view, &what, &request, &[own.as_fd()], LIMIT)? {
        (Answer::Done, _) => Ok(()),
        (Answer::Failed(reason), _) => Err(Error::failed(what)
            .because(reason)
            .advise("the program before it goes on: 'vcgroupfs list' shows its state")),
    }
}
