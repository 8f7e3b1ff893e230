//! Somebody who looks at the console, signed in with a key.

use consentd::domain::ApiKey;

use crate::service::{Answer, Call, Service};

pub struct Visitor<'a> {
    service: &'a Service,
    cookie: String,
}

impl<'a> Visitor<'a> {
    /// An operator with every right.
    pub async fn admin(service: &'a Service) -> Self {
        Self::with(service, &service.operator).await
    }

    pub async fn with(service: &'a Service, key: &str) -> Self {
        ApiKey::parse(key).expect("a key");
        let answer = form(service.call("POST", "/console/sign-in"), &[("key", key)]).send().await.expect(303);
        let cookie = answer.header("set-cookie").expect("a session");
        Self { service, cookie: cookie.split(';').next().expect("a cookie").to_owned() }
    }

    pub fn call(&self, method: &str, path: &str) -> Call<'a> {
        let call = self.service.call(method, path).no_key();
        call.header("host", "localhost").header("cookie", &self.cookie)
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.call("GET", path).send().await
    }

    pub async fn post(&self, path: &str, fields: &[(&str, &str)]) -> Answer {
        let call = self.call("POST", path).header("content-type", FORM).body(encoded(fields));
        call.send().await
    }
}

const FORM: &str = "application/x-www-form-urlencoded";

fn encoded(fields: &[(&str, &str)]) -> String {
    let mut url = reqwest::Url::parse("http://localhost/").expect("an address");
    url.query_pairs_mut().extend_pairs(fields);
    url.query().unwrap_or_default().to_owned()
}

fn form<'a>(call: Call<'a>, fields: &[(&str, &str)]) -> Call<'a> {
    call.no_key().header("host", "localhost").header("content-type", FORM).body(encoded(fields))
}
