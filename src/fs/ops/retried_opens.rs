//! Opens that the kernel has to repeat.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use crate::fs::Caller;
use crate::fs::inode::NodeId;
use crate::records::{NoteRecord, Records, SavedRetry};

/// How many callers that have to look up again are remembered: each comes back at once.
const RETRIED_OPENS_MAX: usize = 1024;

/// The callers that were made to look a name up again, and their files.
#[derive(Debug)]
pub(in crate::fs) struct RetriedOpens {
    count: AtomicUsize,
    /// Leaf lock.
    who: Mutex<VecDeque<RetriedOpen>>,
    /// Where the next server finds them. A caller that was sent back twice would get the error.
    records: Arc<Records>,
    scope: u32,
}

#[derive(Debug)]
struct RetriedOpen {
    node: NodeId,
    thread: i32,
    request: u64,
    _record: Option<NoteRecord>,
}

impl RetriedOpens {
    /// Those that an earlier server has recorded in this scope.
    pub(in crate::fs) fn new(records: &Arc<Records>, scope: u32, saved: Vec<SavedRetry>) -> Self {
        let retried = |saved: SavedRetry| RetriedOpen {
            node: NodeId::from_u64(saved.node),
            thread: saved.thread,
            request: saved.request,
            _record: Some(records.take_over_retry(&saved)),
        };
        let who: VecDeque<RetriedOpen> = saved.into_iter().map(retried).collect();
        Self { count: AtomicUsize::new(who.len()), who: Mutex::new(who), records: Arc::clone(records), scope }
    }

    /// Whether a caller comes for the second time, if need be to another server. If so, forgets it.
    pub(super) fn is_back(&self, node: NodeId, caller: &Caller) -> bool {
        let was_back = self.records.was_back();
        if self.count.load(Ordering::Acquire) == 0 {
            return was_back;
        }
        let mut who = self.who.lock();
        let found = who.iter().position(|one| (one.node, one.thread) == (node, caller.tid));
        // The same request, sent again: the answer hasn't reached the caller, and is given once more.
        let is_same = |one: &RetriedOpen| one.request == Records::current_request_number() && Records::is_sent_again();
        let is_new = found.and_then(|index| who.get(index)).is_some_and(|one| !is_same(one));
        if is_new {
            // Before the other record goes: one of the two says it at each moment.
            self.records.note_back();
        }
        let is_back = found.is_some_and(|index| who.remove(index).is_some()) && is_new;
        self.count.store(who.len(), Ordering::Release);
        is_back || was_back
    }

    pub(super) fn send(&self, node: NodeId, caller: &Caller) {
        let record = self.records.add_retry(self.scope, node.as_u64(), caller.tid);
        let mut who = self.who.lock();
        if who.len() >= RETRIED_OPENS_MAX {
            who.pop_front();
        }
        let request = Records::current_request_number();
        who.push_back(RetriedOpen { node, thread: caller.tid, request, _record: record });
        self.count.store(who.len(), Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_come_again_is_known_to_the_next_server() {
        let records = Records::new().unwrap();
        let caller = Caller { tid: 1, uid: 0, gid: 0 };
        let node = NodeId::from_u64(7);
        let next = || {
            records.start();
            let saved = records.scopes().remove(&0).map(|scope| scope.retries).unwrap_or_default();
            RetriedOpens::new(&records, 0, saved)
        };
        let killed = |number, act: &(dyn Fn(&RetriedOpens) + Sync), sent: RetriedOpens| {
            std::thread::scope(|scope| {
                let thread = scope.spawn(|| {
                    std::mem::forget(records.begin_request(number));
                    act(&sent);
                    std::mem::forget(sent);
                    records.forget_own_slot();
                });
                thread.join().unwrap();
            });
        };
        // A server is killed before the caller knows that it's sent back, and the next one sends it back again.
        killed(6, &|sent| sent.send(node, &caller), next());
        let is_sent_back_again = |sent: &RetriedOpens| {
            assert!(!sent.is_back(node, &caller));
            sent.send(node, &caller);
        };
        killed(6 | 1 << 63, &is_sent_back_again, next());
        // The next one is killed when it has come again.
        killed(8, &|sent| assert!(sent.is_back(node, &caller)), next());
        let sent = next();
        let _again = records.begin_request(8 | 1 << 63);
        assert!(sent.is_back(node, &caller));
        drop(_again);
        // Another open of the same file is its first attempt.
        let _other = records.begin_request(10 | 1 << 63);
        assert!(!sent.is_back(node, &caller));
    }

    #[test]
    fn who_was_sent_back_comes_again_once() {
        let sent = RetriedOpens::new(&Records::none(), 0, Vec::new());
        let caller = |tid| Caller { tid, uid: 0, gid: 0 };
        let node = NodeId::from_u64;
        assert!(!sent.is_back(node(7), &caller(1)));
        for tid in [1, 2] {
            sent.send(node(7), &caller(tid));
        }
        assert!(!sent.is_back(node(8), &caller(1)), "another file");
        assert!(sent.is_back(node(7), &caller(1)) && !sent.is_back(node(7), &caller(1)));
        assert!(sent.is_back(node(7), &caller(2)));
        for tid in 0..2 * RETRIED_OPENS_MAX as i32 {
            sent.send(node(7), &caller(tid));
        }
        assert_eq!(sent.who.lock().len(), RETRIED_OPENS_MAX);
    }
}
