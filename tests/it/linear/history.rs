//! What clients did and what they were answered, and whether that can have been.
//!
//! Each change of a consent raises its version by one, so the versions are the order in which the changes were made:
//! to judge a history is to sort it. Of what only reads, this holds, and why:
//!
//! - What is answered without `stale` is no older than what was acknowledged a second before the question: memory
//!   counts for as long after the follower has caught up, and else the database is asked.
//! - A *yes* that is `stale` is no older than `MAX_STALE`; a denial may be of any age.
//! - On one replica no answer is older than one that was given there before, to whomever: what is put into memory is
//!   never older than what stands there, a look-up puts there what it answers, and a look-up that finds its mark gone
//!   leaves memory empty. A write is such an answer too: hence no yes after a withdrawal.
//! - From one replica to the next, a client sees its own writes if it asks for their version.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use uuid::Uuid;

use crate::service::Service;

/// By when every replica has seen a change.
const SOON: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Each with an id of its own, which stands in the trail as the policy's version.
    Put {
        id: u64,
        images: bool,
    },
    Withdraw,
    Read {
        min_version: i32,
    },
}

#[derive(Clone, Copy, Debug)]
pub struct Seen {
    pub version: i32,
    pub images: bool,
    pub stale: bool,
}

#[derive(Clone, Copy, Debug)]
pub struct Operation {
    pub replica: usize,
    pub customer: Uuid,
    pub kind: Kind,
    pub began: Instant,
    pub ended: Instant,
    /// `None`: a 503. A write may have been made all the same.
    pub seen: Option<Seen>,
}

/// What the trail says of one change.
#[derive(Clone, Debug)]
struct Change {
    images: bool,
    /// `None`: a withdrawal.
    put: Option<u64>,
}

/// How many of the operations were which.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub reads: usize,
    pub stale: usize,
    pub refused_reads: usize,
    pub writes: usize,
    pub unknown_writes: usize,
}

/// Judges a history by what the trail says in the end.
pub async fn judge(service: &Service, operations: &[Operation]) -> Counts {
    let mut trails = trails(service).await;
    let mut by_customer: HashMap<Uuid, Vec<Operation>> = HashMap::new();
    let mut counts = Counts::default();
    for operation in operations {
        by_customer.entry(operation.customer).or_default().push(*operation);
        let counted = match (operation.kind, operation.seen) {
            (Kind::Read { .. }, Some(seen)) if seen.stale => &mut counts.stale,
            (Kind::Read { .. }, Some(_)) => &mut counts.reads,
            (Kind::Read { .. }, None) => &mut counts.refused_reads,
            (_, Some(_)) => &mut counts.writes,
            (_, None) => &mut counts.unknown_writes,
        };
        *counted += 1;
    }
    for (customer, operations) in by_customer {
        judge_one(&trails.remove(&customer).unwrap_or_default(), &operations);
    }
    counts
}

/// Of each customer the changes in their order, the first with version 1.
async fn trails(service: &Service) -> HashMap<Uuid, Vec<Change>> {
    let rows: Vec<(Uuid, i32, String, bool, Option<String>)> = sqlx::query_as(
        "select customer_id, version, action, (current ->> 'can_store_images')::boolean, current ->> 'policy_version'
         from vlaapi.customer_consent_audit order by customer_id, version",
    )
    .fetch_all(&service.sql().await)
    .await
    .expect("the trail can be read");
    let mut trails: HashMap<Uuid, Vec<Change>> = HashMap::new();
    for (customer, version, action, images, policy) in rows {
        let trail = trails.entry(customer).or_default();
        trail.push(Change { images, put: policy.map(|id| id.parse().expect("an id")) });
        assert_eq!(usize::try_from(version), Ok(trail.len()), "a gap in the trail");
        assert_eq!(action == "withdrawn", trail[trail.len() - 1].put.is_none(), "{action}");
    }
    trails
}

fn judge_one(trail: &[Change], operations: &[Operation]) {
    let change = |version: i32| usize::try_from(version).ok().and_then(|at| trail.get(at.checked_sub(1)?));
    for operation in operations {
        let Some(seen) = operation.seen else { continue };
        let wrote = match (change(seen.version), operation.kind) {
            (None, Kind::Read { .. } | Kind::Withdraw) => seen.version == 0 && !seen.images,
            (None, Kind::Put { .. }) => false,
            (Some(change), Kind::Put { id, .. }) => change.put == Some(id) && change.images == seen.images,
            // Where nothing was given, a withdrawal changes nothing.
            (Some(change), Kind::Withdraw) => change.put.is_none() && !seen.images,
            (Some(change), Kind::Read { .. }) => change.images == seen.images,
        };
        assert!(wrote, "{operation:?} but the trail has {:?}", change(seen.version));
    }
    judge_writes(trail, operations);
    judge_reads(operations);
}

fn judge_writes(trail: &[Change], operations: &[Operation]) {
    // Every change was asked for, once.
    let asked: HashMap<u64, &Operation> = operations
        .iter()
        .filter_map(
            |operation| if let Kind::Put { id, .. } = operation.kind { Some((id, operation)) } else { None },
        )
        .collect();
    let mut made = HashSet::new();
    for id in trail.iter().filter_map(|change| change.put) {
        assert!(asked.contains_key(&id), "nobody has asked for {id}");
        assert!(made.insert(id), "{id} was written twice");
    }
    let withdrawals = |known: bool| {
        operations.iter().filter(move |one| one.kind == Kind::Withdraw && one.seen.is_some() == known)
    };
    let acknowledged: HashSet<i32> = withdrawals(true).filter_map(|one| Some(one.seen?.version)).collect();
    let nobodys =
        (1..).zip(trail).filter(|(version, change)| change.put.is_none() && !acknowledged.contains(version));
    assert!(nobodys.count() <= withdrawals(false).count(), "a withdrawal that nobody has asked for");

    // In the order of the versions, with when each began, and ended as far as that is known.
    let mut writes: Vec<(i32, Instant, Option<Instant>)> = (1..)
        .zip(trail)
        .filter_map(|(version, change)| {
            let put = asked[&change.put?];
            Some((version, put.began, put.seen.map(|_| put.ended)))
        })
        .collect();
    let acknowledged =
        withdrawals(true).filter_map(|one| Some((one.seen?.version, one.began, Some(one.ended))));
    writes.extend(acknowledged);
    writes.sort_unstable_by_key(|(version, ..)| *version);
    let mut later: Option<(Instant, i32)> = None;
    for same in writes.chunk_by(|one, other| one.0 == other.0).rev() {
        for (version, began, _) in same {
            if let Some((ended, greater)) = later {
                assert!(ended >= *began, "version {greater} was acknowledged before {version} was asked for");
            }
        }
        let ended = same.iter().filter_map(|(version, _, ended)| Some((((*ended)?), *version)));
        later = ended.chain(later).min();
    }

    // Nobody sees what is given before it is asked for. Which of several withdrawals was the one is not known.
    for operation in operations {
        let Some(seen) = operation.seen.filter(|seen| seen.version > 0) else { continue };
        let put = usize::try_from(seen.version - 1).ok().and_then(|at| trail[at].put);
        assert!(put.is_none_or(|id| asked[&id].began <= operation.ended), "{operation:?}");
    }
}

fn judge_reads(operations: &[Operation]) {
    let writes = operations.iter().filter(|one| !matches!(one.kind, Kind::Read { .. }));
    let written = Acknowledged::of(writes);
    let mut replicas: HashMap<usize, Vec<&Operation>> = HashMap::new();
    for operation in operations {
        replicas.entry(operation.replica).or_default().push(operation);
    }
    let replicas: HashMap<usize, Acknowledged> = replicas
        .into_iter()
        .map(|(replica, answers)| (replica, Acknowledged::of(answers.into_iter())))
        .collect();
    for operation in operations {
        let (Some(seen), Kind::Read { min_version }) = (operation.seen, operation.kind) else { continue };
        assert!(seen.version >= min_version, "{operation:?}");
        let age = match (seen.stale, seen.images) {
            (false, _) => Some(SOON),
            (true, true) => Some(Service::MAX_STALE),
            (true, false) => None,
        };
        if let Some(newest) = age.and_then(|age| Some(written.before(operation.began.checked_sub(age)?))) {
            assert!(
                seen.version >= newest,
                "{operation:?} though {newest} had been acknowledged long before"
            );
        }
        let newest = replicas[&operation.replica].before(operation.began);
        assert!(seen.version >= newest, "{operation:?} after this replica had answered {newest}");
    }
}

/// The newest version that had been answered by when.
struct Acknowledged(Vec<(Instant, i32)>);

impl Acknowledged {
    fn of<'a>(answers: impl Iterator<Item = &'a Operation>) -> Self {
        let mut answers: Vec<_> =
            answers.filter_map(|answer| Some((answer.ended, answer.seen?.version))).collect();
        answers.sort_unstable();
        let mut newest = 0;
        for (_, version) in &mut answers {
            newest = newest.max(*version);
            *version = newest;
        }
        Self(answers)
    }

    fn before(&self, when: Instant) -> i32 {
        let count = self.0.partition_point(|(ended, _)| *ended < when);
        count.checked_sub(1).map_or(0, |last| self.0[last].1)
    }
}
