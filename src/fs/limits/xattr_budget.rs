//! Limits the kernel memory that extended attributes take.
//!
//! The kernel charges an xattr's memory to the memory cgroup of the process that sets it, and through a view that is
//! the server. A container with a limit of a few MiB could put any number of xattrs on the host. So xattrs that are
//! set through a view have a budget, [`BUDGET_BYTES`].

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use parking_lot::Mutex;

use crate::fs::{FsError, FsResult, SysResult};
use crate::limit::Tenant;
use crate::policy::Rule;
use crate::records::{NoteRecord, Records, SavedXattr, XattrState};

/// The kernel memory for all xattrs that were set through a view, in bytes. With the xattrs that systemd sets it's
/// enough for 4000 cgroups.
pub(in crate::fs) const BUDGET_BYTES: usize = 2 * 1024 * 1024;

/// The kernel's overhead per xattr besides name and value, in bytes: `struct simple_xattr`, before the value in one
/// allocation.
const XATTR_HEADER_BYTES: usize = 40;

/// The kernel's overhead per charged allocation, in bytes: it records the memory cgroup.
const ALLOCATION_OVERHEAD_BYTES: usize = 8;

/// The minimum time between two searches for cgroups that weren't removed through the view.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// A directory: its hierarchy and its inode number, which the kernel never reuses.
pub(in crate::fs) type DirectoryKey = (usize, u64);

/// The inode number that no directory has.
const NO_DIRECTORY: u64 = 0;

/// The xattrs that were set through a view, or through all views of a tenant.
///
/// Earlier xattrs aren't in it: the kernel charged them to whoever set them. What one server has counted, the next one
/// counts as well.
#[derive(Debug)]
pub(in crate::fs) struct XattrBudget {
    tenant: Tenant,
    records: Arc<Records>,
    /// Held while an xattr is set or removed, so that the ledger agrees with the kernel however many callers set the
    /// same one at a time.
    ledger: Mutex<Ledger>,
}

#[derive(Debug, Default)]
struct Ledger {
    spent: usize,
    directories: HashMap<DirectoryKey, HashMap<OsString, Counted>>,
    swept: Option<Instant>,
    /// Those that nobody can remove any more.
    written_off: Counted,
}

/// Kernel memory in bytes, and its record.
#[derive(Debug, Default)]
struct Counted {
    cost: usize,
    _record: Option<NoteRecord>,
}

impl XattrBudget {
    /// The budget of a tenant, with the xattrs that an earlier server has left.
    pub(in crate::fs) fn new(records: &Arc<Records>, tenant: Tenant, saved: &[SavedXattr]) -> Self {
        let mut ledger = Ledger::default();
        for saved in saved {
            let XattrState { hierarchy, directory, cost, name, .. } = &saved.state;
            let cost = usize::try_from(*cost).unwrap_or(0);
            let counted = Counted { cost, _record: Some(records.take_over_xattr(saved)) };
            ledger.spent += cost;
            if *directory == NO_DIRECTORY {
                // A server that was killed has noted the new sum, and hasn't yet dropped the one before.
                let (least, most) = match counted.cost < ledger.written_off.cost {
                    true => (counted, std::mem::take(&mut ledger.written_off)),
                    false => (std::mem::take(&mut ledger.written_off), counted),
                };
                ledger.spent = ledger.without(least.cost);
                ledger.written_off = most;
                continue;
            }
            let hierarchy = usize::try_from(*hierarchy).unwrap_or(usize::MAX);
            let names = ledger.directories.entry((hierarchy, *directory)).or_default();
            // One that was being set again has two records.
            let other = names.insert(name.clone(), counted).map_or(0, |other| other.cost);
            ledger.spent = ledger.without(other);
        }
        Self { tenant, records: Arc::clone(records), ledger: Mutex::new(ledger) }
    }

    fn counted(&self, (hierarchy, directory): DirectoryKey, name: &OsStr, cost: usize) -> Counted {
        let tenant = self.tenant.as_numbers();
        let (hierarchy, name) = (hierarchy as u64, name.to_owned());
        let state = XattrState { tenant, hierarchy, directory, cost: cost as u64, name };
        Counted { cost, _record: self.records.add_xattr(&state) }
    }

    /// Sets an xattr by calling `set`, if the budget allows it. `is_there` says whether a directory still exists.
    pub(in crate::fs) fn set(
        &self,
        (directory, name): (DirectoryKey, &OsStr),
        length: usize,
        is_there: impl Fn(DirectoryKey) -> bool,
        set: impl FnOnce() -> SysResult<()>,
    ) -> FsResult<()> {
        let cost = cost(name, length);
        let mut ledger = self.ledger.lock();
        if !ledger.has_room(directory, name, cost) {
            ledger.sweep(is_there);
            if !ledger.has_room(directory, name, cost) {
                return Err(Rule::XattrBudget.into());
            }
        }
        // Before it's set: a server that is killed in between has counted it.
        let counted = self.counted(directory, name, cost);
        set()?;
        let before = ledger.directories.entry(directory).or_default().insert(name.to_owned(), counted);
        ledger.spent = ledger.without(before.map_or(0, |before| before.cost)) + cost;
        Ok(())
    }

    /// Removes an xattr by calling `remove`.
    pub(in crate::fs) fn remove(
        &self,
        (directory, name): (DirectoryKey, &OsStr),
        remove: impl FnOnce() -> SysResult<()>,
    ) -> FsResult<()> {
        let mut ledger = self.ledger.lock();
        let removed = remove();
        // ENODATA: somebody else has removed it.
        if matches!(removed, Ok(()) | Err(Errno::ENODATA))
            && let Some(names) = ledger.directories.get_mut(&directory)
        {
            let before = names.remove(name).map_or(0, |before| before.cost);
            if names.is_empty() {
                ledger.directories.remove(&directory);
            }
            ledger.spent = ledger.without(before);
        }
        removed.map_err(FsError::Kernel)
    }

    /// Whether no xattr is set.
    pub(in crate::fs) fn is_empty(&self) -> bool {
        self.ledger.lock().directories.is_empty()
    }

    /// Whether anything may be in the ledger. Doesn't wait for an xattr that is being set.
    pub(in crate::fs) fn may_hold_any(&self) -> bool {
        self.ledger.try_lock().is_none_or(|ledger| !ledger.directories.is_empty())
    }

    /// Accounts for a removed directory. `clear` has to remove its xattrs: the kernel keeps them as long as a file of
    /// the cgroup is open, or the cgroup has memory.
    pub(in crate::fs) fn removed(&self, directory: DirectoryKey, clear: impl Fn(&OsStr)) {
        let mut ledger = self.ledger.lock();
        let Some(names) = ledger.directories.remove(&directory) else { return };
        for (name, counted) in names {
            clear(&name);
            ledger.spent = ledger.without(counted.cost);
        }
    }

    /// Accounts for a removed directory whose xattrs can't be cleared any more. They count for good.
    pub(in crate::fs) fn write_off(&self, directory: DirectoryKey) {
        let mut ledger = self.ledger.lock();
        let Some(names) = ledger.directories.remove(&directory) else { return };
        let cost = ledger.written_off.cost + names.values().map(|counted| counted.cost).sum::<usize>();
        ledger.written_off = self.counted((0, NO_DIRECTORY), OsStr::new(""), cost);
    }
}

impl Ledger {
    fn has_room(&self, directory: DirectoryKey, name: &OsStr, cost: usize) -> bool {
        let before = self.directories.get(&directory).and_then(|names| names.get(name));
        self.without(before.map_or(0, |before| before.cost)) + cost <= BUDGET_BYTES
    }

    fn without(&self, cost: usize) -> usize {
        self.spent.saturating_sub(cost)
    }

    /// Returns the budget of directories that others have removed.
    fn sweep(&mut self, is_there: impl Fn(DirectoryKey) -> bool) {
        let now = Instant::now();
        if self.swept.is_some_and(|before| now.saturating_duration_since(before) < SWEEP_INTERVAL) {
            return;
        }
        let gone = self.directories.extract_if(|directory, _| !is_there(*directory));
        let given_back = gone.flat_map(|(_, names)| names.into_values().map(|counted| counted.cost)).sum();
        self.spent = self.without(given_back);
        self.swept = Some(now);
    }
}

/// Returns the kernel memory of an xattr in bytes, or a little more.
fn cost(name: &OsStr, length: usize) -> usize {
    allocation(XATTR_HEADER_BYTES + length) + allocation(name.as_bytes().len() + 1) + 2 * ALLOCATION_OVERHEAD_BYTES
}

/// Returns the size of a kernel allocation: kmalloc(9) has size classes, and allocations of many pages are powers of
/// two.
fn allocation(size: usize) -> usize {
    match size {
        0..=8 => 8,
        65..=96 => 96,
        129..=192 => 192,
        _ => size.next_power_of_two(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: DirectoryKey = (0, 1);
    const TWO: DirectoryKey = (0, 2);

    fn budget(records: &Arc<Records>) -> XattrBudget {
        XattrBudget::new(records, Tenant::User(1000), &records.xattrs())
    }

    fn name(text: &str) -> &OsStr {
        OsStr::new(text)
    }

    fn set(xattrs: &XattrBudget, directory: DirectoryKey, key: &str, length: usize) -> FsResult<()> {
        xattrs.set((directory, name(key)), length, |_| true, || Ok(()))
    }

    fn spent(xattrs: &XattrBudget) -> usize {
        xattrs.ledger.lock().spent
    }

    #[test]
    fn what_the_kernel_takes() {
        // Measured by a memory cgroup on Linux 6.18, with names of about 11 bytes.
        for (length, measured) in [
            (24, 102),
            (89, 225),
            (200, 287),
            (500, 1044),
            (4060, 8233),
            (9000, 16425),
            (33_000, 65_556),
            (65_536, 131_092),
        ] {
            let counted = cost(name("trusted.x24"), length);
            assert!(
                counted >= measured * 95 / 100 && counted <= measured * 110 / 100,
                "{length}: {counted}, {measured}"
            );
        }
    }

    #[test]
    fn nothing_beyond_the_budget_and_all_is_given_back() {
        let xattrs = budget(&Records::none());
        let mut number = 0;
        while set(&xattrs, ONE, &format!("user.{number}"), 1000).is_ok() {
            number += 1;
        }
        assert!((900..1024).contains(&number), "{number}");
        assert!(spent(&xattrs) <= BUDGET_BYTES);
        let refused = set(&xattrs, TWO, "user.x", 1000).unwrap_err();
        assert_eq!(refused.errno(), Errno::ENOSPC);
        // A new value of the same size fits, a larger one doesn't.
        assert_eq!(set(&xattrs, ONE, "user.0", 900), Ok(()));
        assert!(set(&xattrs, ONE, "user.0", 60_000).is_err());
        assert_eq!(xattrs.remove((ONE, name("user.0")), || Ok(())), Ok(()));
        assert_eq!(set(&xattrs, TWO, "user.x", 1000), Ok(()));
        let cleared = std::cell::Cell::new(0);
        xattrs.removed(ONE, |_| cleared.set(cleared.get() + 1));
        assert_eq!((cleared.get(), spent(&xattrs)), (number - 1, cost(name("user.x"), 1000)));
        // Somebody else has removed the cgroup's xattr.
        assert!(xattrs.remove((TWO, name("user.x")), || Err(Errno::ENODATA)).is_err());
        assert!(xattrs.is_empty() && spent(&xattrs) == 0);
    }

    #[test]
    fn what_fails_costs_nothing() {
        let xattrs = budget(&Records::none());
        let refused = xattrs.set((ONE, name("user.x")), 10, |_| true, || Err(Errno::EEXIST));
        assert_eq!(refused, Err(FsError::Kernel(Errno::EEXIST)));
        assert!(xattrs.is_empty() && spent(&xattrs) == 0);
        assert_eq!(set(&xattrs, ONE, "user.x", 10), Ok(()));
        assert!(xattrs.remove((ONE, name("user.x")), || Err(Errno::EPERM)).is_err());
        assert_eq!(spent(&xattrs), cost(name("user.x"), 10));
    }

    #[test]
    fn directories_that_others_removed_are_found_when_there_is_no_room() {
        let xattrs = budget(&Records::none());
        let full = (0..).take_while(|number| set(&xattrs, (0, *number), "user.x", 60_000).is_ok()).count() as u64;
        assert!(full > 16, "{full}");
        // The sweep ran just before, and isn't repeated at once.
        let more = |number| xattrs.set(((1, number), name("user.x")), 60_000, |(_, inode)| inode >= 8, || Ok(()));
        assert!(more(100).is_err());
        xattrs.ledger.lock().swept = None;
        assert_eq!((100..200).take_while(|number| more(*number).is_ok()).count(), 8);
        assert_eq!(xattrs.ledger.lock().directories.len() as u64, full);
    }

    #[test]
    fn what_cant_be_cleared_counts_on() {
        let xattrs = budget(&Records::none());
        assert_eq!(set(&xattrs, ONE, "user.x", 10), Ok(()));
        xattrs.write_off(ONE);
        assert!(xattrs.is_empty() && spent(&xattrs) > 0);
    }

    #[test]
    fn the_next_server_counts_on() {
        let records = Records::new().unwrap();
        records.start();
        let xattrs = budget(&records);
        for (directory, key) in
            [(ONE, "user.x"), (ONE, "user.y"), (TWO, "user.x"), ((1, 3), "user.x"), ((1, 4), "user.x")]
        {
            assert_eq!(set(&xattrs, directory, key, 1000), Ok(()));
        }
        // It's set again, with another length.
        assert_eq!(set(&xattrs, TWO, "user.x", 50), Ok(()));
        assert_eq!(xattrs.remove((ONE, name("user.y")), || Ok(())), Ok(()));
        xattrs.write_off((1, 3));
        xattrs.write_off((1, 4));
        // It's killed while it sets another one, which the next one may count although nobody knows whether it's there.
        std::mem::forget(xattrs.counted((1, 5), name("user.z"), 100));
        let (before, one) = (spent(&xattrs), cost(name("user.x"), 1000));
        assert_eq!(before, 3 * one + cost(name("user.x"), 50));
        std::mem::forget(xattrs);
        records.start();
        let again = budget(&records);
        assert_eq!(spent(&again), before + 100);
        again.removed(ONE, |_| {});
        again.removed((1, 5), |_| {});
        again.removed(TWO, |_| {});
        assert!(again.is_empty());
        assert_eq!((spent(&again), records.xattrs().len()), (2 * one, 1));
        drop(again);
        assert!(records.xattrs().is_empty(), "a tenant that has ended leaves nothing");
    }
}
