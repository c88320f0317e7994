//! `mount`: serves a view on a directory.

use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;

use super::former_options::{FormerOptions, all_delegated};
use super::options::{ServeOptions, ViewOptions};
use crate::cgroup::escaped;
use crate::cli::exit::CliResult;
use crate::container::directory_view::{absolute, clear_dead_view, is_view};
use crate::container::failed_view::{end_keeper, failed_view_on, own_namespace};
use crate::error::Error;
use crate::fuse::{Connection, SelfMount};
use crate::host::plan::plan_recorded;
use crate::host::{HostCgroups, ViewSpec, discover};
use crate::server::cleanup::{Cleanup, run_cleanup};
use crate::server::handover::resume::resume_kept;
use crate::server::handover::store::{self, Kept};
use crate::server::logging;
use crate::server::own_scope::ScopeName;
use crate::server::registry;
use crate::server::registry::Registration;
use crate::server::registry::options::RecordedOptions;
use crate::server::registry::record::Record;
use crate::server::serve::{MountTarget, ServedViews, Server, in_background};
use crate::server::service_manager::ServiceManager;
use crate::server::signals::ServerSignals;

#[derive(Debug, Args)]
pub(super) struct Options {
    /// Serve all containers by one mount: each process sees its own container's cgroups, in the shape host-path. Bind DIR into any container
    ///
    /// A container is a pid namespace, and its cgroups are those of its process 1. All share one superblock, and with it the kernel's lock of the
    /// root directory: a hostile container can keep all others waiting there for as long as it likes. To isolate containers from each other,
    /// use 'vcgroupfs attach' or the OCI hook, which give each a view of its own
    #[arg(long, help_heading = "View options")]
    per_caller: bool,
    /// Stay in the foreground, and log to stderr
    #[arg(short, long)]
    foreground: bool,
    /// An empty directory
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    #[command(flatten)]
    view: ViewOptions,
    #[command(flatten)]
    serving: ServeOptions,
}

pub(super) fn run(mut options: Options, log: &logging::Options) -> CliResult {
    if let Some(kept) = kept_by_manager(&options, log) {
        resume_kept(kept, log)?;
        return Ok(ExitCode::SUCCESS);
    }
    let failed = find_failed(&options);
    let mut log = log.clone();
    if let Some(record) = &failed {
        let mut former = FormerOptions::of(record);
        former.report_container(record.per_caller);
        former.add_cgroups(&mut options.view);
        former.add_to(&mut options.view, &mut options.serving);
        options.per_caller = record.per_caller;
        log = former.add_log(&log);
        former.report(&escaped(&options.directory));
    }
    let (host, views) = plan(&options, failed.as_ref())?;
    registry::check()?;
    let (pinned, directory) = open_empty(&options.directory, failed.as_ref())?;
    let connection = Connection::open()?;
    let registration = match &views {
        ServedViews::Single(view) => {
            let former = failed.as_ref().map(|record| (record.target.clone(), record.process));
            let (target, process) = former.unwrap_or_else(|| (options.view.target(), options.view.pid));
            Registration::new(&host, view, &directory, target).for_process(process)
        }
        ServedViews::PerCaller(rules, limits) => Registration::per_caller(rules, *limits, &directory),
    };
    let recorded = RecordedOptions {
        pid: options.view.pid.or_else(|| failed.as_ref().and_then(former_pid)),
        per_caller: options.per_caller,
        ..options.view.recorded(options.serving, &log)
    };
    let server = Server {
        registration: registration.with_options(recorded).in_namespace(own_namespace()),
        image: Server::image()?,
        options: options.serving.into(),
        is_foreground: options.foreground,
        scope: (!options.foreground).then(|| ScopeName::of(&directory)),
        target: MountTarget::Directory(directory),
        cleanup: Cleanup::empty(),
        host,
        views,
        connection,
    };
    if options.foreground {
        let cleanup = Arc::clone(&server.cleanup);
        log.continue_as_server();
        // Nobody waits for it.
        let live = Box::new(|| ());
        let served = ServerSignals::install().and_then(|signals| mount_and_serve(server, &pinned, signals, live));
        run_cleanup(&cleanup);
        return served.map(|()| ExitCode::SUCCESS);
    }
    let (live, ()) =
        in_background(&log, server, (), |server, signals, live| mount_and_serve(server, &pinned, signals, live))?;
    live.wait()?;
    log.warn_if_unlogged();
    Ok(ExitCode::SUCCESS)
}

/// What the service manager has kept of the view that these options describe. What it has kept of another one ends now.
fn kept_by_manager(options: &Options, log: &logging::Options) -> Option<Kept> {
    if !options.foreground {
        return None;
    }
    let kept =
        store::take().map_err(|error| tracing::warn!(%error, "can't use what the service manager has kept")).ok()??;
    let recorded = RecordedOptions {
        pid: options.view.pid,
        per_caller: options.per_caller,
        ..options.view.recorded(options.serving, log)
    };
    if kept.is_of(&absolute(&options.directory), &recorded) {
        return Some(kept);
    }
    tracing::warn!("the service manager has kept a view with other options: mounting another one");
    kept.end(&ServiceManager::of_process(true));
    None
}

/// Finds the failed view that is to be made again: the one on the directory, if the command line names no other.
fn find_failed(options: &Options) -> Option<Record> {
    if options.per_caller || options.view.is_named() {
        return None;
    }
    failed_view_on(&absolute(&options.directory))
}

/// Finds the host's hierarchies, and makes the views: those of the failed view, or those that the options describe.
fn plan(options: &Options, failed: Option<&Record>) -> Result<(HostCgroups, ServedViews), Error> {
    if options.per_caller {
        let (host, rules, ancestor_limits) = options.view.plan_for_callers()?;
        return Ok((host, ServedViews::PerCaller(rules, ancestor_limits)));
    }
    let (host, view) = match failed {
        // The cgroups of a process, which may have ended, are those that the view had.
        Some(record) if former_pid(record).is_some() || !options.view.is_named() => {
            let host = discover()?;
            options.view.warn(&host);
            let cgroups = all_delegated(record, &host)?;
            let view = plan_recorded(&host, &ViewSpec { cgroups, ..options.view.spec() })?;
            (host, view)
        }
        _ => options.view.plan()?,
    };
    Ok((host, ServedViews::Single(Arc::new(view))))
}

/// The process for which a failed view was mounted.
fn former_pid(record: &Record) -> Option<i32> {
    record.options.as_ref().and_then(|options| options.pid)
}

fn mount_and_serve(
    server: Server,
    directory: &OwnedFd,
    signals: ServerSignals,
    live: Box<dyn FnOnce() + Send>,
) -> Result<(), Error> {
    server.leave_delegated_subtrees()?;
    server.connection.mount(Path::new(&format!("/proc/self/fd/{}", directory.as_raw_fd())))?;
    // Open it by name, since the descriptor leads to the directory below the view. The server checks the mount before
    // it uses it.
    let own_mount = match (&server.target, &server.views) {
        // A mount for all callers reports no events.
        (_, ServedViews::PerCaller(..)) => Ok(None),
        (MountTarget::Directory(directory), _) => SelfMount::until_unmounted(directory).map(Some),
        (MountTarget::Namespace(_) | MountTarget::Container(_), _) => Ok(None),
    };
    let own_mount = own_mount.unwrap_or_else(|error| {
        tracing::warn!(%error, "no way to the own mount: inotify reports only what is done through the view");
        None
    });
    server.serve(signals, own_mount, live)
}

/// Opens an empty directory to mount on, and returns it with its absolute path. A view there that nobody serves any
/// more is unmounted; `failed` is its record.
fn open_empty(directory: &Path, failed: Option<&Record>) -> Result<(OwnedFd, PathBuf), Error> {
    let refuse = |what: &str, remedy: &str| Err(Error::failed(format!("{} {what}", escaped(directory))).advise(remedy));
    let cant = |what: &str| format!("can't {what} {}", escaped(directory));
    let known = failed.cloned().or_else(|| failed_view_on(&absolute(directory)));
    if let Some(record) = &known {
        end_keeper(record);
    }
    if is_view(directory) && !clear_dead_view(directory, known.is_some()) {
        return refuse("is already a view", "unmount it with 'vcgroupfs umount', or mount on another directory");
    }
    let name = match std::fs::canonicalize(directory) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return refuse("doesn't exist", "make the directory first");
        }
        name => name.map_err(|error| Error::system(cant("find"), error))?,
    };
    let mut entries = match std::fs::read_dir(&name) {
        Err(error) if error.kind() == std::io::ErrorKind::NotADirectory => {
            return refuse("isn't a directory", "name an empty directory");
        }
        entries => entries.map_err(|error| Error::system(cant("read"), error))?,
    };
    if entries.next().is_some() {
        return refuse("isn't empty", "mount on an empty directory, so that the view hides nothing");
    }
    let pinned = std::fs::File::options().read(true).custom_flags(libc::O_PATH | libc::O_DIRECTORY).open(&name);
    Ok((pinned.map_err(|error| Error::system(cant("open"), error))?.into(), name))
}
