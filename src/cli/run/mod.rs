//! `run`: runs a command in new pid and mount namespaces, in a new cgroup of each hierarchy, with a view on
//! `/sys/fs/cgroup`. With `--stack` the view is in a stack of mounts, as in `attach`.
//!
//! There are three processes. The user starts the *supervisor*: it makes cgroups and namespaces, forwards signals,
//! and exits with the command's status. The *server* is its child, outside the namespaces and cgroups. It outlives
//! the supervisor, so that the cgroups are removed even if the supervisor is killed. *init* is process 1 inside: the
//! supervisor starts it, and it starts the command.

mod init;
mod mount_ns;
mod signals;

use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use nix::sched::{CloneFlags, unshare};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid};

use super::options::{ServeOptions, ViewOptions};
use crate::agents::HelperImage;
use crate::agents::confinement::{Role, confine};
use crate::cgroup::path::check_name;
use crate::cli::exit::CliResult;
use crate::container::DIRECTORY;
use crate::container::lock::ContainerLock;
use crate::error::Error;
use crate::fuse::{Connection, SelfMount};
use crate::host::{HostCgroups, ViewSpec, discover, plan};
use crate::provision::cgroups::CreatedCgroups;
use crate::provision::prepared::PreparedContainer;
use crate::server::cleanup::{Cleanup, run_cleanup};
use crate::server::logging;
use crate::server::own_scope::ScopeName;
use crate::server::registry;
use crate::server::registry::Registration;
use crate::server::serve::{MountTarget, ServedViews, Server};
use crate::server::shutdown;
use crate::server::signals::ServerSignals;
use crate::server::status::StatusPipe;
use crate::sys;
use mount_ns::{CommandView, Origin};

/// The help of `--pid`.
pub(super) const NO_PID: &str = "Not with 'run', which makes cgroups of its own: see --cgroup";

#[derive(Debug, Args)]
pub(super) struct Options {
    /// The name of the new cgroups, below your own or below --cgroup [default: vcgroupfs-run-PID]
    #[arg(long)]
    name: Option<String>,
    /// Run the command itself as process 1, as init systems need it. It then ignores signals for which it has no handler
    #[arg(long)]
    as_pid1: bool,
    /// Mount the view over the real hierarchies, as 'attach' does, so that programs recognise their cgroups and limits
    #[arg(long)]
    stack: bool,
    /// The command, with its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
    #[command(flatten)]
    view: ViewOptions,
    #[command(flatten)]
    serving: ServeOptions,
}

pub(super) fn run(options: Options, log: &logging::Options) -> CliResult {
    if options.view.pid.is_some() {
        return Err(Error::usage("--pid can't be used with 'run'")
            .because("'run' makes a cgroup of its own")
            .advise("choose the cgroup above it with --cgroup"));
    }
    let name = options.name.clone().unwrap_or_else(|| format!("vcgroupfs-run-{}", std::process::id()));
    check_name(name.as_bytes()).map_err(|error| {
        Error::usage(format!("--name: '{name}' isn't the name of a cgroup")).because(error.to_string())
    })?;
    if !nix::unistd::geteuid().is_root() {
        return Err(Error::not_permitted("'run' makes namespaces, cgroups and mounts").advise("run it as root"));
    }
    registry::check()?;
    let host = discover()?;
    options.view.warn(&host);
    let connection = Connection::open()?;
    let image = Server::image()?;
    let held = signals::block();
    let own = Arc::new(CreatedCgroups::make(&host, &options.view.cgroups, &name)?);
    // From here on, mounts are invisible to others. The server returns to the host's namespace.
    let started = Origin::leave_for_new_namespace().and_then(|origin| {
        let (lives, ends) = pipe()?;
        let supervisor = shutdown::SupervisorHandle { ends, cgroups: Arc::clone(&own) };
        let (server, command_view, lock) = server(host, connection, image, supervisor, &options, &name, origin.inside)?;
        let recorded = options.view.recorded(options.serving, log);
        let registration = server.registration.with_options(recorded).in_namespace(Some(origin.inside));
        let server = Server { registration, ..server };
        Supervisor::start(server, lives, command_view, lock, origin, Arc::clone(&own), log)
    });
    // Until the server runs, this process has to remove the cgroups.
    match started {
        Ok(supervisor) => {
            drop(held);
            supervisor.run(&options)
        }
        Err(failed) => {
            own.remove();
            Err(failed)
        }
    }
}

fn server(
    host: HostCgroups,
    connection: Connection,
    image: HelperImage,
    supervisor: shutdown::SupervisorHandle,
    options: &Options,
    name: &str,
    namespace: u64,
) -> Result<(Server, CommandView, Option<ContainerLock>), Error> {
    let spec = ViewSpec { pid: None, cgroups: supervisor.cgroups.paths(), ..options.view.spec() };
    let view = Arc::new(plan(&host, &spec)?);
    let mut prepared = PreparedContainer::new();
    let registration = Registration::new(&host, &view, Path::new(DIRECTORY), format!("run {name}"));
    let (command_view, registration, lock) = if options.stack {
        let (command_view, lock) = CommandView::stack(&host, &view, namespace, &mut prepared)?;
        (command_view, registration.with_run_stack(namespace), lock)
    } else {
        (CommandView::Bare, registration, None)
    };
    let server = Server {
        registration,
        image,
        options: options.serving.into(),
        target: MountTarget::Namespace(supervisor),
        is_foreground: false,
        scope: Some(ScopeName::of(name)),
        cleanup: Cleanup::of_prepared(prepared),
        host,
        views: ServedViews::Single(view),
        connection,
    };
    Ok((server, command_view, lock))
}

/// The supervisor, once its server runs.
struct Supervisor {
    /// Closed when this process ends, for whatever reason.
    lives: OwnedFd,
    connection: Connection,
    command_view: CommandView,
    /// Held until the view is live. Without the lock, a sentinel without a live view is removed as a leftover.
    lock: Option<ContainerLock>,
    origin: Origin,
    own: Arc<CreatedCgroups>,
    server: Pid,
    /// Reports to the server that the connection is mounted.
    mounted: StatusPipe,
    /// The socket on which the server receives a descriptor of its view's root. The server keeps the root until this
    /// socket is closed.
    lifeline: OwnedFd,
    /// The server reports here that the view is live.
    live: StatusPipe,
}

impl Supervisor {
    fn start(
        server: Server,
        lives: OwnedFd,
        command_view: CommandView,
        lock: Option<ContainerLock>,
        origin: Origin,
        own: Arc<CreatedCgroups>,
        log: &logging::Options,
    ) -> Result<Self, Error> {
        let (waits_for_mount, mounted) = StatusPipe::pair()?;
        let (live, tells) = StatusPipe::pair()?;
        let connection = server.connection.share()?;
        let (lifeline, held) =
            sys::seqpacket::seqpacket_pair().map_err(|errno| Error::system("can't make a socket", errno.into()))?;
        match sys::process::fork().map_err(|error| Error::system("can't start the server", error))? {
            ForkResult::Parent { child } => {
                server.cleanup.lock().iter().for_each(Cleanup::disown);
                Ok(Self { lives, connection, command_view, lock, origin, own, server: child, mounted, lifeline, live })
            }
            ForkResult::Child => {
                server.cleanup.lock().iter().for_each(Cleanup::adopt);
                drop((lives, mounted, live, lifeline, connection, lock));
                // In a session of its own it doesn't get the terminal's signals, which are for the command.
                let _ = nix::unistd::setsid();
                let cleanup = Arc::clone(&server.cleanup);
                log.continue_as_server();
                let served = origin
                    .return_to()
                    .map_err(|error| Error::system("can't go back to the host", error))
                    // The supervisor has blocked the signals.
                    .inspect(|()| server.leave_callers_cgroups())
                    .and_then(|()| ServerSignals::install())
                    .and_then(|signals| signals.wait_for(waits_for_mount).map(|()| signals))
                    .and_then(|signals| server.leave_delegated_subtrees().map(|()| signals))
                    .and_then(|signals| {
                        let root = sys::seqpacket::receive_file(held.as_fd());
                        let root = root.ok().map(|root| SelfMount::until_closed(root, held));
                        server.serve(signals, root, move || tells.ok())
                    });
                if let Err(failed) = &served {
                    tracing::error!("{failed}");
                }
                run_cleanup(&cleanup);
                own.remove();
                logging::finish();
                std::process::exit(i32::from(served.is_err()));
            }
        }
    }

    fn run(self, options: &Options) -> CliResult {
        let Self { lives: _lives, connection, command_view, lock, origin, own, server, mounted, lifeline, live } = self;
        let mount = || {
            command_view.mount(connection, |root| {
                if let Some(root) = root {
                    // If it can't be sent, the server has ended, or works without.
                    let _ = sys::seqpacket::send(lifeline.as_fd(), [&[0]], &[root]);
                }
                mounted.ok();
                live.wait()
            })?;
            drop(lock);
            origin.leave_cgroups()
        };
        let ended = Self::run_inside(mount, &own, options);
        drop(lifeline);
        // The mount namespace ends with its last process, and with it the view and the server, which removes the
        // cgroups. Some remain if the server was killed, or if another process is still in the namespace and uses the
        // view.
        if let Err(error) = origin.return_to() {
            tracing::warn!(%error, "can't leave the command's mount namespace");
        }
        own.end_processes();
        if !wait_with_timeout(server, SERVER_END_TIMEOUT) {
            tracing::warn!(server = server.as_raw(), "the view is still in use; its server ends with its last user");
        }
        command_view.remove_sentinel(&origin);
        own.remove();
        ended
    }

    /// Runs the command. `mount` mounts the view and returns when it's live.
    fn run_inside(mount: impl FnOnce() -> Result<(), Error>, own: &CreatedCgroups, options: &Options) -> CliResult {
        let signals = signals::SignalForwarder::with_proc()?;
        mount()?;
        unshare(CloneFlags::CLONE_NEWPID).map_err(|errno| Error::system("can't make a pid namespace", errno.into()))?;
        let (waits, go) = pipe()?;
        match sys::process::fork().map_err(|error| Error::system("can't start the command", error))? {
            ForkResult::Child => {
                drop(go);
                init::run(waits, options.as_pid1, &options.command)
            }
            ForkResult::Parent { child } => {
                drop(waits);
                let entered = own.migrate_in(child.as_raw());
                if entered.is_ok() {
                    let _ = nix::unistd::write(&go, &[0]);
                }
                // If the pipe ends without a byte, init exits.
                drop(go);
                // The command keeps its privileges; the supervisor, which only waits, drops its own.
                for (what, errno) in confine(Role::Supervisor) {
                    tracing::debug!(%errno, what, "the supervisor can't be confined in this");
                }
                let status = signals.wait_for(child, Some(own));
                entered?;
                Ok(ExitCode::from(status))
            }
        }
    }
}

/// How long the server may take to end after the command.
const SERVER_END_TIMEOUT: Duration = Duration::from_secs(5);

/// Waits until a child has ended. Returns false if it hasn't within the limit.
fn wait_with_timeout(child: Pid, limit: Duration) -> bool {
    let start = Instant::now();
    while waitpid(child, Some(WaitPidFlag::WNOHANG)) == Ok(WaitStatus::StillAlive) {
        if start.elapsed() > limit {
            return false;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    true
}

/// Makes a pipe: the end to read from, and the end to write to.
fn pipe() -> Result<(OwnedFd, OwnedFd), Error> {
    let ends = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC);
    ends.map_err(|errno| Error::system("can't make a pipe", errno.into()))
}
