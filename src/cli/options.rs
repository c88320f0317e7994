//! The options that describe a view.

use std::ffi::{OsStr, OsString};

use clap::builder::PossibleValue;
use clap::{Args, ValueEnum};

use crate::cgroup::path::check_name;
use crate::cgroup::{CgroupPath, ControllerSet};
use crate::container::target;
use crate::error::Error;
use crate::host::containers::are_found;
use crate::host::plan::{rules_for_all, without_effect};
use crate::host::{HostCgroups, ViewSpec, discover, plan};
use crate::message::warn;
use crate::policy::{Policy, Rules};
use crate::server::logging;
use crate::server::registry::options::RecordedOptions;
use crate::server::registry::record::EscapedName;
use crate::server::serve;
use crate::view::{AncestorLimits, Shape, View};

/// Selects a view: of which container, how it looks, and who may write what.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "View options")]
pub(super) struct ViewOptions {
    /// The process whose cgroups are the container's: one delegated subtree per hierarchy
    #[arg(long, value_name = "PID", value_parser = parse_pid)]
    pub(super) pid: Option<i32>,
    /// The cgroup that is the container's in a hierarchy (unified, memory, name=systemd ...), or in each that has it. Overrides --pid
    #[arg(long = "cgroup", value_name = "[HIERARCHY=]PATH", value_parser = parse_cgroup)]
    pub(super) cgroups: Vec<(Option<String>, CgroupPath)>,
    /// How much of the host's tree the view shows [default: rooted if the process has a cgroup namespace, or its hierarchies are mounted from its
    /// own cgroup, as runc does on v1; else host-path]
    #[arg(long, value_enum)]
    pub(super) shape: Option<Shape>,
    /// What the container may change in its delegated subtree [default: strict]
    #[arg(long, value_enum)]
    pub(super) policy: Option<Policy>,
    /// With --policy delegate, the v1 controllers whose files the container may write below the boundary; "all" names every one
    #[arg(long, value_name = "LIST", value_parser = parse_controllers)]
    pub(super) delegate_controllers: Option<ControllerSet>,
    /// Show the cgroup NAME of the delegated subtree at the top of each hierarchy, too, for programs that look for it there: docker,
    /// libpod_parent. The shape rooted shows it there anyway
    #[arg(long = "alias", value_name = "NAME", value_parser = parse_name)]
    pub(super) aliases: Vec<String>,
    /// With --shape host-path, hide the limits of the cgroups above the delegated subtree (memory.max, cpu.max, pids.max ...). They hold for
    /// the container, too, and are shown read-only otherwise
    #[arg(long)]
    pub(super) hide_ancestor_limits: bool,
}

/// How a view is served.
#[derive(Debug, Clone, Copy, Default, Args)]
#[command(next_help_heading = "Serving options")]
pub(super) struct ServeOptions {
    /// Disable kernel caching: the host's changes show at once instead of after some milliseconds, and everything takes several times as long
    #[arg(long)]
    pub(super) coherent: bool,
    /// Read all files in the server, even where the kernel can read them by itself (Linux 6.9)
    #[arg(long)]
    pub(super) no_passthrough: bool,
}

impl From<ServeOptions> for serve::Options {
    fn from(ServeOptions { coherent, no_passthrough }: ServeOptions) -> Self {
        Self { coherent, no_passthrough }
    }
}

/// Reads a process id.
pub(super) fn parse_pid(text: &str) -> Result<i32, String> {
    target::parse_pid(text).ok_or_else(|| format!("'{text}' isn't a process id"))
}

/// Parses `PATH` or `HIERARCHY=PATH`, where a hierarchy's name may contain `=` itself (`name=systemd`).
pub(super) fn parse_cgroup(text: &str) -> Result<(Option<String>, CgroupPath), String> {
    let (hierarchy, path) = match text.find("=/") {
        Some(end) if !text.starts_with('/') => (text.get(..end), text.get(end + 1..).unwrap_or_default()),
        _ => (None, text),
    };
    let path =
        CgroupPath::parse(OsStr::new(path)).map_err(|error| format!("'{path}' isn't the path of a cgroup: {error}"))?;
    Ok((hierarchy.map(str::to_owned), path))
}

/// The name of a cgroup.
pub(super) fn parse_name(name: &str) -> Result<String, String> {
    check_name(name.as_bytes())
        .map(|()| name.to_owned())
        .map_err(|error| format!("'{name}' isn't the name of a cgroup: {error}"))
}

fn parse_controllers(list: &str) -> Result<ControllerSet, std::convert::Infallible> {
    Ok(ControllerSet::parse(list))
}

/// The word by which the command line knows a value.
pub(super) fn word_of(value: &impl ValueEnum) -> String {
    value.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

impl ViewOptions {
    /// Finds the host's hierarchies and makes the view.
    pub(super) fn plan(&self) -> Result<(HostCgroups, View), Error> {
        let host = discover()?;
        self.warn(&host);
        let view = plan(&host, &self.spec())?;
        Ok((host, view))
    }

    /// Finds the host's hierarchies and makes the rules for a `mount --per-caller`.
    pub(super) fn plan_for_callers(&self) -> Result<(HostCgroups, Rules, AncestorLimits), Error> {
        let given = [
            ("--pid", self.pid.is_some()),
            ("--cgroup", !self.cgroups.is_empty()),
            ("--shape", self.shape.is_some()),
            ("--alias", !self.aliases.is_empty()),
        ];
        if let Some((option, _)) = given.into_iter().find(|(_, given)| *given) {
            let why = "each process sees its own container's cgroups, in the shape host-path";
            return Err(Error::usage(format!("{option} can't be used with --per-caller")).because(why));
        }
        if !are_found() {
            let why = "this kernel doesn't say which process is process 1 of a pid namespace (Linux 4.1)";
            let error = Error::unsupported("--per-caller isn't possible here").because(why);
            return Err(error.advise("use 'vcgroupfs attach' for each container"));
        }
        let host = discover()?;
        self.warn(&host);
        let rules = rules_for_all(&host, self.policy(), &self.delegated());
        Ok((host, rules, self.ancestor_limits()))
    }

    /// Warns of options that have no effect.
    pub(super) fn warn(&self, host: &HostCgroups) {
        without_effect(host, self.policy(), &self.delegated()).iter().for_each(|what| warn(what));
    }

    pub(super) fn spec(&self) -> ViewSpec {
        self.spec_for(ViewSpec { pid: self.pid, ..ViewSpec::default() })
    }

    /// Adds these options to a request that says which container the view is for.
    pub(super) fn spec_for(&self, container: ViewSpec) -> ViewSpec {
        ViewSpec {
            cgroups: self.cgroups.clone(),
            shape: self.shape,
            policy: self.policy(),
            delegate_controllers: self.delegated(),
            aliases: self.aliases.clone(),
            ancestor_limits: self.ancestor_limits(),
            ..container
        }
    }

    pub(super) fn policy(&self) -> Policy {
        self.policy.unwrap_or_default()
    }

    fn delegated(&self) -> ControllerSet {
        self.delegate_controllers.clone().unwrap_or_default()
    }

    fn ancestor_limits(&self) -> AncestorLimits {
        if self.hide_ancestor_limits { AncestorLimits::Hidden } else { AncestorLimits::Shown }
    }

    /// The options as a view's record has them.
    pub(super) fn recorded(&self, serving: ServeOptions, log: &logging::Options) -> RecordedOptions {
        let cgroups = self.cgroups.iter().map(|(hierarchy, path)| {
            let mut text = hierarchy.as_ref().map(|word| format!("{word}=")).map(OsString::from).unwrap_or_default();
            text.push(path.to_os_string());
            EscapedName::from(text.as_os_str())
        });
        RecordedOptions {
            pid: self.pid,
            cgroup: cgroups.collect(),
            shape: self.shape.map(|shape| shape.word().to_owned()),
            policy: self.policy().word().to_owned(),
            delegate_controllers: self.delegated().iter().map(str::to_owned).collect(),
            aliases: self.aliases.clone(),
            hide_ancestor_limits: self.hide_ancestor_limits,
            place: None,
            per_caller: false,
            coherent: serving.coherent,
            no_passthrough: serving.no_passthrough,
            log: log.recorded(),
        }
    }

    /// Whether they select a container.
    pub(super) fn is_named(&self) -> bool {
        self.pid.is_some() || !self.cgroups.is_empty()
    }

    /// The container that the options select, in words.
    pub(super) fn target(&self) -> String {
        let pid = self.pid.map(|pid| format!("pid {pid}"));
        let cgroups = self.cgroups.iter().map(|(hierarchy, path)| match hierarchy {
            Some(hierarchy) => format!("{hierarchy}={path}"),
            None => path.to_string(),
        });
        pid.into_iter().chain(cgroups).collect::<Vec<_>>().join(" ")
    }
}

impl ValueEnum for Shape {
    fn value_variants<'a>() -> &'a [Self] {
        &Self::ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.word()).help(match self {
            Self::HostPath => "The host's paths: the way to the delegated subtree, read-only, and that; no siblings",
            Self::Rooted => "The delegated subtree as the root of each hierarchy",
            Self::Full => "The host's whole tree, read-only outside the delegated subtree",
        }))
    }
}

impl ValueEnum for Policy {
    fn value_variants<'a>() -> &'a [Self] {
        &Self::ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.word()).help(match self {
            Self::Strict => "Cgroups and their processes, but no controller's files; v1 controllers are read-only",
            Self::Delegate => "On v2 what the kernel's nsdelegate allows; on v1 also --delegate-controllers",
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cgroups() {
        let parsed = |text: &str| parse_cgroup(text).map(|(hierarchy, path)| (hierarchy, path.to_string()));
        assert_eq!(parsed("/a/b"), Ok((None, "/a/b".to_owned())));
        assert_eq!(parsed("memory=/a"), Ok((Some("memory".to_owned()), "/a".to_owned())));
        assert_eq!(parsed("name=systemd=/a=/b"), Ok((Some("name=systemd".to_owned()), "/a=/b".to_owned())));
        assert_eq!(parsed("/x=/b"), Ok((None, "/x=/b".to_owned())));
        for wrong in ["a", "memory=a", "", "/a/../b", "memory=/.."] {
            assert!(parsed(wrong).is_err(), "{wrong}");
        }
    }
}
