//! What an earlier server has recorded, by the filesystem that it belongs to.

use std::collections::HashMap;
use std::sync::Arc;

use super::absence::SavedAbsence;
use super::file::SavedFile;
use super::node::SavedNode;
use super::note::{NoteRecord, SavedNote, Topic};
use super::own_change::SavedOwnChange;
use super::own_write::SavedOwnWrite;
use super::store::Records;

/// The scope of a mount with one view. In a mount for all callers each container has another one.
pub const ONE_VIEW: u32 = 0;

/// What an earlier server has recorded of one filesystem.
#[derive(Debug, Default)]
pub struct SavedScope {
    /// The nodes that the kernel holds, and those above them.
    pub nodes: Vec<SavedNode>,
    /// The open files.
    pub files: Vec<SavedFile>,
    /// The absent names that the kernel may cache. Only a mount with one view has any.
    pub absences: Vec<SavedAbsence>,
    /// The callers that have to repeat an open.
    pub retries: Vec<SavedRetry>,
    /// The changes by the view itself whose events are still to come. Only a mount with one view has any.
    pub own_changes: Vec<SavedOwnChange>,
    /// The writes through the view whose events may still come. Only a mount with one view has any.
    pub own_writes: Vec<SavedOwnWrite>,
}

/// A caller that has to repeat an open, as an earlier server left it.
#[derive(Clone, Debug)]
pub struct SavedRetry {
    note: SavedNote,
    /// The id of the file's node.
    pub node: u64,
    /// The caller's thread.
    pub thread: i32,
    /// The number of the request.
    pub request: u64,
}

impl Records {
    /// Reads everything once, and sorts it by filesystem. There may be thousands of these, with a hundred thousand nodes.
    pub fn scopes(self: &Arc<Self>) -> HashMap<u32, SavedScope> {
        let mut scopes: HashMap<u32, SavedScope> = HashMap::new();
        let mut scope_of: HashMap<u32, u32> = HashMap::new();
        for node in self.nodes() {
            scope_of.insert(node.number, node.state.scope);
            scopes.entry(node.state.scope).or_default().nodes.push(node);
        }
        for file in self.files() {
            if let Some(scope) = scope_of.get(&file.state.node) {
                scopes.entry(*scope).or_default().files.push(file);
            }
        }
        let one_view = scopes.entry(ONE_VIEW).or_default();
        (one_view.absences, one_view.own_changes) = (self.absences(), self.own_changes());
        one_view.own_writes = self.own_writes();
        for note in self.notes(Topic::Retry) {
            let Some((scope, thread, request)) = read_retry(&note.text) else { continue };
            scopes.entry(scope).or_default().retries.push(SavedRetry { node: note.key, thread, request, note });
        }
        scopes
    }

    /// Drops what is recorded of a filesystem that doesn't go on.
    pub fn drop_scope(self: &Arc<Self>, ended: &SavedScope) {
        ended.files.iter().for_each(|file| drop(self.take_over_file(file)));
        ended.nodes.iter().for_each(|node| self.drop_node(node));
        ended.retries.iter().for_each(|retry| drop(self.take_over_retry(retry)));
    }

    /// Records that a thread has to repeat an open, the calling thread's request. `None` if there's no room.
    pub fn add_retry(self: &Arc<Self>, scope: u32, node: u64, thread: i32) -> Option<NoteRecord> {
        let request = Self::current_request_number().to_ne_bytes();
        let text = [&scope.to_ne_bytes()[..], &thread.to_ne_bytes(), &request].concat();
        self.add_note(Topic::Retry, node, &text, [None; super::note::NOTE_DESCRIPTORS])
    }

    /// Takes over the record of a caller that has to repeat an open.
    pub fn take_over_retry(self: &Arc<Self>, saved: &SavedRetry) -> NoteRecord {
        self.take_over_note(&saved.note)
    }
}

fn read_retry(text: &[u8]) -> Option<(u32, i32, u64)> {
    let (scope, rest) = text.split_first_chunk()?;
    let (thread, request) = rest.split_first_chunk()?;
    let request = u64::from_ne_bytes(request.try_into().ok()?);
    Some((u32::from_ne_bytes(*scope), i32::from_ne_bytes(*thread), request))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::{FileState, NodeState};

    #[test]
    fn each_filesystem_gets_its_own() {
        let records = Records::new().unwrap();
        records.start();
        for scope in [ONE_VIEW, 7, 8] {
            let node = records.add_node(None, &NodeState { scope, ..NodeState::default() }, 1).unwrap();
            let file = records.add_file(&FileState { node: node.number(), ..FileState::default() }).unwrap();
            std::mem::forget((node, file, records.add_retry(scope, 5, 4711)));
        }
        records.start();
        let mut scopes = records.scopes();
        for scope in [ONE_VIEW, 7, 8] {
            let found = scopes.remove(&scope).unwrap();
            assert_eq!((found.nodes.len(), found.files.len()), (1, 1));
            let retries: Vec<_> = found.retries.iter().map(|retry| (retry.node, retry.thread)).collect();
            assert_eq!(retries, [(5, 4711)]);
            records.drop_scope(&found);
        }
        assert!(records.nodes().is_empty() && records.files().is_empty());
        assert!(records.notes(Topic::Retry).is_empty() && scopes.is_empty());
    }
}
