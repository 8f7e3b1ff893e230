//! Reads an export to its end and counts lines and bytes.

use std::time::Instant;

use http_body_util::BodyExt as _;
use hyper::{Method, StatusCode};

use crate::Failure;
use crate::arguments::Arguments;
use crate::client::{Client, Target};

pub async fn run(mut arguments: Arguments) -> Result<String, Failure> {
    let target = Target::read(&mut arguments)?;
    let path: String = arguments.required("path")?;
    let accept: String = arguments.required("accept")?;
    arguments.finish()?;
    let mut client = Client::connect(&target).await?;
    let begin = Instant::now();
    let answer = client.send(Method::GET, &path, &accept, String::new()).await?;
    if answer.status() != StatusCode::OK {
        return Err(format!("{path}: {}", answer.status()).into());
    }
    let mut body = answer.into_body();
    let (mut lines, mut bytes) = (0, 0);
    while let Some(frame) = body.frame().await {
        if let Some(data) = frame?.data_ref() {
            bytes += data.len();
            lines += data.split(|byte| *byte == b'\n').count() - 1;
        }
    }
    let seconds = begin.elapsed().as_secs_f64();
    Ok(format!(r#"{{"lines":{lines},"bytes":{bytes},"seconds":{seconds:.6}}}"#))
}
