//! The stylesheet, the script and the sign. Their addresses hold a hash of what they are: a browser keeps them for ever.

use std::sync::LazyLock;

use axum::extract::RawPathParams;
use axum::http::HeaderValue;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse as _, Response};
use sha2::{Digest as _, Sha256};

use crate::domain::hex;
use crate::http::problem::{NOT_FOUND, Problem};

/// Something that a page loads.
#[derive(Debug)]
pub struct Asset {
    name: &'static str,
    kind: &'static str,
    content: &'static str,
    path: LazyLock<String>,
}

pub static STYLE: Asset = Asset {
    name: "style.css",
    kind: "text/css; charset=utf-8",
    content: include_str!("../../../templates/style.css"),
    path: LazyLock::new(|| address(&STYLE)),
};

pub static SCRIPT: Asset = Asset {
    name: "console.js",
    kind: "text/javascript; charset=utf-8",
    content: include_str!("../../../templates/console.js"),
    path: LazyLock::new(|| address(&SCRIPT)),
};

pub static ICON: Asset = Asset {
    name: "icon.svg",
    kind: "image/svg+xml",
    content: include_str!("../../../templates/icon.svg"),
    path: LazyLock::new(|| address(&ICON)),
};

fn address(asset: &Asset) -> String {
    let hash = hex(&Sha256::digest(asset.content));
    format!("/assets/{}/{}", &hash[..16], asset.name)
}

impl Asset {
    /// Where it is served.
    pub fn path(&self) -> &str {
        &self.path
    }
}

pub async fn serve(path: RawPathParams) -> Result<Response, Problem> {
    let parts: Vec<&str> = path.iter().map(|(_, value)| value).collect();
    let wanted = format!("/assets/{}", parts.join("/"));
    let asset = [&STYLE, &SCRIPT, &ICON].into_iter().find(|asset| asset.path() == wanted);
    let asset =
        asset.ok_or_else(|| Problem::new(&NOT_FOUND, "reload the page: it asks for what there is now"))?;
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static(asset.kind)),
        (CACHE_CONTROL, HeaderValue::from_static("public, max-age=31536000, immutable")),
    ];
    Ok((headers, asset.content).into_response())
}
