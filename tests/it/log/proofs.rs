//! One entry's proof, and the receipt that is given before there is one.

use consentd::tlog::Note;
use consentd::tlog::Receipt;
use consentd::tlog::tree::leaf_hash;
use serde_json::{Value, json};

use super::{ORIGIN, change, leaves, program, proof, prove, said, seal, verifier_keys};
use crate::service::{Answer, Service, consent};

#[tokio::test]
async fn a_proof_leads_from_the_entry_to_the_checkpoint_and_opens_what_is_personal() {
    let service = Service::start().await;
    let mut sealer = service.sealer().await;
    let customer = service.customer().await;
    for _ in 0..6 {
        change(&service, service.customer().await).await;
    }
    let body =
        json!({"consent_tier": "basic", "reason": "asked \u{fc}ber \"chat\"", "on_behalf_of": "user-17"});
    let put = service.put(customer, &body).header("user-agent", "a browser").peer("2001:db8::7");
    let audit_id =
        put.header("x-request-id", "request-1").send().await.expect(201).json()["audit_id"].as_i64().unwrap();
    seal(&mut sealer, service.now()).await;
    // The tree goes on, and the proof with it.
    change(&service, service.customer().await).await;
    seal(&mut sealer, service.now()).await;

    let keys = verifier_keys(&service, ORIGIN);
    let told = service.get(&format!("/v1/audit/{audit_id}/proof")).send().await.expect(200).json();
    let file =
        service.get(&format!("/v1/audit/{audit_id}/proof")).header("accept", "text/plain").send().await;
    let file = file.expect(200);
    assert_eq!(file.header("content-type"), Some("text/plain; charset=utf-8"));
    let name = format!("attachment; filename=\"{audit_id}.tlog-proof\"");
    assert_eq!(file.header("content-disposition"), Some(name.as_str()));
    assert_eq!(told["tlog_proof"], file.text());

    let proven = prove(&file.text(), &keys);
    let opened: Vec<(&str, &str)> =
        proven.opened.iter().map(|(field, value)| (field.as_str(), value.as_str())).collect();
    let by = format!("key:{}", &service.operator[..13]);
    let expected = [
        ("changed_by", by.as_str()),
        ("on_behalf_of", "user-17"),
        ("change_reason", "asked \u{fc}ber \"chat\""),
        ("ip_address", "2001:db8::7"),
        ("user_agent", "a browser"),
    ];
    assert_eq!(opened, expected);
    let leaf: Value = serde_json::from_str(told["leaf"].as_str().unwrap()).unwrap();
    assert_eq!(leaf, proven.leaf);
    assert_eq!(
        (&leaf["customer_id"], &leaf["action"], &leaf["request_id"], &leaf["leaf_version"]),
        (&json!(customer), &json!("granted"), &json!("request-1"), &json!(1))
    );
    assert_eq!(
        (&told["origin"], &told["leaf_index"], &told["vouched_for"]),
        (&json!(ORIGIN), &json!(7), &json!(true))
    );
    assert_eq!(told["leaf_hash"], leaf_hash(told["leaf"].as_str().unwrap().as_bytes()).to_string());
    for (_, value) in &proven.opened {
        assert!(!told["leaf"].as_str().unwrap().contains(value), "what can be erased is not in the leaf");
    }

    // With the program, and nothing but the verifier key.
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("one.tlog-proof");
    std::fs::write(&path, file.text()).unwrap();
    let verify = |file: &std::path::Path| {
        let arguments = ["audit", "verify", "--proof", file.to_str().unwrap(), "--key", &keys[0].to_string()];
        program(place.path(), &arguments).output().unwrap()
    };
    let report = said(&verify(&path));
    assert!(report.contains("on_behalf_of: user-17") && report.contains("clean"), "{report}");
    let forged = place.path().join("forged.tlog-proof");
    std::fs::write(&forged, file.text().replacen("index 7", "index 6", 1)).unwrap();
    assert_eq!(verify(&forged).status.code(), Some(1));
}

#[tokio::test]
async fn a_proof_is_for_those_who_may_see_the_entry_once_it_is_sealed() {
    let service = Service::start().await;
    let mut sealer = service.sealer().await;
    let (customer, other) = (service.customer().await, service.customer().await);
    let audit_id = change(&service, customer).await;
    let path = format!("/v1/audit/{audit_id}/proof");
    let own = service.key(Some(customer), &["audit:read"]).await;
    let foreign = service.key(Some(other), &["audit:read"]).await;
    for key in [&service.operator, &own] {
        let early = service.get(&path).key(key).send().await.expect(404);
        early.problem("not-sealed");
        assert_eq!(early.header("retry-after"), Some("1"));
    }
    // Whether it is sealed is nobody else's business, nor whether it is there.
    for _ in 0..2 {
        service.get(&path).key(&foreign).send().await.expect(404).problem("unknown-audit-entry");
        seal(&mut sealer, service.now()).await;
    }
    let proven = prove(
        &service.get(&path).key(&own).header("accept", "text/plain").send().await.expect(200).text(),
        &verifier_keys(&service, ORIGIN),
    );
    assert_eq!(proven.leaf["customer_id"], json!(customer));
    service.get("/v1/audit/999999/proof").send().await.expect(404).problem("unknown-audit-entry");
    let refused = service.get("/v1/audit/0/proof").send().await.expect(400);
    assert_eq!(refused.problem("invalid-parameter"), ["audit_id out_of_range"]);
    // The log's own events are the operators'.
    let opening = leaves(&service.sql().await).await[0].0;
    service.get(&format!("/v1/audit/{opening}/proof")).send().await.expect(200);
    service.get(&format!("/v1/audit/{opening}/proof")).key(&own).send().await.expect(404);
}

fn receipt(answer: &Answer) -> Option<String> {
    let receipt = answer.json().get("receipt").map(|receipt| receipt.as_str().expect("a note").to_owned());
    assert_eq!(answer.header("preference-applied"), receipt.as_ref().map(|_| "receipt"));
    receipt
}

#[tokio::test]
async fn a_receipt_is_given_on_request_and_kept() {
    let service = Service::start().await;
    let mut sealer = service.sealer().await;
    let customer = service.customer().await;
    let body = json!({"consent_tier": "basic"});
    let first =
        service.put(customer, &body).header("prefer", "return=minimal, receipt").send().await.expect(201);
    let note = receipt(&first).expect("a receipt");
    let audit_id = first.json()["audit_id"].as_i64().unwrap();
    // The same again records nothing, and promises nothing; nor is anything promised that nobody asked for.
    let again = service.put(customer, &body).header("prefer", "receipt").send().await.expect(200);
    assert_eq!((receipt(&again), again.json()["audit_id"].as_i64()), (None, Some(audit_id)));
    let other = service.put(customer, &json!({"consent_tier": "analytics"})).send().await.expect(200);
    assert_eq!(receipt(&other), None);
    let unknown = service
        .put(customer, &json!({"consent_tier": "basic"}))
        .header("prefer", "respond-async")
        .send()
        .await;
    assert_eq!(receipt(&unknown.expect(200)), None);
    let withdrawn =
        service.call("DELETE", &consent(customer)).header("prefer", "receipt").send().await.expect(200);
    let withdrawal = receipt(&withdrawn).expect("a receipt");

    let vkey = service.get("/.well-known/consentd-audit.vkey").no_key().send().await.expect(200).text();
    let key = vkey.trim().parse().unwrap();
    seal(&mut sealer, service.now()).await;
    let leaves = leaves(&service.sql().await).await;
    for (note, answer) in [(&note, &first), (&withdrawal, &withdrawn)] {
        let note = Note::parse(note).unwrap();
        note.verify(std::slice::from_ref(&key)).unwrap();
        let receipt = Receipt::parse(&note.text).unwrap();
        assert_eq!(
            (receipt.origin.as_str(), Some(receipt.audit_id)),
            (ORIGIN, answer.json()["audit_id"].as_u64())
        );
        let (_, leaf) =
            leaves.iter().find(|(audit_id, _)| audit_id.cast_unsigned() == receipt.audit_id).unwrap();
        assert_eq!(receipt.leaf, leaf_hash(leaf));
    }
    let proven = prove(&proof(&service, audit_id).await, &[key]);
    assert_eq!(proven.leaf["version"], 1);
}
