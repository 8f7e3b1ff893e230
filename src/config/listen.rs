//! Addresses to listen on.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

/// A host and a port. The host is looked up when the service starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenAddress {
    /// `None` stands for all addresses of this machine, of IPv4 and IPv6.
    pub host: Option<String>,
    pub port: u16,
}

impl FromStr for ListenAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Ok(Self { host: Some(address.ip().to_string()), port: address.port() });
        }
        let is_name =
            |host: &str| host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte));
        let (host, port) = text.rsplit_once(':').filter(|(host, _)| is_name(host)).ok_or_else(expected)?;
        let port = port.parse().map_err(|_| expected())?;
        Ok(Self { host: (!host.is_empty()).then(|| host.to_owned()), port })
    }
}

fn expected() -> String {
    "must be HOST:PORT or :PORT, for example 127.0.0.1:8080, [::1]:8080, localhost:8080 or :8080".to_owned()
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Some(host) if host.contains(':') => write!(f, "[{host}]:{}", self.port),
            Some(host) => write!(f, "{host}:{}", self.port),
            None => write!(f, ":{}", self.port),
        }
    }
}
