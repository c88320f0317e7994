//! `umount`: unmounts a view from a directory.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};

use crate::cgroup::escaped;
use crate::cli::exit::CliResult;
use crate::container::directory_view::{Answer, absolute, ask, clear_dead_view, is_view};
use crate::container::failed_view::{end_keeper, failed_view_on, forget_unmounted, own_namespace};
use crate::error::Error;
use crate::message::say;
use crate::server::registry;

#[derive(Debug, Args)]
pub(super) struct Options {
    /// The directory on which the view is mounted
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

/// How long the server may take to end after its view is unmounted.
const SERVER_END_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the server of a `mount --per-caller` may take. Containers that have the mount keep it alive.
const PER_CALLER_END_TIMEOUT: Duration = Duration::from_secs(1);

pub(super) fn run(options: &Options) -> CliResult {
    unmount(&options.directory)
}

/// Unmounts the view on a directory, and waits for its server's end.
pub(super) fn unmount(directory: &Path) -> CliResult {
    let is_view = is_view(directory);
    let directory = absolute(directory);
    let name = escaped(&directory);
    if !is_view {
        let remedy = "'vcgroupfs list' shows where views are mounted";
        return Err(Error::failed(format!("no view is mounted on {name}")).advise(remedy));
    }
    let failed = failed_view_on(&directory);
    if let Some(record) = &failed {
        end_keeper(record);
    }
    let own = own_namespace();
    let here = |record: &registry::record::Record| {
        record.directory.as_ref() == directory.as_path()
            && record.container.is_none()
            && (record.namespace.is_none() || record.namespace == own)
    };
    let mut servers = registry::live_records().unwrap_or_default().into_iter().filter(here);
    let server = servers.next_back();
    // Processes that use a view that nobody serves get nothing but errors, and don't matter.
    let is_dead = failed.is_some() || (server.is_none() && ask(&directory) == Answer::Dead);
    let flags = if is_dead { MntFlags::MNT_DETACH } else { MntFlags::empty() };
    match umount2(&directory, flags | MntFlags::UMOUNT_NOFOLLOW) {
        Ok(()) => {
            if is_dead {
                // Each crash may have left one.
                clear_dead_view(&directory, false);
            }
            forget_unmounted();
        }
        // Its keeper has unmounted it.
        Err(Errno::EINVAL) if failed.is_some() => forget_unmounted(),
        Err(Errno::EBUSY) => {
            let remedy = format!("find who uses it with 'fuser -vm {name}', or unmount it with 'umount -l {name}'");
            return Err(Error::failed(format!("{name} is in use")).advise(remedy));
        }
        Err(errno @ (Errno::EPERM | Errno::EACCES)) => {
            return Err(Error::system(format!("can't unmount {name}"), errno.into()).advise("run it as root"));
        }
        Err(errno) => return Err(Error::system(format!("can't unmount {name}"), errno.into())),
    }
    match server {
        Some(record) if record.per_caller => {
            if !registry::wait_for_end(record.pid, PER_CALLER_END_TIMEOUT) {
                let server = record.status.server;
                say(format_args!(
                    "{name} is unmounted; its server (process {server}) ends with the last container that has it"
                ));
            }
            Ok(ExitCode::SUCCESS)
        }
        Some(record) if !registry::wait_for_end(record.pid, SERVER_END_TIMEOUT) => {
            let what = format!("{name} is unmounted, but its server (process {}) hasn't ended", record.status.server);
            Err(Error::failed(what).advise("unmount the view where else it's mounted"))
        }
        _ => Ok(ExitCode::SUCCESS),
    }
}
