//! What a server of a mount for all callers records of pid namespaces and containers.

use std::os::fd::AsRawFd;
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::known_namespace::KnownNamespace;
use super::proc::pid_namespace::PidNamespaceFd;
use crate::cgroup::CgroupPath;
use crate::fs::dispatch::Tenant;
use crate::fs::dispatch::per_caller::SavedContainer;
use crate::records::{NoteRecord, Records, SavedNote, Topic};
use crate::sys::descriptors::recovered;

/// What the record of a namespace says, besides its descriptors.
#[derive(Debug, Serialize, Deserialize)]
struct NamespaceNote {
    /// The number of the enclosing namespace; `None` for the server's.
    around: Option<u64>,
    tenant: (u64, u64),
}

/// What the record of a container says.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ContainerNote {
    /// The number of its pid namespace.
    pub(super) namespace: u64,
    /// The number of the enclosing container.
    pub(super) around: Option<u64>,
    /// Its cgroup in each hierarchy, as bytes.
    subtrees: Vec<Option<Vec<u8>>>,
    pub(super) saved: SavedContainer,
}

/// Records a namespace.
pub(super) fn note_namespace(records: &Arc<Records>, known: &KnownNamespace) -> Option<NoteRecord> {
    let around = known.around.as_ref().map(|around| around.namespace.id().number());
    let text = serde_json::to_vec(&NamespaceNote { around, tenant: known.tenant.as_numbers() }).ok()?;
    let descriptors = [
        Some(known.namespace.as_raw_fd()),
        Some(known.init.as_raw_fd()),
        Some(known.memberships.as_raw_fd()),
        known.end.as_ref().map(AsRawFd::as_raw_fd),
    ];
    records.add_note(Topic::Namespace, known.namespace.id().number(), &text, descriptors)
}

/// Makes the namespace of a record. `find` finds the enclosing one by its number. `None` if that isn't there yet, or if
/// the record can't be used.
pub(super) fn namespace(
    records: &Arc<Records>,
    saved: &SavedNote,
    find: impl Fn(u64) -> Option<Arc<KnownNamespace>>,
) -> Option<KnownNamespace> {
    let note: NamespaceNote = serde_json::from_slice(&saved.text).ok()?;
    let around = match note.around {
        Some(number) => Some(find(number)?),
        None => None,
    };
    let tenant = Tenant::of_numbers(note.tenant)?;
    let [file, init, memberships, end] = saved.descriptors;
    Some(KnownNamespace {
        namespace: PidNamespaceFd::recovered(recovered(file?)?).ok()?,
        around,
        tenant,
        init: recovered(init?)?,
        memberships: recovered(memberships?)?,
        end: end.and_then(recovered),
        seen: Mutex::default(),
        record: Some(records.take_over_note(saved)),
    })
}

impl ContainerNote {
    /// Makes the note of a container.
    pub(super) fn new(
        namespace: u64,
        around: Option<u64>,
        subtrees: &[Option<CgroupPath>],
        saved: SavedContainer,
    ) -> Self {
        use std::os::unix::ffi::OsStrExt;
        let text = |path: &CgroupPath| path.components().join(std::ffi::OsStr::new("/")).as_bytes().to_vec();
        let subtrees = subtrees.iter().map(|subtree| subtree.as_ref().map(text)).collect();
        Self { namespace, around, subtrees, saved }
    }

    /// Records it.
    pub(super) fn keep(&self, records: &Arc<Records>) -> Option<NoteRecord> {
        let text = serde_json::to_vec(self).ok()?;
        records.add_note(Topic::Container, self.saved.number, &text, [None; 4])
    }

    /// The note of a record.
    pub(super) fn read(saved: &SavedNote) -> Option<Self> {
        serde_json::from_slice(&saved.text).ok()
    }

    /// Its cgroup in each hierarchy. `None` if one can't be read.
    pub(super) fn subtrees(&self) -> Option<Vec<Option<CgroupPath>>> {
        use std::os::unix::ffi::OsStrExt;
        let path = |bytes: &Vec<u8>| {
            let text = [b"/", bytes.as_slice()].concat();
            CgroupPath::parse(std::ffi::OsStr::from_bytes(&text)).ok()
        };
        let subtree = |bytes: &Option<Vec<u8>>| match bytes {
            Some(bytes) => Some(Some(path(bytes)?)),
            None => Some(None),
        };
        self.subtrees.iter().map(subtree).collect()
    }
}
