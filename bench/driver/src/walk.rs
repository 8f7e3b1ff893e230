//! Walks the pages of a list by the `Link` to the next one, from `--from` on: `--skip` pages of `--step`, which are not
//! measured. The page at which it arrives is asked for `--times`, or until `--seconds` are over, with `--limit`, one request
//! at a time; `at` tells where that is.

use std::time::{Duration, Instant};

use hyper::StatusCode;

use crate::Failure;
use crate::arguments::Arguments;
use crate::client::{Answer, Client, Target};
use crate::figures::Latencies;

/// The address of the next page, from `<…>; rel="next"`.
fn next(answer: &Answer) -> Option<String> {
    let link = answer.headers.get("link")?.to_str().ok()?;
    Some(link.strip_prefix('<')?.split_once('>')?.0.to_owned())
}

/// The same page with another limit: the cursor is good for any.
fn with_limit(path: &str, limit: usize) -> String {
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let rest = query.split('&').filter(|pair| !pair.is_empty() && !pair.starts_with("limit="));
    let pairs: Vec<&str> = rest.collect();
    let separator = if pairs.is_empty() { "" } else { "&" };
    format!("{path}?{}{separator}limit={limit}", pairs.join("&"))
}

async fn page(client: &mut Client, path: &str) -> Result<Answer, Failure> {
    let answer = client.get(path).await?;
    if answer.status == StatusCode::OK {
        Ok(answer)
    } else {
        Err(format!("{path}: {}", answer.status).into())
    }
}

pub async fn run(mut arguments: Arguments) -> Result<String, Failure> {
    let target = Target::read(&mut arguments)?;
    let mut path: String = arguments.required("from")?;
    let skip: usize = arguments.optional("skip")?.unwrap_or(0);
    let step: usize = arguments.optional("step")?.unwrap_or(1000);
    let times: usize = arguments.required("times")?;
    let time = arguments.seconds("seconds")?.unwrap_or(Duration::MAX);
    let limit: usize = arguments.required("limit")?;
    arguments.finish()?;
    let mut client = Client::connect(&target).await?;
    for number in 0..skip {
        let answer = page(&mut client, &with_limit(&path, step)).await?;
        path =
            next(&answer).ok_or_else(|| format!("{path}: the list ends after {number} pages of {step}"))?;
    }
    let address = with_limit(&path, limit);
    let mut latencies = Latencies::default();
    let begin = Instant::now();
    while latencies.len() < times && (latencies.len() == 0 || begin.elapsed() < time) {
        let sent = Instant::now();
        page(&mut client, &address).await?;
        latencies.push(sent.elapsed());
    }
    Ok(format!(
        r#"{{"at":"{path}","pages":{},"p50_ms":{:.4},"p99_ms":{:.4}}}"#,
        latencies.len(),
        latencies.percentile(50),
        latencies.percentile(99),
    ))
}
