//! Faults that operators, neighbours and attackers cause to a view and its server. Each test checks the right behaviour, on the real system.
//!
//! | module | what it does to a view |
//! |---|---|
//! | [`limits`] | gets a container out of limits that the host has set |
//! | [`capabilities`] | writes with rights that the caller hasn't |
//! | [`revoked`] | changes what the host has just taken from the caller |
//! | [`extended_attributes`] | puts memory of the kernel's on the host, by xattrs |
//! | [`expulsion`] | comes back after the host has taken a process out of the subtree |
//! | [`neighbours`] | takes from other containers, and from users of the host |
//! | [`logging`] | closes, fills and loses the log |
//! | [`signals`] | signals, mounts that are gone or pinned, a child that froze itself |
//! | [`callers`] | ends whoever made the view, with all that is in the same cgroups |
//! | [`registry`] | locks, redirects and spoils the records of live views |
//! | [`failed_views`] | kills everything that serves it, and tries to choose the options with which it comes back |
//! | [`targets`] | names a container so that its manager seems to say another process |
//! | [`confinement`] | looks at what a live server may still do, and what it costs |
//! | [`names`] | names that are long, or that change what a terminal shows |

mod callers;
mod capabilities;
mod confinement;
mod expulsion;
mod extended_attributes;
mod failed_views;
mod life;
mod limits;
mod logging;
mod names;
mod neighbours;
mod registry;
mod revoked;
mod signals;
mod targets;
