//! What customers decide over the years. Every change is made by the rules of the domain, as the service makes it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use chrono::{DateTime, Datelike, Months, NaiveTime, TimeDelta, Utc};

use super::company::Plan;
use super::dice::Dice;
use crate::domain::{
    AnonymizationLevel, AuditAction, AuditEntry, Change, Consent, ConsentRecord, ConsentState, ConsentStatus,
    ConsentTier, CustomerTier, Proposal, decide, expire,
};

/// One customer's consent as it stands so far, and what makes it go on.
#[derive(Clone, Debug)]
pub struct History {
    dice: Dice,
    until: DateTime<Utc>,
    created_at: DateTime<Utc>,
    record: ConsentRecord,
    visits_left: u32,
    /// How long it is from one visit to the next, on average.
    pace: TimeDelta,
    next_visit: Option<DateTime<Utc>>,
    /// When the sweep comes upon the end of the consent.
    expiry_due: Option<DateTime<Utc>>,
    habits: Habits,
}

/// What stays the same from one visit to the next.
#[derive(Clone, Debug)]
struct Habits {
    tier: CustomerTier,
    email: String,
    /// The key which the customer's dashboard calls with.
    changed_by: String,
    user_agent: &'static str,
    address: IpAddr,
    /// How long a consent is given for; `None`: until it is withdrawn.
    months: Option<u32>,
    names_policy: bool,
}

impl History {
    pub fn new(plan: &Plan, number: u32) -> Self {
        let (customer, mut dice) = plan.customer(number);
        let habits = Habits::new(customer.tier, customer.email, &mut dice);
        let lifetime = plan.until - customer.created_at;
        // Four in a hundred never answer the question.
        let visits = if dice.percent(4) { 0 } else { visits(&mut dice, lifetime, plan.until - plan.since) };
        let welcome = if dice.percent(70) {
            TimeDelta::minutes(1 + i64::from(dice.below(45)))
        } else {
            dice.span(lifetime / 10)
        };
        let mut history = Self {
            record: ConsentRecord::never_given(customer.customer_id),
            until: plan.until,
            created_at: customer.created_at,
            visits_left: visits,
            pace: lifetime
                / i32::try_from(visits + 1).expect("a customer comes a few thousand times at most"),
            next_visit: None,
            expiry_due: None,
            habits,
            dice,
        };
        history.plan_visit(customer.created_at + welcome, customer.created_at);
        history
    }

    /// When something happens next, if anything does before the history ends.
    pub fn due(&self) -> Option<DateTime<Utc>> {
        let expiry = self.expiry_due.into_iter();
        let due = expiry.chain(self.next_visit).min();
        due.filter(|due| *due < self.until)
    }

    /// Lets happen what is due. Who comes and saves what stands already leaves no entry.
    pub fn step(&mut self, audit_id: i64) -> Option<AuditEntry> {
        let now = self.due()?;
        if self.expiry_due == Some(now) {
            self.expiry_due = None;
            let change = expire(&self.record, now)?;
            return Some(self.record(change, audit_id));
        }
        let (consent, withdrawal) = self.choose(now);
        let change = decide(&self.record, &consent, withdrawal, now);
        let from = now + self.dice.span(self.pace);
        self.plan_visit(from, now);
        let change = change?;
        if change.action == AuditAction::Withdrawn && self.dice.percent(35) {
            // Gone for good.
            self.next_visit = None;
        }
        Some(self.record(change, audit_id))
    }

    /// The consent in the end, and since when the customer is known.
    pub fn end(&self) -> (&ConsentRecord, DateTime<Utc>) {
        (&self.record, self.created_at)
    }

    fn plan_visit(&mut self, target: DateTime<Utc>, previous: DateTime<Utc>) {
        self.next_visit = (self.visits_left > 0).then(|| self.dice.office_time(target, previous));
        self.visits_left = self.visits_left.saturating_sub(1);
    }

    /// What the customer asks for now, and whether that is a withdrawal.
    fn choose(&mut self, now: DateTime<Utc>) -> (Consent, bool) {
        let stands = match self.record.status(now) {
            // Who was asked and said no.
            ConsentStatus::NeverGiven if self.dice.percent(5) => return (Consent::none(), false),
            ConsentStatus::NeverGiven | ConsentStatus::Withdrawn => None,
            ConsentStatus::Expired if self.dice.percent(10) => return (Consent::none(), true),
            ConsentStatus::Active if self.dice.percent(5) => return (Consent::none(), true),
            ConsentStatus::Expired => Some(75),
            ConsentStatus::Active => Some(25),
        };
        let mut proposal = match stands {
            Some(renewals) if self.dice.percent(renewals) => of_state(self.record.state()),
            Some(_) if self.dice.percent(50) => self.draw(self.record.consent_tier),
            _ => {
                let tier = self.dice.weighted(tiers(self.habits.tier));
                self.draw(tier)
            }
        };
        if self.habits.names_policy {
            proposal.policy_version = Some(policy_at(now));
        }
        proposal.expires_at = self.habits.months.map(|months| {
            let day = now.date_naive() + Months::new(months);
            day.and_time(NaiveTime::MIN).and_utc()
        });
        let consent = Consent::new(proposal, now);
        (consent.expect("permissions are drawn within the rules of their tier"), false)
    }

    fn draw(&mut self, consent_tier: ConsentTier) -> Proposal {
        use ConsentTier::{Analytics, Basic, Research};
        let dice = &mut self.dice;
        let can_store_images = consent_tier == Research && dice.percent(60);
        let can_store_embeddings = matches!(consent_tier, Analytics | Research) && dice.percent(65);
        let can_use_for_training =
            (can_store_images || can_store_embeddings) && consent_tier == Research && dice.percent(55);
        let anonymization_level = match consent_tier {
            ConsentTier::None => AnonymizationLevel::Full,
            Basic | Analytics => dice.weighted(&LEVELS[..3]),
            Research => dice.weighted(&LEVELS),
        };
        Proposal {
            consent_tier,
            can_store_images,
            can_store_embeddings,
            can_use_for_training,
            anonymization_level,
            policy_version: None,
            expires_at: None,
        }
    }

    /// Takes the change over, and tells it as an entry.
    fn record(&mut self, change: Change, audit_id: i64) -> AuditEntry {
        let customer_id = self.record.customer_id;
        self.record = ConsentRecord::from_state(
            customer_id,
            change.current.clone(),
            Some(change.timestamp),
            change.version,
            Some(audit_id),
        );
        if !change.expiry_recorded {
            let sweep = TimeDelta::milliseconds(i64::from(1 + self.dice.below(10_000)));
            self.expiry_due = change.current.expires_at.map(|end| end + sweep);
        }
        let mut entry = AuditEntry {
            audit_id,
            customer_id,
            action: change.action,
            version: change.version,
            previous_tier: change.previous.as_ref().map(|state| state.consent_tier),
            new_tier: change.current.consent_tier,
            previous: change.previous.map(sqlx::types::Json),
            current: Some(sqlx::types::Json(change.current)),
            changed_by: Some("system:expiry".to_owned()),
            on_behalf_of: None,
            change_reason: None,
            ip_address: None,
            user_agent: None,
            request_id: None,
            timestamp: change.timestamp,
            unreadable: Vec::new(),
            foreign: false,
        };
        if entry.action != AuditAction::Expired {
            self.habits.sign(&mut entry, &mut self.dice);
        }
        entry
    }
}

impl Habits {
    fn new(tier: CustomerTier, email: String, dice: &mut Dice) -> Self {
        // Most come through one of the operator's dashboards; large customers have their own.
        let own_dashboard = dice.percent(if tier == CustomerTier::Enterprise { 60 } else { 8 });
        let (key, user_agent) = if own_dashboard {
            let own: String = (0..4).map(|_| char::from(dice.pick(KEY_LETTERS))).collect();
            (own, dice.pick(&PROGRAMS))
        } else {
            (dice.pick(&DASHBOARD_KEYS).to_owned(), dice.pick(&BROWSERS))
        };
        Self {
            tier,
            email,
            changed_by: format!("key:vla_live_{key}"),
            user_agent,
            address: customer_address(dice),
            months: dice.weighted(&[
                (36, None),
                (14, Some(1)),
                (18, Some(3)),
                (12, Some(6)),
                (16, Some(12)),
                (4, Some(24)),
            ]),
            names_policy: dice.percent(80),
        }
    }

    /// Says who made the change, for whom, from where and why.
    fn sign(&self, entry: &mut AuditEntry, dice: &mut Dice) {
        let by_staff = dice.percent(9);
        entry.changed_by = Some(self.changed_by.clone());
        entry.on_behalf_of = if by_staff {
            Some(dice.pick(&STAFF).to_owned())
        } else {
            dice.percent(65).then(|| self.email.clone())
        };
        let (chance, reasons) = reasons(entry);
        entry.change_reason = dice.percent(chance).then(|| dice.pick(reasons).to_owned());
        let address = if by_staff {
            IpAddr::V4(Ipv4Addr::new(198, 51, 100, host(dice)))
        } else if dice.percent(15) {
            customer_address(dice)
        } else {
            self.address
        };
        entry.ip_address = Some(address.into());
        entry.user_agent = Some(self.user_agent.to_owned());
        let millis =
            u64::try_from(entry.timestamp.timestamp_millis()).expect("the history begins after 1970");
        let request_id = uuid::Builder::from_unix_timestamp_millis(millis, &dice.bytes());
        entry.request_id = Some(request_id.into_uuid().to_string());
    }
}

/// How often a customer comes: three times in four less than the average, now and then a hundred times.
fn visits(dice: &mut Dice, lifetime: TimeDelta, history: TimeDelta) -> u32 {
    let mut most = 9;
    while most < 4000 && dice.percent(45) {
        most *= 2;
    }
    let visits = i64::from(most / 2 + dice.below(most));
    // Who came late has had less time to change their mind.
    let part = 400 + 600 * lifetime.num_minutes() / history.num_minutes().max(1);
    u32::try_from(1 + visits * part / 1000).expect("a few thousand at most")
}

fn of_state(state: ConsentState) -> Proposal {
    Proposal {
        consent_tier: state.consent_tier,
        can_store_images: state.can_store_images,
        can_store_embeddings: state.can_store_embeddings,
        can_use_for_training: state.can_use_for_training,
        anonymization_level: state.anonymization_level,
        policy_version: state.policy_version,
        expires_at: state.expires_at,
    }
}

/// The policy has a new version twice a year.
fn policy_at(now: DateTime<Utc>) -> String {
    format!("{}-{}", now.year(), if now.month() < 7 { "01" } else { "07" })
}

fn tiers(tier: CustomerTier) -> &'static [(u32, ConsentTier)] {
    use ConsentTier::{Analytics, Basic, Research};
    match tier {
        CustomerTier::Free => &[(50, Basic), (35, Analytics), (15, Research)],
        CustomerTier::Pro => &[(25, Basic), (45, Analytics), (30, Research)],
        CustomerTier::Enterprise => &[(30, Basic), (30, Analytics), (40, Research)],
    }
}

/// From the ranges which RFC 5737 and RFC 3849 set aside for documentation; staff have 198.51.100.0/24.
fn customer_address(dice: &mut Dice) -> IpAddr {
    match dice.below(5) {
        0 | 1 => Ipv4Addr::new(192, 0, 2, host(dice)).into(),
        2 | 3 => Ipv4Addr::new(203, 0, 113, host(dice)).into(),
        _ => {
            let below = u128::from_be_bytes(dice.bytes()) >> 32;
            Ipv6Addr::from_bits(0x2001_0db8 << 96 | below).into()
        }
    }
}

fn host(dice: &mut Dice) -> u8 {
    u8::try_from(1 + dice.below(254)).expect("at most 254")
}

/// In how many of a hundred cases a reason is given, and which.
fn reasons(entry: &AuditEntry) -> (u32, &'static [&'static str]) {
    use ConsentTier::Research;
    match (entry.action, entry.previous_tier, entry.new_tier) {
        (AuditAction::Granted, None, _) => {
            (30, &["Onboarding", "Accepted during sign-up", "Pilot project started"])
        }
        (AuditAction::Granted, ..) => {
            (40, &["Back after a legal review", "New agreement signed", "New project"])
        }
        (AuditAction::Renewed, ..) => (
            60,
            &[
                "Yearly review",
                "Read the new version of the policy",
                "Contract extended",
                "Reminded before the end",
            ],
        ),
        (AuditAction::Withdrawn, None, _) => (30, &["Declined during sign-up", "Not decided yet"]),
        (AuditAction::Withdrawn, ..) => (
            65,
            &[
                "Project ended",
                "Contract ended",
                "Privacy concerns",
                "Asked for by our works council",
                "On-premises now",
            ],
        ),
        (_, before, Research) if before != Some(Research) => (50, &["Joined the research programme"]),
        (_, Some(Research), after) if after != Research => (50, &["Left the research programme"]),
        _ => (
            35,
            &[
                "Change of scope",
                "Data protection impact assessment",
                "Asked for by telephone",
                "Corrected a choice",
            ],
        ),
    }
}

const LEVELS: [(u32, AnonymizationLevel); 4] = [
    (50, AnonymizationLevel::Full),
    (30, AnonymizationLevel::Partial),
    (20, AnonymizationLevel::Minimal),
    (15, AnonymizationLevel::None),
];

const STAFF: [&str; 4] =
    ["compliance@example.com", "privacy@example.com", "support@example.com", "dpo@example.com"];

const KEY_LETTERS: &[u8] = b"0123456789abcdefghijklmnopqrstuvwxyz";

const DASHBOARD_KEYS: [&str; 4] = ["k3v9", "m0t2", "c4d1", "x7p5"];

const PROGRAMS: [&str; 4] = ["python-requests/2.32.3", "okhttp/4.12.0", "Go-http-client/2.0", "node"];

const BROWSERS: [&str; 6] = [
    "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:140.0) Gecko/20100101 Firefox/140.0",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/138.0.0.0 Safari/537.36",
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/138.0.0.0 Safari/537.36",
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.5 Safari/605.1.15",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.5 Mobile/15E148 Safari/604.1",
];
