//! Making records, and changing those of the calling process.

use std::ffi::OsString;
use std::fs::Permissions;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::host::HostCgroups;
use crate::policy::Rules;
use crate::records::descriptor;
use crate::server::keeper::KEEPERS_DESCRIPTORS;
use crate::server::registry::boundaries::boundaries;
use crate::server::registry::directory::{self, DIRECTORY, Directory};
use crate::server::registry::options::RecordedOptions;
use crate::server::registry::record::{ContainerRef, EscapedName, Record, aliases, delegated};
use crate::server::registry::records::{CONTROL, forget_in, set_aside};
use crate::server::registry::status::{Status, start_time};
use crate::sys::descriptors::duplicate_above;
use crate::view::{AncestorLimits, Shape, View};

/// How often an update is tried. A `list` may take its draft for one that a killed process has left.
const MAX_UPDATE_ATTEMPTS: usize = 8;

/// A record that isn't published yet.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Registration(Record);

impl Registration {
    /// The record of one view.
    pub(crate) fn new(host: &HostCgroups, view: &View, directory: &Path, target: String) -> Self {
        let delegated = delegated(view).filter_map(|(kind, path)| Some((kind.to_string(), path?.into())));
        let mut registration = Self::of(directory, target, view.shape, &view.rules, delegated.collect());
        registration.0.aliases = aliases(view);
        registration.0.boundaries = boundaries(host, view);
        registration.0.hides_ancestor_limits = view.ancestor_limits == AncestorLimits::Hidden;
        registration
    }

    /// The record of a `mount --per-caller`.
    pub(crate) fn per_caller(rules: &Rules, limits: AncestorLimits, directory: &Path) -> Self {
        let mut registration =
            Self::of(directory, "each caller's container".to_owned(), Shape::HostPath, rules, Vec::new());
        registration.0.per_caller = true;
        registration.0.hides_ancestor_limits = limits == AncestorLimits::Hidden;
        registration
    }

    fn of(
        directory: &Path,
        target: String,
        shape: Shape,
        rules: &Rules,
        delegated: Vec<(String, EscapedName)>,
    ) -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(Record::new(directory, target, shape, rules, delegated, since.as_secs()))
    }

    /// Adds the container in which the directory is.
    pub(crate) fn in_container(mut self, container: ContainerRef) -> Self {
        self.0.container = Some(container);
        self
    }

    /// Adds the process for which it's mounted on a directory.
    pub(crate) fn for_process(mut self, pid: Option<i32>) -> Self {
        self.0.process = pid;
        self
    }

    /// Adds the number of the mount namespace, if the directory is in no container.
    pub(crate) fn in_namespace(mut self, namespace: Option<u64>) -> Self {
        self.0.namespace = namespace;
        self
    }

    /// Says that `run` has made a stack in a mount namespace.
    pub(crate) fn with_run_stack(mut self, namespace: u64) -> Self {
        self.0.run = Some(namespace);
        self
    }

    /// Adds the options with which the view can be made again.
    pub(crate) fn with_options(mut self, options: RecordedOptions) -> Self {
        self.0.options = Some(options);
        self
    }

    /// Publishes the record for the calling process, which becomes the view's server until [`Registered::update`]
    /// says otherwise. The record is live as long as this process, or one that it forks meanwhile, holds the file.
    ///
    /// If that fails, the view works, but `list` doesn't show it.
    pub(crate) fn publish(self) -> Option<Registered> {
        self.publish_as(Status::of_server(std::process::id()))
    }

    /// Publishes the record for the calling process, which becomes the view's keeper. As [`Self::publish`].
    pub(crate) fn publish_kept(self) -> Option<Registered> {
        self.publish_as(Status::of_keeper(std::process::id()))
    }

    fn publish_as(self, status: Status) -> Option<Registered> {
        match Directory::make().and_then(|directory| self.publish_in(directory, status)) {
            Ok(registered) => Some(registered),
            Err(error) => {
                tracing::warn!(%error, directory = DIRECTORY, "'list' won't show this view");
                None
            }
        }
    }

    fn publish_in(self, directory: Directory, status: Status) -> io::Result<Registered> {
        let Self(mut record) = self;
        record.pid = std::process::id();
        record.status = status;
        // Under the lock nobody removes this record for the dead one that it replaces.
        let lock = directory.lock_records(true)?;
        forget_in(&directory, |dead| dead.has_place_of(&record));
        set_aside(&directory, record.pid);
        let file = write(&directory, &mut record)?;
        drop(lock);
        Ok(Registered { directory, record, file, stays: false })
    }
}

/// A published record. It's removed when this is dropped by the process that published it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Registered {
    directory: Directory,
    record: Record,
    /// The record's file, whose lock shows that the view lives.
    #[serde(with = "descriptor")]
    file: OwnedFd,
    /// Whether the record stays after the process.
    stays: bool,
}

impl Registered {
    /// The numbers of its descriptors.
    pub(crate) fn descriptors(&self) -> [RawFd; 2] {
        [self.directory.number(), self.file.as_raw_fd()]
    }

    /// Changes the status. Readers see the old record or the new one, each live. It never waits for another process.
    ///
    /// If that fails, it's logged, and the old record stays.
    pub(crate) fn update(&mut self, change: impl FnOnce(&mut Status)) {
        change(&mut self.record.status);
        let mut written = write(&self.directory, &mut self.record);
        for _ in 1..MAX_UPDATE_ATTEMPTS {
            if !written.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
                break;
            }
            written = write(&self.directory, &mut self.record);
        }
        match written {
            // The lock of the old file ends once the new one has its name.
            Ok(file) => self.file = file,
            Err(error) => tracing::warn!(%error, directory = DIRECTORY, "'list' won't show the view's new state"),
        }
    }

    /// The directory in which it's published.
    pub(crate) fn directory(&self) -> &Directory {
        &self.directory
    }

    /// The name of its control socket.
    pub(crate) fn control_name(&self) -> OsString {
        file_name(&self.record, CONTROL)
    }

    /// Makes the calling process the view's keeper, in place of one that has ended: the record gets its number.
    pub(crate) fn move_here(&mut self) {
        if self.record.pid == std::process::id() {
            return;
        }
        let former = ["json", CONTROL].map(|ending| file_name(&self.record, ending));
        self.record.pid = std::process::id();
        let lock = self.directory.lock_records(true);
        set_aside(&self.directory, self.record.pid);
        self.update(|status| status.keeper = Some(std::process::id()));
        let [record, control] = former;
        let _ = self.directory.remove(&record);
        let _ = self.directory.rename(&control, &self.control_name());
        drop(lock);
    }

    /// Ends the record's life, but leaves it there: the view stays mounted without a server, and `list` says why.
    pub(crate) fn leave(mut self) {
        self.stays = true;
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        if self.stays || std::process::id() != self.record.pid {
            return;
        }
        let name = file_name(&self.record, "json");
        // A second attempt may succeed. Otherwise the next `list` removes the record.
        let remove = || self.directory.remove(&name);
        let _ = remove().or_else(|_| remove());
        let _ = self.directory.remove(&file_name(&self.record, CONTROL));
    }
}

/// Writes a record, in place of the one that the calling process had, and returns its locked file.
///
/// It's written under another name and locked before it gets its own, so that nobody reads half of it, or takes it
/// for a dead process'. Until it's locked only root can open it.
fn write(directory: &Directory, record: &mut Record) -> io::Result<OwnedFd> {
    record.server_start = start_time(record.status.server);
    let text = serde_json::to_vec(record)?;
    let draft = file_name(record, "new");
    let mut file = directory.new_file(&draft)?;
    directory::write_lock(file.as_fd(), false)?;
    file.write_all(&text)?;
    file.set_permissions(Permissions::from_mode(0o644))?;
    directory.rename(&draft, &file_name(record, "json"))?;
    // A keeper's servers use the lower numbers.
    Ok(duplicate_above(file.as_fd(), KEEPERS_DESCRIPTORS)?)
}

fn file_name(record: &Record, ending: &str) -> OsString {
    format!("{}.{ending}", record.pid).into()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::server::registry::records::records_in;
    use crate::server::registry::status::ServerState;

    /// A registry of the test's own, with a record in it. `None` if the test can't run: records are root's.
    fn registry() -> Option<(tempfile::TempDir, Registered)> {
        if !nix::unistd::geteuid().is_root() {
            assert_ne!(std::env::var("VCGROUPFS_REQUIRE").as_deref(), Ok("all"), "needs root");
            eprintln!("SKIPPED: needs root");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let registration = Registration::per_caller(&Rules::default(), AncestorLimits::Shown, Path::new("/nowhere"));
        let registered = registration.publish_in(Directory::at(folder.path()), Status::of_server(std::process::id()));
        let registered = registered.unwrap();
        Some((folder, registered))
    }

    #[test]
    fn a_record_is_live_while_it_is_updated() {
        let Some((folder, mut registered)) = registry() else { return };
        let has_ended = AtomicBool::new(false);
        std::thread::scope(|scope| {
            // Each of these readers also removes what it takes for left.
            let reader = scope.spawn(|| {
                let directory = Directory::at(folder.path());
                let mut seen = Vec::new();
                while !has_ended.load(Ordering::Relaxed) {
                    let records = records_in(&directory).unwrap();
                    assert!(records.dead.is_empty());
                    seen.push(records.live.first().map(|record| record.status.restarts));
                }
                seen
            });
            for restarts in 1..=500 {
                registered.update(|status| status.restarts = restarts);
            }
            has_ended.store(true, Ordering::Relaxed);
            let seen = reader.join().unwrap();
            assert!(seen.iter().all(Option::is_some) && seen.is_sorted(), "{seen:?}");
        });
        let records = records_in(&Directory::at(folder.path())).unwrap();
        assert_eq!(records.live.first().unwrap().status.restarts, 500);
        drop(registered);
        assert_eq!(
            std::fs::read_dir(folder.path()).unwrap().flatten().map(|entry| entry.file_name()).collect::<Vec<_>>(),
            ["records.lock"]
        );
    }

    #[test]
    fn a_new_record_replaces_only_that_of_the_same_place() {
        let Some((folder, registered)) = registry() else { return };
        registered.leave();
        let directories =
            |records: &[Record]| records.iter().map(|record| record.directory.shown()).collect::<Vec<_>>().join(" ");
        let publish = |directory: &str, namespace: u64| {
            let registration = Registration::per_caller(&Rules::default(), AncestorLimits::Shown, Path::new(directory));
            let registration = registration.in_namespace(Some(namespace));
            let status = Status::of_server(std::process::id());
            registration.publish_in(Directory::at(folder.path()), status).unwrap()
        };
        // The processes of these views had the same number, one after the other.
        for (directory, namespace, dead) in [
            ("/nowhere", 1, "/nowhere"),
            ("/a", 1, "/nowhere /nowhere"),
            ("/a", 1, "/nowhere /nowhere"),
            ("/b", 1, "/nowhere /nowhere /a"),
            ("/a", 2, "/nowhere /nowhere /a /b"),
        ] {
            let registered = publish(directory, namespace);
            let mut records = records_in(&Directory::at(folder.path())).unwrap();
            records.dead.sort_by_key(|record| (record.directory.shown().len() == 2, record.directory.shown()));
            assert_eq!((directories(&records.live).as_str(), directories(&records.dead).as_str()), (directory, dead));
            registered.leave();
        }
    }

    #[test]
    fn the_record_of_a_view_that_failed_stays() {
        let Some((folder, mut registered)) = registry() else { return };
        registered.update(|status| {
            status.state = ServerState::Failed;
            status.keeper = Some(1);
            status.reason = Some("killed by SIGSEGV 5 times in a minute".to_owned());
        });
        let name = folder.path().join(format!("{}.json", std::process::id()));
        registered.leave();
        let text = std::fs::read_to_string(name).unwrap();
        assert!(text.contains(r#""state":"failed""#) && text.contains("5 times in a minute"), "{text}");
    }
}
