//! `tree`: shows a view as a tree, with what is writable and how much is hidden.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::LazyLock;

use clap::Args;
use nix::errno::Errno;
use serde_json::{Value, json};

use super::options::ViewOptions;
use crate::cgroup::escaped;
use crate::cli::exit::CliResult;
use crate::cli::offline::offline;
use crate::cli::{json, selected_view};
use crate::container::target;
use crate::error::{Error, describe};
use crate::fs::explain::TreeNode;
use crate::message::say;

/// The help of the arguments.
static WORDS: LazyLock<String> = LazyLock::new(|| {
    format!("[TARGET] [PATH]. TARGET: {}. PATH: the cgroup of the view at which the tree begins", target::HELP_OF_VIEWS)
});

#[derive(Debug, Args)]
#[command(override_usage = "vcgroupfs tree [OPTIONS] [TARGET] [PATH]")]
pub(super) struct Options {
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Show interface files, too
    #[arg(long)]
    files: bool,
    #[arg(value_name = "PATH", num_args = 0..=2, help = WORDS.as_str())]
    words: Vec<PathBuf>,
    #[command(flatten)]
    view: ViewOptions,
}

pub(super) fn run(options: &Options) -> CliResult {
    let (target, rest) = selected_view::split_target(&options.words, &options.view, 1);
    let root = Path::new("/");
    let path = match rest {
        [] => root,
        [path] => path,
        _ => {
            return Err(Error::usage("'tree' takes no TARGET with --pid or --cgroup, but one path at most")
                .advise("see 'vcgroupfs tree --help'"));
        }
    };
    let selected = selected_view::find(target, &options.view)?;
    let path = selected.path_in_view(path)?;
    if let (Some(told), false) = (selected.description(), options.json) {
        say(format_args!("view: {told}"));
    }
    let fs = offline(selected.host, selected.view)?;
    let branch = fs.branch(path.components()).map_err(|failure| {
        let what = match failure.errno() {
            Errno::ENOENT => format!("the view has no {path}"),
            errno => format!("can't show {path}: {}", describe(&errno.into())),
        };
        Error::failed(what).advise(format!("'vcgroupfs explain ... lookup {path}' says why"))
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

/// Returns the text after a name: the target of a symlink, and how much is hidden.
fn remarks(branch: &TreeNode) -> String {
    let mut remarks = String::new();
    if let Some(target) = &branch.link {
        remarks = format!(" -> {}", escaped(target));
    }
    if branch.hidden > 0 {
        remarks.push_str(&format!("  ({} hidden)", branch.hidden));
    }
    remarks
}

fn print(out: &mut impl Write, branch: &TreeNode, indent: &str, files: bool) -> std::io::Result<()> {
    let shown: Vec<&TreeNode> = branch.children.iter().filter(|child| files || !child.is_file).collect();
    for (index, child) in shown.iter().enumerate() {
        let last = index + 1 == shown.len();
        let (corner, below) = if last { ("└─", "  ") } else { ("├─", "│ ") };
        let name = escaped(&child.name);
        writeln!(out, "{}  {indent}{corner}{name}{}", mark(child.writable), remarks(child))?;
        print(out, child, &format!("{indent}{below}"), files)?;
    }
    Ok(())
}

fn as_json(branch: &TreeNode, files: bool) -> Value {
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
