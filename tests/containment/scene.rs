//! The trees that the checks run in: one behind a view, and its twin, reached on the bare cgroupfs.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use testkit::probe::names::spawn;
use testkit::{
    Caller, Container, ContainerOptions, MAPPED_ROOT, OWNER, Session, TestCgroup, View, ViewOptions, chown_tree,
};

/// The hierarchies of every scene, of those that the machine has; a view has no delegated subtree in any other.
pub(crate) fn hierarchies() -> &'static [&'static str] {
    static FOUND: OnceLock<Vec<&'static str>> = OnceLock::new();
    FOUND.get_or_init(|| testkit::available(&["pids", "memory", "devices", "name=systemd", "unified"]))
}

/// The delegation boundary, below the scene's cgroup.
pub(crate) const BOUNDARY: &str = "vcgroupfs-x-1";

/// A sibling whose name begins with the boundary's.
pub(crate) const LONGER_SIBLING: &str = "vcgroupfs-x-10";

/// Another one, with a child.
pub(crate) const SIBLING: &str = "other";

/// The children that every cgroup of a scene has, which the checks remove or rename.
pub(crate) const VICTIMS: [&str; 2] = ["to-remove", "to-rename"];

/// A caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Who {
    /// Root with every capability, in a pid namespace.
    HostRoot,
    /// Root with Docker's capabilities.
    DockerRoot,
    /// Root of a user namespace that owns the subtree.
    MappedRoot,
    /// An unprivileged user who owns the subtree.
    Owner,
    /// An unprivileged user who owns nothing.
    Stranger,
}

/// All callers.
pub(crate) const EVERYBODY: [Who; 5] = [Who::HostRoot, Who::DockerRoot, Who::MappedRoot, Who::Owner, Who::Stranger];

impl Who {
    pub(crate) fn caller(self) -> Caller {
        match self {
            Self::HostRoot | Self::MappedRoot => Caller::Root,
            Self::DockerRoot => Caller::DockerRoot,
            Self::Owner => Caller::Owner,
            Self::Stranger => Caller::Stranger,
        }
    }

    /// The owner of the subtree, as a user of the host.
    fn subtree_owner(self) -> u32 {
        match self {
            Self::HostRoot | Self::DockerRoot => 0,
            Self::MappedRoot => MAPPED_ROOT,
            Self::Owner | Self::Stranger => OWNER,
        }
    }

    /// The owner of the subtree, by the number that this caller uses.
    pub(crate) fn subtree_owner_inside(self) -> u32 {
        if self == Self::MappedRoot { 0 } else { self.subtree_owner() }
    }

    /// Whether he may do what an owner may, to what belongs to root.
    pub(crate) fn overrides_outside(self) -> bool {
        matches!(self, Self::HostRoot | Self::DockerRoot)
    }

    /// The same, to what belongs to the owner of the subtree.
    pub(crate) fn overrides_inside(self) -> bool {
        self != Self::Stranger
    }
}

/// Cgroups around a delegation boundary in every hierarchy, and a container that lives in the boundary's `home`.
///
/// The fields are dropped in their order: as long as the container has the view among its mounts, its server lives.
pub(crate) struct Scene {
    pub(crate) container: Container,
    view: Option<View>,
    pub(crate) cgroup: TestCgroup,
    pub(crate) who: Who,
}

impl Scene {
    pub(crate) fn new(who: Who) -> Self {
        Self::with(who, |_| None)
    }

    /// The view.
    pub(crate) fn view(&self) -> &View {
        self.view.as_ref().expect("the scene was made with a view")
    }

    /// `mount` runs when the cgroups are there and the container isn't: the view is among the container's mounts.
    pub(crate) fn with(who: Who, mount: impl FnOnce(&TestCgroup) -> Option<View>) -> Self {
        let cgroup = TestCgroup::new(hierarchies());
        for &selector in hierarchies() {
            for sibling in [LONGER_SIBLING, SIBLING, BOUNDARY] {
                cgroup.child(selector, sibling);
            }
            for below in [format!("{BOUNDARY}/home"), format!("{BOUNDARY}/below"), format!("{SIBLING}/nephew")] {
                cgroup.child(selector, &below);
            }
            let parents = ["", SIBLING, LONGER_SIBLING, BOUNDARY, &format!("{BOUNDARY}/below")].map(str::to_owned);
            for parent in parents {
                for victim in VICTIMS {
                    cgroup.child(selector, format!("{parent}/{victim}").trim_start_matches('/'));
                }
            }
            chown_tree(&cgroup.dir(selector).join(BOUNDARY), who.subtree_owner());
        }
        let view = mount(&cgroup);
        let cgroups = hierarchies().iter().map(|selector| cgroup.dir(selector).join(BOUNDARY).join("home")).collect();
        let container = Container::start(ContainerOptions {
            cgroups,
            user_namespace: who == Who::MappedRoot,
            ..ContainerOptions::default()
        });
        Self { container, view, cgroup, who }
    }

    /// A probe of the scene's caller.
    pub(crate) fn session(&self) -> Session {
        self.container.session(self.who.caller())
    }

    /// A probe of the scene's caller with a process, `$P`.
    pub(crate) fn session_with_process(&self, caller: Caller) -> Session {
        let mut session = self.container.session(caller);
        session.expect(&spawn("P"));
        session
    }

    /// The paths on the bare cgroupfs.
    pub(crate) fn bare(&self, selector: &str) -> Paths {
        let ancestor = self.cgroup.dir(selector);
        Paths { sibling: ancestor.join(SIBLING), boundary: ancestor.join(BOUNDARY), ancestor }
    }
}

/// The paths at which a caller finds the cgroups of one hierarchy.
#[derive(Clone, Debug)]
pub(crate) struct Paths {
    pub(crate) ancestor: PathBuf,
    pub(crate) sibling: PathBuf,
    pub(crate) boundary: PathBuf,
}

impl Paths {
    /// Tells a probe the paths.
    pub(crate) fn tell(&self, session: &mut Session) {
        session.set("ANCESTOR", self.ancestor.display());
        session.set("SIBLING", self.sibling.display());
        session.set("BOUNDARY", self.boundary.display());
        session.set("BELOW", self.boundary.join("below").display());
        session.set("HOME", self.boundary.join("home").display());
        session.set("PARENT", self.boundary.parent().unwrap_or(Path::new("/")).display());
    }
}

/// The shape and policy of a view.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mode {
    pub(crate) shape: &'static str,
    pub(crate) policy: &'static str,
    pub(crate) legacy: bool,
}

impl Mode {
    /// Whether host paths are kept.
    pub(crate) fn keeps_host_paths(self) -> bool {
        self.shape != "rooted"
    }

    pub(crate) fn is_delegate(self) -> bool {
        self.policy == "delegate"
    }

    /// Mounts a view of a scene's boundary, with these controllers delegated.
    pub(crate) fn mount(self, cgroup: &TestCgroup, controllers: &[&str]) -> View {
        let mut options = ViewOptions::new().shape(self.shape).policy(self.policy).legacy(self.legacy);
        if self.is_delegate() {
            let there = |controller: &&&str| hierarchies().contains(controller);
            options = options.delegate_controllers(&controllers.iter().filter(there).copied().collect::<Vec<_>>());
        }
        for hierarchy in cgroup.hierarchies() {
            options = options.option("--cgroup", &format!("{}={}/{BOUNDARY}", hierarchy.selector(), cgroup.path()));
        }
        View::mount(Path::new(env!("CARGO_BIN_EXE_vcgroupfs")), &options)
    }

    /// The paths in a view. In a rooted one there is no way to ancestors and siblings; the paths are what one would try.
    pub(crate) fn paths(self, view: &View, cgroup: &TestCgroup, selector: &str) -> Paths {
        let hierarchy = testkit::hierarchy(selector).expect("a hierarchy of the scene");
        let root = view.hierarchy(&hierarchy);
        let ancestor = root.join(cgroup.name());
        let boundary = if self.keeps_host_paths() { ancestor.join(BOUNDARY) } else { root };
        Paths { sibling: ancestor.join(SIBLING), boundary, ancestor }
    }
}
