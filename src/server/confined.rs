//! How a process is confined: what the kernel says of it, not what it says itself.

use std::fs;

use serde::Serialize;

/// By their numbers (linux/capability.h).
const CAPABILITIES: [&str; 41] = [
    "chown",
    "dac_override",
    "dac_read_search",
    "fowner",
    "fsetid",
    "kill",
    "setgid",
    "setuid",
    "setpcap",
    "linux_immutable",
    "net_bind_service",
    "net_broadcast",
    "net_admin",
    "net_raw",
    "ipc_lock",
    "ipc_owner",
    "sys_module",
    "sys_rawio",
    "sys_chroot",
    "sys_ptrace",
    "sys_pacct",
    "sys_admin",
    "sys_boot",
    "sys_nice",
    "sys_resource",
    "sys_time",
    "sys_tty_config",
    "mknod",
    "lease",
    "audit_write",
    "audit_control",
    "setfcap",
    "mac_override",
    "mac_admin",
    "syslog",
    "wake_alarm",
    "block_suspend",
    "audit_read",
    "perfmon",
    "bpf",
    "checkpoint_restore",
];

/// The kinds of namespaces that a server has of its own, if it can have them.
const NAMESPACES: [&str; 3] = ["ipc", "net", "uts"];

/// What confines a process. What the kernel doesn't tell is `None`.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Confinement {
    /// Those that it can use.
    capabilities: Vec<String>,
    /// Those that what it executes could have.
    bounding: Vec<String>,
    /// Linux 4.10.
    no_new_privs: Option<bool>,
    /// Linux 3.8.
    seccomp: Option<&'static str>,
    /// The kinds in which it isn't in this command's. Only root sees them.
    namespaces: Option<Vec<&'static str>>,
}

impl Confinement {
    /// That of a process; `None` if it has ended, or can't be seen.
    pub(crate) fn of(pid: u32) -> Option<Self> {
        let mut confinement = Self::parse(&fs::read_to_string(format!("/proc/{pid}/status")).ok()?)?;
        let own = |kind: &str| {
            let namespace = |process: &str| fs::read_link(format!("/proc/{process}/ns/{kind}")).ok();
            Some(namespace(&pid.to_string())? != namespace("self")?)
        };
        let kinds: Option<Vec<_>> = NAMESPACES.iter().map(|kind| own(kind).map(|is_own| (*kind, is_own))).collect();
        confinement.namespaces =
            kinds.map(|kinds| kinds.into_iter().filter(|(_, is_own)| *is_own).map(|(kind, _)| kind).collect());
        Some(confinement)
    }

    fn parse(status: &str) -> Option<Self> {
        let field = |name: &str| {
            let value = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            value.map(str::trim)
        };
        // What a permitted one can do it can do whenever it likes.
        let capabilities = names(field("CapPrm")?)?;
        let seccomp = field("Seccomp").map(|mode| match mode {
            "0" => "none",
            "1" => "strict",
            "2" => "filter",
            _ => "unknown",
        });
        let no_new_privs = field("NoNewPrivs").map(|flag| flag == "1");
        Some(Self { capabilities, bounding: names(field("CapBnd")?)?, no_new_privs, seccomp, namespaces: None })
    }
}

/// The names of a set, which is in hexadecimal.
fn names(set: &str) -> Option<Vec<String>> {
    let set = u64::from_str_radix(set, 16).ok()?;
    let name = |number: usize| CAPABILITIES.get(number).map_or_else(|| number.to_string(), |name| (*name).to_owned());
    Some((0..64).filter(|number| set & 1 << number != 0).map(name).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_says() {
        let status = "Name:\tx\nCapInh:\t0000000000000000\nCapPrm:\t0000000000200001\nCapEff:\t0\nCapBnd:\t8000010000000000\n\
                      NoNewPrivs:\t1\nSeccomp:\t2\nSeccomp_filters:\t1\n";
        let found = Confinement::parse(status).unwrap();
        assert_eq!(found.capabilities, ["chown", "sys_admin"]);
        assert_eq!(found.bounding, ["checkpoint_restore", "63"]);
        assert_eq!((found.no_new_privs, found.seccomp, found.namespaces), (Some(true), Some("filter"), None));
        let old = Confinement::parse("CapPrm:\t0\nCapBnd:\t0\n").unwrap();
        assert_eq!((old.no_new_privs, old.seccomp), (None, None));
        assert_eq!(Confinement::parse("CapPrm:\tx\nCapBnd:\t0\n"), None);
    }

    #[test]
    fn this_process() {
        let own = Confinement::of(std::process::id()).unwrap();
        assert_eq!(own.seccomp.is_some(), own.no_new_privs.is_some());
        assert_eq!(Confinement::of(u32::MAX), None);
    }
}
