//! `attach`: mounts a view on `/sys/fs/cgroup` of a running container.
//!
//! There are two processes. The *server* is started first, outside the container's namespaces and cgroups, and
//! outlives the command. The *command* builds the whole stack of mounts in a mount namespace of its own, where it's
//! visible to nobody else. Then mount-helper moves it into the container by a single system call. If anything fails
//! before, the command ends. Its namespace and all mounts in it end with it, and so does the server. Before Linux 5.2
//! mount-helper builds the stack in the container, and unmounts it if that fails.

mod compare;
mod existing;

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;

use self::existing::{ExistingView, existing_view, report_existing};
use super::exit::CliResult;
use super::former_options::{FormerOptions, delegated_of};
use super::options::{ServeOptions, ViewOptions, parse_name};
use crate::agents::AttachHelper;
use crate::agents::attach::{Layout, Location};
use crate::cgroup::{HierarchyClass, Setup};
use crate::container::failed_view::end_keeper;
use crate::container::handle::ContainerHandle;
use crate::container::lock::ContainerLock;
use crate::container::namespace_copy::MountNamespaceCopy;
use crate::container::rollback::Rollback;
use crate::container::stack::{UnderlaySource, stack_spec};
use crate::container::target::{HELP, resolve};
use crate::container::view_mounts::MOUNT_POINTS;
use crate::container::{DIRECTORY, hook_state, namespace_copy, staging, unified, userns_mounts};
use crate::doctor::facts::Facts;
use crate::doctor::probe::target::ProbeTarget;
use crate::error::Error;
use crate::fuse::{Connection, SelfMount, detached_copy};
use crate::host::{HostCgroups, ViewSpec, discover, plan};
use crate::message::say;
use crate::provision::prepared::PreparedContainer;
use crate::server::cleanup::Cleanup;
use crate::server::logging;
use crate::server::own_scope::ScopeName;
use crate::server::registry::Registration;
use crate::server::registry::options::RecordedOptions;
use crate::server::registry::record::ContainerRef;
use crate::server::registry::status::start_time;
use crate::server::serve::{MountTarget, ServedViews, Server, in_background};
use crate::server::shutdown::AttachedContainer;
use crate::server::status::StatusPipe;
use crate::sys;
use crate::sys::namespace::enter_cgroup_namespace;
use crate::view::{Shape, View};

/// The help of `--pid`.
pub(super) const NO_PID: &str = "Not with 'attach', where TARGET names the container";

#[derive(Debug, Args)]
pub(super) struct Options {
    /// Where the container is in the root of a hierarchy, make a cgroup of this name and migrate the container's processes there
    #[arg(long, value_name = "NAME", value_parser = parse_name, help_heading = "View options")]
    place: Option<String>,
    /// Attach nothing, but say which limits each program in the container reads now, and which it would read with the view
    #[arg(long, conflicts_with_all = ["place", "oci_state"])]
    dry_run: bool,
    /// With --dry-run, print JSON
    #[arg(long)]
    json: bool,
    /// For OCI hooks (createRuntime, prestart, poststart): read the container's state from standard input, as the runtime gives it
    #[arg(long)]
    oci_state: bool,
    #[arg(value_name = "TARGET", help = HELP, required_unless_present = "oci_state", conflicts_with = "oci_state")]
    target: Option<String>,
    #[command(flatten)]
    view: ViewOptions,
    #[command(flatten)]
    serving: ServeOptions,
}

pub(super) fn run(mut options: Options, log: &logging::Options) -> CliResult {
    if options.view.pid.is_some() {
        return Err(Error::usage("--pid can't be used with 'attach'").because("TARGET already names the container"));
    }
    if options.json && !options.dry_run {
        return Err(Error::usage("--json is only for --dry-run").because("'attach' prints nothing else"));
    }
    if !nix::unistd::geteuid().is_root() {
        return Err(Error::not_permitted("'attach' enters a container's mount namespace").advise("run it as root"));
    }
    let (named, root, mounts_own_cgroups) = match &options.target {
        Some(target) => (target.clone(), None, false),
        None => hook_state::parse_hook_state(std::io::stdin())
            .map(|state| (state.pid.to_string(), state.root, state.mounts_own_cgroups))?,
    };
    let target = resolve(&named)?;
    let container = ContainerHandle::open(target.pid)?;
    target.confirm()?;
    let container = Arc::new(match root {
        Some(directory) => container.with_root(&directory)?,
        None => container,
    });
    let host = discover()?;
    let new_root = container.new_root().map(PathBuf::from);
    let base = ViewSpec { pid: Some(target.pid), new_root, mounts_own_cgroups, ..ViewSpec::default() };
    let is_chosen = options.view.shape.is_some();
    let lock = ContainerLock::acquire(container.number())?;
    let image = Server::image()?;
    let program = image.share_program().map_err(|error| Error::system("can't share the mount-helper", error))?;
    let failed = match existing_view(&container, &target.label)? {
        ExistingView::None => None,
        ExistingView::Live(record) => {
            options.view.warn(&host);
            return report_existing(&record, &host, options.view.spec_for(base), &target.label);
        }
        ExistingView::Failed(_) if options.dry_run => {
            let what = format!("{} has a view that nobody serves any more", target.label);
            return Err(Error::failed(what).advise("'vcgroupfs detach' it first"));
        }
        ExistingView::Failed(record) => record,
    };
    let mut log = log.clone();
    if let Some(record) = &failed {
        let mut former = FormerOptions::of(record);
        former.add_to(&mut options.view, &mut options.serving);
        former.add_cgroups(&mut options.view);
        former.add_place(&mut options.place);
        log = former.add_log(&log);
        former.report(&target.label);
        end_keeper(record);
    }
    options.view.warn(&host);
    let mut spec = options.view.spec_for(base);
    if let Some(record) = failed.as_deref().filter(|_| spec.cgroups.is_empty() && options.place.is_none()) {
        spec.cgroups = delegated_of(record, &host, &container.memberships());
    }
    if container.attached().is_some() {
        container.clear(program.as_fd())?;
    }
    check_missing_hierarchies(&container, &host, &target.label)?;
    // A hook runs before the container's programs, so none has read anything yet.
    let before = if options.oci_state { None } else { compare::probe_container(&container) };
    let mut prepared = PreparedContainer::new();
    if let Some(name) = &options.place {
        match &failed {
            None => prepared.place(&host, target.pid, name)?,
            Some(_) => prepared.place_again(&host, target.pid, name)?,
        }
    }
    if host.setup == Setup::Unified {
        // On these hosts the default doesn't depend on the container's mounts: see `unified::own_cgroup`.
        spec.shape = spec.shape.or(Some(Shape::HostPath));
    }
    let view = Arc::new(plan(&host, &spec)?);
    suggest_place_option(&view, &target.label);
    let source = if staging::can_move_mounts() { UnderlaySource::Binds } else { UnderlaySource::Mounts };
    let (layout, namespace) = if host.setup == Setup::Unified {
        let own = unified::own_cgroup(&container, &view, &target.label)?;
        unified::layout(&host, &lock, container.number(), own, source, container.covered().sentinel(), &mut prepared)?
    } else {
        if !options.dry_run {
            prepared.prepare(&host, &view)?;
        }
        (Layout::Stack(stack_spec(&host, &view, source, &container.covered())?), None)
    };
    container.check_still_running()?;
    let connection = Connection::open()?;
    let (waits_for_mount, mounted) = StatusPipe::pair()?;
    let (waits_for_commit, committed) = StatusPipe::pair()?;
    let (waits_for_move, moved) = StatusPipe::pair()?;
    let rollback = Rollback::new(
        Arc::clone(&container),
        image.share_program().map_err(|error| Error::system("can't share the mount-helper", error))?,
        waits_for_commit.share()?,
    );
    let socket =
        || sys::seqpacket::seqpacket_pair().map_err(|errno| Error::system("can't make a socket", errno.into()));
    let (to_server, from_command) = socket()?;
    let (own_mount, until) = socket()?;
    let start = start_time(target.pid.cast_unsigned());
    let inside = ContainerRef { pid: target.pid, namespace: container.number(), start };
    let held = Arc::clone(&container);
    let (label, kind) = (target.label.clone(), view.shape.word().to_owned());
    let attach_command = AttachCommand {
        container: Arc::clone(&container),
        program,
        connection: connection.share()?,
        namespace,
        to_server,
        waits_for_move,
        mounted,
        committed,
    };
    let recorded = RecordedOptions { place: options.place, ..options.view.recorded(options.serving, &log) };
    let registration = Registration::new(&host, &view, Path::new(DIRECTORY), target.label);
    let server = Server {
        registration: registration.in_container(inside).with_options(recorded),
        image,
        options: options.serving.into(),
        target: MountTarget::Container(AttachedContainer {
            container,
            committed: waits_for_commit,
            own_mount,
            is_committed: false,
        }),
        // A dry run ends with the command.
        is_foreground: false,
        scope: (!options.dry_run).then(|| ScopeName::of(&label)),
        cleanup: Cleanup::of_attached(rollback, prepared),
        host,
        views: ServedViews::Single(view),
        connection,
    };
    let (live, attach_command) = in_background(&log, server, attach_command, |server, signals, live| {
        server.leave_delegated_subtrees()?;
        moved.ok();
        signals.wait_for(waits_for_mount)?;
        // Without the root, the view reports only events of changes that are made through it.
        let root = sys::seqpacket::receive_file(from_command.as_fd()).ok();
        server.serve(signals, root.map(|root| SelfMount::until_closed(root, until)), live)
    })?;
    // Only the server keeps this end: the dry run waits until it's closed.
    drop(from_command);
    if options.dry_run {
        let after = attach_command.try_in_copy(source, &layout, live)?;
        let (Some(before), Some(after)) = (before, after) else {
            let what = format!("can't compare what programs in {label} read before and after");
            return Err(Error::failed(what).advise("'vcgroupfs doctor' says why"));
        };
        return compare::print(&label, &kind, &compare::changes(&before, &after, is_chosen), options.json);
    }
    attach_command.attach(source, &layout, live)?;
    log.warn_if_unlogged();
    if let Some(before) = before
        && let Some(after) = compare::probe_container(&held)
    {
        compare::warn(&before, &after, is_chosen);
    }
    if matches!(layout, Layout::Sentinel(_)) {
        say(unified::UNIFIED_NOTE);
    }
    Ok(ExitCode::SUCCESS)
}

/// The command's side of attaching, once its server is started.
struct AttachCommand {
    container: Arc<ContainerHandle>,
    program: OwnedFd,
    connection: Connection,
    /// The cgroup namespace in which mount-helper works, if it isn't the host's.
    namespace: Option<OwnedFd>,
    /// The socket on which the server receives a descriptor of its view's root.
    to_server: OwnedFd,
    /// The server reports here that it has left the delegated subtrees. Before that, callers of the view would block.
    waits_for_move: StatusPipe,
    /// Reports to the server that the connection is mounted.
    mounted: StatusPipe,
    /// Reports to the server that all mounts are in place.
    committed: StatusPipe,
}

impl AttachCommand {
    /// Builds the stack as `attach` does, mounts it in a copy of the container's mount namespace, and finds out what
    /// programs see there. The copy ends with its process, and the server with its last mount. `live` reports when
    /// the view answers.
    fn try_in_copy(self, source: UnderlaySource, layout: &Layout, live: StatusPipe) -> Result<Option<Facts>, Error> {
        if source == UnderlaySource::Mounts {
            return Err(Error::unsupported("--dry-run isn't possible on this kernel")
                .because("it moves mounts, which takes Linux 5.2"));
        }
        let Self { container, program, connection, namespace: _, to_server, waits_for_move, mounted, committed } = self;
        let (_, found) =
            AttachHelper::locate(program.as_fd(), container.namespace(), container.root(), committed.as_fd())?;
        check_mount_point(&found)?;
        if let Err(ended) = waits_for_move.wait() {
            live.wait()?;
            return Err(ended);
        }
        let copy = MountNamespaceCopy::start(&container)?;
        staging::enter_own_namespace()?;
        staging::build(layout, found.depth as usize, &connection, |view| {
            send_own_mount(view, &to_server);
            mounted.ok();
            live.wait()
        })?;
        let tree = staging::copy_tree()?;
        copy.mount_tree(tree.as_fd(), MOUNT_POINTS.get(found.depth as usize - 1).copied().unwrap_or(DIRECTORY))?;
        let target = ProbeTarget::open(Some(container.pid()))?.with_mounts_of(copy.pid())?;
        let facts = compare::probe_target(&target);
        drop((copy, target, tree, connection, committed));
        staging::unmount()?;
        namespace_copy::wait_for_server_end(to_server.as_fd());
        Ok(facts)
    }

    /// Mounts the view in the container. `live` reports when the view answers.
    fn attach(self, source: UnderlaySource, layout: &Layout, live: StatusPipe) -> Result<(), Error> {
        let Self { container, program, connection, namespace, to_server, waits_for_move, mounted, committed } = self;
        let find = || AttachHelper::locate(program.as_fd(), container.namespace(), container.root(), committed.as_fd());
        let (entry, found) = match namespace {
            Some(namespace) => {
                let failed = |error| Error::system("can't enter the sentinel's cgroup namespace", error);
                let own = File::open("/proc/self/ns/cgroup").map_err(failed)?;
                let entered = enter_cgroup_namespace(namespace.as_fd(), own.as_fd());
                let _entered = entered.map_err(|errno| failed(errno.into()))?;
                // The helper inherits the namespace.
                find()?
            }
            None => find()?,
        };
        check_mount_point(&found)?;
        container.check_propagation(found)?;
        if let Err(ended) = waits_for_move.wait() {
            // The server's report has the reason.
            live.wait()?;
            return Err(ended);
        }
        match source {
            UnderlaySource::Binds => {
                staging::enter_own_namespace()?;
                staging::build(layout, found.depth as usize, &connection, |view| {
                    send_own_mount(view, &to_server);
                    mounted.ok();
                    live.wait()
                })?;
                entry.move_to_site(staging::copy_tree()?.as_fd())?;
            }
            UnderlaySource::Mounts => {
                let built = entry.build_at_site(layout, connection.as_fd(), || mounted.ok());
                let built =
                    built.map_err(|error| userns_mounts::explain_refusal(error, &container)).and_then(|()| live.wait());
                if built.is_err() {
                    // A killed helper has left a part of the stack, and a server that failed has left all of it. The
                    // server would unmount it, too, but only after the end of this command.
                    container.detach_if_attached(program.as_fd());
                }
                built?;
            }
        }
        committed.ok();
        Ok(())
    }
}

/// Suggests `--place` for a container without a cgroup of its own.
fn suggest_place_option(view: &View, label: &str) {
    if view.hierarchies.iter().all(|hierarchy| hierarchy.delegated.is_none()) {
        let what = "is in the root of every hierarchy: nothing limits it, and it can't write to its view";
        say(format_args!("{label} {what}; 'attach --place NAME' makes a cgroup of its own for it"));
    }
}

/// Fails if the stack can't be mounted anywhere. Without `/sys/fs/cgroup` it's mounted on the deepest existing
/// directory, if that is empty.
fn check_mount_point(found: &Location) -> Result<(), Error> {
    let place = MOUNT_POINTS.get(found.depth as usize - 1).copied().unwrap_or_default();
    if found.depth as usize == MOUNT_POINTS.len() || found.empty {
        return Ok(());
    }
    let what = format!("the container has no {DIRECTORY}, and {place} isn't empty");
    Err(Error::failed(what).advise("mount sysfs on /sys in the container"))
}

/// Sends the server a descriptor of its view's root.
fn send_own_mount(view: BorrowedFd<'_>, to_server: &OwnedFd) {
    match detached_copy(view) {
        // If it can't be sent, the server has ended, or works without.
        Ok(root) => drop(sys::seqpacket::send(to_server.as_fd(), [&[0]], &[root.as_fd()])),
        Err(error) => {
            tracing::warn!(%error, "no way to the view's mount: inotify reports only what is done through the view");
        }
    }
}

/// Warns of the container's hierarchies that the view can't cover. A systemd in the container would mount them
/// itself.
///
/// # Errors
/// If a systemd has mounted v2 itself and uses it ("hybrid"): it couldn't start anything behind the view any more.
fn check_missing_hierarchies(container: &ContainerHandle, host: &HostCgroups, label: &str) -> Result<(), Error> {
    for membership in container.memberships() {
        if host.hierarchies.iter().any(|hierarchy| hierarchy.kind == membership.kind) {
            continue;
        }
        let what = format!("hierarchy {} isn't mounted on the host, so the view has none", membership.kind);
        let is_used = membership.location.path().is_some_and(|path| !path.is_root());
        if membership.kind.class() == HierarchyClass::Unified && is_used && container.mounts_v2() {
            let why = format!("{what}, and {label} has it mounted and uses it");
            let how =
                "mount it on the host (mount -t cgroup2 cgroup2 DIR), or attach before the container's init starts";
            return Err(Error::failed(why).advise(how));
        }
        say(what);
    }
    Ok(())
}
