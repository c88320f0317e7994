//! The pool of a server's agents.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use mount_helper::clock::monotonic_ns;
use mount_helper::request::{MAX_OWNERS, MAX_WRITE, NUMBER_LEN, Request};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::stat::Mode;
use nix::unistd::pipe2;

use super::connection::{AgentFailure, Connection, REQUEST_TIMEOUT, deadline_in, read_len};
use super::slots::{AgentQuota, AgentSlots};
use super::{HelperImage, PidNamespace};
use crate::limit::{LogLimiter, Tenant};
use crate::sys::owner;

/// The capabilities that an agent is lent for a write, which are no more than the caller's own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LentCapabilities {
    /// CAP_SYS_NICE, which cpuset checks.
    pub nice: bool,
    /// CAP_SYS_ADMIN, which devices checks before Linux 3.13. It takes an agent of its own, which ends with the request. The caller waits, and
    /// must be in the same pid namespace and have the capability. So a process that can take over the agent can take over the caller as well.
    pub admin: bool,
}

/// How often a number is looked up again if its process changes meanwhile.
const MAX_LOOKUP_ATTEMPTS: usize = 3;

/// Returns the tenant of an open pid namespace. The number is a thread in it, if one is known.
pub type TenantOf = fn(BorrowedFd<'_>, Option<i32>) -> Tenant;

/// One agent per pid namespace, started on demand.
///
/// Requests in one namespace are carried out one after the other. Those in different namespaces don't wait for each
/// other. A request takes at most about ten seconds: five in the queue, and five for the agent, including a second
/// one. When an agent doesn't answer in time, all requests that came before fail. A request may fail with EIO if the
/// container stops or kills the agent during it. The next one gets a new agent. Apart from that a request returns the
/// system call's own result.
#[derive(Debug)]
pub struct AgentPool {
    image: Arc<HelperImage>,
    slots: AgentSlots,
    /// `None` if there's only one tenant.
    tenant_of: Option<TenantOf>,
    log: LogLimiter,
}

/// Whether a request may be sent again if the agent died during it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Retry {
    /// It may: the request changes nothing.
    Safe,
    /// It may not: the request may have been carried out.
    Never,
}

impl AgentPool {
    /// Makes a pool without agents.
    #[must_use]
    pub fn new(image: HelperImage) -> Self {
        Self { image: Arc::new(image), slots: AgentSlots::default(), tenant_of: None, log: LogLimiter::default() }
    }

    /// Gives the agents quotas, so that no tenant takes all of them.
    #[must_use]
    pub fn with_tenants(self, tenant_of: TenantOf) -> Self {
        Self { tenant_of: Some(tenant_of), ..self }
    }

    /// Returns the image of its agents.
    #[must_use]
    pub fn image(&self) -> Arc<HelperImage> {
        Arc::clone(&self.image)
    }

    /// Makes a process in `ns` call pread(2), so that pid lists show that namespace's numbers. It reads at most 64
    /// KiB. As with pread, fewer bytes than `buf` holds don't mean the end of the file, only 0 does.
    ///
    /// The kernel continues a pid list at an offset with the numbers of the namespace that began it. So a descriptor
    /// is for one namespace.
    ///
    /// # Errors
    /// The system call's; EACCES if `ns` can't be entered, EIO if there's no answer, EAGAIN if there
    /// are too many namespaces or requests at once.
    pub fn read(&self, ns: &PidNamespace, file: BorrowedFd<'_>, offset: u64, buf: &mut [u8]) -> Result<usize, Errno> {
        if i64::try_from(offset).is_err() {
            return Err(Errno::EINVAL);
        }
        let len = read_len(buf.len());
        let buf = buf.get_mut(..len).ok_or(Errno::EINVAL)?;
        let len = u32::try_from(len).map_err(|_| Errno::EINVAL)?;
        self.request(ns, &Request::Read { offset, len }, &[file], buf, Retry::Safe)
    }

    /// Makes a process in `ns` call write(2) once at offset 0, as uid 0 and without capabilities. A number names a
    /// process of that namespace. `0` names the *agent*, so the caller has to write the process' own number instead.
    /// With `nice`, CAP_SYS_NICE is effective in the writer: cpuset checks it.
    ///
    /// # Errors
    /// The system call's, E2BIG above 4096 bytes as the kernel has it, and those of [`Self::read`].
    /// After EIO the write may or may not have been done; it's never done twice.
    pub fn write(&self, ns: &PidNamespace, file: BorrowedFd<'_>, data: &[u8], nice: bool) -> Result<usize, Errno> {
        self.write_with(ns, file, data, LentCapabilities { nice, admin: false })
    }

    /// Writes as [`Self::write`] does, with `lent` effective in the agent.
    ///
    /// # Errors
    /// Those of [`Self::write`].
    pub fn write_with(
        &self,
        ns: &PidNamespace,
        file: BorrowedFd<'_>,
        data: &[u8],
        lent: LentCapabilities,
    ) -> Result<usize, Errno> {
        if data.len() > MAX_WRITE {
            return Err(Errno::E2BIG);
        }
        let request = Request::Write { nice: lent.nice, data };
        self.request_of(ns, lent.admin, &request, &[file], &mut [], Retry::Never)
    }

    /// Writes the number of a process to migrate, if its `/proc/TID/cgroup`, `memberships`, still has the text `seen`
    /// right before the write. Otherwise writes nothing and returns `false`.
    ///
    /// If the agent is killed meanwhile, another one does it: a migration that was made has changed the text.
    ///
    /// # Errors
    /// Those of [`Self::write`], E2BIG if `seen` is too long to be sent, ESRCH if that process has ended.
    pub fn migrate(
        &self,
        ns: &PidNamespace,
        file: BorrowedFd<'_>,
        number: &[u8],
        lent: LentCapabilities,
        (memberships, seen): (BorrowedFd<'_>, &[u8]),
    ) -> Result<bool, Errno> {
        if number.len() + seen.len() > MAX_WRITE {
            return Err(Errno::E2BIG);
        }
        let request = Request::Migrate { nice: lent.nice, number, seen };
        let files = [file, memberships];
        self.request_of(ns, lent.admin, &request, &files, &mut [], Retry::Safe).map(|written| written > 0)
    }

    /// Opens the directory in the server's /proc (O_PATH) of the process or thread that has `number` in `ns`. Files
    /// that are opened relative to it belong to this process. After its exit they fail with ENOENT or ESRCH, and
    /// never belong to another process.
    ///
    /// The first file that is opened and read relative to the directory proves that it *is* this process. Until then
    /// the process may have exited, and another one may have got its host number, between the look-up of the number
    /// and the opening of the directory. But the number is looked up again afterwards, so a directory that still
    /// works then belongs to the process with the number.
    ///
    /// # Errors
    /// ENOENT if there's no such process there; otherwise those of [`Self::read`].
    pub fn open_proc(&self, ns: &PidNamespace, number: i32) -> Result<OwnedFd, Errno> {
        if number <= 0 {
            return Err(Errno::ENOENT);
        }
        let mut host = self.host_number(ns, number)?;
        for _ in 0..MAX_LOOKUP_ATTEMPTS {
            let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
            let directory = open(format!("/proc/{host}").as_str(), flags, Mode::empty());
            let again = self.host_number(ns, number)?;
            if again == host {
                return directory;
            }
            host = again;
        }
        Err(Errno::ENOENT)
    }

    /// Translates numbers of threads from the server's pid namespace to `ns`. Threads outside `ns`, and exited ones,
    /// are omitted. The kernel translates them, and an agent learns only about its own namespace.
    ///
    /// # Errors
    /// Those of [`Self::read`], EMFILE and ENFILE.
    pub fn numbers(&self, ns: &PidNamespace, hosts: &[i32]) -> Result<Vec<i32>, Errno> {
        let mut numbers = Vec::new();
        let mut owned = Vec::new();
        for hosts in hosts.chunks(MAX_OWNERS) {
            while owned.len() < hosts.len() {
                owned.push(EventFd::from_flags(EfdFlags::EFD_CLOEXEC)?);
            }
            let mut files = Vec::new();
            for (host, file) in hosts.iter().zip(&owned) {
                match owner::set_owner_thread(file.as_fd(), *host) {
                    Ok(()) => files.push(file.as_fd()),
                    // It has exited.
                    Err(Errno::ESRCH) => {}
                    Err(errno) => return Err(errno),
                }
            }
            let Ok(count @ 1..) = u32::try_from(files.len()) else { continue };
            let mut found = vec![0; files.len() * NUMBER_LEN];
            self.request(ns, &Request::GetOwners { count }, &files, &mut found, Retry::Safe)?;
            let (found, _) = found.as_chunks::<NUMBER_LEN>();
            numbers.extend(found.iter().map(|number| i32::from_ne_bytes(*number)).filter(|number| *number > 0));
        }
        Ok(numbers)
    }

    /// Returns the number, in the server's pid namespace, of the thread that has `number` in `ns`.
    fn host_number(&self, ns: &PidNamespace, number: i32) -> Result<i32, Errno> {
        // Any file does, but it must be new: an owner from an earlier request would be taken for the answer.
        let (file, _) = pipe2(OFlag::O_CLOEXEC)?;
        let request = Request::SetOwner { number };
        match self.request(ns, &request, &[file.as_fd()], &mut [], Retry::Safe) {
            Ok(_) => (),
            Err(Errno::ESRCH) => return Err(Errno::ENOENT),
            Err(error) => return Err(error),
        }
        match owner::owner(file.as_fd())? {
            host if host > 0 => Ok(host),
            // It has exited already.
            _ => Err(Errno::ENOENT),
        }
    }

    fn request(
        &self,
        ns: &PidNamespace,
        request: &Request<'_>,
        files: &[BorrowedFd<'_>],
        data: &mut [u8],
        retry: Retry,
    ) -> Result<usize, Errno> {
        self.request_of(ns, false, request, files, data, retry)
    }

    /// Sends a request to the agent of `ns`, or to an administrator that is started for this request alone.
    fn request_of(
        &self,
        ns: &PidNamespace,
        is_administrator: bool,
        request: &Request<'_>,
        files: &[BorrowedFd<'_>],
        data: &mut [u8],
        retry: Retry,
    ) -> Result<usize, Errno> {
        let slot = match self.slots.find(ns.id(), monotonic_ns()) {
            Some(slot) => slot,
            None => {
                let quota = self
                    .tenant_of
                    .map_or(AgentQuota::Unlimited, |tenant_of| AgentQuota::Share(tenant_of(ns.as_fd(), ns.thread())));
                self.slots.get(ns.id(), quota, monotonic_ns())?
            }
        };
        let mut guard = slot.connection.try_lock_for(REQUEST_TIMEOUT).ok_or(Errno::EAGAIN)?;
        // Requests that have waited since then would otherwise each wait for the next agent's deadline, one after the
        // other.
        if slot.missed_deadline.load(Ordering::Relaxed) > ns.opened_at() {
            return Err(Errno::EIO);
        }
        let deadline = deadline_in(REQUEST_TIMEOUT);
        for attempt in 0..2 {
            let kept = if is_administrator { None } else { guard.take() };
            let connection = match kept {
                Some(connection) => connection,
                None => Connection::start(&self.image, ns, is_administrator, deadline, &self.log)?,
            };
            match connection.request(request, files, data, deadline) {
                Ok(result) => {
                    if !is_administrator {
                        *guard = Some(connection);
                    }
                    return result;
                }
                // Mostly an agent that had just timed out.
                Err(AgentFailure::NotDelivered) if attempt == 0 => (),
                Err(AgentFailure::Died) if attempt == 0 && retry == Retry::Safe => (),
                Err(failure) => {
                    let now = monotonic_ns();
                    if now >= deadline {
                        slot.missed_deadline.store(now, Ordering::Relaxed);
                    }
                    if let Some(suppressed) = self.log.admit() {
                        let late = now >= deadline;
                        tracing::warn!(namespace = ?ns.id(), ?failure, late, suppressed, "a pid-namespace agent failed");
                    }
                    return Err(Errno::EIO);
                }
            }
        }
        Err(Errno::EIO)
    }
}
