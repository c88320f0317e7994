//! Open directories that are in use: most requests come in runs for the same few.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use parking_lot::Mutex;

/// How many directories are held open. Each takes a descriptor of the server's.
const DIRECTORIES_MAX: usize = 64;

/// A directory, by its hierarchy and its inode number, which the kernel never reuses.
pub(super) type Key = (usize, u64);

/// The directories that were used last.
#[derive(Debug, Default)]
pub(super) struct DirFdCache(Mutex<Entries>);

#[derive(Debug, Default)]
struct Entries {
    /// Counts the uses.
    now: u64,
    directories: Vec<(Key, u64, Arc<OwnedFd>)>,
}

impl DirFdCache {
    /// Returns the directory, if it's cached.
    pub(super) fn get(&self, key: Key) -> Option<Arc<OwnedFd>> {
        let mut held = self.0.lock();
        held.now += 1;
        let now = held.now;
        let (_, used, object) = held.directories.iter_mut().find(|(held, ..)| *held == key)?;
        *used = now;
        Some(Arc::clone(object))
    }

    /// Caches a directory in place of the least recently used one.
    pub(super) fn hold(&self, key: Key, object: &Arc<OwnedFd>) {
        let mut held = self.0.lock();
        held.now += 1;
        let entry = (key, held.now, Arc::clone(object));
        if held.directories.len() < DIRECTORIES_MAX {
            held.directories.push(entry);
            return;
        }
        let oldest = held.directories.iter_mut().min_by_key(|(_, used, _)| *used);
        // Close the replaced directory after the lock is released.
        let replaced = oldest.map(|oldest| std::mem::replace(oldest, entry));
        drop(held);
        drop(replaced);
    }

    /// Closes a directory that was removed, or that the kernel has forgotten.
    pub(super) fn release(&self, key: Key) {
        let mut held = self.0.lock();
        let at = held.directories.iter().position(|(held, ..)| *held == key);
        let released = at.map(|at| held.directories.swap_remove(at));
        drop(held);
        drop(released);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_one_that_was_not_used_for_longest_goes() {
        let objects = DirFdCache::default();
        let object = Arc::new(OwnedFd::from(std::fs::File::open("/").unwrap()));
        for inode in 0..DIRECTORIES_MAX as u64 {
            objects.hold((0, inode), &object);
        }
        assert!(objects.get((0, 0)).is_some() && objects.get((1, 0)).is_none());
        objects.hold((0, 1000), &object);
        assert!(objects.get((0, 1)).is_none() && objects.get((0, 0)).is_some() && objects.get((0, 1000)).is_some());
        objects.release((0, 0));
        assert!(objects.get((0, 0)).is_none());
        drop(objects);
        assert_eq!(Arc::strong_count(&object), 1);
    }
}
