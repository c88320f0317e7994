//! `vcgroupfs-legacy-syscalls COMMAND...` runs COMMAND as on Linux 3.10.
//!
//! A seccomp filter answers ENOSYS to every system call that is newer, and EOPNOTSUPP to name_to_handle_at, because the
//! cgroupfs of that kernel had no file handles, and to the ioctl that asks for FUSE passthrough. The filter is inherited by everything that COMMAND starts.

use std::collections::BTreeMap;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use nix::errno::Errno;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, apply_filter,
};

/// finit_module, 313, is the last system call of Linux 3.10 on x86_64. 511 ends the 64-bit table.
const NEWER_THAN_3_10: std::ops::RangeInclusive<i64> = 314..=511;

/// The x86_64 numbers.
const NAME_TO_HANDLE_AT: i64 = 303;
const IOCTL: i64 = 16;

/// FUSE_DEV_IOC_BACKING_OPEN (linux/fuse.h), by which a server has files passed through.
const BACKING_OPEN: u64 = 0x4010_e501;

/// EOPNOTSUPP to what that kernel knows, but not of these objects.
fn lacking() -> Result<BpfProgram, Box<dyn std::error::Error>> {
    let backing = SeccompCondition::new(1, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, BACKING_OPEN)?;
    let rules = BTreeMap::from([(NAME_TO_HANDLE_AT, Vec::new()), (IOCTL, vec![SeccompRule::new(vec![backing])?])]);
    let action = SeccompAction::Errno(Errno::EOPNOTSUPP as i32 as u32);
    Ok(SeccompFilter::new(rules, SeccompAction::Allow, action, TargetArch::x86_64)?.try_into()?)
}

fn filter(calls: impl Iterator<Item = i64>, errno: Errno) -> Result<BpfProgram, Box<dyn std::error::Error>> {
    let rules: BTreeMap<_, _> = calls.map(|call| (call, Vec::new())).collect();
    let action = SeccompAction::Errno(errno as i32 as u32);
    Ok(SeccompFilter::new(rules, SeccompAction::Allow, action, TargetArch::x86_64)?.try_into()?)
}

fn run() -> Result<(), Box<dyn std::error::Error>> {
    if !cfg!(target_arch = "x86_64") {
        return Err("only x86_64 is supported".into());
    }
    let mut arguments = std::env::args_os().skip(1);
    let program = arguments.next().ok_or("usage: vcgroupfs-legacy-syscalls COMMAND...")?;
    // `apply_filter` also sets no_new_privs. For a server that root starts that changes nothing: it executes no program that
    // would gain privileges.
    apply_filter(&lacking()?)?;
    apply_filter(&filter(NEWER_THAN_3_10, Errno::ENOSYS)?)?;
    Err(format!("{}: {}", program.display(), Command::new(&program).args(arguments).exec()).into())
}

fn main() -> ExitCode {
    if let Err(error) = run() {
        eprintln!("vcgroupfs-legacy-syscalls: {error}");
    }
    // Only a failure comes back from exec.
    ExitCode::from(127)
}
