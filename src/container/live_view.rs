//! Finds the live view of a container in the registry.

use crate::container::DIRECTORY;
use crate::container::handle::ContainerHandle;
use crate::error::Error;
use crate::server::registry;
use crate::server::registry::record::Record;

/// The record of the live server of a container's view.
pub(crate) fn live_server_of(container: &ContainerHandle) -> Option<Record> {
    let number = container.number();
    let here = |record: &Record| record.container.as_ref().is_some_and(|inside| inside.namespace == number);
    registry::live_records().unwrap_or_default().into_iter().find(here)
}

/// Returns the record of the live server of a stack that `run` has made in a container. Such a server doesn't hold
/// the mount namespace open. If it ends slowly, the number may already belong to another namespace, without a view or
/// with an attached one.
pub(crate) fn run_stack_of(container: &ContainerHandle) -> Option<Record> {
    if container.attached().is_none() || live_server_of(container).is_some() {
        return None;
    }
    registry::live_records().unwrap_or_default().into_iter().find(|record| record.run == Some(container.number()))
}

/// Fails if a container has a live view that isn't at its place. A second view there wouldn't help, and a view that
/// isn't found can't be unmounted.
pub(crate) fn check_view_reachable(container: &ContainerHandle, label: &str) -> Result<(), Error> {
    match live_server_of(container) {
        Some(record) if container.has_lost_view() => {
            let what = format!("the container of {label} has a view, but process {} doesn't see it", container.pid());
            let why = format!("{DIRECTORY} was moved or mounted over, or the process has another root directory");
            let how = format!("undo that, name another process, or end the view ('kill {}')", record.pid);
            Err(Error::failed(what).because(why).advise(how))
        }
        _ => Ok(()),
    }
}
