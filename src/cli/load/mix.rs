//! Which kinds of requests there are, and how often each is sent.

use std::fmt;
use std::str::FromStr;

use reqwest::Method;
use serde::Serialize;

use super::Chance;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Check,
    Read,
    Write,
    Withdraw,
    Audit,
}

impl Kind {
    pub const ALL: [Self; 5] = [Self::Check, Self::Read, Self::Write, Self::Withdraw, Self::Audit];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Check => "check",
            Self::Read => "read",
            Self::Write => "write",
            Self::Withdraw => "withdraw",
            Self::Audit => "audit",
        }
    }

    pub fn method(self) -> Method {
        match self {
            Self::Check | Self::Read | Self::Audit => Method::GET,
            Self::Write => Method::PUT,
            Self::Withdraw => Method::DELETE,
        }
    }

    /// What follows the customer's consent in the address.
    pub fn tail(self) -> &'static str {
        match self {
            Self::Check => "/permissions?check=images",
            Self::Read | Self::Write => "",
            Self::Withdraw => "?reason=consentd%20load",
            Self::Audit => "/audit?limit=20",
        }
    }

    /// A PUT that changes something, whatever stands.
    pub fn body(self, chance: &mut Chance) -> String {
        if self != Self::Write {
            return String::new();
        }
        let number = chance.next();
        let (tier, images) = [("basic", false), ("analytics", false), ("research", true)]
            [usize::try_from(number % 3).expect("it is below 3")];
        format!(
            r#"{{"consent_tier":"{tier}","can_store_images":{images},"policy_version":"load-{number:016x}","reason":"consentd load"}}"#
        )
    }
}

/// How often each kind is sent, in the order of [`Kind::ALL`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mix([u32; Kind::ALL.len()]);

impl Mix {
    /// Whether anything is changed by it.
    pub fn writes(self) -> bool {
        self.parts().any(|(kind, weight)| weight > 0 && kind.method() != Method::GET)
    }

    pub fn draw(self, chance: &mut Chance) -> Kind {
        let total = self.parts().map(|(_, weight)| u64::from(weight)).sum();
        let mut rest = chance.below(total);
        for (kind, weight) in self.parts() {
            match rest.checked_sub(u64::from(weight)) {
                Some(less) => rest = less,
                None => return kind,
            }
        }
        unreachable!("the rest is below the sum of the weights")
    }

    fn parts(self) -> impl Iterator<Item = (Kind, u32)> {
        Kind::ALL.into_iter().zip(self.0)
    }
}

impl fmt::Display for Mix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = self.parts().filter(|(_, weight)| *weight > 0);
        let parts: Vec<_> = parts.map(|(kind, weight)| format!("{}={weight}", kind.as_str())).collect();
        f.write_str(&parts.join(","))
    }
}

impl FromStr for Mix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut weights = [0; Kind::ALL.len()];
        for part in text.split(',') {
            let (name, weight) = part.split_once('=').ok_or("KIND=WEIGHT, with commas, is wanted")?;
            let kind = Kind::ALL.iter().position(|kind| kind.as_str() == name).ok_or_else(|| {
                format!("{name:?} is no kind: there are {}", Kind::ALL.map(Kind::as_str).join(", "))
            })?;
            weights[kind] = weight.parse().map_err(|_| format!("{weight:?} is no weight: 0, 1, 2 … is"))?;
        }
        if weights.iter().all(|weight| *weight == 0) {
            return Err("a mix in which nothing has a weight asks for nothing".to_owned());
        }
        Ok(Self(weights))
    }
}
