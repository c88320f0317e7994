//! Limits on what each user of a view may hold: open files, each of which is a descriptor of the server, and backing
//! ids.
//!
//! Without them, a user of the container who opens world-readable files could keep its root from managing cgroups,
//! and a container could do that to another one.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::fs::dispatch::Tenant;

/// Descriptors that aren't for open files: lookups, agents and the rest of the server need some.
const RESERVED_FDS: usize = 512;

/// A limited number of permits, and how many each user holds.
#[derive(Clone, Debug)]
pub(in crate::fs) struct Quota {
    held: Arc<Mutex<Usage>>,
    /// The quota above, and the holder that all users of this one are there.
    above: Option<(Arc<Mutex<Usage>>, Holder)>,
}

/// The user or tenant that holds something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Holder {
    User(u32),
    Tenant(Tenant),
}

#[derive(Debug)]
struct Usage {
    limit: usize,
    total: usize,
    by_holder: HashMap<Holder, usize>,
}

/// The permit for one thing. Dropping it returns it to the quota.
#[derive(Debug)]
pub struct Permit {
    held: Arc<Mutex<Usage>>,
    holder: Holder,
    _above: Option<Box<Permit>>,
}

impl Quota {
    /// A quota of open files, for a server that may have this many descriptors.
    pub(in crate::fs) fn new(descriptors: usize) -> Self {
        let limit = descriptors.saturating_sub(RESERVED_FDS).max(descriptors / 2);
        Self::of(limit)
    }

    /// A quota of `limit` things.
    pub(in crate::fs) fn of(limit: usize) -> Self {
        Self { held: held(limit), above: None }
    }

    /// The quota of a tenant within this one, for its users.
    pub(in crate::fs) fn below(&self, tenant: Tenant) -> Self {
        let limit = self.held.lock().limit / 2;
        Self { held: held(limit), above: Some((Arc::clone(&self.held), Holder::Tenant(tenant))) }
    }

    /// Takes one permit for a user, who may hold half of what the others leave. Dropping the permit returns it.
    pub(in crate::fs) fn take(&self, user: u32) -> Option<Permit> {
        let above = match &self.above {
            Some((held, tenant)) => Some(Box::new(take(held, *tenant, None)?)),
            None => None,
        };
        take(&self.held, Holder::User(user), above)
    }
}

fn held(limit: usize) -> Arc<Mutex<Usage>> {
    Arc::new(Mutex::new(Usage { limit, total: 0, by_holder: HashMap::new() }))
}

fn take(shares: &Arc<Mutex<Usage>>, holder: Holder, above: Option<Box<Permit>>) -> Option<Permit> {
    let mut held = shares.lock();
    let own = held.by_holder.get(&holder).copied().unwrap_or(0);
    let others = held.total.saturating_sub(own);
    if own >= held.limit.saturating_sub(others) / 2 {
        return None;
    }
    held.total += 1;
    held.by_holder.insert(holder, own + 1);
    drop(held);
    Some(Permit { held: Arc::clone(shares), holder, _above: above })
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut held = self.held.lock();
        held.total = held.total.saturating_sub(1);
        if let Some(own) = held.by_holder.get_mut(&self.holder) {
            *own = own.saturating_sub(1);
            if *own == 0 {
                held.by_holder.remove(&self.holder);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take_all(shares: &Quota, user: u32) -> Vec<Permit> {
        std::iter::from_fn(|| shares.take(user)).collect()
    }

    #[test]
    fn everybody_gets_half_of_the_rest() {
        let shares = Quota::new(RESERVED_FDS + 1600);
        let first = take_all(&shares, 7);
        let second = take_all(&shares, 8);
        assert_eq!((first.len(), second.len(), take_all(&shares, 0).len()), (800, 400, 200));
        drop(first);
        assert_eq!(take_all(&shares, 0).len(), 600);
        drop(second);
        let held = shares.held.lock();
        assert!(held.total == 0 && held.by_holder.is_empty());
    }

    #[test]
    fn one_tenant_leaves_half_to_the_others_however_many_users_it_has() {
        let shares = Quota::new(RESERVED_FDS + 1600);
        let (first, second) = (shares.below(Tenant::Container(1)), shares.below(Tenant::User(1)));
        let taken: Vec<_> = (0..50).flat_map(|user| take_all(&first, user)).collect();
        assert!(taken.len() > 700 && taken.len() <= 800, "{}", taken.len());
        assert_eq!(take_all(&second, 0).len(), 400);
        drop(taken);
        assert!(shares.held.lock().by_holder.is_empty() && first.held.lock().total == 0);
    }

    #[test]
    fn a_server_with_few_descriptors_works_too() {
        assert_eq!(take_all(&Quota::new(64), 0).len(), 16);
    }
}
