//! What a program hands over to the next one: a JSON document in a memfd. Descriptors are in it by their numbers.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::sys::memfd::{MFdFlags, memfd_create};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::agents::confinement::filter_mark;
use crate::error::Error;
use crate::records::{Records, descriptor};
use crate::server::before::Before;
use crate::server::control::ControlSocket;
use crate::server::handover::stored::Stored;
use crate::server::handover::trial::Trial;
use crate::server::logging::{self, ServerLog};
use crate::server::registry::Registered;

/// The versions of the document that this program reads and writes. A field that is added with a default needs no new one.
pub(crate) const VERSIONS: &[u32] = if cfg!(feature = "next-version") { &[1, 2] } else { &[1] };

/// What a view is served with, which doesn't change.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Served<S, M, G> {
    pub(crate) server: S,
    /// The server's own mount, unless it's no longer needed.
    pub(crate) own_mount: Option<M>,
    pub(crate) abort_guard: Option<G>,
}

/// The same, written down, since by then the server itself belongs to the process that serves.
#[derive(Debug)]
pub(crate) struct ServedText(Box<str>);

impl ServedText {
    pub(crate) fn new<S: Serialize, M: Serialize, G: Serialize>(served: &Served<S, M, G>) -> serde_json::Result<Self> {
        serde_json::to_string(served).map(|text| Self(text.into()))
    }
}

/// What is written.
#[derive(Debug, Serialize)]
pub(crate) struct Written<'a> {
    pub(crate) served: Served<Value, Value, Value>,
    pub(crate) records: Value,
    pub(crate) activity: Option<Value>,
    pub(crate) registered: Option<&'a Registered>,
    pub(crate) control: Option<&'a ControlSocket>,
    pub(crate) log: ServerLog,
    pub(crate) before: Before,
    pub(crate) trial: Option<&'a Trial>,
    /// The mark of the filter of system calls that the process has.
    pub(crate) filter: u64,
    /// What the service manager keeps.
    pub(crate) stored: &'a Stored,
}

impl<'a> Written<'a> {
    /// Collects what is written. The server's own mount is left out if it's no longer needed. A server may have closed what it
    /// was started with, but the keeper has copies: `copy` tells their numbers.
    ///
    /// # Errors
    /// Those of JSON; `ENOSYS` if the records can't be handed over.
    pub(crate) fn new(
        served: &ServedText,
        copy: impl Fn(RawFd) -> RawFd,
        records: &Records,
        before: Before,
        registered: Option<&'a Registered>,
        control: Option<&'a ControlSocket>,
        stored: &'a Stored,
    ) -> io::Result<Self> {
        let mut text: Value = serde_json::from_str(&served.0)?;
        descriptor::renumber(&mut text, &copy);
        let mut served: Served<Value, Value, Value> = serde_json::from_value(text)?;
        served.own_mount = served.own_mount.filter(|_| before.self_mount_copies.is_some());
        let activity = records.activity().as_file().map(|file| descriptor::written(copy(file.as_raw_fd())));
        let records = records.as_file().ok_or_else(|| io::Error::from_raw_os_error(libc::ENOSYS))?;
        let records = descriptor::written(copy(records.as_raw_fd()));
        let log = logging::of_server();
        let filter = filter_mark();
        Ok(Self { served, records, activity, registered, control, log, before, trial: None, filter, stored })
    }

    /// Writes a document of this version.
    ///
    /// # Errors
    /// Those of memfd_create(2) and write(2).
    pub(crate) fn write(&self, version: u32) -> io::Result<OwnedFd> {
        let text = serde_json::to_vec(&versions::written(serde_json::to_value(self)?, version))?;
        let mut file = File::from(memfd_create(c"vcgroupfs hand-over", MFdFlags::MFD_CLOEXEC)?);
        file.write_all(&text)?;
        Ok(file.into())
    }
}

/// Reads a document.
///
/// # Errors
/// If it has another version, isn't whole, or one of its descriptors isn't open.
pub(crate) fn read<T: DeserializeOwned>(file: BorrowedFd<'_>) -> Result<T, Error> {
    let cant = |error: io::Error| Error::system("can't read the state of the view", error);
    let mut file = File::from(file.try_clone_to_owned().map_err(cant)?);
    let mut text = Vec::new();
    file.rewind().and_then(|()| file.read_to_end(&mut text)).map_err(cant)?;
    let document: Value = serde_json::from_slice(&text).map_err(|error| cant(error.into()))?;
    let version = document.get("version").and_then(Value::as_u64).and_then(|version| u32::try_from(version).ok());
    let version = version.unwrap_or_default();
    if !VERSIONS.contains(&version) {
        let what = format!("can't read the state of the view: it has version {version}");
        return Err(Error::failed(what).because(format!("this program reads {}", listed(VERSIONS))));
    }
    serde_json::from_value(versions::read(document, version)).map_err(|error| cant(error.into()))
}

/// Versions in words.
pub(crate) fn listed(versions: &[u32]) -> String {
    versions.iter().map(u32::to_string).collect::<Vec<_>>().join(", ")
}

/// The newest version that both sides know.
pub(crate) fn common_version(theirs: &[u32]) -> Option<u32> {
    VERSIONS.iter().copied().filter(|version| theirs.contains(version)).max()
}

/// The differences between the versions.
#[cfg(not(feature = "next-version"))]
mod versions {
    use serde_json::Value;

    /// Makes a document of this version from this program's fields.
    pub(super) fn written(mut document: Value, version: u32) -> Value {
        if let Some(fields) = document.as_object_mut() {
            fields.insert("version".to_owned(), version.into());
        }
        document
    }

    /// Makes this program's fields from a document of this version.
    pub(super) fn read(document: Value, _version: u32) -> Value {
        document
    }
}

/// The same for the build with which tests upgrade: its version has another name for a field.
#[cfg(feature = "next-version")]
mod versions {
    use serde_json::Value;

    pub(super) fn written(mut document: Value, version: u32) -> Value {
        if version == 2 {
            rename(&mut document, "served", "view");
        }
        if let Some(fields) = document.as_object_mut() {
            fields.insert("version".to_owned(), version.into());
        }
        document
    }

    pub(super) fn read(mut document: Value, version: u32) -> Value {
        if version == 2 {
            rename(&mut document, "view", "served");
        }
        document
    }

    fn rename(document: &mut Value, from: &str, to: &str) {
        if let Some(fields) = document.as_object_mut()
            && let Some(value) = fields.remove(from)
        {
            fields.insert(to.to_owned(), value);
        }
    }
}
