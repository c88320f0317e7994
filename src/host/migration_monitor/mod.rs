//! Detects migrations by others while a container migrates processes.
//!
//! The kernel doesn't always check both ends of a migration at the write (cgroup v1, cgroup v2 without `nsdelegate`).
//! Then the host can take a process out of the subtree between the server's last check and the write, and the write
//! brings it back. The server can't prevent that, but it can detect it. While a container migrates processes, the
//! server records each write by somebody else to a pid list outside the subtree (fanotify(7) on the hierarchy's whole
//! filesystem, Linux 4.20; before, on the host's mount of it). The kernel doesn't report the number that was written,
//! so a process that was being migrated at that moment *may* have been meant. The server only logs it. If it put the
//! process where the host wrote, a container that waits for the host to start something there could escape its
//! limits.
//!
//! Writes by others wake no thread, since that would double the time of the host's migrations. The events are read
//! when a migration begins and ends, and by a thread that checks every few milliseconds while there are migrations.

mod observe;
mod state;

pub use observe::MonitoredMigration;
pub(super) use observe::begin;
pub(super) use state::MigrationMonitor;
