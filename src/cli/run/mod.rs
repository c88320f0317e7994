//! `run`: a command in new pid and mount namespaces, in a cgroup of its own in every hierarchy, with the view on `/sys/fs/cgroup`,
//! or with `--stack` in the stack by which clients recognise it, as `attach` has it.
//!
//! Three processes. The *supervisor* is the one that was started: it makes cgroups and namespaces, passes on signals, and ends as the
//! command does. The *server* is its child, outside the namespaces and the cgroups; it outlives the supervisor, so that the cgroups are
//! removed even if that is killed. *init* is PID 1 inside, started by the supervisor, and starts the command.

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
use crate::fuse::{Connection, OwnMount};
use crate::host::{HostCgroups, ViewSpec, discover, plan};
use crate::provision::cgroups::CreatedCgroups;
use crate::provision::prepared::PreparedContainer;
use crate::server::cleanup::{Cleanup, run_cleanup};
use crate::server::logging;
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
    // From here on all that is mounted shows to nobody else. The server goes back.
    let started = Origin::leave_for_new_namespace().and_then(|origin| {
        let (lives, ends) = pipe()?;
        let supervisor = shutdown::SupervisorHandle { ends, cgroups: Arc::clone(&own) };
        let (server, command_view, lock) = server(host, connection, image, supervisor, &options, &name, origin.inside)?;
        Supervisor::start(server, lives, command_view, lock, origin, Arc::clone(&own), log)
    });
    // Until the server runs, nobody else removes them.
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
        cleanup: Cleanup::of_prepared(prepared),
        host,
        views: ServedViews::Single(view),
        connection,
    };
    Ok((server, command_view, lock))
}

/// The process that was started, once its server runs.
struct Supervisor {
    /// Closed when this process ends, however that comes.
    lives: OwnedFd,
    connection: Connection,
    command_view: CommandView,
    /// Held until the view is live: a sentinel that no live view is known for is taken for a leftover.
    lock: Option<ContainerLock>,
    origin: Origin,
    own: Arc<CreatedCgroups>,
    server: Pid,
    /// Told when the connection is mounted.
    mounted: StatusPipe,
    /// By which the server gets a way to its own mount, and keeps it until this is closed.
    leash: OwnedFd,
    /// Tells when the view is live.
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
        let (leash, held) =
            sys::fdpass::seqpacket_pair().map_err(|errno| Error::system("can't make a socket", errno.into()))?;
        match sys::process::fork().map_err(|error| Error::system("can't start the server", error))? {
            ForkResult::Parent { child } => {
                server.cleanup.lock().iter().for_each(Cleanup::disown);
                Ok(Self { lives, connection, command_view, lock, origin, own, server: child, mounted, leash, live })
            }
            ForkResult::Child => {
                server.cleanup.lock().iter().for_each(Cleanup::adopt);
                drop((lives, mounted, live, leash, connection, lock));
                // A process group of its own: what the terminal sends to the command's isn't for the server.
                let _ = nix::unistd::setsid();
                let cleanup = Arc::clone(&server.cleanup);
                log.continue_as_server();
                let signals = ServerSignals::install();
                let served = origin
                    .return_to()
                    .map_err(|error| Error::system("can't go back to the host", error))
                    .and(signals)
                    .and_then(|signals| signals.wait_for(waits_for_mount).map(|()| signals))
                    .and_then(|signals| server.leave_delegated_subtrees().map(|()| signals))
                    .and_then(|signals| {
                        let root = sys::fdpass::receive_file(held.as_fd());
                        let root = root.ok().map(|root| OwnMount::until_closed(root, held));
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
        let Self { lives: _lives, connection, command_view, lock, origin, own, server, mounted, leash, live } = self;
        let mount = || {
            command_view.mount(connection, |root| {
                if let Some(root) = root {
                    // If it can't be sent, the server is gone, or does without.
                    let _ = sys::fdpass::send_with_file(leash.as_fd(), &[0], &[], root);
                }
                mounted.ok();
                live.wait()
            })?;
            drop(lock);
            origin.leave_cgroups()
        };
        let ended = Self::run_inside(mount, &own, options);
        drop(leash);
        // With its last process the mount namespace ends, whatever was mounted in it, and with that the server, which removes the cgroups.
        // Some are left if it was killed, or if somebody else is still in the namespace and uses the view.
        if let Err(error) = origin.return_to() {
            tracing::warn!(%error, "can't leave the command's mount namespace");
        }
        own.end_processes();
        if !wait_at_most(server, SERVER_END_TIMEOUT) {
            tracing::warn!(server = server.as_raw(), "the view is still in use; its server ends with its last user");
        }
        command_view.remove_sentinel(&origin);
        own.remove();
        ended
    }

    /// `mount` returns when the view is there and live.
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
                let entered = own.enter(child.as_raw());
                if entered.is_ok() {
                    let _ = nix::unistd::write(&go, &[0]);
                }
                // Without a byte before the end of file, init gives up.
                drop(go);
                // The command keeps what it was started with; who waits for it needs less.
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

/// How long the server may take to notice that nobody uses the view any more.
const SERVER_END_TIMEOUT: Duration = Duration::from_secs(5);

/// Waits for a child to end; false if it doesn't in time.
fn wait_at_most(child: Pid, limit: Duration) -> bool {
    let start = Instant::now();
    while waitpid(child, Some(WaitPidFlag::WNOHANG)) == Ok(WaitStatus::StillAlive) {
        if start.elapsed() > limit {
            return false;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    true
}

/// The reading and the writing end of a pipe.
fn pipe() -> Result<(OwnedFd, OwnedFd), Error> {
    let ends = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC);
    ends.map_err(|errno| Error::system("can't make a pipe", errno.into()))
}
