//! The sockets that the service listens on.

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use socket2::{Domain, Socket, Type};
use tokio::net::{TcpListener, lookup_host};

use crate::config::listen::ListenAddress;
use crate::error::StartError;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 1024;

/// Listens on an address. A name is looked up once; the first of its addresses that this machine can listen on is taken,
/// IPv4 before IPv6: both families at once would be two ports where the port is 0.
pub async fn bind(address: &ListenAddress, flag: &str) -> Result<TcpListener, StartError> {
    let bound = match &address.host {
        Some(host) => bind_host(host, address.port).await,
        None => bind_all(address.port),
    };
    bound.map_err(|error| {
        let advice = match error.kind() {
            ErrorKind::AddrInUse => {
                format!("another program has it: stop that one, or choose another with {flag}")
            }
            ErrorKind::PermissionDenied => {
                format!("ports below 1024 need a right of their own: choose another with {flag}")
            }
            _ => format!("choose another with {flag}"),
        };
        StartError::new(format!("cannot listen on {address} ({error}): {advice}"))
    })
}

async fn bind_host(host: &str, port: u16) -> io::Result<TcpListener> {
    let mut addresses: Vec<SocketAddr> = lookup_host((host, port)).await?.collect();
    addresses.sort_by_key(SocketAddr::is_ipv6);
    TcpListener::bind(&*addresses).await
}

/// All addresses of both families by one socket, or of IPv4 where the machine has no IPv6.
fn bind_all(port: u16) -> io::Result<TcpListener> {
    match bind_dual_stack(port) {
        Err(error) if error.kind() != ErrorKind::AddrInUse && error.kind() != ErrorKind::PermissionDenied => {
            listen(&Socket::new(Domain::IPV4, Type::STREAM, None)?, (Ipv4Addr::UNSPECIFIED, port).into())
        }
        bound => bound,
    }
}

fn bind_dual_stack(port: u16) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::IPV6, Type::STREAM, None)?;
    socket.set_only_v6(false)?;
    listen(&socket, (Ipv6Addr::UNSPECIFIED, port).into())
}

fn listen(socket: &Socket, address: SocketAddr) -> io::Result<TcpListener> {
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.try_clone()?.into())
}
