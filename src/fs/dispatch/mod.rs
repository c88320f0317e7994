//! Which filesystem a request is for: the one of a view, or the one of the caller's container.

mod per_caller;
mod route;

pub use per_caller::{Commons, Container, Containers, PerCaller};
pub use route::{Route, Tenant};
