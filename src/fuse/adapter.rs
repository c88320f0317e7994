//! The state that all FUSE operations share: the filesystem, the workers and the lanes.

use std::ffi::OsStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use fuser::{INodeNo, InitFlags, KernelConfig, ReplyEntry, Request};

use super::connection::MAX_WRITE;
use super::convert;
use super::passthrough::Passthrough;
use super::reply::{RequestSubject, catch_panic, log_denials, no_room, on_entry, reply_lookup};
use super::workers::lanes::{Lane, Lanes};
use super::workers::{RequestContext, Workers};
use crate::activity::RequestKind;
use crate::fs::dispatch::{Dispatch, Tenant};
use crate::fs::{Caller, CgroupFs, FsResult, HandleId, LookupResult, NodeId};

/// FUSE's view of a filesystem.
#[derive(Debug)]
pub(super) struct Adapter<R: Dispatch> {
    pub(super) dispatch: Arc<R>,
    pub(super) lanes: Lanes,
    pub(super) passthrough: Arc<Passthrough>,
    pub(super) workers: Workers,
    /// Whether the kernel opens directories without a request, because the server has no state for them, and caches
    /// all listings (Linux 5.1).
    pub(super) opens_directories_itself: AtomicBool,
    /// The longest name that the kernel accepts in a listing, in bytes.
    pub(super) listed_name_max: AtomicUsize,
}

impl<R: Dispatch> Adapter<R> {
    pub(super) fn new(dispatch: Arc<R>, workers: Workers, passthrough: Passthrough) -> Self {
        Self {
            lanes: Lanes::new(R::SLOW_AT_ONCE, dispatch.records()),
            dispatch,
            passthrough: Arc::new(passthrough),
            workers,
            opens_directories_itself: AtomicBool::default(),
            listed_name_max: AtomicUsize::default(),
        }
    }

    /// Calls the filesystem for a caller's request.
    pub(super) fn ask<T>(
        &self,
        context: &RequestContext<'_>,
        about: RequestSubject<'_>,
        question: impl FnOnce(&CgroupFs<R::Host>, &Caller, NodeId) -> FsResult<T>,
    ) -> Result<T, fuser::Errno> {
        let caller = &context.caller;
        catch_panic(about.kind, || {
            self.dispatch.with_node(caller, about.node, |fs, node| {
                log_denials(fs, caller, RequestSubject { node, ..about }, || question(fs, caller, node))
            })
        })
    }

    /// Calls the filesystem for a caller's request about an open file.
    pub(super) fn ask_file<T>(
        &self,
        context: &RequestContext<'_>,
        handle: HandleId,
        question: impl FnOnce(&CgroupFs<R::Host>) -> FsResult<T>,
    ) -> FsResult<T> {
        self.dispatch.with_file(handle, |fs, _| {
            if fs.records().activity().is_watched() {
                fs.describe_file(&context.caller, handle);
            }
            question(fs)
        })
    }

    /// Asks for an entry, and replies with it, or with its absence.
    pub(super) fn reply_entry(
        &self,
        context: &RequestContext<'_>,
        about: RequestSubject<'_>,
        reply: ReplyEntry,
        question: impl FnOnce(&CgroupFs<R::Host>, &Caller, NodeId) -> FsResult<LookupResult>,
    ) {
        reply_entry(&self.dispatch, &context.caller, about, reply, question);
    }

    /// Makes a cgroup, in its lane.
    pub(super) fn make_directory(
        &self,
        context: &RequestContext<'_>,
        (parent, name): (INodeNo, &OsStr),
        mode: u32,
        reply: ReplyEntry,
    ) {
        let (caller, about) = (context.caller, on_entry(RequestKind::Mkdir, parent, name));
        let found = catch_panic(about.kind, || {
            self.dispatch
                .with_node(&caller, about.node, |fs, node| Ok((fs.tenant(), Lane::of_mkdir(fs, &caller, node))))
        });
        // Without an answer, the operation itself finds the reason.
        let (tenant, lane) = found.unwrap_or((Tenant::default(), Lane::Worker));
        let slot = if lane == Lane::Slow && R::HAS_ONE_TENANT { self.workers.take_slow_slot() } else { None };
        let Some(pool) = self.lanes.pool(lane).filter(|_| slot.is_none()) else {
            return make_directory(&self.dispatch, &caller, about, mode, reply);
        };
        if !pool.has_room(tenant) {
            return reply.error(no_room());
        }
        let (dispatch, name) = (Arc::clone(&self.dispatch), name.to_owned());
        pool.run(tenant, move || {
            make_directory(&dispatch, &caller, on_entry(RequestKind::Mkdir, parent, &name), mode, reply);
        });
    }

    /// Begins a request. The handler has to finish its work while the guard in the context lives.
    pub(super) fn begin(&self, request: &Request) -> RequestContext<'_> {
        self.workers.begin(request)
    }

    /// Negotiates the capabilities with the kernel.
    pub(super) fn negotiate(&self, config: &mut KernelConfig) {
        // Ask for each separately: if the kernel lacks one of several, it grants none.
        let wanted = [
            InitFlags::FUSE_ATOMIC_O_TRUNC,
            InitFlags::FUSE_PARALLEL_DIROPS,
            // A stored listing is checked against the directory's modification time.
            InitFlags::FUSE_AUTO_INVAL_DATA,
        ];
        for capability in wanted {
            if config.add_capabilities(capability).is_err() {
                tracing::debug!(?capability, "this kernel's FUSE lacks it");
            }
        }
        if self.dispatch.keeps_listings() && config.add_capabilities(InitFlags::FUSE_NO_OPENDIR_SUPPORT).is_ok() {
            self.opens_directories_itself.store(true, Ordering::Relaxed);
        }
        let _ = config.set_max_write(MAX_WRITE);
        self.listed_name_max.store(convert::listed_name_max(config), Ordering::Relaxed);
        let passes =
            config.add_capabilities(InitFlags::FUSE_PASSTHROUGH).is_ok() && config.set_max_stack_depth(1).is_ok();
        let by_kernel = self.passthrough.enable(passes);
        self.dispatch.read_mode().set(by_kernel, convert::splice_ends_at_size());
    }
}

fn make_directory<R: Dispatch>(
    dispatch: &Arc<R>,
    caller: &Caller,
    about: RequestSubject<'_>,
    mode: u32,
    reply: ReplyEntry,
) {
    reply_entry(dispatch, caller, about, reply, |fs, caller, parent| {
        fs.make_directory(caller, parent, about.name.unwrap_or_default(), mode).map(LookupResult::Entry)
    });
}

fn reply_entry<R: Dispatch>(
    dispatch: &Arc<R>,
    caller: &Caller,
    about: RequestSubject<'_>,
    reply: ReplyEntry,
    question: impl FnOnce(&CgroupFs<R::Host>, &Caller, NodeId) -> FsResult<LookupResult>,
) {
    let found = catch_panic(about.kind, || {
        dispatch.with_entry(caller, about.node, |fs, node| {
            log_denials(fs, caller, RequestSubject { node, ..about }, || question(fs, caller, node))
        })
    });
    reply_lookup(reply, R::KEEPS, found);
}
