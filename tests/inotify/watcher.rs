//! inotify, as a client of a view uses it.

use std::collections::HashMap;
use std::fs::File;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};

/// An event: which watch, what happened, to which name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) at: &'static str,
    pub(crate) mask: AddWatchFlags,
    pub(crate) name: String,
}

/// Watches, and what they have seen.
pub(crate) struct Watcher {
    inotify: Inotify,
    labels: HashMap<WatchDescriptor, &'static str>,
    pub(crate) seen: Vec<Seen>,
}

impl Watcher {
    pub(crate) fn new() -> Self {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).expect("an inotify instance");
        Self { inotify, labels: HashMap::new(), seen: Vec::new() }
    }

    /// Watches a path for everything.
    pub(crate) fn add(&mut self, label: &'static str, path: impl AsRef<Path>) {
        let path = path.as_ref();
        let watch = self.inotify.add_watch(path, AddWatchFlags::IN_ALL_EVENTS);
        self.labels.insert(watch.unwrap_or_else(|error| panic!("{}: {error}", path.display())), label);
    }

    /// Watches a path of the mount namespace that a process is in, where `source` is bound to `target` before.
    pub(crate) fn add_inside(&mut self, init: u32, source: &Path, target: &Path, labels: &[(&'static str, &str)]) {
        let namespace = File::open(format!("/proc/{init}/ns/mnt")).expect("a mount namespace");
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                unshare(CloneFlags::CLONE_FS).expect("a thread with a root of its own");
                setns(&namespace, CloneFlags::CLONE_NEWNS).expect("the container's mount namespace");
                nix::mount::mount(Some(source), target, None::<&str>, nix::mount::MsFlags::MS_BIND, None::<&str>)
                    .expect("a bind of the view");
                for (label, path) in labels {
                    self.add(label, target.join(path));
                }
            });
            inside.join().expect("a thread inside");
        });
    }

    /// Takes what has come.
    pub(crate) fn take(&mut self) -> &[Seen] {
        while let Ok(events) = self.inotify.read_events() {
            for event in events {
                let at = self.labels.get(&event.wd).copied().unwrap_or("overflow");
                let name = event.name.map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
                self.seen.push(Seen { at, mask: event.mask, name });
            }
        }
        &self.seen
    }

    /// Waits for something, as long as events come.
    pub(crate) fn wait(&mut self, what: &str, mut is_there: impl FnMut(&[Seen]) -> bool) {
        let (mut count, mut end) = (self.seen.len(), Instant::now() + testkit::TIMEOUT);
        while !is_there(self.take()) {
            if self.seen.len() > count {
                (count, end) = (self.seen.len(), Instant::now() + testkit::TIMEOUT);
            }
            if Instant::now() >= end {
                let last = &self.seen[self.seen.len().saturating_sub(60)..];
                panic!("{what} doesn't come; the last of {} events: {last:?}", self.seen.len());
            }
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Gives events that shouldn't come the time to come: only time can show that they don't.
    pub(crate) fn settle(&mut self) {
        thread::sleep(Duration::from_millis(200));
        self.take();
    }

    /// The events of one watch.
    pub(crate) fn at(&self, label: &str) -> Vec<(AddWatchFlags, String)> {
        self.seen.iter().filter(|seen| seen.at == label).map(|seen| (seen.mask, seen.name.clone())).collect()
    }

    pub(crate) fn count(&self, label: &str, mask: AddWatchFlags, name: &str) -> usize {
        self.at(label).iter().filter(|(seen, of)| seen.contains(mask) && of == name).count()
    }
}
