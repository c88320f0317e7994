//! The registry of views: a record per view in a runtime directory, locked as long as a process serves the view.
//!
//! It's a write lock (fcntl(2)), which only root can take, and which everybody who can read the record can see. So
//! every user in every pid namespace knows which views live, and locks that others take on a record have no effect.

pub(crate) mod boundaries;
pub(crate) mod directory;
mod escaped_name;
pub(crate) mod options;
mod publish;
pub(crate) mod record;
mod records;
pub(crate) mod status;

pub(crate) use boundaries::lost_boundaries;
pub(crate) use publish::{Registered, Registration};
pub(crate) use records::{all_records, check, device, forget, live_records, per_caller_devices, wait_for_end};
