//! `tree`: a view as a tree, each line marked as writable or not, with counts of what is hidden.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde_json::{Value, json};

use super::error::{FAILED, Failed};
use super::options::ViewOptions;
use super::{Outcome, json, map, offline};
use crate::cgroup::escaped;
use crate::fs::explain::Branch;

#[derive(Debug, Args)]
pub(super) struct Options {
    #[command(flatten)]
    view: ViewOptions,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Show interface files too
    #[arg(long)]
    files: bool,
    /// From this path of the view
    #[arg(value_name = "PATH", default_value = "/")]
    path: PathBuf,
}

pub(super) fn run(options: &Options) -> Outcome {
    let (host, view) = options.view.plan()?;
    let path = map::in_view(&map::parse(&options.path)?);
    let fs = offline(host, view)?;
    let branch = fs.branch(path.components()).map_err(|failure| {
        Failed::new(FAILED, format!("can't show {path}: {} (see 'vcgroupfs explain lookup')", failure.errno()))
    })?;
    let mut out = std::io::stdout().lock();
    if options.json {
        writeln!(out, "{}", json::text(&as_json(&branch, options.files)))?;
    } else {
        writeln!(out, "{}  {path}{}", mark(branch.writable), remarks(&branch))?;
        print(&mut out, &branch, "", options.files)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn mark(writable: bool) -> &'static str {
    if writable { "rw" } else { "ro" }
}

/// What stands behind a name: where a symlink leads, and how much isn't shown.
fn remarks(branch: &Branch) -> String {
    let mut remarks = String::new();
    if let Some(target) = &branch.link {
        remarks = format!(" -> {}", escaped(target));
    }
    if branch.hidden > 0 {
        remarks.push_str(&format!("  ({} hidden)", branch.hidden));
    }
    remarks
}

fn print(out: &mut impl Write, branch: &Branch, indent: &str, files: bool) -> std::io::Result<()> {
    let shown: Vec<&Branch> = branch.children.iter().filter(|child| files || !child.is_file).collect();
    for (index, child) in shown.iter().enumerate() {
        let last = index + 1 == shown.len();
        let (corner, below) = if last { ("└─", "  ") } else { ("├─", "│ ") };
        let name = escaped(&child.name);
        writeln!(out, "{}  {indent}{corner}{name}{}", mark(child.writable), remarks(child))?;
        print(out, child, &format!("{indent}{below}"), files)?;
    }
    Ok(())
}

fn as_json(branch: &Branch, files: bool) -> Value {
    let shown = branch.children.iter().filter(|child| files || !child.is_file);
    let children: Vec<Value> = shown.map(|child| as_json(child, files)).collect();
    let kind = match (&branch.link, branch.is_file) {
        (Some(_), _) => "link",
        (None, true) => "file",
        (None, false) => "directory",
    };
    json!({
        "name": json::name(&branch.name), "kind": kind, "writable": branch.writable, "hidden": branch.hidden,
        "link": branch.link.as_ref().map(json::name), "children": children,
    })
}
