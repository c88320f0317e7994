//! The view that a container already has.

use std::process::ExitCode;

use crate::cli::exit::CliResult;
use crate::container::failed_view::failed_view_of;
use crate::container::handle::ContainerHandle;
use crate::container::live_view::{check_view_reachable, live_server_of, run_stack_of};
use crate::error::Error;
use crate::host::{HostCgroups, ViewSpec, plan};
use crate::message::say;
use crate::server::registry::record::Record;
use crate::server::registry::status::ServerState;

/// What is mounted in a container.
pub(super) enum ExistingView {
    None,
    /// A view that is served.
    Live(Box<Record>),
    /// A view that nobody serves any more, with its record if there's one.
    Failed(Option<Box<Record>>),
}

/// Finds the view in a container.
///
/// # Errors
/// If the view isn't where the container looks for it.
pub(super) fn existing_view(container: &ContainerHandle, label: &str) -> Result<ExistingView, Error> {
    if let Some(record) = run_stack_of(container) {
        return Ok(ExistingView::Live(Box::new(record)));
    }
    check_view_reachable(container, label)?;
    if container.attached().is_none() {
        return Ok(ExistingView::None);
    }
    Ok(match live_server_of(container) {
        Some(record) if record.status.state != ServerState::Failed => ExistingView::Live(Box::new(record)),
        _ => ExistingView::Failed(failed_view_of(container).map(Box::new)),
    })
}

/// Succeeds if the attached view has the requested options. Without `--shape`, any shape will do.
pub(super) fn report_existing(record: &Record, host: &HostCgroups, spec: ViewSpec, label: &str) -> CliResult {
    let spec = ViewSpec { shape: spec.shape.or(record.shape()), ..spec };
    if record.matches_view(&plan(host, &spec)?, &spec.cgroups) {
        say(format_args!("{label} already has this view, served by process {}", record.status.server));
        return Ok(ExitCode::SUCCESS);
    }
    let error = Error::failed(format!("{label} already has a view with other options ({})", record.description()));
    Err(match record.run {
        Some(_) => error.because("'run' has made it, and it ends with its command"),
        None => error.advise("'vcgroupfs detach' it first"),
    })
}
