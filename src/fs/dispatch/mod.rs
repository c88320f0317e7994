//! Finds the filesystem for a request: the one of the view, or the one of the caller's container.

mod one_view;
mod per_caller;

pub use one_view::{Dispatch, Tenant};
pub use per_caller::{Container, Containers, PerCaller, SharedLimits};
