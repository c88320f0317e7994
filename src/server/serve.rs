//! The start of a server, and its life until the view ends.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::{ForkResult, dup2_stderr, dup2_stdin, dup2_stdout, setsid};
use serde::{Deserialize, Serialize};

use crate::agents::confinement::{Role, confine, confine_again};
use crate::agents::{AgentPool, HelperImage};
use crate::error::Error;
use crate::fs::CgroupFs;
use crate::fs::dispatch::per_caller::PerCaller;
use crate::fuse;
use crate::fuse::{AbortGuard, Connection, SelfMount};
use crate::host::{HostCgroups, KernelHost, PidNamespaces, SharedHost, server_cgroup, tenant_of};
use crate::policy::Rules;
use crate::records::Records;
use crate::server::before::Before;
use crate::server::cleanup::{Cleanup, SharedCleanup, run_cleanup};
use crate::server::control::ControlSocket;
use crate::server::handover::document::{Served, ServedText};
use crate::server::handover::point;
use crate::server::handover::stored::Stored;
use crate::server::keeper::Keeper;
use crate::server::keeper::link::{self, News};
use crate::server::logging;
use crate::server::own_scope::{self, ScopeName};
use crate::server::registry::{Registered, Registration};
use crate::server::service_manager::ServiceManager;
use crate::server::shutdown;
use crate::server::shutdown::AttachedContainer;
use crate::server::shutdown::SupervisorHandle;
use crate::server::signals::ServerSignals;
use crate::server::status::StatusPipe;
use crate::sys;
use crate::view::{AncestorLimits, View};

/// The options for serving a view.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Options {
    /// Whether kernel caching is disabled.
    pub(crate) coherent: bool,
    /// Whether the server reads all files, even those that the kernel could read itself.
    pub(crate) no_passthrough: bool,
}

/// Everything that a server needs, collected while an error can still be reported to the process that waits.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Server {
    pub(crate) host: HostCgroups,
    pub(crate) views: ServedViews,
    pub(crate) connection: Connection,
    pub(crate) image: HelperImage,
    pub(crate) options: Options,
    pub(crate) registration: Registration,
    pub(crate) target: MountTarget,
    /// Whether it's in the foreground, where its log says that the view is live, since no command returns.
    pub(crate) is_foreground: bool,
    /// The name of the scope in which a background server runs. One without stays where it was started.
    pub(crate) scope: Option<ScopeName>,
    /// The actions that the caller of [`Server::serve`] has to run at the end, with [`run_cleanup`].
    pub(crate) cleanup: SharedCleanup,
}

/// The views that a server serves.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum ServedViews {
    /// One view, for one container.
    Single(Arc<View>),
    /// A view for each container that calls, by these rules.
    PerCaller(Rules, AncestorLimits),
}

/// Where a view is mounted, which decides how it ends.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum MountTarget {
    /// A directory of this mount namespace. The server unmounts the view when it's told to end.
    Directory(#[serde(with = "crate::cgroup::name_as_text")] PathBuf),
    /// The mount namespace of a command of `run`, which ends with the command.
    Namespace(SupervisorHandle),
    /// A container. The server unmounts the view when it's told to end, and ends when the container's process ends.
    Container(AttachedContainer),
}

impl Server {
    /// The program from which agents run.
    pub(crate) fn image() -> Result<HelperImage, Error> {
        HelperImage::new().map_err(|error| Error::system("can't prepare the mount-helper", error))
    }

    /// Migrates the server out of the cgroups of whoever started it. It comes before [`ServerSignals::install`], after
    /// which no program's end can be waited for.
    pub(crate) fn leave_callers_cgroups(&self) {
        let view = match &self.views {
            ServedViews::Single(view) => Some(view.as_ref()),
            ServedViews::PerCaller(..) => None,
        };
        if let Some(name) = &self.scope {
            own_scope::settle(name, &self.host, view);
        }
    }

    /// Migrates the server out of the cgroups that its view could freeze or kill.
    ///
    /// # Errors
    /// If another mount in a hierarchy could lead it elsewhere.
    pub(crate) fn leave_delegated_subtrees(&self) -> Result<(), Error> {
        self.host.check_detached()?;
        match &self.views {
            ServedViews::Single(view) => Ok(server_cgroup::leave_delegated_subtrees(&self.host, view)?),
            // The server leaves a container's subtree when it finds itself in one.
            ServedViews::PerCaller(..) => Ok(()),
        }
    }

    /// Drops the privileges that serving doesn't need. A step that isn't possible on this kernel is skipped. `filter` is the mark
    /// of the filter of system calls that the process has already, or 0.
    pub(crate) fn confine(&self, filter: u64) {
        let pressure = Path::new("/proc/pressure").exists();
        let role = Role::Server { pressure, kills: matches!(self.target, MountTarget::Namespace(_)) };
        let kept = self.image.enter_namespaces().into_iter().chain(confine_again(role, filter));
        for (what, errno) in kept {
            tracing::debug!(%errno, what, "the server can't be confined in this");
        }
    }

    /// Serves until the view is unmounted, or a signal tells the server to end. The connection has to be mounted
    /// already. `live` is called once the view answers.
    ///
    /// A keeper starts the server in a process of its own, and again if that is killed, where the kernel lets another
    /// server continue.
    pub(crate) fn serve(
        mut self,
        signals: ServerSignals,
        own_mount: Option<SelfMount>,
        live: impl FnOnce() + Send + 'static,
    ) -> Result<(), Error> {
        prepare_process();
        // Confinement applies per thread, so it comes before any thread starts.
        self.confine(0);
        let manager = ServiceManager::of_process(self.is_foreground);
        let told = manager.clone();
        let live = move || {
            told.ready();
            live();
        };
        let is_single = matches!(self.views, ServedViews::Single(_));
        let abort_guard =
            is_single.then(|| AbortGuard::start(&self.connection, || drop(confine(Role::AbortGuard)))).transpose();
        let abort_guard = abort_guard.unwrap_or_else(|error| {
            tracing::debug!(%error, "nobody would refuse what a killed server leaves");
            None
        });
        let Some(records) = self.records() else {
            let registered = self.registration.clone().publish();
            if let Some(cleanup) = self.cleanup.lock().as_mut() {
                cleanup.registered = registered;
            }
            manager.tell_without_a_keeper();
            return self.serve_here(&Records::none(), Before::default(), signals, own_mount, abort_guard, live);
        };
        let (registered, control) = self.register();
        let keeper = self.keeper(own_mount.as_ref(), abort_guard.as_ref(), records, registered, control)?;
        self.serve_kept(keeper, signals, own_mount, abort_guard, live)
    }

    /// Publishes the record of the view, for a keeper, and makes its control socket.
    pub(crate) fn register(&self) -> (Option<Registered>, Option<ControlSocket>) {
        let registered = self.registration.clone().publish_kept();
        let control = registered.as_ref().and_then(|registered| {
            let control = ControlSocket::make(registered.directory(), &registered.control_name());
            control.map_err(|error| tracing::warn!(%error, "'upgrade' won't reach this view")).ok()
        });
        (registered, control)
    }

    /// Makes the keeper of this server.
    ///
    /// # Errors
    /// If no descriptor is left.
    pub(crate) fn keeper(
        &self,
        own_mount: Option<&SelfMount>,
        abort_guard: Option<&AbortGuard>,
        records: Arc<Records>,
        registered: Option<Registered>,
        control: Option<ControlSocket>,
    ) -> Result<Keeper, Error> {
        let cant = |error: io::Error| Error::system("can't share the connection", error);
        let served = ServedText::new(&Served { server: self, own_mount, abort_guard });
        Ok(Keeper {
            served: served.map_err(|error| cant(error.into()))?,
            records,
            registered,
            control,
            self_mount: own_mount.map(SelfMount::descriptors),
            device: self.connection.as_fd().try_clone_to_owned().map_err(cant)?,
            abort_guard: abort_guard.map(|guard| (guard.process(), guard.descriptors())),
            cleanup: Arc::clone(&self.cleanup),
            manager: ServiceManager::of_process(self.is_foreground),
            before: Before::default(),
            trial: None,
            stored: Stored::default(),
        })
    }

    /// Serves in processes that a keeper starts, until the view ends.
    pub(crate) fn serve_kept(
        self,
        keeper: Keeper,
        signals: ServerSignals,
        mut own_mount: Option<SelfMount>,
        abort_guard: Option<AbortGuard>,
        live: impl FnOnce() + 'static,
    ) -> Result<(), Error> {
        let (records, cleanup) = (Arc::clone(&keeper.records), Arc::clone(&keeper.cleanup));
        logging::count_lost_in(&records);
        keeper.keep(live, move |before| {
            cleanup.lock().iter().for_each(Cleanup::adopt);
            match (before.self_mount_copies, own_mount.as_mut()) {
                (Some(copies), Some(own)) => own.when_it_ends(move || {
                    link::tell(&News::SelfMountEnded);
                    sys::descriptors::close_all(copies);
                }),
                // Its descriptors are closed.
                _ => std::mem::forget(own_mount.take()),
            }
            if before.is_live {
                // The log may have been moved meanwhile.
                logging::reopen();
            }
            let live = || {
                link::tell(&News::Live);
            };
            records.start();
            point::reach("server");
            let served = self.serve_here(&records, before, signals, own_mount, abort_guard, live);
            // The cleanup may wait for a command that is attaching and was stopped.
            shutdown::start_exit_deadline();
            run_cleanup(&cleanup);
            served
        })
    }

    /// Makes the records that a next server needs. `None` if no other server can continue.
    fn records(&mut self) -> Option<Arc<Records>> {
        // Below that, the keeper's copies of descriptors have no room.
        let has_room = getrlimit(Resource::RLIMIT_NOFILE).is_ok_and(|(soft, _)| soft >= DESCRIPTORS_MIN);
        let room = if has_room { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::EMFILE)) };
        let records = room.and_then(|()| self.connection.meet()).and_then(|()| Records::new());
        let records = records.map_err(|error| tracing::warn!(%error, "the view will not outlive its server")).ok();
        records.filter(|_| self.connection.can_be_resumed())
    }

    /// Serves in this process.
    fn serve_here(
        self,
        records: &Arc<Records>,
        before: Before,
        signals: ServerSignals,
        own_mount: Option<SelfMount>,
        abort_guard: Option<AbortGuard>,
        live: impl FnOnce(),
    ) -> Result<(), Error> {
        let failed = |what: &str| {
            let what = what.to_owned();
            move |error| Error::system(what, error)
        };
        logging::start_thread();
        let live = || {
            if self.is_foreground && !before.is_live {
                tracing::info!("the view is live");
            }
            live();
        };
        let program = self.image.share_program().map_err(failed("can't share the mount-helper"))?;
        let session = match self.views {
            ServedViews::Single(view) => {
                let agents = AgentPool::new(self.image);
                let host = KernelHost::new(Arc::clone(&view), self.host, Some(agents), records)
                    .map_err(failed("can't read own namespaces"))?;
                let mut fs = CgroupFs::with_records(view, host, Arc::clone(records))
                    .map_err(|errno| Error::system("can't find the root of the view", errno.into()))?;
                if self.options.coherent {
                    fs.keep_nothing();
                }
                if self.options.no_passthrough {
                    fs.disable_passthrough();
                }
                Session::View(Arc::new(fs), own_mount, abort_guard)
            }
            ServedViews::PerCaller(rules, ancestor_limits) => {
                let agents = AgentPool::new(self.image).with_tenants(tenant_of);
                let shared = SharedHost::new(self.host, Some(agents), false, records)
                    .map_err(failed("can't read own namespaces"))?;
                let passes_through = !self.options.no_passthrough;
                let containers = PidNamespaces::new(Arc::new(shared), rules, ancestor_limits, passes_through, records)
                    .map_err(failed("can't find the roots of the hierarchies"))?;
                Session::Callers(Arc::new(PerCaller::new(containers)))
            }
        };
        let cleanup = self.cleanup;
        match self.target {
            MountTarget::Directory(directory) => shutdown::shut_down_directory_view(signals, &cleanup, &directory),
            MountTarget::Container(mut attachment) => {
                attachment.is_committed = before.is_committed;
                shutdown::shut_down_with_container(signals, &cleanup, attachment, program)
            }
            MountTarget::Namespace(supervisor) => shutdown::shut_down_with_command(signals, &cleanup, supervisor),
        }
        .map_err(failed("can't start the thread that waits for the end"))?;
        let served = match session {
            Session::View(fs, own_mount, abort_guard) => fuse::serve(self.connection, fs, own_mount, abort_guard, live),
            Session::Callers(all) => fuse::serve_callers(self.connection, all, live),
        };
        shutdown::park_if_exiting();
        served.map_err(failed("the session broke off"))
    }
}

/// How many descriptors a process may have at least, so that it can have a keeper.
const DESCRIPTORS_MIN: u64 = 1024;

/// A filesystem that is ready to be served.
enum Session {
    View(Arc<CgroupFs<KernelHost>>, Option<SelfMount>, Option<AbortGuard>),
    Callers(Arc<PerCaller<PidNamespaces>>),
}

/// Gives this process what a server needs of the host.
pub(crate) fn prepare_process() {
    nix::sys::stat::umask(nix::sys::stat::Mode::empty());
    sys::process::leave_no_dump();
    raise_descriptor_limit();
    // If the kernel killed the server because memory ran out, its container would have no cgroups.
    let _ = std::fs::write("/proc/self/oom_score_adj", "-900");
}

/// Raises the limit of descriptors as far as the host allows: a container may hold that many files open.
fn raise_descriptor_limit() {
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

/// Starts a background process that runs `serve`, and returns the end of the pipe on which it reports. `serve` gets
/// the server, its signals, and a function that reports success. `kept` stays with the caller, and the server has no
/// copy of it. The process owns the server's cleanup from the fork on, and runs it however `serve` ends.
pub(crate) fn in_background<K>(
    log: &logging::Options,
    server: Server,
    kept: K,
    serve: impl FnOnce(Server, ServerSignals, Box<dyn FnOnce() + Send>) -> Result<(), Error>,
) -> Result<(StatusPipe, K), Error> {
    let cleanup = Arc::clone(&server.cleanup);
    let (waiting, telling) = StatusPipe::pair()?;
    match sys::process::fork().map_err(|error| Error::system("can't start the server", error))? {
        ForkResult::Parent { .. } => {
            cleanup.lock().iter().for_each(Cleanup::disown);
            Ok((waiting, kept))
        }
        ForkResult::Child => {
            cleanup.lock().iter().for_each(Cleanup::adopt);
            drop((waiting, kept));
            // The process that started it waits for one report.
            let telling = Arc::new(parking_lot::Mutex::new(Some(telling)));
            let live = Arc::clone(&telling);
            let served = daemonize().and_then(|()| {
                log.continue_in_background();
                // From here on a signal mustn't skip the cleanup.
                ServerSignals::block()?;
                server.leave_callers_cgroups();
                serve(
                    server,
                    ServerSignals::install()?,
                    Box::new(move || {
                        if let Some(status) = live.lock().take() {
                            status.ok();
                        }
                    }),
                )
            });
            let failed = served.is_err();
            if let Err(error) = served {
                match telling.lock().take() {
                    Some(status) => status.failed(&error),
                    None => tracing::error!("{error}"),
                }
            }
            // The cleanup may wait for a command that is attaching and was stopped.
            shutdown::start_exit_deadline();
            run_cleanup(&cleanup);
            logging::finish();
            std::process::exit(i32::from(failed))
        }
    }
}

/// Leaves the terminal, the working directory and the output of the process that started it.
pub(crate) fn daemonize() -> Result<(), Error> {
    setsid().map_err(|errno| Error::system("can't make a session", errno.into()))?;
    std::env::set_current_dir("/").map_err(|error| Error::system("can't change to /", error))?;
    let null = File::options().read(true).write(true).open("/dev/null");
    let null = null.map_err(|error| Error::system("can't open /dev/null", error))?;
    let redirect = || {
        dup2_stdin(null.as_fd())?;
        dup2_stdout(null.as_fd())?;
        dup2_stderr(null.as_fd())
    };
    redirect().map_err(|errno| Error::system("can't redirect output", errno.into()))
}
