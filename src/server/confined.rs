//! The confinement of a process, as the kernel reports it.

use std::fs;

use serde::Serialize;

/// The names of the capabilities, by their numbers (linux/capability.h).
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

/// The kinds of namespaces that a server has for itself, if the kernel allows that.
const NAMESPACES: [&str; 3] = ["ipc", "net", "uts"];

/// The confinement of a process. `None` stands for what the kernel doesn't report.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Confinement {
    /// The capabilities that it can use.
    capabilities: Vec<String>,
    /// The capabilities that a program which it executes could get.
    bounding: Vec<String>,
    /// Whether it has no_new_privs; reported since Linux 4.10.
    no_new_privs: Option<bool>,
    /// Its seccomp mode; reported since Linux 3.8.
    seccomp: Option<&'static str>,
    /// The kinds of namespaces that it doesn't share with this command. Only root sees them.
    namespaces: Option<Vec<&'static str>>,
}

impl Confinement {
    /// Reads the confinement of a process; `None` if it has ended, or isn't visible.
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
        // A process can make a permitted capability effective at any time.
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

/// The names in a set of capabilities, which is given in hexadecimal.
fn names(set: &str) -> Option<Vec<String>> {
    let set = u64::from_str_radix(set, 16).ok()?;
    let name = |number: usize| CAPABILITIES.get(number).map_or_else(|| number.to_string(), |name| (*name).to_owned());
    Some((0..64).filter(|number| set & 1 << number != 0).map(name).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_is_parsed() {
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
