//! A scarce amount that is shared: so much in all, and no more than a share of it for one owner.
//!
//! Two things are held while a client is slow and are shared in this way: the memory of bodies that are still arriving, and
//! the slots of downloads.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::time::timeout;
use uuid::Uuid;

use super::limits::PATIENCE;
use crate::domain::Principal;

/// The party that an amount is counted for: all keys and links of a customer are one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Owner {
    Operator,
    Customer(Uuid),
    /// All clients that are not authenticated together.
    Public,
}

impl Owner {
    pub fn of(principal: &Principal) -> Self {
        principal.customer_id.map_or(Self::Operator, Self::Customer)
    }
}

/// The bounds of a shared amount.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// For all owners.
    pub total: usize,
    /// For all owners but the operator, who always keeps the rest.
    pub others: usize,
    /// For one owner other than the operator.
    pub each: usize,
}

/// An amount that is shared.
#[derive(Clone, Debug)]
pub struct Shares(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    bounds: Bounds,
    held: Mutex<Held>,
    freed: Notify,
}

#[derive(Debug, Default)]
struct Held {
    total: usize,
    /// Of that, by owners other than the operator.
    others: usize,
    by_owner: HashMap<Owner, usize>,
}

/// An owner's part of the amount: given back when it is dropped.
#[derive(Debug)]
#[must_use = "the share is given back when this is dropped"]
pub struct Share {
    of: Arc<Inner>,
    owner: Owner,
    amount: usize,
}

impl Shares {
    pub fn new(bounds: Bounds) -> Self {
        Self(Arc::new(Inner { bounds, held: Mutex::default(), freed: Notify::new() }))
    }

    /// A share of nothing, which can grow.
    pub fn empty(&self, owner: Owner) -> Share {
        Share { of: Arc::clone(&self.0), owner, amount: 0 }
    }

    /// A share of this amount; `None` if it did not come free in time.
    pub async fn enter(&self, owner: Owner, amount: usize) -> Option<Share> {
        let mut share = self.empty(owner);
        let entered = timeout(PATIENCE, async {
            loop {
                // Listens before it looks, so that no release is missed in between.
                let freed = self.0.freed.notified();
                if share.grow(amount) {
                    return;
                }
                freed.await;
            }
        });
        entered.await.ok().map(|()| share)
    }
}

impl Share {
    /// Takes more of the amount. False: there is not enough, and nothing is taken.
    pub fn grow(&mut self, amount: usize) -> bool {
        if amount == 0 {
            return true;
        }
        let bounds = self.of.bounds;
        let mut held = self.of.held();
        if held.total + amount > bounds.total {
            return false;
        }
        if self.owner != Owner::Operator {
            let own = held.by_owner.get(&self.owner).copied().unwrap_or_default();
            if held.others + amount > bounds.others || own + amount > bounds.each {
                return false;
            }
            held.others += amount;
            held.by_owner.insert(self.owner, own + amount);
        }
        held.total += amount;
        drop(held);
        self.amount += amount;
        true
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        if self.amount == 0 {
            return;
        }
        let mut held = self.of.held();
        held.total -= self.amount;
        if let Some(own) = held.by_owner.get_mut(&self.owner) {
            *own -= self.amount;
            if *own == 0 {
                held.by_owner.remove(&self.owner);
            }
            held.others -= self.amount;
        }
        drop(held);
        self.of.freed.notify_waiters();
    }
}

impl Inner {
    fn held(&self) -> MutexGuard<'_, Held> {
        // Every change is whole before the lock is given back, whatever panics.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
