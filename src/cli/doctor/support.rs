//! The file for a bug report (`--support`): the versions, the kernel, the mounts of cgroups, the memberships, the views,
//! and the whole answer.
//!
//! It's a list of what is written, not of what is left out: no environment, no arguments of commands, no hostname, no
//! mounts but those of cgroups and views, and of files only what the models of programs read (limits, and the list of
//! controllers).

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde_json::{Value, json};

use super::answer::Answer;
use crate::cgroup::{MountEntry, VIEW_FSTYPE, escaped};
use crate::cli::{event, json, list};
use crate::container::failed_view::views;
use crate::doctor::facts::is_in_root;
use crate::error::Error;
use crate::message::say;
use crate::server::activity::ViewActivity;
use crate::server::registry::record::Record;

/// The version of the file's format.
const FORMAT: u32 = 1;

/// Makes the report. `answer` is the whole answer as JSON.
pub(super) fn report(found: Answer<'_>, answer: Value, record: Option<&Record>) -> Value {
    let process = &found.facts.process;
    let mounts: Vec<Value> = found.facts.mounts.iter().filter(|mount| is_relevant(mount)).map(mount).collect();
    let cgroups = found.facts.host.cgroups.iter().map(|cgroup| {
        json!({
            "hierarchy": cgroup.kind.to_string(), "mount_point": json::name(&cgroup.mount_point),
            "path": json::name(cgroup.path.to_os_string()),
        })
    });
    let views = views().map(|found| [found.live, found.failed].concat()).unwrap_or_default();
    json!({
        "format": FORMAT,
        "version": env!("VCGROUPFS_VERSION"),
        "kernel": kernel(),
        "memberships": {"in_its_namespace": process.cgroup, "on_the_host": cgroups.collect::<Vec<_>>()},
        "controllers": process.controllers,
        "mounts": mounts,
        "views": views.iter().map(list::as_json).collect::<Vec<_>>(),
        "last_rejections": record.and_then(last_rejections),
        "doctor": answer,
    })
}

/// The last rejections of a live view, the newest at the end. `None` if it can't be asked.
fn last_rejections(record: &Record) -> Option<Value> {
    let view = ViewActivity::of(record, false).ok()?;
    Some(view.reader.rejections().iter().map(|rejection| Value::Object(event::as_json(rejection))).collect())
}

/// The kernel's release and build, and the machine, without its name.
fn kernel() -> Value {
    let Ok(name) = nix::sys::utsname::uname() else { return Value::Null };
    let [release, build, machine] = [name.release(), name.version(), name.machine()];
    json!({"release": json::name(release), "build": json::name(build), "machine": json::name(machine)})
}

/// Whether a mount has to do with cgroups. The others, whose sources and options may name servers and users, are left
/// out.
fn is_relevant(mount: &MountEntry) -> bool {
    mount.hierarchy().is_some() || mount.fstype == VIEW_FSTYPE || is_in_root(mount) && mount.fstype == "tmpfs"
}

fn mount(mount: &MountEntry) -> Value {
    json!({
        "id": mount.id, "parent": mount.parent, "device": format!("{}:{}", mount.device.0, mount.device.1),
        "root": json::name(&mount.root), "mount_point": json::name(&mount.mount_point), "options": mount.options,
        "shared": mount.shared, "master": mount.master, "type": mount.fstype, "super_options": mount.super_options,
    })
}

/// Writes the report to a new file that only its owner may read.
///
/// # Errors
/// If something has this name already, also a symlink that leads nowhere, or it can't be written.
pub(super) fn write(path: &Path, report: &Value) -> Result<(), Error> {
    let name = escaped(path);
    let file = File::options().write(true).create_new(true).mode(0o600).open(path);
    let mut file = file.map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => {
            Error::failed(format!("{name} exists already")).advise("name a file that doesn't")
        }
        _ => Error::system(format!("can't make {name}"), error),
    })?;
    let text = serde_json::to_string_pretty(report).unwrap_or_default();
    let written = writeln!(file, "{text}").and_then(|()| file.sync_all());
    if let Err(error) = written {
        // Half a report is of no use.
        let _ = std::fs::remove_file(path);
        return Err(Error::system(format!("can't write {name}"), error));
    }
    say(format_args!(
        "{name} has what a bug report needs. It names cgroups, mount points of cgroups, containers and programs; read it before you send it"
    ));
    Ok(())
}
