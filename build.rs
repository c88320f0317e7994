//! Tells the program its version: the package's, and in a release build the commit that it was built from.
//!
//! The commit comes from `VCGROUPFS_COMMIT`, else from git, else from what `cargo package` notes in a published package. Without any of them
//! the version stands alone. No time and no path goes in, so that one commit builds to the same file everywhere. A debug build asks neither git
//! nor the package: each commit would rebuild everything.

use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=VCGROUPFS_COMMIT");
    let root = PathBuf::from(variable("CARGO_MANIFEST_DIR"));
    let mut commit = commit_of(&variable("VCGROUPFS_COMMIT"));
    if commit.is_none() && variable("PROFILE") == "release" {
        commit = from_git(&root).or_else(|| from_package(&root));
    }
    let version = variable("CARGO_PKG_VERSION");
    let version = commit.map_or(version.clone(), |commit| format!("{version} ({commit})"));
    println!("cargo::rustc-env=VCGROUPFS_VERSION={version}");
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_default()
}

/// The first 12 digits of a commit's hash, if that's what the text is.
fn commit_of(text: &str) -> Option<String> {
    let text = text.trim();
    let is_hash = text.len() >= 7 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_hash.then(|| text.chars().take(12).collect())
}

/// The commit that is checked out, if this directory is the top of a git checkout and not a part of another project's.
fn from_git(root: &Path) -> Option<String> {
    let top = git(root, &["rev-parse", "--show-toplevel"])?;
    if Path::new(&top).canonicalize().ok()? != root.canonicalize().ok()? {
        return None;
    }
    // These change with a commit or a checkout. Cargo takes a file that is missing for one that has changed, each time.
    let mut followed = vec!["HEAD".to_owned(), "logs/HEAD".to_owned(), "packed-refs".to_owned()];
    followed.extend(git(root, &["symbolic-ref", "--quiet", "HEAD"]));
    for name in followed {
        let path = git(root, &["rev-parse", "--git-path", &name]).map(|path| root.join(path));
        if let Some(path) = path.filter(|path| path.exists()) {
            println!("cargo::rerun-if-changed={}", path.display());
        }
    }
    commit_of(&git(root, &["rev-parse", "HEAD"])?)
}

/// The commit that `cargo package` has noted.
fn from_package(root: &Path) -> Option<String> {
    let path = root.join(".cargo_vcs_info.json");
    let noted = std::fs::read_to_string(&path).ok()?;
    println!("cargo::rerun-if-changed={}", path.display());
    let (_, rest) = noted.split_once("\"sha1\"")?;
    commit_of(rest.split('"').nth(1)?)
}

fn git(root: &Path, arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").current_dir(root).args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let text = text.trim();
    (output.status.success() && !text.is_empty()).then(|| text.to_owned())
}
