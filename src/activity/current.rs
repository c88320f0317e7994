//! The request that a thread answers.

use std::cell::{Cell, RefCell};

use super::kind::RequestKind;
use crate::policy::Rule;

/// Whom a request came from, and what it's about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subject {
    /// The calling process.
    pub pid: i32,
    /// The name of its command.
    pub command: Vec<u8>,
    /// The path in the view.
    pub path: Vec<u8>,
}

/// A request that isn't answered yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Current {
    /// When it was begun, in nanoseconds of the monotonic clock.
    pub(super) begun: u64,
    pub(super) tid: i32,
    pub(super) uid: u32,
    pub(super) kind: Option<RequestKind>,
    /// The errno of the answer; 0 for none.
    pub(super) errno: i32,
    pub(super) rule: Option<Rule>,
}

/// A request that another thread goes on with.
#[derive(Debug)]
pub struct Pending(Current, Option<Subject>);

thread_local! {
    static CURRENT: Cell<Option<Current>> = const { Cell::new(None) };
    static SUBJECT: RefCell<Option<Subject>> = const { RefCell::new(None) };
}

pub(super) fn begin(begun: u64) {
    SUBJECT.take();
    CURRENT.set(Some(Current { begun, tid: 0, uid: 0, kind: None, errno: 0, rule: None }));
}

fn change(change: impl FnOnce(&mut Current)) {
    if let Some(mut current) = CURRENT.get() {
        change(&mut current);
        CURRENT.set(Some(current));
    }
}

/// Notes whose request the calling thread answers.
pub fn set_caller(tid: i32, uid: u32) {
    change(|current| (current.tid, current.uid) = (tid, uid));
}

/// Notes what the calling thread's request is, and its outcome. The last one counts.
pub fn note(kind: RequestKind, errno: i32, rule: Option<Rule>) {
    change(|current| (current.kind, current.errno, current.rule) = (Some(kind), errno, rule));
}

/// Notes the errno that the caller gets instead of what was noted before.
pub fn note_errno(errno: i32) {
    change(|current| current.errno = errno);
}

/// Notes what the calling thread's request is about, for [`super::Event`]s.
pub fn describe(subject: Subject) {
    SUBJECT.set(Some(subject));
}

/// Takes the calling thread's request, with which another thread goes on.
pub fn hand_over() -> Option<Pending> {
    CURRENT.take().map(|current| Pending(current, SUBJECT.take()))
}

pub(super) fn go_on(pending: Option<Pending>) {
    let (current, subject) = pending.map_or((None, None), |Pending(current, subject)| (Some(current), subject));
    CURRENT.set(current);
    SUBJECT.set(subject);
}

pub(super) fn take() -> Option<Current> {
    CURRENT.take()
}

pub(super) fn take_subject() -> Option<Subject> {
    SUBJECT.take()
}
