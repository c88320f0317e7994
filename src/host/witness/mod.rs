//! Who else migrates processes while a container does.
//!
//! Where the kernel doesn't check both ends of a migration at the write (cgroup v1, cgroup v2 without `nsdelegate`), the host can take a process out
//! of the subtree between the last look at it and the write, and the write brings it back. That can't be kept from happening, but it can be
//! seen: for as long as a container migrates processes, each write by somebody else to a list of processes outside of the subtree is noted
//! (fanotify(7) on the hierarchy's whole filesystem, Linux 4.20; before, on the host's mount of it). The kernel doesn't tell which number was
//! written. So a process that was being migrated at that moment *may* have been meant. It's logged, and not more: to put it where the host
//! wrote on suspicion would be a way out of its limits for a container that waits for the host to start something there.
//!
//! Nobody is woken by what others write, or their migrations would take twice as long. What was written is read when a migration begins and
//! when it ends, and by a thread that looks every few milliseconds for as long as there are migrations.

mod observe;
mod state;

pub use observe::Witnessed;
pub(super) use observe::begin;
pub(super) use state::Witness;
