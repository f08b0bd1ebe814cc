//! One ICMP echo. It shows a kernel, never more.

use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::{IpAddr, SocketAddr};
use tokio::net::UdpSocket;

/// ICMP header (8 bytes) and the random payload that tells our echo from all others.
const ECHO_LEN: usize = 8 + 16;

/// Sends one echo request and waits for its reply, without end: the caller has the deadline.
///
/// # Errors
/// Where neither ping nor raw sockets are permitted, and where there is no route.
pub(crate) async fn ping(address: IpAddr) -> io::Result<()> {
    let socket = open(address)?;
    let token = crate::wire::nonce().ok_or_else(|| io::Error::other("no randomness"))?;
    socket.send(&echo(address, &token)).await?;
    let mut buffer = [0; 256];
    loop {
        let n = socket.recv(&mut buffer).await?;
        if is_reply(address, &buffer[..n], &token) {
            return Ok(());
        }
    }
}

/// A ping socket where the system grants it, else a raw one (root).
/// Handled as a UDP socket: to the runtime, a datagram is a datagram.
fn open(address: IpAddr) -> io::Result<UdpSocket> {
    let (domain, protocol) = match address {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
    };
    let socket =
        Socket::new(domain, Type::DGRAM, Some(protocol)).or_else(|_| Socket::new(domain, Type::RAW, Some(protocol)))?;
    socket.set_nonblocking(true)?;
    // Connected: the kernel drops what comes from anyone else.
    socket.connect(&SocketAddr::new(address, 0).into())?;
    UdpSocket::from_std(socket.into())
}

fn echo(address: IpAddr, token: &[u8; 16]) -> [u8; ECHO_LEN] {
    let mut packet = [0; ECHO_LEN];
    packet[0] = if address.is_ipv4() { 8 } else { 128 };
    packet[6..8].copy_from_slice(&1u16.to_be_bytes());
    packet[8..].copy_from_slice(token);
    // The kernel fills in the checksum of ICMPv6, and of ping sockets; raw IPv4 is ours.
    let sum = checksum(&packet);
    packet[2..4].copy_from_slice(&sum.to_be_bytes());
    packet
}

/// A raw IPv4 socket hands over the IP header as well, so the echo is read from the end.
fn is_reply(address: IpAddr, packet: &[u8], token: &[u8; 16]) -> bool {
    let kind = if address.is_ipv4() { 0 } else { 129 };
    let icmp = packet.len().checked_sub(ECHO_LEN).map(|at| &packet[at..]);
    icmp.is_some_and(|p| p[0] == kind && p[1] == 0 && p[8..] == token[..])
}

/// The Internet checksum (RFC 1071).
fn checksum(data: &[u8]) -> u16 {
    let words = data.chunks(2).map(|c| u32::from(c[0]) << 8 | c.get(1).map_or(0, |b| u32::from(*b)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_with_its_checksum_sums_to_zero() {
        assert_eq!(checksum(&echo([127, 0, 0, 1].into(), &[7; 16])), 0);
    }

    #[test]
    fn only_the_reply_to_this_very_request_counts() {
        let (v4, token) = (IpAddr::from([127, 0, 0, 1]), [7; 16]);
        let request = echo(v4, &token);
        assert!(!is_reply(v4, &request, &token), "our own request, seen on loopback");
        let mut reply = request;
        reply[0] = 0;
        assert!(is_reply(v4, &reply, &token));
        assert!(is_reply(v4, &[&[0x45; 20][..], &reply[..]].concat(), &token), "with IP header");
        assert!(!is_reply(v4, &reply, &[8; 16]), "another's");
        assert!(!is_reply(v4, &reply[1..], &token), "cut short");
    }
}
