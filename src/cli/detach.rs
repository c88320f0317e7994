//! `detach`: unmounts an attached view, or the view on a directory.

use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use crate::cli::exit::CliResult;
use crate::cli::umount;
use crate::container::failed_view::{end_keeper, failed_view_of, forget_unmounted};
use crate::container::handle::ContainerHandle;
use crate::container::live_view::{check_view_reachable, live_server_of, run_stack_of};
use crate::container::lock::ContainerLock;
use crate::container::target::{self, HELP_WITH_DIRECTORY, resolve};
use crate::error::Error;
use crate::message::say;
use crate::provision::sentinel::remove_leftovers;
use crate::server::registry;
use crate::server::serve::Server;

#[derive(Debug, Args)]
pub(super) struct Options {
    #[arg(value_name = "TARGET", help = HELP_WITH_DIRECTORY)]
    target: PathBuf,
}

/// How long the server may take to end after its view is unmounted.
const SERVER_END_TIMEOUT: Duration = Duration::from_secs(10);

pub(super) fn run(options: &Options) -> CliResult {
    if target::is_path(&options.target) {
        return umount::unmount(&options.target);
    }
    if !nix::unistd::geteuid().is_root() {
        return Err(Error::not_permitted("'detach' enters a container's mount namespace").advise("run it as root"));
    }
    let target = resolve(target::text(&options.target)?)?;
    let container = ContainerHandle::open(target.pid)?;
    target.confirm()?;
    let lock = ContainerLock::acquire(container.number())?;
    if run_stack_of(&container).is_some() {
        say(format_args!(
            "{}: the view belongs to 'vcgroupfs run' and ends with its command; there is nothing to detach",
            target.label
        ));
        return Ok(ExitCode::SUCCESS);
    }
    check_view_reachable(&container, &target.label)?;
    if container.attached().is_none() {
        say(format_args!("{} has no view", target.label));
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(record) = failed_view_of(&container) {
        end_keeper(&record);
    }
    let server = live_server_of(&container);
    let image = Server::image()?;
    let program = image.share_program().map_err(|error| Error::system("can't share the mount-helper", error))?;
    container.clear(program.as_fd())?;
    if let Some(record) = server
        && !registry::wait_for_end(record.pid, SERVER_END_TIMEOUT)
    {
        let what =
            format!("the view of {} is detached, but its server ({}) hasn't ended", target.label, record.status.server);
        let remedy = "end the processes that still use the view, or unmount it where else it's mounted";
        return Err(Error::failed(what).advise(remedy));
    }
    // A server that was killed, perhaps just now, has left its sentinel.
    remove_leftovers(&lock, container.number());
    forget_unmounted();
    Ok(ExitCode::SUCCESS)
}
