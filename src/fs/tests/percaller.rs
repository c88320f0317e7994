//! Two containers behind one mount.

use std::ffi::OsStr;
use std::sync::Arc;

use nix::errno::Errno;

use super::fake::FakeHost;
use super::scene::{READ, Scene, WRITE, errno, rule};
use crate::cgroup::{CgroupPath, Setup};
use crate::fs::dispatch::per_caller::{Container, Containers, PerCaller, SharedLimits};
use crate::fs::dispatch::{Dispatch, Tenant};
use crate::fs::inode::{NodeId, ROOT_ID};
use crate::fs::{Caller, FsResult, HandleId, LookupResult};
use crate::policy::{Policy, Rule};
use crate::records::{Records, SavedScope};
use crate::view::{Shape, View};

const FIRST: Caller = Caller { tid: 7, uid: 0, gid: 0 };
const SECOND: Caller = Caller { tid: 8, uid: 0, gid: 0 };
/// A caller in a container inside the first one's.
const NESTED: Caller = Caller { tid: 9, uid: 0, gid: 0 };
const STRANGER: Caller = Caller { tid: 10, uid: 0, gid: 0 };

/// The containers of the callers above.
#[derive(Debug)]
struct Known {
    containers: [Arc<Container<FakeHost>>; 3],
}

impl Containers for Known {
    type Host = FakeHost;

    fn of(&self, caller: &Caller) -> FsResult<Arc<Container<FakeHost>>> {
        let found = usize::try_from(caller.tid - FIRST.tid).ok().and_then(|index| self.containers.get(index));
        Ok(Arc::clone(found.ok_or(Rule::ContainerUnknown)?))
    }

    fn host(&self) -> &Arc<Container<FakeHost>> {
        &self.containers[0]
    }

    fn forget_the_ended(&self) -> bool {
        false
    }

    fn stop_waiting(&self) {}
}

struct Pair {
    all: Arc<PerCaller<Known>>,
    host: FakeHost,
}

impl Pair {
    fn new() -> Self {
        let Scene { host, view, .. } = Scene::new(Setup::Hybrid, Shape::HostPath, Policy::Delegate);
        let shared_limits = SharedLimits::new(4096, true, Records::none());
        let containers = [("/lxc/c1", 1), ("/lxc/c10", 2), ("/lxc/c1/a", 1)].map(|(path, tenant)| {
            let mut view = View { aliases: Vec::new(), ..View::clone(&view) };
            for hierarchy in &mut view.hierarchies {
                hierarchy.delegated = hierarchy.delegated.is_some().then(|| CgroupPath::parse(path).unwrap());
            }
            let view = Arc::new(view);
            shared_limits
                .container(Arc::clone(&view), host.behind(view), Tenant::Container(tenant), None, |_| {
                    SavedScope::default()
                })
                .unwrap()
        });
        Self { all: Arc::new(PerCaller::new(Known { containers })), host }
    }

    fn lookup(&self, caller: &Caller, parent: NodeId, name: &str) -> FsResult<NodeId> {
        match self.all.with_entry(caller, parent, |fs, parent| fs.lookup_for(caller, parent, OsStr::new(name)))? {
            LookupResult::Entry(entry) => Ok(entry.id),
            LookupResult::Negative(ttl) => {
                assert!(ttl.is_zero(), "a name that is absent for one container may exist for another");
                Err(Errno::ENOENT.into())
            }
        }
    }

    fn walk(&self, caller: &Caller, path: &str) -> FsResult<NodeId> {
        path.split('/').try_fold(ROOT_ID, |at, name| self.lookup(caller, at, name))
    }

    fn inode(&self, caller: &Caller, node: NodeId) -> FsResult<u64> {
        self.all.with_node(caller, node, |fs, node| Ok(fs.attributes(node, None)?.0.inode))
    }
}

#[test]
fn each_has_numbers_of_its_own_for_what_both_see() {
    let pair = Pair::new();
    let (first, second) = (pair.walk(&FIRST, "unified/lxc").unwrap(), pair.walk(&SECOND, "unified/lxc").unwrap());
    assert_ne!(first, second);
    assert_eq!(pair.inode(&FIRST, first), pair.inode(&SECOND, second));
    // A caller with the other container's id gets what its own id would give.
    assert_eq!(pair.inode(&SECOND, first), pair.inode(&SECOND, second));
    assert_eq!(pair.lookup(&SECOND, first, "c10").unwrap(), pair.walk(&SECOND, "unified/lxc/c10").unwrap());
    assert_eq!(errno(pair.lookup(&SECOND, first, "c1")), Some(Errno::ENOENT));
}

#[test]
fn what_one_has_is_nothing_to_the_other() {
    let pair = Pair::new();
    let inside = pair.walk(&FIRST, "unified/lxc/c1/a").unwrap();
    let file = pair.walk(&FIRST, "unified/lxc/c1/a/cgroup.procs").unwrap();
    pair.host.calls();
    assert_eq!(errno(pair.inode(&SECOND, inside)), Some(Errno::ENOENT));
    assert_eq!(errno(pair.lookup(&SECOND, inside, "b")), Some(Errno::ENOENT));
    for mode in [READ, WRITE] {
        let opened = pair.all.with_opened(&SECOND, file, |fs, node| Ok((fs.open(&SECOND, node, mode, false)?, ())));
        assert_eq!(errno(opened), Some(Errno::ENOENT));
    }
    let removed = pair.all.with_node(&SECOND, inside, |fs, node| fs.remove_directory(&SECOND, node, OsStr::new("b")));
    assert_eq!(errno(removed), Some(Errno::ENOENT));
    let renamed = pair.all.with_nodes(&SECOND, (ROOT_ID, inside), |_, _, _| Ok(()));
    assert_eq!(errno(renamed), Some(Errno::ENOENT));
    assert!(pair.host.calls().iter().all(|call| !call.changes && !call.path.starts_with("/lxc/c1/")));
    // The owner still has it.
    assert!(pair.inode(&FIRST, inside).is_ok());
}

#[test]
fn the_same_object_is_ruled_by_whose_caller_asks() {
    let pair = Pair::new();
    let (outer, inner) = (pair.walk(&FIRST, "unified/lxc/c1").unwrap(), pair.walk(&NESTED, "unified/lxc/c1").unwrap());
    let make = |caller: &Caller, parent, name: &str| {
        pair.all.with_entry(caller, parent, |fs, parent| {
            fs.make_directory(caller, parent, OsStr::new(name), 0o755).map(LookupResult::Entry)
        })
    };
    assert!(make(&FIRST, outer, "x").is_ok() && make(&FIRST, inner, "y").is_ok());
    for parent in [outer, inner] {
        assert_eq!(rule(&make(&NESTED, parent, "z")), "outside-subtree");
        assert_eq!(errno(pair.lookup(&NESTED, parent, "x")), Some(Errno::ENOENT));
    }
}

#[test]
fn an_open_file_is_its_openers() {
    let pair = Pair::new();
    let file = pair.walk(&FIRST, "unified/lxc/c1/a/memory.max").unwrap();
    let open = |fs: &Arc<crate::fs::CgroupFs<FakeHost>>, node| Ok((fs.open(&FIRST, node, WRITE, false)?, ()));
    let (handle, ()) = pair.all.with_opened(&FIRST, file, open).unwrap();
    let write = || pair.all.with_file(handle, |fs, _| fs.write_by(&SECOND, handle, b"max"));
    assert_eq!(write(), Ok(3));
    pair.all.release(handle);
    assert_eq!(errno(write()), Some(Errno::EBADF));
    assert_eq!(pair.host.state.lock().open, 0);
}

#[test]
fn whoever_has_no_container_sees_nothing() {
    let pair = Pair::new();
    assert_eq!(rule(&pair.inode(&STRANGER, ROOT_ID)), "container-unknown");
    assert_eq!(rule(&pair.lookup(&STRANGER, ROOT_ID, "unified")), "container-unknown");
    assert_eq!(errno(pair.inode(&FIRST, NodeId::from_u64(4711))), Some(Errno::ESTALE));
}

#[test]
fn nothing_is_left_of_what_the_kernel_forgets() {
    let pair = Pair::new();
    let mut told = Vec::new();
    for caller in [&FIRST, &SECOND] {
        for path in ["unified", "unified/lxc", "unified/lxc/cgroup.type"] {
            let mut at = ROOT_ID;
            for name in path.split('/') {
                at = pair.lookup(caller, at, name).unwrap();
                told.push(at);
            }
        }
    }
    // Transient nodes leave nothing behind.
    let known = pair.all.known_nodes();
    assert_eq!(known, 6);
    assert!(pair.inode(&NESTED, told[0]).is_ok() && pair.inode(&NESTED, told[2]).is_ok());
    for (index, id) in told.iter().enumerate() {
        let is_last = !told[index + 1..].contains(id);
        assert_eq!(pair.all.forget(*id, 1), is_last, "{index}");
    }
    assert_eq!(pair.all.known_nodes(), 0);
    for caller in [&FIRST, &SECOND, &NESTED] {
        assert_eq!(pair.all.containers().of(caller).unwrap().fs().known_nodes(), 0);
    }
    // A container with CAP_DAC_READ_SEARCH that guesses an id could open another container's file.
    let distances: Vec<u64> = told.windows(2).map(|pair| pair[0].as_u64().abs_diff(pair[1].as_u64())).collect();
    assert!(distances.iter().filter(|distance| **distance > 0).all(|distance| *distance > 1 << 20), "{distances:?}");
    let again = pair.lookup(&FIRST, ROOT_ID, "unified").unwrap();
    assert!(!told.contains(&again), "an id is never reused");
}

#[test]
fn handles_have_different_numbers_and_tenants_share_files() {
    let pair = Pair::new();
    let open = |caller: &Caller| -> FsResult<HandleId> {
        let file = pair.walk(caller, "unified/lxc/cgroup.type")?;
        let opened = pair.all.with_opened(caller, file, |fs, node| Ok((fs.open(caller, node, READ, false)?, ())));
        opened.map(|(handle, ())| handle)
    };
    let all_of = |caller: &Caller| std::iter::from_fn(|| open(caller).ok()).collect::<Vec<_>>();
    let (outer, inner, other) = (all_of(&FIRST), all_of(&NESTED), all_of(&SECOND));
    let mut numbers: Vec<u64> = [&outer, &inner, &other].into_iter().flatten().map(|handle| handle.0).collect();
    let count = numbers.len();
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), count);
    assert!(outer.len() + inner.len() <= other.len() * 3, "{} {} {}", outer.len(), inner.len(), other.len());
    assert!(inner.len() <= outer.len() && other.len() > 500, "{} {}", inner.len(), other.len());
}
