//! Reads the state that an OCI runtime gives its hooks on standard input (runtime-spec, "State"), and the container's configuration.

use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::cgroup::escaped;
use crate::container::DIRECTORY;
use crate::error::Error;

/// The remedy for an input that isn't a hook's.
const FOR_HOOKS: &str = "--oci-state is for OCI hooks, to which the runtime gives that state";

/// The maximum size of a state or configuration that is read, in bytes: none is that large.
const MAX_JSON_BYTES: u64 = 16 << 20;

#[derive(Debug, Deserialize)]
struct OciState {
    status: String,
    pid: i32,
    bundle: PathBuf,
}

#[derive(Debug, Deserialize)]
struct OciConfig {
    root: OciRoot,
    #[serde(default)]
    mounts: Vec<OciMount>,
}

#[derive(Debug, Deserialize)]
struct OciMount {
    destination: PathBuf,
    #[serde(rename = "type", default)]
    fstype: Option<String>,
}

impl OciMount {
    /// Whether it's `/sys/fs/cgroup` of type `cgroup`. For a container without a cgroup namespace, runc and crun then
    /// mount the container's own cgroup of each v1 hierarchy.
    fn is_of_cgroups(&self) -> bool {
        self.fstype.as_deref() == Some("cgroup") && self.destination == Path::new(DIRECTORY)
    }
}

#[derive(Debug, Deserialize)]
struct OciRoot {
    path: PathBuf,
}

/// What a hook knows of its container.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct HookState {
    pub(crate) pid: i32,
    /// The container's root directory, as long as its process hasn't entered that.
    pub(crate) root: Option<PathBuf>,
    /// Whether the runtime mounts the container's own cgroups, or has done so.
    pub(crate) mounts_own_cgroups: bool,
}

/// Reads the state, and the root directory from the configuration in the bundle.
pub(crate) fn parse_hook_state(state: impl Read) -> Result<HookState, Error> {
    let text = read(state, "standard input").map_err(|error| error.advise(FOR_HOOKS))?;
    if text.iter().all(u8::is_ascii_whitespace) {
        return Err(Error::usage("standard input is empty").advise(FOR_HOOKS));
    }
    let state: OciState = parse(&text).map_err(|cause| {
        Error::failed("standard input isn't the state of a container").because(cause).advise(FOR_HOOKS)
    })?;
    if state.pid <= 0 {
        let what = "the container's state on standard input has no process id";
        return Err(Error::failed(what).because("its process has ended, or isn't started yet").advise(FOR_HOOKS));
    }
    if state.status == "running" {
        return Ok(HookState { pid: state.pid, root: None, mounts_own_cgroups: false });
    }
    let path = state.bundle.join("config.json");
    let name = escaped(&path);
    let file = std::fs::File::open(&path)
        .map_err(|error| Error::system(format!("can't open {name}, the container's configuration"), error))?;
    let config: OciConfig = parse(&read(file, &name)?)
        .map_err(|cause| Error::failed(format!("{name} isn't a container's configuration")).because(cause))?;
    let root = absolute(&state.bundle, &config.root.path);
    Ok(HookState {
        pid: state.pid,
        root: Some(root),
        mounts_own_cgroups: config.mounts.iter().any(OciMount::is_of_cgroups),
    })
}

/// Returns the path of the root directory. A relative one begins at the bundle.
fn absolute(bundle: &Path, root: &Path) -> PathBuf {
    bundle.join(root)
}

fn read(file: impl Read, name: &str) -> Result<Vec<u8>, Error> {
    let mut text = Vec::new();
    let read = file.take(MAX_JSON_BYTES + 1).read_to_end(&mut text);
    let count = read.map_err(|error| Error::system(format!("can't read {name}"), error))?;
    if u64::try_from(count).is_ok_and(|count| count > MAX_JSON_BYTES) {
        let why = format!("it has more than {} MiB", MAX_JSON_BYTES >> 20);
        return Err(Error::failed(format!("{name} is too large")).because(why));
    }
    Ok(text)
}

/// Parses a JSON object. The error says what is wrong with it.
fn parse<T: for<'a> Deserialize<'a>>(text: &[u8]) -> Result<T, String> {
    match serde_json::from_slice::<serde_json::Value>(text) {
        Ok(value) if !value.is_object() => Err("it isn't a JSON object".to_owned()),
        Ok(value) => serde_json::from_value(value).map_err(|error| error.to_string()),
        Err(_) => Err("it isn't JSON".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_and_configuration_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let bundle = folder.path();
        let state = |status: &str, pid: i32| {
            let text = serde_json::json!({ "ociVersion": "1.0.2", "id": "c1", "status": status, "pid": pid, "bundle": bundle });
            parse_hook_state(text.to_string().as_bytes())
        };
        assert!(state("creating", 7).unwrap_err().to_string().contains("config.json"));
        for (path, expected) in [("rootfs", bundle.join("rootfs")), ("/x/merged", "/x/merged".into())] {
            let sysfs = serde_json::json!({ "destination": "/sys", "type": "sysfs", "options": ["ro"] });
            let bound = serde_json::json!({ "destination": "/sys/fs/cgroup", "source": "/x", "options": ["bind"] });
            let own = serde_json::json!({ "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup" });
            for (mounts, mounts_own_cgroups) in
                [(None, false), (Some([&sysfs, &bound]), false), (Some([&sysfs, &own]), true)]
            {
                let root = serde_json::json!({ "path": path, "readonly": true });
                let mut config = serde_json::json!({ "ociVersion": "1.0.2", "root": root });
                if let Some(mounts) = mounts {
                    config["mounts"] = serde_json::json!(mounts);
                }
                std::fs::write(bundle.join("config.json"), config.to_string()).unwrap();
                let expected_state = HookState { pid: 7, root: Some(expected.clone()), mounts_own_cgroups };
                assert_eq!(state("creating", 7).unwrap(), expected_state);
            }
        }
        let running = HookState { pid: 7, root: None, mounts_own_cgroups: false };
        assert_eq!(state("running", 7).unwrap(), running);
        assert!(state("stopped", 0).unwrap_err().to_string().contains("no process id"));
        let endless = parse_hook_state(std::io::repeat(b' ')).unwrap_err();
        let says = "standard input is too large: it has more than 16 MiB; --oci-state is for OCI hooks";
        assert!(endless.to_string().starts_with(says), "{endless}");
        assert!(parse_hook_state(&b"{}"[..]).unwrap_err().to_string().contains("standard input"));
    }
}
