//! The agents by namespace, and the quota of each tenant.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::errno::Errno;
use parking_lot::Mutex;

use super::connection::Connection;
use crate::limit::Tenant;

/// The most agents at a time. A further namespace replaces the least recently used idle one.
pub const MAX_AGENTS: usize = 64;

/// How long the server keeps the connection to an unused agent. The agent has ended by itself by then.
const IDLE_AGENT_TIMEOUT: Duration = Duration::from_secs(2);

/// The agents, by the ids of their namespaces.
///
/// Lock order: this lock first, briefly, and never with a slot's lock held or across I/O; then the lock of one slot.
#[derive(Debug, Default)]
pub(super) struct AgentSlots(Mutex<HashMap<(u64, u64), Arc<AgentSlot>>>);

/// How many agents each tenant may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AgentQuota {
    /// All of them: there's only one tenant.
    Unlimited,
    /// Half of the agents that others don't use at the moment, but always one. So a tenant that stops its agents
    /// takes none from others.
    Share(Tenant),
}

/// The slot of one namespace's agent.
#[derive(Debug, Default)]
pub(super) struct AgentSlot {
    /// The agent. The lock is held during a request, since an agent does one thing at a time.
    pub(super) connection: Mutex<Option<Connection>>,
    /// When it was last used, in monotonic ns.
    used: AtomicU64,
    /// When an agent last missed its deadline, in monotonic ns.
    pub(super) missed_deadline: AtomicU64,
    tenant: Tenant,
}

impl AgentSlots {
    /// Returns the namespace's slot, if there's one. `now` is in monotonic ns.
    pub(super) fn find(&self, id: (u64, u64), now: u64) -> Option<Arc<AgentSlot>> {
        let slots = self.0.lock();
        let slot = slots.get(&id)?;
        slot.used.store(now, Ordering::Relaxed);
        Some(Arc::clone(slot))
    }

    /// Returns the namespace's slot, and makes one if there's none. That also drops slots that were unused for long.
    ///
    /// # Errors
    /// EAGAIN if there are as many as the quota has room for, all in use.
    pub(super) fn get(&self, id: (u64, u64), quota: AgentQuota, now: u64) -> Result<Arc<AgentSlot>, Errno> {
        if let Some(slot) = self.find(id, now) {
            return Ok(slot);
        }
        // Dropped slots are closed after the lock is released, since closing takes time.
        let mut gone = Vec::new();
        let mut slots = self.0.lock();
        gone.extend(slots.extract_if(|_, slot| is_idle(slot) && age(slot, now) >= IDLE_AGENT_TIMEOUT));
        let (tenant, is_full, is_over) = match quota {
            AgentQuota::Unlimited => (Tenant::default(), false, false),
            AgentQuota::Share(tenant) => {
                let own = slots.values().filter(|slot| slot.tenant == tenant).count();
                let others = slots.values().filter(|slot| slot.tenant != tenant && !is_idle(slot)).count();
                let most = (MAX_AGENTS.saturating_sub(others) / 2).max(1);
                (tenant, own >= most, own == 0)
            }
        };
        if is_full || slots.len() >= MAX_AGENTS {
            let oldest = slots
                .iter()
                .filter(|(_, slot)| is_idle(slot) && (!is_full || slot.tenant == tenant))
                .max_by_key(|(_, slot)| age(slot, now))
                .map(|(id, _)| *id);
            match oldest {
                Some(oldest) => gone.extend(slots.remove_entry(&oldest)),
                None if is_over => {}
                None => return Err(Errno::EAGAIN),
            }
        }
        let slot = Arc::new(AgentSlot { used: AtomicU64::new(now), tenant, ..AgentSlot::default() });
        let slot = Arc::clone(slots.entry(id).or_insert(slot));
        drop(slots);
        drop(gone);
        Ok(slot)
    }
}

/// Whether no request uses it. The map holds one reference, and gives out others only under the lock that the caller
/// holds.
fn is_idle(slot: &Arc<AgentSlot>) -> bool {
    Arc::strong_count(slot) == 1
}

fn age(slot: &AgentSlot, now: u64) -> Duration {
    Duration::from_nanos(now.saturating_sub(slot.used.load(Ordering::Relaxed)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn ids(slots: &AgentSlots) -> Vec<u64> {
        let mut ids: Vec<u64> = slots.0.lock().keys().map(|(_, ino)| *ino).collect();
        ids.sort_unstable();
        ids
    }

    #[test]
    fn the_least_recently_used_idle_agent_goes_first() {
        let slots = AgentSlots::default();
        let mut busy: Vec<_> = (0..64).map(|id| slots.get((0, id), AgentQuota::Unlimited, id).unwrap()).collect();
        assert_eq!(slots.get((0, 64), AgentQuota::Unlimited, 100).err(), Some(Errno::EAGAIN));
        assert!(slots.get((0, 63), AgentQuota::Unlimited, 100).is_ok(), "an existing slot is always available");
        // 5 and 7 become idle; 5 has been used again since.
        drop(busy.remove(7));
        drop(busy.remove(5));
        slots.get((0, 5), AgentQuota::Unlimited, 101).unwrap();
        slots.get((0, 64), AgentQuota::Unlimited, 102).unwrap();
        let expected: Vec<u64> = (0..65).filter(|id| *id != 7).collect();
        assert_eq!(ids(&slots), expected);
    }

    #[test]
    fn what_is_long_unused_goes_when_something_new_comes() {
        let slots = AgentSlots::default();
        let busy = slots.get((0, 1), AgentQuota::Unlimited, 0).unwrap();
        slots.get((0, 2), AgentQuota::Unlimited, 0).unwrap();
        slots.get((0, 3), AgentQuota::Unlimited, 2 * SECOND).unwrap();
        assert_eq!(ids(&slots), [1, 3], "2 was idle for two seconds");
        drop(busy);
        slots.get((0, 3), AgentQuota::Unlimited, 9 * SECOND).unwrap();
        assert_eq!(ids(&slots), [1, 3], "no new slot was made");
        slots.get((1, 3), AgentQuota::Unlimited, 9 * SECOND).unwrap();
        assert_eq!(ids(&slots), [3, 3]);
    }

    #[test]
    fn who_stops_all_his_agents_takes_none_from_others() {
        let slots = AgentSlots::default();
        let get =
            |tenant: u64, number: u64| slots.get((tenant, number), AgentQuota::Share(Tenant::Container(tenant)), 1);
        // As many tenants, each with as many requests at once, as it takes to use all agents.
        let stopped = (0..16).flat_map(|tenant| (0..4).map(move |number| (tenant, number)));
        let mut held: Vec<_> = stopped.filter_map(|(tenant, number)| get(tenant, number).ok()).collect();
        assert!(held.len() > 48, "{}", held.len());
        for tenant in 100..200 {
            held.push(get(tenant, 0).unwrap());
            assert_eq!(get(tenant, 1).err(), Some(Errno::EAGAIN));
        }
        // A tenant alone gets half, and its own idle agents are replaced before those of others.
        drop(held);
        slots.0.lock().clear();
        let _other = get(1, 0).map(drop);
        let many: Vec<_> = (0..100).filter_map(|number| get(2, number).ok()).collect();
        assert_eq!(many.len(), MAX_AGENTS / 2);
        drop(many);
        assert!(get(2, 1000).is_ok() && slots.0.lock().contains_key(&(1, 0)));
    }
}
