//! The state of a view as the program reads it that takes the view over.

use std::os::fd::OwnedFd;

use serde::Deserialize;

use crate::fuse::{AbortGuard, SelfMount};
use crate::records::descriptor;
use crate::server::before::Before;
use crate::server::control::ControlSocket;
use crate::server::handover::document::Served;
use crate::server::handover::stored::Stored;
use crate::server::handover::trial::Trial;
use crate::server::logging::ServerLog;
use crate::server::registry::Registered;
use crate::server::serve::Server;

/// What is read.
#[derive(Debug, Deserialize)]
pub(crate) struct State {
    pub(crate) served: Served<Server, SelfMount, AbortGuard>,
    #[serde(with = "descriptor")]
    pub(crate) records: OwnedFd,
    /// What the view has done. An earlier program didn't note it.
    #[serde(default, with = "descriptor::optional")]
    pub(crate) activity: Option<OwnedFd>,
    pub(crate) registered: Option<Registered>,
    pub(crate) control: Option<ControlSocket>,
    pub(crate) log: ServerLog,
    pub(crate) before: Before,
    /// Whether the program that reads this has to prove itself.
    pub(crate) trial: Option<Trial>,
    /// The mark of the filter of system calls that the process has.
    #[serde(default)]
    pub(crate) filter: u64,
    #[serde(default)]
    pub(crate) stored: Stored,
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsRawFd;

    use serde_json::Value;

    use super::*;
    use crate::server::registry::status::ServerState;
    use crate::server::serve::{MountTarget, ServedViews};

    /// What a program of the first version has handed over: an attached view whose container was placed. If this fails,
    /// fields have changed, and the state needs another version.
    #[test]
    fn the_first_version_can_be_read() {
        if !nix::unistd::geteuid().is_root() {
            assert_ne!(std::env::var("VCGROUPFS_REQUIRE").as_deref(), Ok("all"), "needs root");
            eprintln!("SKIPPED: needs root");
            return;
        }
        let file = File::open("/dev/null").unwrap();
        let mut document: Value = serde_json::from_str(include_str!("state-1.json")).unwrap();
        descriptor::renumber(&mut document, &|_| file.as_raw_fd());
        let state: State = serde_json::from_value(document).unwrap();
        let Served { server, own_mount, abort_guard } = state.served;
        assert!(own_mount.is_some() && abort_guard.is_some() && state.control.is_some() && state.trial.is_some());
        assert!(matches!(server.target, MountTarget::Container(_)));
        let ServedViews::Single(view) = &server.views else { panic!("{:?}", server.views) };
        assert_eq!(view.hierarchies.len(), 10);
        assert_eq!(
            view.hierarchies[0].delegated.as_ref().map(ToString::to_string).as_deref(),
            Some("/vcgroupfs-golden")
        );
        assert!(
            server
                .host
                .hierarchies
                .iter()
                .all(|hierarchy| hierarchy.kind.to_string() != "name=systemd" || hierarchy.is_detached())
        );
        assert!(state.before.is_live && state.before.is_committed && !state.before.is_ending);
        let registered = serde_json::to_value(state.registered.as_ref().unwrap()).unwrap();
        assert_eq!(registered["record"]["state"], ServerState::Starting.word());
        // The record's file isn't this process' to remove.
        state.registered.into_iter().for_each(Registered::leave);
    }
}
