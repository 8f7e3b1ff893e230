//! One entry's proof, offline.

use serde::Deserialize;
use serde_json::Value;

use super::{Report, Rule, Standards, VerifiedLog};
use crate::domain::{Leaf, PersonalField, Salted, Source, unhex};
use crate::tlog::tree::{leaf_hash, verify_inclusion};
use crate::tlog::{Checkpoint, LogProof};

/// What consentd puts behind `extra`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Extra {
    leaf: String,
    openings: Vec<Opening>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Opening {
    field: PersonalField,
    value: String,
    salt: String,
}

/// What a proof that holds proves.
#[derive(Debug)]
pub struct Proven {
    pub leaf: Value,
    /// Personal fields with their values.
    pub opened: Vec<(PersonalField, String)>,
}

/// Checks a proof: signature, inclusion, openings. What it proves is answered if nothing was found.
pub fn verify(name: &str, text: &str, standards: &Standards, report: &mut Report) -> Option<Proven> {
    let before = report.findings_in_all;
    let mut find = |rule: Rule, what: String| {
        report.find(rule, name, what);
        None
    };
    let proof = match LogProof::parse(text) {
        Ok(proof) => proof,
        Err(fault) => return find(Rule::V6, fault.to_string()),
    };
    let checkpoint = match Checkpoint::parse(&proof.checkpoint.text) {
        Ok(checkpoint) => checkpoint,
        Err(fault) => return find(Rule::V4, fault.to_string()),
    };
    let keys = standards.keys.of(&checkpoint.origin);
    if keys.is_empty() {
        return find(
            Rule::V1,
            format!("no key that is believed has the name of its log, {}", checkpoint.origin),
        );
    }
    if let Err(fault) = proof.checkpoint.verify(&keys) {
        return find(Rule::V4, fault.to_string());
    }
    let extra: Option<Extra> = proof.extra.as_deref().and_then(|extra| serde_json::from_slice(extra).ok());
    let Some(extra) = extra else {
        return find(
            Rule::V6,
            "its extra line is not the leaf and its openings, as consentd writes them".to_owned(),
        );
    };
    let hash = leaf_hash(extra.leaf.as_bytes());
    if let Err(fault) = verify_inclusion(hash, proof.index, checkpoint.size, &proof.hashes, checkpoint.root) {
        return find(Rule::V3, fault.to_string());
    }
    let (leaf, value) = match (Leaf::parse(extra.leaf.as_bytes()), serde_json::from_str(&extra.leaf)) {
        (Ok(leaf), Ok(value)) => (leaf, value),
        (Err(why), _) => return find(Rule::V6, why),
        (_, Err(error)) => return find(Rule::V6, error.to_string()),
    };
    let mut opened = Vec::new();
    for opening in extra.openings {
        let salt = unhex::<16>(&opening.salt).map(|salt| salt.to_vec()).unwrap_or_default();
        let salted = Salted { value: opening.value, salt };
        if leaf.commitments.get(&opening.field) == Some(&salted.commitment(opening.field)) {
            opened.push((opening.field, salted.value));
        } else {
            report.find(
                Rule::V8,
                name,
                format!("{} is not what the log committed to", opening.field.as_str()),
            );
        }
    }
    report.leaves += 1;
    report.vouched_for += u64::from(leaf.src == Source::Service);
    report.erased_fields += (leaf.commitments.len() - opened.len().min(leaf.commitments.len())) as u64;
    report.logs.push(VerifiedLog {
        origin: checkpoint.origin,
        tree_size: checkpoint.size,
        root: checkpoint.root.to_string(),
    });
    // The checkpoint that a proof carries is itself from outside the database.
    report.outside_checkpoints += 1;
    (report.findings_in_all == before).then_some(Proven { leaf: value, opened })
}
