//! The client's address, as proxies forward it.

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::process::Stdio;

use axum::http::{HeaderMap, HeaderName};
use consentd::http::client_address::{AddressHeader, ClientAddresses};
use consentd::http::server::Peer;
use proptest::prelude::*;
use serde_json::json;
use tokio::process::Command;

use crate::service::{Service, consent};

const BOTH: [AddressHeader; 2] = [AddressHeader::XForwardedFor, AddressHeader::Forwarded];

/// The address found for a peer that sends these lines in both headers; proxies are in `10.0.0.0/8`.
fn client(header: AddressHeader, peer: &str, lines: &[(AddressHeader, &str)]) -> Option<String> {
    let mut headers = HeaderMap::new();
    for (header, line) in lines {
        let name = match header {
            AddressHeader::XForwardedFor => HeaderName::from_static("x-forwarded-for"),
            AddressHeader::Forwarded => HeaderName::from_static("forwarded"),
        };
        headers.append(name, line.parse().expect("a header"));
    }
    let addresses = ClientAddresses { trusted: ["10.0.0.0/8".parse().expect("a network")].into(), header };
    let peer: IpAddr = peer.parse().expect("an address");
    addresses.of(Peer(SocketAddr::new(peer, 4711)), &headers).map(|address| address.to_string())
}

fn x_forwarded_for(peer: &str, lines: &[&str]) -> Option<String> {
    let header = AddressHeader::XForwardedFor;
    client(header, peer, &lines.iter().map(|line| (header, *line)).collect::<Vec<_>>())
}

fn forwarded(line: &str) -> Option<String> {
    client(AddressHeader::Forwarded, "10.0.0.1", &[(AddressHeader::Forwarded, line)])
}

#[test]
fn the_address_is_the_peers_unless_a_trusted_proxy_forwards_another() {
    let found = |address: &str| Some(address.to_owned());
    assert_eq!(x_forwarded_for("203.0.113.7", &[]), found("203.0.113.7"));
    assert_eq!(x_forwarded_for("203.0.113.7", &["198.51.100.1"]), found("203.0.113.7"));
    assert_eq!(x_forwarded_for("10.0.0.1", &[]), found("10.0.0.1"));
    assert_eq!(x_forwarded_for("10.0.0.1", &["198.51.100.1"]), found("198.51.100.1"));
    assert_eq!(x_forwarded_for("10.0.0.1", &["192.0.2.9, 198.51.100.1, 10.0.0.2"]), found("198.51.100.1"));
    assert_eq!(x_forwarded_for("10.0.0.1", &["192.0.2.9", "198.51.100.1"]), found("198.51.100.1"));
    assert_eq!(x_forwarded_for("10.0.0.1", &["198.51.100.1, , "]), found("198.51.100.1"));
    assert_eq!(x_forwarded_for("::ffff:10.0.0.1", &["2001:db8::1"]), found("2001:db8::1"));
    assert_eq!(x_forwarded_for("10.0.0.1", &["::ffff:198.51.100.1"]), found("198.51.100.1"));
}

#[test]
fn ports_brackets_and_quotes_are_understood() {
    let v4 =
        ["203.0.113.7", "203.0.113.7:55220", "\"203.0.113.7\"", "\"203.0.113.7:55220\"", "203.0.113.7:_x"];
    let v6 = [
        "[2001:db8::7]",
        "[2001:db8::7]:443",
        "\"[2001:db8::7]\"",
        "\"[2001:db8::7]:443\"",
        "[2001:db8::7]:_x",
    ];
    for (hops, address) in [(v4, "203.0.113.7"), (v6, "2001:db8::7")] {
        for hop in hops {
            assert_eq!(x_forwarded_for("10.0.0.1", &[hop]).as_deref(), Some(address), "{hop}");
            for element in
                [format!("for={hop}"), format!("by=_p;For = {hop} ;proto=https;host=\"a,b;for=c\"")]
            {
                assert_eq!(forwarded(&element).as_deref(), Some(address), "{element}");
            }
        }
    }
    assert_eq!(x_forwarded_for("10.0.0.1", &["2001:db8::7"]).as_deref(), Some("2001:db8::7"));
    assert_eq!(forwarded("for=192.0.2.9, for=198.51.100.1, for=10.0.0.2").as_deref(), Some("198.51.100.1"));
}

#[test]
fn an_unreadable_hop_gives_no_address_and_never_that_of_a_proxy() {
    let hops = [
        "nonsense",
        "unknown",
        "_hidden",
        "203.0.113.7:",
        "203.0.113.7:port",
        "203.0.113.7:99999",
        "203.0.113",
        "[203.0.113.7]",
        "[2001:db8::7",
        "2001:db8::7]",
        "[2001:db8::7]x",
        "fe80::1%eth0",
        "[fe80::1%1]:443",
        "\"",
        "\"203.0.113.7",
        "203.0.113.7\"",
        "\"\"203.0.113.7\"\"",
        "203.0.113.7 198.51.100.1",
        "0x7f.1",
        "127.1",
        "é",
    ];
    for hop in hops {
        assert_eq!(x_forwarded_for("10.0.0.1", &[hop]), None, "{hop}");
        assert_eq!(x_forwarded_for("10.0.0.1", &[&format!("{hop}, 10.0.0.2")]), None, "{hop}");
        assert_eq!(forwarded(&format!("for={hop}")), None, "{hop}");
    }
    for element in [
        "203.0.113.7",
        "by=203.0.113.7",
        "for=203.0.113.7;for=203.0.113.7",
        "for",
        "for=",
        "for=\"203.0.113.7\\\"",
    ] {
        assert_eq!(forwarded(element), None, "{element}");
    }
    // Whatever the proxy wrote before it is not reached.
    assert_eq!(x_forwarded_for("10.0.0.1", &["nonsense, 198.51.100.1"]).as_deref(), Some("198.51.100.1"));
    let endless = "10.0.0.2,".repeat(1000);
    assert_eq!(x_forwarded_for("10.0.0.1", &[&endless]), None);
}

#[test]
fn one_header_alone_is_read() {
    let lines = [(AddressHeader::XForwardedFor, "198.51.100.1"), (AddressHeader::Forwarded, "for=192.0.2.9")];
    let found = BOTH.map(|header| client(header, "10.0.0.1", &lines));
    assert_eq!(found, [Some("198.51.100.1".to_owned()), Some("192.0.2.9".to_owned())]);
    for (header, line) in [(BOTH[0], lines[1]), (BOTH[1], lines[0])] {
        assert_eq!(client(header, "10.0.0.1", &[line]).as_deref(), Some("10.0.0.1"));
    }
}

fn written(address: IpAddr, form: usize) -> String {
    match (address, form % 3) {
        (IpAddr::V4(v4), 0) => v4.to_string(),
        (IpAddr::V4(v4), 1) => format!("{v4}:4711"),
        (IpAddr::V4(v4), _) => format!("\"{v4}:4711\""),
        (IpAddr::V6(v6), 0) => format!("\"[{v6}]\""),
        (IpAddr::V6(v6), 1) => format!("[{v6}]:4711"),
        (IpAddr::V6(v6), _) => format!("\"[{v6}]:4711\""),
    }
}

proptest! {
    #[test]
    fn the_address_that_the_nearest_proxy_wrote_is_found_whatever_the_client_sends(
        planted in "[ -~]{0,40}", address: IpAddr, form in 0..3_usize, own_line: bool,
    ) {
        prop_assume!(!matches!(address.to_canonical(), IpAddr::V4(v4) if v4.octets()[0] == 10));
        for header in BOTH {
            let hop = written(address, form);
            let hop = if header == AddressHeader::Forwarded { format!("for={hop};proto=https") } else { hop };
            let appended = format!("{planted}, {hop}");
            let lines = if own_line { vec![planted.as_str(), &hop] } else { vec![appended.as_str()] };
            let lines: Vec<_> = lines.into_iter().map(|line| (header, line)).collect();
            prop_assert_eq!(client(header, "10.0.0.1", &lines), Some(address.to_canonical().to_string()));
        }
    }

    #[test]
    fn what_is_no_address_is_never_read_as_one(line in "[0-9a-f:.\\[\\]\"%;=, for_]{0,30}") {
        for header in BOTH {
            let found = client(header, "10.0.0.1", &[(header, &line)]);
            let is_in_line = |found: &String| {
                let address: IpAddr = found.parse().expect("an address");
                found == "10.0.0.1" || line.split(['"', ',', ';', '=', '[', ']', ' ']).any(|part| {
                    let host = part.rsplit_once(':').map_or(part, |(host, _)| host);
                    [part, host].iter().any(|text| text.parse::<IpAddr>().is_ok_and(|read| read.to_canonical() == address))
                })
            };
            prop_assert!(found.as_ref().is_none_or(is_in_line), "{:?} in {:?}", found, line);
        }
    }
}

#[tokio::test]
async fn an_entry_holds_the_forwarded_address_or_none() {
    let service = Service::start().await;
    let customer = service.customer().await;
    let hops = ["203.0.113.7:55220", "[2001:db8::7]:443", "unknown"];
    for (hop, policy) in hops.iter().zip(["1", "2", "3"]) {
        let body = json!({"consent_tier": "basic", "policy_version": policy});
        let call = service.put(customer, &body).peer("10.0.0.1").header("x-forwarded-for", hop);
        call.header("forwarded", "for=192.0.2.9").send().await.expect_one_of(&[200, 201]);
    }
    let trail = service.trail(customer).await;
    let addresses: Vec<_> = trail.iter().rev().map(|entry| entry["ip_address"].clone()).collect();
    assert_eq!(addresses, [json!("203.0.113.7"), json!("2001:db8::7"), json!(null)]);
    // A filter finds an address however it is written.
    for written in ["203.0.113.7", "203.0.113.9/24", "::ffff:203.0.113.7", "::ffff:203.0.113.9/120"] {
        let path = format!("{}/audit?ip_address={written}", consent(customer));
        let found = service.get(&path).send().await.expect(200).json();
        assert_eq!(found["items"].as_array().map(Vec::len), Some(1), "{written}");
    }
}

#[tokio::test]
async fn the_settings_take_lists_as_people_write_them() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    let start = async |proxies: &str, header: &str| {
        let program = Command::new(env!("CARGO_BIN_EXE_consentd"))
            .args(["serve", "--listen", &address, "--trusted-proxies", proxies])
            .args(["--client-address-header", header])
            .stdout(Stdio::null())
            .output();
        program.await.expect("it ends").status.code()
    };
    // It gets as far as the port that is taken.
    assert_eq!(start("10.0.0.0/8, 192.0.2.1 ,2001:db8::/32", "forwarded").await, Some(1));
    assert_eq!(start("10.0.0.0/8", "X-Forwarded-For").await, Some(1));
    assert_eq!(start("10.0.0.0/8, nonsense", "forwarded").await, Some(2));
    assert_eq!(start("10.0.0.0/8", "x-real-ip").await, Some(2));
}
