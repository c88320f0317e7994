//! The life of a server: how it starts, what it gives up, what it records, how it logs, and how it ends.

pub(crate) mod cleanup;
pub(crate) mod confined;
pub(crate) mod logging;
pub(crate) mod registry;
pub(crate) mod serve;
pub(crate) mod shutdown;
pub(crate) mod signals;
pub(crate) mod status;
