//! How soon a withdrawal on one service is seen on another: a grant, waited for on the other; a withdrawal; and from its
//! answer on, checks on the other, until the first one that denies.

use std::time::{Duration, Instant};

use hyper::{Method, StatusCode};

use crate::Failure;
use crate::arguments::Arguments;
use crate::client::{Client, Target};
use crate::figures::Latencies;
use crate::read::single;

const PATIENCE: Duration = Duration::from_secs(10);
/// For so long one check follows the other. Whoever goes on like that takes from both services the processor that they
/// need to learn of the withdrawal, and measures himself.
const TIGHT: Duration = Duration::from_millis(3);
/// Between two checks from then on.
const PAUSE: Duration = Duration::from_millis(1);
const GRANT: &str = r#"{"consent_tier":"analytics","can_store_embeddings":true}"#;

/// Until the other service answers `wanted`: how many checks it took.
async fn until(client: &mut Client, customer: &str, wanted: bool) -> Result<u64, Failure> {
    let path = single(customer);
    let sign = format!(r#""allowed":{wanted}"#);
    let begin = Instant::now();
    let mut asked = 0;
    while begin.elapsed() < PATIENCE {
        asked += 1;
        let answer = client.get(&path).await?;
        if answer.status != StatusCode::OK {
            return Err(format!("a check: {}", answer.status).into());
        }
        if answer.body.windows(sign.len()).any(|part| part == sign.as_bytes()) {
            return Ok(asked);
        }
        if begin.elapsed() > TIGHT {
            tokio::time::sleep(PAUSE).await;
        }
    }
    Err(format!("the other service has not answered {sign} within {PATIENCE:?}").into())
}

async fn change(client: &mut Client, method: Method, customer: &str, body: &str) -> Result<(), Failure> {
    let path = format!("/v1/customers/{customer}/consent");
    let answer = client.call(method.clone(), &path, body.to_owned()).await?;
    if matches!(answer.status, StatusCode::OK | StatusCode::CREATED) {
        Ok(())
    } else {
        Err(format!("{method}: {}", answer.status).into())
    }
}

pub async fn run(mut arguments: Arguments) -> Result<String, Failure> {
    let target = Target::read(&mut arguments)?;
    let other = target.at(arguments.required("other")?);
    let customers = arguments.lines("customers")?;
    let time = arguments.seconds("seconds")?.ok_or("--seconds is missing")?;
    arguments.finish()?;
    let mut writer = Client::connect(&target).await?;
    let mut reader = Client::connect(&other).await?;
    let mut latencies = Latencies::default();
    let mut at_once = 0;
    let end = Instant::now() + time;
    for customer in customers.iter().cycle() {
        if Instant::now() >= end {
            break;
        }
        change(&mut writer, Method::PUT, customer, GRANT).await?;
        until(&mut reader, customer, true).await?;
        change(&mut writer, Method::DELETE, customer, "").await?;
        let answered = Instant::now();
        let asked = until(&mut reader, customer, false).await?;
        latencies.push(answered.elapsed());
        at_once += u64::from(asked == 1);
    }
    Ok(format!(
        r#"{{"withdrawals":{},"at_once":{at_once},"p50_ms":{:.4},"p99_ms":{:.4}}}"#,
        latencies.len(),
        latencies.percentile(50),
        latencies.percentile(99),
    ))
}
