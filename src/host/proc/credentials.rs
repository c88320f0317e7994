//! The rights with which callers make their requests.

use std::os::fd::OwnedFd;

use super::last_caller;
use super::procfs::{self, Namespace, ThreadKind};
use crate::cgroup::IdMap;
use crate::fs::SysResult;
use crate::fs::host::{Caller, Credentials, Owner, WriterCredentials};
use crate::host::errno::errno;
use crate::sys::capability::{CAP_DAC_OVERRIDE, Capabilities, capabilities_of};
use crate::sys::process::is_first_thread;

/// Reads the credentials of threads, as the server's user namespace sees them.
#[derive(Debug)]
pub(in crate::host) struct CredentialReader {
    own_user_namespace: Option<Namespace>,
    kernel_threads_act_for_processes: bool,
}

impl CredentialReader {
    pub(in crate::host) fn new() -> Self {
        Self {
            own_user_namespace: procfs::own_namespace("user").ok(),
            kernel_threads_act_for_processes: procfs::kernel_threads_act_for_processes(),
        }
    }

    /// A thread that makes a request waits for its answer, so its number can't come to mean another one meanwhile.
    pub(in crate::host) fn credentials(&self, caller: &Caller) -> SysResult<Credentials> {
        let (thread, user_namespace) = accountable(caller.tid)?;
        let id_maps = if self.is_own_user_namespace(thread, user_namespace)? {
            None
        } else {
            let map = |file| procfs::text(thread, file).map(|text| IdMap::parse(&text)).map_err(errno);
            Some((map("uid_map")?, map("gid_map")?))
        };
        let capabilities = capabilities_of(thread)?;
        let mut credentials = Credentials {
            thread: caller.tid,
            owner: Owner { uid: caller.uid, gid: caller.gid },
            groups: Vec::new(),
            capabilities: capabilities.effective,
            permitted: capabilities.permitted,
            id_maps,
        };
        // procfs doesn't show overridden rights (override_creds), such as a personality of io_uring. Only their user
        // is known.
        let mut are_shown = self.acts_for_itself(thread)?;
        if are_shown && (caller.uid != 0 || !credentials.overrides_permissions()) {
            let status = procfs::status(thread).map_err(errno)?;
            let [.., acts_as] = status.users;
            are_shown = acts_as == caller.uid;
            if are_shown && !credentials.overrides_permissions() {
                credentials.groups = status.groups;
            }
        }
        if !are_shown {
            (credentials.capabilities, credentials.permitted) = (0, 0);
        }
        Ok(credentials)
    }

    /// The rights with which a caller writes, which are fewer than [`CredentialReader::credentials`] finds.
    pub(in crate::host) fn writer(&self, caller: &Caller) -> SysResult<WriterCredentials> {
        let none = WriterCredentials::without_capabilities(caller);
        let (thread, user_namespace) = accountable(caller.tid)?;
        let Capabilities { effective, permitted } = capabilities_of(thread)?;
        if permitted == 0 || !self.acts_for_itself(thread)? {
            return Ok(none);
        }
        let counts = effective != 0 && self.is_own_user_namespace(thread, user_namespace)?;
        if caller.uid != 0 || !counts || effective & CAP_DAC_OVERRIDE == 0 {
            let [.., acts_as] = procfs::status(thread).map_err(errno)?.users;
            if acts_as != caller.uid {
                return Ok(none);
            }
        }
        Ok(WriterCredentials { capabilities: if counts { effective } else { 0 }, permitted, ..none })
    }

    /// Whether a thread is in the server's user namespace. `known`: the one that it's in, if that has been read.
    fn is_own_user_namespace(&self, thread: i32, known: Option<Namespace>) -> SysResult<bool> {
        match self.own_user_namespace {
            Some(own) => Ok(known.map_or_else(|| procfs::namespace(thread, "user"), Ok).map_err(errno)? == own),
            // The kernel has no user namespaces.
            None => Ok(true),
        }
    }

    /// Whether a held process is in the server's user namespace. True if that can't be found out.
    pub(in crate::host) fn is_of_own_user_namespace(&self, process: &OwnedFd) -> bool {
        let link = nix::fcntl::readlinkat(process, "ns/user");
        let namespace = link.ok().and_then(|link| procfs::parse_namespace(&link));
        namespace.is_none() || namespace == self.own_user_namespace
    }

    /// Whether the thread isn't a kernel thread. Before Linux 5.12, kernel threads do what processes ask of their
    /// io_uring.
    fn acts_for_itself(&self, thread: i32) -> SysResult<bool> {
        Ok(!self.kernel_threads_act_for_processes || procfs::kind(thread).map_err(errno)? != ThreadKind::Kernel)
    }
}

/// The thread by whose rights a request is judged, and its user namespace if that is known. An io_uring worker acts with
/// the rights of the request's submitter, but procfs shows those that its process had when the worker was made, and the
/// process may have dropped them since. The process' first thread is the closest match.
fn accountable(tid: i32) -> SysResult<(i32, Option<Namespace>)> {
    let known = last_caller::user_namespace(tid);
    if known.is_some() {
        return Ok((tid, known));
    }
    if is_first_thread(tid) || procfs::kind(tid).map_err(errno)? != ThreadKind::IoWorker {
        last_caller::remember(tid);
        return Ok((tid, None));
    }
    Ok((procfs::status(tid).map_err(errno)?.process_id, None))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_acts_as_another_user_than_his_thread_has_none_of_its_capabilities() {
        let reader = CredentialReader::new();
        let tid = nix::unistd::gettid().as_raw();
        let [.., uid] = procfs::status(tid).unwrap().users;
        let as_user = |uid| reader.credentials(&Caller { tid, uid, gid: 0 }).unwrap();
        let other = as_user(uid + 1);
        assert_eq!((other.capabilities, other.permitted, other.groups), (0, 0, Vec::new()));
        assert_eq!(as_user(uid).capabilities, capabilities_of(tid).unwrap().effective);
    }
}
