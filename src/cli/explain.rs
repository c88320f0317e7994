//! `explain`: what an operation would get, by which rule, and why. Asks the same code as the filesystem does, without mounting anything.

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use serde_json::json;

use super::options::ViewOptions;
use super::{Outcome, json, map, offline};
use crate::cgroup::CgroupPath;
use crate::fs::explain::{Explanation, Question};

#[derive(Debug, Args)]
pub(super) struct Options {
    #[command(flatten)]
    view: ViewOptions,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// With 'migrate': may this process (of the host) be migrated there?
    #[arg(long, value_name = "PID")]
    process: Option<i32>,
    /// What is to be done
    #[arg(value_enum, value_name = "OP")]
    operation: Operation,
    /// On which path of the view; /sys/fs/cgroup may stand in front of it
    #[arg(value_name = "PATH")]
    path: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Operation {
    /// Find it
    Lookup,
    /// Read it, or list it
    Read,
    /// Write it
    Write,
    /// Set its length
    Truncate,
    /// Make a cgroup of that name
    Mkdir,
    /// Remove the cgroup
    Rmdir,
    /// Rename the cgroup
    Rename,
    /// Change its permission bits
    Chmod,
    /// Change its owner
    Chown,
    /// Change its times
    Utimens,
    /// Set or remove an extended attribute
    Setxattr,
    /// Migrate a process into the cgroup
    Migrate,
    /// Create a file of that name
    Create,
    /// Remove the file
    Unlink,
    /// Make a hard link
    Link,
    /// Make a symlink
    Symlink,
    /// Make a device or a fifo
    Mknod,
}

impl From<Operation> for Question {
    fn from(operation: Operation) -> Self {
        use crate::policy::Operation as Policy;
        match operation {
            Operation::Lookup | Operation::Read => Self::Of(Policy::Read),
            Operation::Write => Self::Of(Policy::Write),
            Operation::Truncate => Self::Truncate,
            Operation::Rmdir => Self::Of(Policy::RemoveDirectory),
            Operation::Rename => Self::Of(Policy::Rename),
            Operation::Chmod | Operation::Chown | Operation::Utimens => Self::Of(Policy::ChangeAttributes),
            Operation::Setxattr => Self::Of(Policy::ChangeXattrs),
            Operation::Migrate => Self::Migrate,
            Operation::Mkdir => Self::In(Policy::MakeDirectory),
            Operation::Create => Self::In(Policy::CreateFile),
            Operation::Unlink => Self::Unlink,
            Operation::Link | Operation::Symlink | Operation::Mknod => Self::In(Policy::MakeNode),
        }
    }
}

pub(super) fn run(options: &Options) -> Outcome {
    let (host, view) = options.view.plan()?;
    let path = map::in_view(&map::parse(&options.path)?);
    let fs = offline(host, view)?;
    let explanation = fs.explain(path.components(), options.operation.into(), options.process);
    let operation = super::word_of(&options.operation);
    print(options.json, &operation, &path, &explanation)?;
    Ok(ExitCode::SUCCESS)
}

fn print(as_json: bool, operation: &str, path: &CgroupPath, explanation: &Explanation) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    let backing = explanation.backing.as_ref().map(|(kind, path)| format!("{kind}:{path}"));
    let errno = explanation.errno.map(|errno| format!("{errno:?}"));
    if as_json {
        let backing = explanation.backing.as_ref().map(|(kind, path)| {
            let mut text = OsString::from(format!("{kind}:"));
            text.push(path.to_os_string());
            json::name(text)
        });
        let answer = json!({
            "operation": operation, "path": json::name(path.to_os_string()), "host": backing, "allowed": explanation.allowed,
            "verdict": explanation.verdict(), "errno": errno, "rule": explanation.rule, "reason": explanation.reason,
        });
        return writeln!(out, "{}", json::text(&answer));
    }
    writeln!(out, "operation  {operation}")?;
    writeln!(out, "path       {path}")?;
    writeln!(out, "host       {}", backing.as_deref().unwrap_or("-"))?;
    writeln!(out, "verdict    {}", explanation.verdict())?;
    writeln!(out, "errno      {}", errno.as_deref().unwrap_or("-"))?;
    writeln!(out, "rule       {}", explanation.rule)?;
    writeln!(out, "reason     {}", explanation.reason)
}
