//! Permission checks, one at a time (`GET …/permissions`) or many in one call (`POST /v1/permissions/check`), of random
//! customers, or with `--each once` of every customer of the list once.

use std::cell::Cell;
use std::fmt::Write as _;
use std::rc::Rc;
use std::time::{Duration, Instant};

use hyper::{Method, StatusCode};

use crate::Failure;
use crate::arguments::Arguments;
use crate::client::{Client, Target};
use crate::dice::Dice;
use crate::figures::Seen;

const PERMISSION: &str = "embeddings";

#[derive(Debug)]
struct Plan {
    target: Target,
    customers: Vec<String>,
    callers: usize,
    /// How many checks one call carries; none: the call for a single one.
    batch: Option<usize>,
    once: bool,
    /// Under `once`, the next customer that nobody has asked for.
    next: Cell<usize>,
    begin: Instant,
    end: Option<Instant>,
}

impl Plan {
    /// The customers of the next call; none when it is time to stop.
    fn next(&self, dice: &mut Dice) -> Option<Vec<&str>> {
        if self.end.is_some_and(|end| Instant::now() >= end) {
            return None;
        }
        let size = self.batch.unwrap_or(1);
        if self.once {
            let from = self.next.get();
            let to = (from + size).min(self.customers.len());
            self.next.set(to);
            return (from < to).then(|| self.customers[from..to].iter().map(String::as_str).collect());
        }
        // Many of a call stand together in the list, and anywhere in the service: to gather them is not what is measured.
        let from = dice.below(self.customers.len() - size + 1);
        Some(self.customers[from..from + size].iter().map(String::as_str).collect())
    }
}

async fn call(plan: Rc<Plan>) -> Result<Seen, Failure> {
    let mut dice = Dice::new();
    let mut seen = Seen::default();
    let mut client = Client::connect(&plan.target).await?;
    while let Some(customers) = plan.next(&mut dice) {
        let (method, path, body) = match plan.batch {
            None => (Method::GET, single(customers[0]), String::new()),
            Some(_) => (Method::POST, "/v1/permissions/check".to_owned(), batch(&customers)),
        };
        let sent = Instant::now();
        let answer = client.call(method, &path, body).await?;
        if answer.status == StatusCode::OK {
            seen.answered(sent);
        } else {
            seen.refused += 1;
        }
    }
    Ok(seen)
}

pub fn single(customer: &str) -> String {
    format!("/v1/customers/{customer}/consent/permissions?check={PERMISSION}")
}

fn batch(customers: &[&str]) -> String {
    let mut body = String::with_capacity(24 + customers.len() * 110);
    body.push_str(r#"{"checks":["#);
    for (index, customer) in customers.iter().enumerate() {
        let comma = if index == 0 { "" } else { "," };
        // Writing to a string does not fail.
        let _ = write!(body, r#"{comma}{{"customer_id":"{customer}","permission":"{PERMISSION}"}}"#);
    }
    body.push_str("]}");
    body
}

pub async fn run(mut arguments: Arguments) -> Result<String, Failure> {
    let target = Target::read(&mut arguments)?;
    let customers = arguments.lines("customers")?;
    let callers = arguments.required("callers")?;
    let batch = arguments.optional("batch")?;
    let once = match arguments.optional::<String>("each")?.as_deref() {
        None => false,
        Some("once") => true,
        Some(other) => return Err(format!("--each {other}: once is meant").into()),
    };
    let time: Option<Duration> = arguments.seconds("seconds")?;
    arguments.finish()?;
    if customers.len() < batch.unwrap_or(1) {
        return Err("a call carries more checks than there are customers".into());
    }
    let begin = Instant::now();
    let end = time.map(|time| begin + time);
    if end.is_none() && !once {
        return Err("--seconds or --each once is needed".into());
    }
    let plan = Rc::new(Plan { target, customers, callers, batch, once, next: Cell::new(0), begin, end });
    let tasks: Vec<_> = (0..plan.callers).map(|_| tokio::task::spawn_local(call(Rc::clone(&plan)))).collect();
    let mut whole = Seen::default();
    for task in tasks {
        whole.add(task.await??);
    }
    Ok(whole.told(plan.begin, batch.unwrap_or(1)))
}
