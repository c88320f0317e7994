//! The state that an OCI runtime gives its hooks on standard input (runtime-spec, "State"), and where the container's root is.

use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::cli::error::{FAILED, Failed};

/// More than any state or configuration has, in bytes.
const LENGTH_AT_MOST: u64 = 16 << 20;

#[derive(Debug, Deserialize)]
struct State {
    status: String,
    pid: i32,
    bundle: PathBuf,
}

#[derive(Debug, Deserialize)]
struct Config {
    root: Root,
}

#[derive(Debug, Deserialize)]
struct Root {
    path: PathBuf,
}

/// What a hook is told of its container.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) pid: i32,
    /// Its root directory, as long as its process hasn't entered that.
    pub(super) root: Option<PathBuf>,
}

/// Reads the state, and from the bundle where the root is.
pub(super) fn told(state: impl Read) -> Result<Told, Failed> {
    let state: State = parse(state, "the container's state on standard input")?;
    if state.pid <= 0 {
        return Err(Failed::new(
            FAILED,
            "the container's state has no pid: this is for hooks of a container that is being made",
        ));
    }
    if state.status == "running" {
        return Ok(Told { pid: state.pid, root: None });
    }
    let path = state.bundle.join("config.json");
    let name = path.display().to_string();
    let file = std::fs::File::open(&path).map_err(|error| Failed::system(format!("can't open {name}"), error))?;
    let config: Config = parse(file, &name)?;
    Ok(Told { pid: state.pid, root: Some(absolute(&state.bundle, &config.root.path)) })
}

/// A relative root is the bundle's.
fn absolute(bundle: &Path, root: &Path) -> PathBuf {
    bundle.join(root)
}

fn parse<T: for<'a> Deserialize<'a>>(file: impl Read, name: &str) -> Result<T, Failed> {
    let mut text = Vec::new();
    let read = file.take(LENGTH_AT_MOST).read_to_end(&mut text);
    read.map_err(|error| Failed::system(format!("can't read {name}"), error))?;
    serde_json::from_slice(&text)
        .map_err(|error| Failed::new(FAILED, format!("{name} isn't as OCI runtimes write it: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_the_root_is() {
        let folder = tempfile::tempdir().unwrap();
        let bundle = folder.path();
        let state = |status: &str, pid: i32| {
            let text = serde_json::json!({ "ociVersion": "1.0.2", "id": "c1", "status": status, "pid": pid, "bundle": bundle });
            told(text.to_string().as_bytes())
        };
        assert!(state("creating", 7).unwrap_err().to_string().contains("config.json"));
        for (path, expected) in [("rootfs", bundle.join("rootfs")), ("/x/merged", "/x/merged".into())] {
            let config = serde_json::json!({ "ociVersion": "1.0.2", "root": { "path": path, "readonly": true } });
            std::fs::write(bundle.join("config.json"), config.to_string()).unwrap();
            assert_eq!(state("creating", 7).unwrap(), Told { pid: 7, root: Some(expected) });
        }
        assert_eq!(state("running", 7).unwrap(), Told { pid: 7, root: None });
        assert!(state("stopped", 0).unwrap_err().to_string().contains("no pid"));
        assert!(told(&b"{}"[..]).unwrap_err().to_string().contains("standard input"));
    }
}
