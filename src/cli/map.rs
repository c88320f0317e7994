//! `map`: translates between paths of the host and of a view.

use std::ffi::OsStr;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use super::exit::CliResult;
use super::options::ViewOptions;
use super::view_path::parse_path;
use super::{json, selected_view};
use crate::cgroup::CgroupPath;
use crate::error::Error;
use crate::host::HostCgroups;
use crate::view::{View, view_path_of};

#[derive(Debug, Args)]
#[command(override_usage = "vcgroupfs map [OPTIONS] [TARGET] PATH")]
pub(super) struct Options {
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// [TARGET] PATH. TARGET: as for explain and tree. PATH: a cgroup's path as in /proc/PID/cgroup, a path below a cgroup mount of the host, or a
    /// path in the view
    #[arg(value_name = "PATH", num_args = 1..=2, required = true)]
    words: Vec<PathBuf>,
    #[command(flatten)]
    view: ViewOptions,
}

pub(super) fn run(options: &Options) -> CliResult {
    let (target, rest) = selected_view::split_target(&options.words, &options.view, 2);
    let [path] = rest else { return Err(Error::usage("'map' takes one path").advise("see 'vcgroupfs map --help'")) };
    let selected = selected_view::find(target, &options.view)?;
    let below = selected.path_in_view(path)?;
    let (path, host, view) = (parse_path(path)?, &selected.host, &selected.view);
    let to_view = host_to_view(host, view, &path);
    let to_host = view.resolve_directory(&below).and_then(|resolved| resolved.backing);
    let kind = |index: usize| view.hierarchy(index).map(|hierarchy| hierarchy.kind.to_string()).unwrap_or_default();
    let mut out = std::io::stdout().lock();
    if options.json {
        let to_view: Vec<_> = to_view
            .iter()
            .map(|(index, cgroup, shown)| {
                json!({"hierarchy": kind(*index), "host": json::name(cgroup.to_os_string()), "view": shown.as_ref().map(|path| json::name(path.to_os_string()))})
            })
            .collect();
        let to_host =
            to_host.map(|(index, cgroup)| json!({"hierarchy": kind(index), "host": json::name(cgroup.to_os_string())}));
        let answer = json!({"path": json::name(path.to_os_string()), "host_to_view": to_view, "view_to_host": to_host});
        writeln!(out, "{}", json::text(&answer))?;
        return Ok(ExitCode::SUCCESS);
    }
    writeln!(out, "as a path of the host:")?;
    for (index, cgroup, shown) in &to_view {
        let shown = shown.as_ref().map_or("hidden".to_owned(), ToString::to_string);
        writeln!(out, "  {:<16} {cgroup} -> {shown}", kind(*index))?;
    }
    writeln!(out, "as a path of the view:")?;
    match to_host {
        Some((index, cgroup)) => writeln!(out, "  {:<16} {} -> {cgroup}", kind(index), below)?,
        None => writeln!(out, "  {} leads to no cgroup of the host", below)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Finds the cgroups that `path` can mean on the host: the hierarchy's index, the cgroup, and its path in the view.
fn host_to_view(host: &HostCgroups, view: &View, path: &CgroupPath) -> Vec<(usize, CgroupPath, Option<CgroupPath>)> {
    let below_a_mount = host.hierarchies.iter().enumerate().filter_map(|(index, hierarchy)| {
        let mount_point = CgroupPath::parse(OsStr::new(&hierarchy.mount_point)).ok()?;
        Some((mount_point.depth(), index, path.relative_to(&mount_point)?))
    });
    if let Some((_, index, cgroup)) = below_a_mount.max_by_key(|(depth, ..)| *depth) {
        let shown = view_path_of(view, index, &cgroup);
        return vec![(index, cgroup, shown)];
    }
    let all = 0..view.hierarchies.len();
    all.map(|index| (index, path.clone(), view_path_of(view, index, path))).collect()
}
