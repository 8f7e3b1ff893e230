//! Somebody who uses the console: a session's cookie, and the forms that a browser would send.

use chrono::TimeDelta;

use crate::service::{Answer, Call, Service};

pub struct Visit<'a> {
    pub service: &'a Service,
    /// As the `Cookie` header holds it.
    pub cookie: String,
}

impl<'a> Visit<'a> {
    /// With the operator's key.
    pub async fn begin(service: &'a Service) -> Self {
        Self::with_key(service, &service.operator).await
    }

    pub async fn with_key(service: &'a Service, key: &str) -> Self {
        let answer = sign_in(service, key, "/console").await.expect(303);
        let cookie = answer.header("set-cookie").expect("a session");
        Self { service, cookie: cookie.split(';').next().expect("a value").to_owned() }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.call("GET", path).send().await
    }

    pub async fn post(&self, path: &str, fields: &[(&str, &str)]) -> Answer {
        form(self.call("POST", path), fields).await
    }

    pub fn call(&self, method: &str, path: &str) -> Call<'_> {
        self.service.call(method, path).no_key().header("cookie", &self.cookie)
    }
}

/// What the form of the sign-in page sends.
pub async fn sign_in(service: &Service, key: &str, next: &str) -> Answer {
    form(service.call("POST", "/console/sign-in").no_key(), &[("next", next), ("key", key)]).await
}

pub async fn form(call: Call<'_>, fields: &[(&str, &str)]) -> Answer {
    let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
    call.header("content-type", "application/x-www-form-urlencoded")
        .header("sec-fetch-site", "same-origin")
        .body(body)
        .send()
        .await
}

/// Times at which a session ends.
pub const IDLE: TimeDelta = TimeDelta::minutes(30);
pub const LONGEST: TimeDelta = TimeDelta::hours(12);
