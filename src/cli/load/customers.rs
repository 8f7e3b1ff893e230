//! Whom the requests are about.

use clap::Args;
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use reqwest::Method;
use serde_json::json;
use uuid::Uuid;

use super::Chance;
use super::mix::Mix;
use crate::cli::Failure;
use crate::cli::client::{Client, LARGEST_PAGE};
use crate::domain::Customer;

/// By their addresses, customers that were made for a load are known from those of the business.
const MADE_FOR_LOADS: &str = "@load.example.com";

/// How many are made at once.
const AT_ONCE: usize = 32;

#[derive(Args, Debug)]
#[command(next_help_heading = "Customers")]
pub struct Whom {
    /// How many customers are asked about
    #[arg(long, default_value_t = 1000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub customers: u32,

    /// Make the customers that are missing
    #[arg(long)]
    create: bool,

    /// How uneven the customers are asked about: 0 all alike, 1 the second half as often as the first
    #[arg(long, default_value_t = 0.99, value_parser = skew, value_name = "SKEW")]
    pub zipf: f64,

    /// Change the consents of customers that were not made for loads
    #[arg(long)]
    allow_writes: bool,
}

fn skew(text: &str) -> Result<f64, String> {
    let skew = text.parse::<f64>().ok().filter(|skew| (0.0..=10.0).contains(skew));
    skew.ok_or_else(|| "a number from 0 to 10 is wanted".to_owned())
}

/// The customers, in an order that has nothing to do with how old they are.
pub async fn find(client: &Client, whom: &Whom, mix: Mix, chance: &mut Chance) -> Result<Vec<Uuid>, Failure> {
    let made_for_loads = mix.writes() && !whom.allow_writes;
    let mut customers = existing(client, whom.customers as usize, made_for_loads).await?;
    let missing = whom.customers as usize - customers.len();
    if whom.create && missing > 0 {
        eprintln!("making {missing} customers, which stay …");
        let made = stream::repeat_with(|| make(client)).take(missing).buffer_unordered(AT_ONCE);
        customers.extend(made.try_collect::<Vec<_>>().await?);
    } else if customers.is_empty() && made_for_loads {
        return Err(Failure::new(
            "this mix changes consents, and there are no customers that were made for loads: make some with --create, or \
             let the load change the consents of real customers with --allow-writes",
        ));
    } else if customers.is_empty() {
        return Err(Failure::new("there are no customers: make some with --create"));
    } else if missing > 0 {
        eprintln!("there are only {} customers: the others would be made with --create", customers.len());
    }
    for place in (1..customers.len()).rev() {
        customers.swap(place, chance.index(place + 1));
    }
    Ok(customers)
}

async fn existing(client: &Client, wanted: usize, made_for_loads: bool) -> Result<Vec<Uuid>, Failure> {
    let (mut customers, mut next) = (Vec::new(), None);
    // Page by page: those that were made for loads may be few among very many.
    loop {
        let page = client.list("/v1/customers", &next.as_slice(), LARGEST_PAGE).await?;
        let listed = page.parse::<Customer>()?.into_iter();
        let usable = listed.filter(|one| !made_for_loads || one.email.ends_with(MADE_FOR_LOADS));
        customers.extend(usable.map(|one| one.customer_id).take(wanted - customers.len()));
        next = page.next_cursor.map(|cursor| ("cursor", cursor));
        if customers.len() == wanted || next.is_none() {
            return Ok(customers);
        }
    }
}

/// A customer who consents to something, so that a check finds something.
async fn make(client: &Client) -> Result<Uuid, Failure> {
    let customer_id = Uuid::new_v4();
    let email = format!("{}{MADE_FOR_LOADS}", customer_id.simple());
    let customer = json!({ "customer_id": customer_id, "email": email, "company_name": "consentd load", "tier": "free" });
    client.send(client.request(Method::POST, "/v1/customers").json(&customer)).await?;
    let consent = json!({ "consent_tier": "research", "can_store_images": true, "reason": "consentd load" });
    let path = format!("/v1/customers/{customer_id}/consent");
    client.send(client.request(Method::PUT, &path).json(&consent)).await?;
    Ok(customer_id)
}
