//! The cgroups of a background server. They aren't those of whoever started it: a session or unit ends, and systemd
//! kills what is in it.
//!
//! Where systemd manages the host, the server and its keeper are a scope of their own, `vcgroupfs-NAME.scope`.
//! Elsewhere, and if systemd doesn't answer, they are in the roots of the hierarchies. In both cases the view works:
//! nothing here makes a command fail.

use std::ffi::OsStr;
use std::fmt::Write;
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::cgroup::{HierarchyClass, parse_memberships};
use crate::host::{HostCgroups, server_cgroup};
use crate::provision::systemd::{Property, Scope, ScopeError, is_manager};
use crate::sys;
use crate::view::View;

/// How long systemd may take for the scope, in all. The command waits for that, and with it a hook of a container
/// manager.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// The processes and threads of a scope. A server has a dozen threads, up to 256 for slow requests, and up to 64 agents.
/// While the keeper replaces a server there are two. This is three times as much.
const TASKS_MAX: u64 = 2048;

/// Above this the kernel takes back memory, mostly that of cached cgroup directories, and slows the server down. A
/// server has a few MiB. One with half a million open files, systemd's hard limit of descriptors, has about 1 to 1.5 KiB
/// for each, so this isn't reached in normal operation.
const MEMORY_HIGH: u64 = 1 << 30;

/// Above this a server is killed, and the keeper starts another one. It protects the host from a container that finds
/// something that isn't bounded, and from a leak.
const MEMORY_MAX: u64 = 2 << 30;

/// The share of processors: that of one service, whatever the number of threads. It's the default, but systemd gives
/// the scope a share of its own only if it's set. Not more, since a container can keep its server busy. Not less, since
/// the callers of a view wait for the server.
const CPU_WEIGHT: u64 = 100;

/// How long the processes may take to end: a server has 45 seconds and its keeper a minute, and then both end by
/// themselves.
const STOP_TIMEOUT: Duration = Duration::from_secs(75);

/// The longest NAME in a unit's name, in bytes. A unit's name, which is also a cgroup's, may have 255 bytes.
const NAME_MAX: usize = 200;

const PREFIX: &str = "vcgroupfs-";
const SUFFIX: &str = ".scope";

/// The name of a view's scope, without prefix and suffix, escaped.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct ScopeName(String);

impl ScopeName {
    /// Makes a name from what a user calls the view: the container's name, or the directory.
    pub(crate) fn of(label: impl AsRef<OsStr>) -> Self {
        let label = label.as_ref().as_bytes();
        // `run` calls its cgroups like this, and then the prefix is there.
        let label = label.strip_prefix(PREFIX.as_bytes()).unwrap_or(label);
        let label = label.strip_prefix(b"/").unwrap_or(label);
        let mut name = String::new();
        for byte in label {
            let before = name.len();
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b':' | b'_' | b'.' | b'-' => name.push(char::from(*byte)),
                b'/' | b' ' => name.push('-'),
                // As systemd-escape(1) does it.
                _ => drop(write!(name, "\\x{byte:02x}")),
            }
            if name.len() > NAME_MAX {
                name.truncate(before);
                break;
            }
        }
        Self(name)
    }

    fn unit(&self) -> String {
        format!("{PREFIX}{}{SUFFIX}", self.0)
    }

    /// The name if another view has that one.
    fn unit_of_process(&self, process: u32) -> String {
        format!("{PREFIX}{}-{process}{SUFFIX}", self.0)
    }
}

/// Migrates the calling process, which becomes a view's keeper, out of its caller's cgroups. It must have one thread,
/// and not ignore SIGCHLD.
pub(crate) fn settle(name: &ScopeName, host: &HostCgroups, view: Option<&View>) {
    // A caller may have left SIGCHLD ignored, and then nobody learns how a program ended.
    let _ = sys::process::set_disposition(Signal::SIGCHLD, false);
    let scope = if is_manager() { request(name, view) } else { None };
    server_cgroup::leave_callers_cgroups(host, scope.as_ref().map(Scope::unit));
}

/// The scope of a view's process, if it's in one.
pub(crate) fn unit_of(process: u32) -> Option<String> {
    let text = std::fs::read(format!("/proc/{process}/cgroup")).ok()?;
    own_unit(&text)
}

fn own_unit(memberships: &[u8]) -> Option<String> {
    parse_memberships(memberships).iter().find_map(|own| {
        let name =
            own.location.path().filter(|_| own.kind.class() != HierarchyClass::V1Controllers)?.name()?.to_str()?;
        (name.starts_with(PREFIX) && name.ends_with(SUFFIX)).then(|| name.to_owned())
    })
}

/// Requests the scope. If systemd refuses, says so in the log.
fn request(name: &ScopeName, view: Option<&View>) -> Option<Scope> {
    let deadline = Instant::now() + ANSWER_TIMEOUT;
    let process = std::process::id();
    let mut unit = name.unit();
    let mut optional = optional_properties(view.and_then(containers_unit));
    loop {
        let mut properties = vec![
            Property::text("Description", format!("cgroup view {}", name.0)),
            Property::text("Slice", "system.slice"),
        ];
        properties.extend(optional.iter().cloned());
        match Scope::start(&unit, process.cast_signed(), &properties, deadline) {
            Ok(scope) => return Some(scope),
            Err(ScopeError::NameTaken) if unit == name.unit() => unit = name.unit_of_process(process),
            Err(ScopeError::UnknownProperty(unknown)) if optional.iter().any(|own| own.name == unknown) => {
                tracing::debug!(unknown, "this version of systemd doesn't know a property of scopes");
                optional.retain(|own| own.name != unknown);
            }
            // It may have been one of the values.
            Err(ScopeError::Systemd(why)) if !optional.is_empty() && Instant::now() < deadline => {
                tracing::warn!(why, unit, "systemd refuses a scope for the server: asking for one without limits");
                optional.clear();
            }
            Err(failed) => {
                tracing::warn!(?failed, unit, "systemd makes no scope for the server");
                return None;
            }
        }
    }
}

/// The properties that not every systemd knows, the newest first.
fn optional_properties(container: Option<String>) -> Vec<Property> {
    let mut properties = vec![
        // By default systemd 253 and later stop the whole scope if a server is killed because memory ran out.
        Property::text("OOMPolicy", "continue"),
        // A scope that failed would keep its name.
        Property::text("CollectMode", "inactive-or-failed"),
        Property::number("CPUWeight", CPU_WEIGHT),
        Property::number("MemoryHigh", MEMORY_HIGH),
        Property::number("MemoryMax", MEMORY_MAX),
        Property::number("TasksMax", TASKS_MAX),
        Property::number("TimeoutStopUSec", u64::try_from(STOP_TIMEOUT.as_micros()).unwrap_or(u64::MAX)),
    ];
    // When the host shuts down, units end in the reverse order. Otherwise a container could lose its view before its
    // processes have ended, and they would see the host's tree.
    properties.extend(container.map(|unit| Property::unit("Before", unit)));
    properties
}

/// The unit of systemd's in which a view's container is.
fn containers_unit(view: &View) -> Option<String> {
    let of_systemd = view.hierarchies.iter().filter(|own| own.kind.class() != HierarchyClass::V1Controllers);
    of_systemd.filter_map(|own| own.delegated.as_ref()).find_map(|path| unit_in(path.components()))
}

/// The unit to whose cgroup a path leads, or in which it is. It's the first name after those of slices.
fn unit_in(components: &[impl AsRef<OsStr>]) -> Option<String> {
    let mut names = components.iter().filter_map(|name| name.as_ref().to_str());
    let unit = names.find(|name| !name.ends_with(".slice"))?;
    (unit.ends_with(".service") || unit.ends_with(SUFFIX)).then(|| unit.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_units() {
        for (label, unit) in [
            ("docker:web", "vcgroupfs-docker:web.scope"),
            ("pid 42", "vcgroupfs-pid-42.scope"),
            ("/var/lib/vcgroupfs/cgroup", "vcgroupfs-var-lib-vcgroupfs-cgroup.scope"),
            ("vcgroupfs-run-7", "vcgroupfs-run-7.scope"),
            ("a@b%c\u{e9}", r"vcgroupfs-a\x40b\x25c\xc3\xa9.scope"),
        ] {
            assert_eq!(ScopeName::of(label).unit(), unit, "{label}");
        }
        assert_eq!(ScopeName::of("box").unit_of_process(9), "vcgroupfs-box-9.scope");
    }

    #[test]
    fn names_fit() {
        let long = ScopeName::of("@".repeat(300));
        assert_eq!(long.0, r"\x40".repeat(NAME_MAX / 4));
        assert!(long.unit_of_process(u32::MAX).len() <= 255);
    }

    #[test]
    fn the_own_scope_is_recognised() {
        let of = |text: &str| own_unit(text.as_bytes());
        assert_eq!(of("0::/system.slice/vcgroupfs-box.scope\n").as_deref(), Some("vcgroupfs-box.scope"));
        let hybrid = "4:pids:/x/vcgroupfs-no.scope\n1:name=systemd:/system.slice/vcgroupfs-box.scope\n0::/\n";
        assert_eq!(of(hybrid).as_deref(), Some("vcgroupfs-box.scope"));
        assert_eq!(of("0::/user.slice/user-0.slice/session-1.scope\n"), None);
        assert_eq!(of("0::/system.slice/vcgroupfs.service\n"), None);
        assert_eq!(of("0::/../vcgroupfs-box\n"), None);
    }

    #[test]
    fn a_containers_unit_is_the_first_below_the_slices() {
        let unit = |path: &str| unit_in(&path.split('/').collect::<Vec<_>>());
        assert_eq!(
            unit("machine.slice/systemd-nspawn@c1.service/payload").as_deref(),
            Some("systemd-nspawn@c1.service")
        );
        assert_eq!(unit("system.slice/docker-0f.scope").as_deref(), Some("docker-0f.scope"));
        assert_eq!(unit("user.slice/user-1.slice/user@1.service/app.slice/x.scope").as_deref(), Some("user@1.service"));
        assert_eq!(unit("docker/0f"), None);
        assert_eq!(unit("machine.slice"), None);
    }
}
