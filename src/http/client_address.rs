//! The address of the client, behind proxies that are trusted to name it.
//!
//! One header is read, never two: a proxy that sets one of them passes the client's own copy of the other on.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::http::{HeaderMap, HeaderName};
use ipnetwork::IpNetwork;

use super::server::Peer;

/// The most hops that are looked at. No chain of proxies is longer: beyond them the client's address is not known.
const MAX_HOPS: usize = 64;

/// The header in which proxies name the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressHeader {
    XForwardedFor,
    /// RFC 7239.
    Forwarded,
}

/// The rule by which the address of a client is found.
#[derive(Clone, Debug)]
pub struct ClientAddresses {
    /// The networks of the proxies whose header is believed.
    pub trusted: Arc<[IpNetwork]>,
    pub header: AddressHeader,
}

impl ClientAddresses {
    /// Returns the peer's address, or the address that trusted proxies forward: the header is read from its end, as far as
    /// trusted proxies wrote it. Returns `None` if a trusted proxy forwards something that is no address: no address is
    /// better than a wrong one.
    pub fn of(&self, Peer(peer): Peer, headers: &HeaderMap) -> Option<IpAddr> {
        let mut client = peer.ip().to_canonical();
        let name = match self.header {
            AddressHeader::XForwardedFor => HeaderName::from_static("x-forwarded-for"),
            AddressHeader::Forwarded => HeaderName::from_static("forwarded"),
        };
        // A line that is no text is one unreadable hop.
        let lines = headers.get_all(name).iter().rev().map(|line| line.to_str().unwrap_or("?"));
        let hops = lines.flat_map(|line| self.header.hops(line));
        for (distance, hop) in hops.enumerate() {
            if !self.is_trusted(client) {
                break;
            }
            client = self.header.address(hop).filter(|_| distance < MAX_HOPS)?;
        }
        Some(client)
    }

    fn is_trusted(&self, address: IpAddr) -> bool {
        self.trusted.iter().any(|network| network.contains(address))
    }
}

impl AddressHeader {
    /// Returns the hops of a line, the last one first. Empty ones count for nothing (RFC 9110, 5.6.1).
    fn hops(self, line: &str) -> impl Iterator<Item = &str> {
        let mut rest = Some(line);
        let hops = std::iter::from_fn(move || {
            let line = rest?;
            let comma = match self {
                Self::XForwardedFor => line.rfind(','),
                Self::Forwarded => last_comma(line),
            };
            rest = comma.map(|comma| &line[..comma]);
            Some(line[comma.map_or(0, |comma| comma + 1)..].trim())
        });
        hops.filter(|hop| !hop.is_empty())
    }

    fn address(self, hop: &str) -> Option<IpAddr> {
        match self {
            Self::XForwardedFor => node(hop),
            Self::Forwarded => forwarded_for(hop),
        }
    }
}

/// Finds the last comma that is not in quotes. Read from the end, since the end is what the nearest proxy wrote: a quote
/// that a client leaves open cannot swallow the proxy's own element.
fn last_comma(line: &str) -> Option<usize> {
    let bytes = line.as_bytes();
    let mut quoted = false;
    (0..bytes.len()).rev().find(|&at| {
        let escaped = quoted && at > 0 && bytes[at - 1] == b'\\';
        if bytes[at] == b'"' && !escaped {
            quoted = !quoted;
        }
        bytes[at] == b',' && !quoted
    })
}

/// Returns the address of the one `for` of an element of `Forwarded` (RFC 7239, 4).
fn forwarded_for(element: &str) -> Option<IpAddr> {
    let mut quoted = false;
    let pairs = element.split(|char| {
        quoted ^= char == '"';
        char == ';' && !quoted
    });
    let mut values = pairs.filter_map(|pair| {
        let (name, value) = pair.split_once('=')?;
        name.trim().eq_ignore_ascii_case("for").then_some(value)
    });
    let value = values.next()?;
    // An element whose quotes are not understood is not read.
    let is_plain = !element.contains('\\') && element.matches('"').count().is_multiple_of(2);
    if values.next().is_some() || !is_plain { None } else { node(value) }
}

/// Reads an address, with or without a port, brackets and quotes: `203.0.113.7`, `203.0.113.7:55220`, `2001:db8::7`,
/// `[2001:db8::7]`, `"[2001:db8::7]:443"`. Anything else is no address: `unknown`, `_hidden`, a host name, a zone.
fn node(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let text = match text.strip_prefix('"') {
        Some(rest) => rest.strip_suffix('"')?.trim(),
        None => text,
    };
    let address = match text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(v6) => IpAddr::V6(v6.parse().ok()?),
        None => text.parse().ok().or_else(|| without_port(text))?,
    };
    Some(address.to_canonical())
}

fn without_port(text: &str) -> Option<IpAddr> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        // A zone names an interface of the proxy's machine.
        return (!text.contains('%')).then_some(address.ip());
    }
    // A port may also be a name that hides it (RFC 7239, 6).
    let (host, port) = text.rsplit_once(':')?;
    let name = port.strip_prefix('_')?;
    if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte)) {
        return None;
    }
    match host.strip_prefix('[') {
        Some(v6) => v6.strip_suffix(']')?.parse().ok().map(IpAddr::V6),
        None => host.parse().ok().map(IpAddr::V4),
    }
}
