//! The life of a server: its start, confinement, record, log and end.

pub(crate) mod activity;
mod ask_view;
pub(crate) mod before;
pub(crate) mod cleanup;
pub(crate) mod confined;
pub(crate) mod control;
pub(crate) mod handover;
pub(crate) mod keeper;
pub(crate) mod logging;
pub(crate) mod own_scope;
pub(crate) mod registry;
pub(crate) mod serve;
pub(crate) mod service_manager;
pub(crate) mod shutdown;
pub(crate) mod signals;
pub(crate) mod status;
