//! The process that `doctor` and `limits` look at.

use std::path::Path;

use super::selected_view::record_of_directory;
use crate::cgroup::escaped;
use crate::container::failed_view::failed_view_on;
use crate::container::target::{ResolvedTarget, resolve_target_or_directory};
use crate::doctor::probe::host;
use crate::doctor::probe::target::ProbeTarget;
use crate::error::Error;
use crate::server::registry::record::Record;

/// Opens the process that a TARGET names, or without one the calling process. If the TARGET is the directory of a view, also returns
/// the view's record.
///
/// # Errors
/// If there's no such process or container. For the directory of a view see [`process_of_view`].
pub(super) fn process_to_probe(target: Option<&Path>) -> Result<(ProbeTarget, Option<Record>), Error> {
    match target.map(resolve_target_or_directory).transpose()? {
        None => Ok((ProbeTarget::open(None)?, None)),
        Some(ResolvedTarget::Directory(directory)) => {
            let (target, record) = process_of_view(&directory)?;
            Ok((target, Some(record)))
        }
        Some(ResolvedTarget::Process(named)) => {
            let target = ProbeTarget::open(Some(named.pid))?;
            named.confirm()?;
            Ok((target, None))
        }
    }
}

/// Opens the process for which the view on a directory was mounted.
///
/// # Errors
/// If nobody serves the view any more. If the view wasn't mounted for a process, or the process has left the cgroups of the view.
fn process_of_view(directory: &Path) -> Result<(ProbeTarget, Record), Error> {
    let name = escaped(directory);
    if let Some(record) = failed_view_on(directory) {
        let why = record.status.reason.unwrap_or_default();
        let remedy = format!("'vcgroupfs mount {name}' makes it work again, with the options that it had");
        return Err(Error::failed(format!("the view on {name} has failed")).because(why).advise(remedy));
    }
    let record = record_of_directory(directory)?;
    let remedy = "name a process or a container as TARGET";
    let Some(pid) = record.process else {
        let what = format!("can't tell which process the view on {name} is for");
        return Err(Error::failed(what).because("it was mounted for cgroups, without --pid").advise(remedy));
    };
    match ProbeTarget::open(Some(pid)) {
        // Another process can have its number by now.
        Ok(target) if host::is_delegated(&record, &target) => Ok((target, record)),
        _ => {
            let what =
                format!("the process {pid}, for which the view on {name} was mounted, isn't in its cgroups any more");
            Err(Error::failed(what).advise(remedy))
        }
    }
}
