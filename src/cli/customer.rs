//! `consentd customer …`: the customers of a running service.

use clap::builder::BoolishValueParser;
use clap::{Args, Subcommand};
use reqwest::Method;
use serde::Serialize;
use uuid::Uuid;

use super::client::{Client, parse};
use super::output::{Output, or_dash, time, yes_or_no};
use super::{Failure, one_of};
use crate::config::ClientConfig;
use crate::domain::{Customer, CustomerTier};

#[derive(Args, Debug)]
#[command(disable_help_subcommand = true)]
pub struct CustomerArgs {
    #[command(subcommand)]
    command: CustomerCommand,

    #[command(flatten)]
    client: ClientConfig,
}

#[derive(Subcommand, Debug)]
enum CustomerCommand {
    /// Create a customer
    #[command(after_help = "Examples:\n  \
        consentd customer create --email robotics@example.com --company-name 'Example Robotics' --tier pro\n  \
        customer=$(consentd customer create --email robotics@example.com --json | jq -r .customer_id)")]
    Create {
        #[command(flatten)]
        customer: NewCustomer,
        #[command(flatten)]
        output: Output,
    },
    /// Show a customer
    Get {
        /// The customer's id
        #[arg(value_name = "CUSTOMER")]
        customer_id: Uuid,
        #[command(flatten)]
        output: Output,
    },
    /// List customers
    #[command(after_help = "Examples:\n  \
        consentd customer list --tier enterprise --limit 1000\n  \
        consentd customer list --email robotics@example.com --json")]
    List {
        #[command(flatten)]
        filters: Filters,
        /// How many to list at most
        #[arg(long, default_value_t = 50, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
        limit: u32,
        #[command(flatten)]
        output: Output,
    },
}

#[derive(Args, Debug, Serialize)]
struct NewCustomer {
    /// The customer's e-mail address, which no other customer has
    #[arg(long, value_name = "ADDRESS")]
    email: String,

    /// The company's name
    #[arg(long, value_name = "NAME")]
    #[serde(skip_serializing_if = "Option::is_none")]
    company_name: Option<String>,

    /// What the customer pays for
    #[arg(long, default_value = "free", value_parser = one_of(&CustomerTier::ALL, CustomerTier::as_str))]
    tier: CustomerTier,

    /// The customer's id [default: a new one]
    #[arg(long, value_name = "UUID")]
    #[serde(skip_serializing_if = "Option::is_none")]
    customer_id: Option<Uuid>,
}

#[derive(Args, Debug, Serialize)]
#[command(next_help_heading = "Filters")]
struct Filters {
    /// The one with this e-mail address
    #[arg(long, value_name = "ADDRESS")]
    email: Option<String>,

    /// Those who pay for this
    #[arg(long, value_parser = one_of(&CustomerTier::ALL, CustomerTier::as_str))]
    tier: Option<CustomerTier>,

    /// Those who are active, or those who are not
    #[arg(long, value_parser = BoolishValueParser::new(), value_name = "BOOL")]
    is_active: Option<bool>,
}

pub async fn run(args: CustomerArgs) -> Result<(), Failure> {
    let client = Client::new(&args.client)?;
    match args.command {
        CustomerCommand::Create { customer, output } => {
            let request = client.request(Method::POST, "/v1/customers").json(&customer);
            show(&client.text(request).await?, output)
        }
        CustomerCommand::Get { customer_id, output } => {
            let request = client.request(Method::GET, &format!("/v1/customers/{customer_id}"));
            show(&client.text(request).await?, output)
        }
        CustomerCommand::List { filters, limit, output } => {
            let page = client.list("/v1/customers", &filters, limit).await?;
            output.list(&page, ["CUSTOMER", "EMAIL", "COMPANY", "TIER", "ACTIVE", "CREATED"], || {
                Ok(page.parse()?.into_iter().map(row).collect())
            })
        }
    }
}

fn row(customer: Customer) -> [String; 6] {
    [
        customer.customer_id.to_string(),
        customer.email,
        or_dash(customer.company_name),
        customer.tier.as_str().to_owned(),
        yes_or_no(customer.is_active),
        time(customer.created_at),
    ]
}

fn show(json: &str, output: Output) -> Result<(), Failure> {
    output.record(json, || {
        let customer: Customer = parse(json)?;
        Ok([
            ("customer", customer.customer_id.to_string()),
            ("email", customer.email),
            ("company", or_dash(customer.company_name)),
            ("tier", customer.tier.as_str().to_owned()),
            ("requests per minute", customer.rate_limit_rpm.to_string()),
            ("requests per day", customer.rate_limit_rpd.to_string()),
            ("active", yes_or_no(customer.is_active)),
            ("created", time(customer.created_at)),
        ])
    })
}
