//! The histories of all customers as one trail, in the order of time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use chrono::{DateTime, Utc};

use super::history::History;
use crate::domain::AuditEntry;

/// Merges the histories step by step: what is held grows with the customers, not with their entries.
#[derive(Debug)]
pub struct Trail<'a> {
    histories: &'a mut [History],
    /// Whose turn it is when; at the same instant, the earlier customer's.
    turns: BinaryHeap<Reverse<(DateTime<Utc>, usize)>>,
    next_audit_id: i64,
}

impl<'a> Trail<'a> {
    pub fn new(histories: &'a mut [History], first_audit_id: i64) -> Self {
        let turns = histories
            .iter()
            .enumerate()
            .filter_map(|(number, history)| Some(Reverse((history.due()?, number))));
        Self { turns: turns.collect(), histories, next_audit_id: first_audit_id }
    }
}

impl Iterator for Trail<'_> {
    type Item = AuditEntry;

    fn next(&mut self) -> Option<AuditEntry> {
        loop {
            let Reverse((_, number)) = self.turns.pop()?;
            let history = &mut self.histories[number];
            let entry = history.step(self.next_audit_id);
            if let Some(due) = history.due() {
                self.turns.push(Reverse((due, number)));
            }
            if entry.is_some() {
                self.next_audit_id += 1;
                return entry;
            }
        }
    }
}
