//! `consentd healthcheck`: so that an image needs no curl.

use std::time::Duration;

use clap::Args;

use super::Failure;
use super::client::{address, http, unreachable};
use super::output::{line, printable};
use crate::config::ServiceUrl;
use crate::http::api::service::{LIVE, READY};
use crate::outbound;

/// The longest answer that is read.
const LONGEST_ANSWER: usize = 64 << 10;

#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  \
    consentd healthcheck\n  \
    consentd healthcheck --live --url http://127.0.0.1:9000\n\n\
    Exits with 0 when the service is well, else with 1.")]
pub struct HealthcheckArgs {
    /// Ask whether the process lives (/livez) instead of whether it is ready to serve (/readyz)
    #[arg(long)]
    live: bool,

    #[command(flatten)]
    service: ServiceUrl,
}

pub async fn run(args: HealthcheckArgs) -> Result<(), Failure> {
    let service = args.service.url;
    let url = address(&service, if args.live { "/livez" } else { "/readyz" });
    let response = http(&service, Duration::from_secs(3))?
        .get(url.clone())
        .send()
        .await
        .map_err(|error| unreachable(&service, error))?;
    let status = response.status();
    let body = outbound::text(response, LONGEST_ANSWER).await.unwrap_or_default();
    // Another program at this address may answer 200 to anything.
    let is_well = if args.live { body == LIVE } else { is_ready(&body) };
    if status.is_success() && is_well {
        return line(&format!("{url}: {status}"));
    }
    let body: String = body.chars().take(500).collect();
    line(printable(&format!("{url}: {status} {body}")).trim_end())?;
    Err(Failure::Answered)
}

fn is_ready(body: &str) -> bool {
    serde_json::from_str::<serde_json::Value>(body).is_ok_and(|report| report["status"] == READY)
}
