//! How many files each user may hold open through a view.
//!
//! Each is a descriptor of the server, of which there's a limited number: without this, a user of the container who opens what everybody may
//! read could keep its root from managing cgroups.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

/// Descriptors that aren't for open files: lookups, agents and the rest of the server need some.
const RESERVE: usize = 512;

/// The open files of all users.
#[derive(Clone, Debug)]
pub(super) struct Shares {
    held: Arc<Mutex<Held>>,
    /// Those whose user all of these are together.
    above: Option<(Arc<Mutex<Held>>, u64)>,
}

#[derive(Debug)]
struct Held {
    limit: usize,
    total: usize,
    by_user: HashMap<u64, usize>,
}

/// One open file of a user; his share is free again when this is dropped.
#[derive(Debug)]
pub(super) struct Share {
    held: Arc<Mutex<Held>>,
    user: u64,
    _above: Option<Box<Share>>,
}

impl Shares {
    /// Shares of `descriptors`, which is what the server may have.
    pub(super) fn new(descriptors: usize) -> Self {
        let limit = descriptors.saturating_sub(RESERVE).max(descriptors / 2);
        Self { held: held(limit), above: None }
    }

    /// Shares of what one `user` of these may have, for users of his own.
    pub(super) fn below(&self, user: u64) -> Self {
        let limit = self.held.lock().limit / 2;
        Self { held: held(limit), above: Some((Arc::clone(&self.held), user)) }
    }

    /// One more file for a user: he may have half of what the others leave.
    pub(super) fn take(&self, user: u32) -> Option<Share> {
        let above = match &self.above {
            Some((held, user)) => Some(Box::new(take(held, *user, None)?)),
            None => None,
        };
        take(&self.held, u64::from(user), above)
    }
}

fn held(limit: usize) -> Arc<Mutex<Held>> {
    Arc::new(Mutex::new(Held { limit, total: 0, by_user: HashMap::new() }))
}

fn take(shares: &Arc<Mutex<Held>>, user: u64, above: Option<Box<Share>>) -> Option<Share> {
    let mut held = shares.lock();
    let own = held.by_user.get(&user).copied().unwrap_or(0);
    let others = held.total.saturating_sub(own);
    if own >= held.limit.saturating_sub(others) / 2 {
        return None;
    }
    held.total += 1;
    held.by_user.insert(user, own + 1);
    drop(held);
    Some(Share { held: Arc::clone(shares), user, _above: above })
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut held = self.held.lock();
        held.total = held.total.saturating_sub(1);
        if let Some(own) = held.by_user.get_mut(&self.user) {
            *own = own.saturating_sub(1);
            if *own == 0 {
                held.by_user.remove(&self.user);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take_all(shares: &Shares, user: u32) -> Vec<Share> {
        std::iter::from_fn(|| shares.take(user)).collect()
    }

    #[test]
    fn everybody_gets_half_of_the_rest() {
        let shares = Shares::new(RESERVE + 1600);
        let first = take_all(&shares, 7);
        let second = take_all(&shares, 8);
        assert_eq!((first.len(), second.len(), take_all(&shares, 0).len()), (800, 400, 200));
        drop(first);
        assert_eq!(take_all(&shares, 0).len(), 600);
        drop(second);
        let held = shares.held.lock();
        assert!(held.total == 0 && held.by_user.is_empty());
    }

    #[test]
    fn one_tenant_leaves_half_to_the_others_however_many_users_it_has() {
        let shares = Shares::new(RESERVE + 1600);
        let (first, second) = (shares.below(1), shares.below(2));
        let taken: Vec<_> = (0..50).flat_map(|user| take_all(&first, user)).collect();
        assert!(taken.len() > 700 && taken.len() <= 800, "{}", taken.len());
        assert_eq!(take_all(&second, 0).len(), 400);
        drop(taken);
        assert!(shares.held.lock().by_user.is_empty() && first.held.lock().total == 0);
    }

    #[test]
    fn a_server_with_few_descriptors_works_too() {
        assert_eq!(take_all(&Shares::new(64), 0).len(), 16);
    }
}
