//! The limits, the usage and the clients' numbers of a process at one moment.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::cgroup::Setup;
use crate::cli::json::name;
use crate::doctor::client_numbers::{ClientNumber, client_numbers};
use crate::doctor::limits::{Machine, Resource, Row};
use crate::doctor::probe::limit_source::LimitSource;
use crate::doctor::probe::parent::probe;
use crate::doctor::probe::target::ProbeTarget;
use crate::doctor::verdict::{HostContext, judge};
use crate::error::{Error, ErrorKind};

/// The version of the JSON. A new key is no new version.
const JSON_VERSION: u32 = 1;

/// What is known of a process at one moment.
#[derive(Debug)]
pub(super) struct Snapshot {
    time: SystemTime,
    instant: Instant,
    pub(super) pid: i32,
    pub(super) command: String,
    pub(super) setup: Option<Setup>,
    /// Whether it has a cgroup namespace of its own; `None` if that isn't known.
    pub(super) cgroup_namespace: Option<bool>,
    pub(super) machine: Machine,
    /// The own cgroups: the hierarchy and the path, `None` if it can't be named.
    cgroups: Vec<(String, Option<std::ffi::OsString>)>,
    pub(super) rows: Vec<Row>,
    /// How many CPUs it has used since the snapshot before.
    pub(super) cpus_used: Option<f64>,
    /// Why limits may be missing.
    pub(super) blind_spot: Option<&'static str>,
    /// The numbers of programs, or why they aren't known.
    pub(super) clients: Result<Vec<ClientNumber>, String>,
}

/// Why there's no snapshot.
#[derive(Debug)]
pub(super) enum Ended {
    /// The process has ended.
    Process,
    Other(Error),
}

impl Ended {
    pub(super) fn into_error(self, pid: i32) -> Error {
        match self {
            Self::Process => Error::failed(format!("process {pid} has ended")),
            Self::Other(error) => error,
        }
    }
}

impl Snapshot {
    /// Looks at a process. What programs would read takes the right to enter its namespaces; without it that part is
    /// missing.
    pub(super) fn take(target: &ProbeTarget) -> Result<Self, Ended> {
        let facts = probe(target);
        let is_broken = facts.as_ref().is_ok_and(|facts| facts.has_broken_view());
        let source = LimitSource::of(target, is_broken).map_err(|error| match error.raw_os_error() {
            Some(libc::ESRCH | libc::ENOENT) => Ended::Process,
            _ => Ended::Other(Error::system(format_args!("can't read the cgroups of process {}", target.pid), error)),
        })?;
        let clients = match facts {
            Ok(facts) => {
                let (limits, native) = (source.limits(&facts), source.native(&facts));
                let context = HostContext { limits: Some(&limits), native: native.as_ref() };
                Ok(client_numbers(&facts, &judge(&facts, context)))
            }
            Err(error) if error.kind() == ErrorKind::NotPermitted => Err(error.message()),
            Err(error) => return Err(Ended::Other(error)),
        };
        let memberships = source.memberships();
        Ok(Self {
            time: SystemTime::now(),
            instant: Instant::now(),
            pid: target.pid,
            setup: Setup::of(memberships.iter().map(|membership| &membership.kind)),
            cgroup_namespace: source.cgroup_namespace,
            cgroups: memberships
                .iter()
                .map(|one| (one.kind.to_string(), one.location.path().map(|path| path.to_os_string())))
                .collect(),
            rows: source.rows(),
            machine: source.machine().clone(),
            blind_spot: source.blind_spot(),
            command: source.command,
            cpus_used: None,
            clients,
        })
    }

    /// Adds what happened since the snapshot before.
    pub(super) fn since(self, before: &Self) -> Self {
        let cpu_time = |snapshot: &Self| {
            snapshot.rows.iter().find(|row| row.resource == Resource::CpuTime).and_then(|row| row.used)
        };
        let micros = cpu_time(&self).zip(cpu_time(before)).map(|(now, then)| now.saturating_sub(then));
        let elapsed = self.instant.duration_since(before.instant).as_secs_f64();
        #[allow(clippy::cast_precision_loss)] // a rate
        let cpus_used = micros.filter(|_| elapsed > 0.0).map(|micros| micros as f64 / 1e6 / elapsed);
        Self { cpus_used, ..self }
    }

    /// Everything, for scripts.
    pub(super) fn as_json(&self) -> Value {
        let cgroups: serde_json::Map<_, _> =
            self.cgroups.iter().map(|(kind, path)| (kind.clone(), path.as_ref().map_or(Value::Null, name))).collect();
        let is_complete = self.blind_spot.is_none() && !self.rows.iter().any(Row::is_incomplete);
        let (clients, why) = match &self.clients {
            Ok(clients) => (Some(clients), None),
            Err(why) => (None, Some(why)),
        };
        let since_1970 = self.time.duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64());
        json!({
            "version": JSON_VERSION, "time": since_1970, "pid": self.pid, "command": self.command, "setup": self.setup,
            "cgroup_namespace": self.cgroup_namespace, "cgroups": cgroups, "machine": self.machine, "limits": self.rows,
            "cpus_used": self.cpus_used, "complete": is_complete, "incomplete_because": self.blind_spot,
            "clients": clients, "clients_unknown_because": why,
        })
    }
}
