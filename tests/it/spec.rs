//! The OpenAPI document says what is served.

use std::path::Path;

use consentd::http::spec;
use serde_json::Value;

use crate::service::Service;

#[tokio::test]
async fn the_committed_document_is_the_served_one() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("openapi/openapi.json");
    let committed: Value = serde_json::from_str(&std::fs::read_to_string(path).expect("the document"))
        .expect("the document is JSON");
    assert_eq!(committed, spec::json(), "the committed document is stale: run `make openapi`");
    let service = Service::start().await;
    let served = service.get("/openapi.json").no_key().send().await.expect(200);
    assert_eq!(served.json(), committed);
}

#[test]
fn every_operation_is_whole() {
    let document = spec::json();
    let tags: Vec<_> =
        document["tags"].as_array().expect("tags").iter().map(|tag| tag["name"].clone()).collect();
    let mut names = std::collections::BTreeSet::new();
    for (path, item) in document["paths"].as_object().expect("paths") {
        for (method, operation) in item.as_object().expect("an item") {
            let place = format!("{method} {path}");
            let name = operation["operationId"].as_str().expect("an operationId");
            assert!(names.insert(name.to_owned()), "{name} twice");
            assert_eq!(operation["tags"].as_array().map(Vec::len), Some(1), "{place}");
            assert!(tags.contains(&operation["tags"][0]), "{place}");
            assert!(operation["summary"].is_string(), "{place}");
            let responses = operation["responses"].as_object().expect("responses");
            for (status, response) in responses {
                assert!(
                    response["description"].as_str().is_some_and(|text| !text.is_empty()),
                    "{place} {status}"
                );
                let refusal = status.as_str() >= "400" && path != "/readyz";
                let problem = response["content"].get("application/problem+json").is_some();
                assert_eq!(refusal, problem, "{place} {status}");
            }
            if path.starts_with("/v1/") {
                for status in ["400", "401", "403", "429", "500", "503"] {
                    assert!(responses.contains_key(status), "{place} {status}");
                }
            }
            for parameter in operation["parameters"].as_array().into_iter().flatten() {
                assert!(!parameter["schema"]["type"].is_array(), "{place}: {parameter} may be null");
            }
        }
    }
}

/// Where a type has no name of its own, every generator invents one, and another for each place.
#[test]
fn a_generator_finds_a_name_for_every_type() {
    let document = spec::json();
    let is_name = |schema: &Value| schema["$ref"].is_string();
    for (path, item) in document["paths"].as_object().expect("paths") {
        for (method, operation) in item.as_object().expect("an item") {
            let answers = operation["responses"].as_object().expect("responses").iter();
            let bodies = [("body", &operation["requestBody"])];
            for (place, message) in answers.map(|(status, answer)| (status.as_str(), answer)).chain(bodies) {
                for (media, content) in message["content"].as_object().into_iter().flatten() {
                    let schema = &content["schema"];
                    match media.as_str() {
                        "application/problem+json" => {
                            assert_eq!(schema["$ref"], "#/components/schemas/Problem", "{method} {path}");
                        }
                        // What the document itself is, OpenAPI says.
                        "application/json" => assert!(
                            is_name(schema) || path == "/openapi.json",
                            "{method} {path} {place}: {schema}"
                        ),
                        _ => assert_eq!(schema["type"], "string", "{method} {path} {place}"),
                    }
                }
            }
        }
    }
    for (name, schema) in document["components"]["schemas"].as_object().expect("schemas") {
        for variant in schema["oneOf"].as_array().into_iter().flatten() {
            assert!(is_name(variant), "a variant of {name} has no name: {variant}");
        }
        // What is read takes null for what is left out; an answer leaves an object out, or gives it.
        let is_read = schema["additionalProperties"] == false;
        for (field, property) in schema["properties"].as_object().into_iter().flatten() {
            assert!(is_read || property["oneOf"].is_null(), "{name}.{field}: {property}");
            assert!(property["properties"].is_null(), "{name}.{field} has no name: {property}");
            let may_be_null = property["type"].is_array();
            let required =
                schema["required"].as_array().is_some_and(|names| names.iter().any(|n| n == field));
            assert!(is_read || !may_be_null || required, "{name}.{field} may be absent or null");
        }
    }
}

#[tokio::test]
async fn the_reference_is_served_whole_by_the_service_itself() {
    let service = Service::start().await;
    let page = service.get("/docs/").no_key().send().await.expect(200);
    let policy = page.header("content-security-policy").expect("a policy").to_owned();
    assert!(policy.contains("default-src 'none'") && !policy.contains("http"), "{policy}");
    let html = page.text();
    let mut loaded = 0;
    let loads = |piece: &&str| {
        let kind = Path::new(piece).extension().and_then(|kind| kind.to_str());
        matches!(kind, Some("js" | "css"))
    };
    for piece in html.split(['"', '\'']).filter(loads) {
        assert!(!piece.contains("//"), "{piece} is loaded from elsewhere");
        let asset = format!("/docs/{}", piece.trim_start_matches("./").trim_start_matches("/docs/"));
        service.get(&asset).no_key().send().await.expect(200);
        loaded += 1;
    }
    assert!(loaded >= 3, "{html}");
}
