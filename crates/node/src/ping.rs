//! ICMP echo (RFC 792, RFC 4443) from the host's own network: does an address answer?

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
use tokio::net::UdpSocket;
use tokio::time::{Instant, timeout_at};

const ECHO_REQUEST: [u8; 2] = [8, 128];
const ECHO_REPLY: [u8; 2] = [0, 129];
const HEADER: usize = 8;
/// Longest answer that is looked at; ours have no payload, an IPv4 header has at most 60 bytes.
const ANSWER: usize = 128;

/// Which of `targets` answer one echo request within `limit`. Needs `CAP_NET_RAW`.
///
/// # Errors
/// The kernel gives no socket. A target that cannot be asked (no route) has not answered.
pub async fn ping(
    targets: &BTreeSet<IpAddr>,
    identifier: u16,
    limit: Duration,
) -> io::Result<BTreeSet<IpAddr>> {
    let of = |v6: bool| -> BTreeSet<IpAddr> {
        let family = targets.iter().filter(|target| target.is_ipv6() == v6);
        family.copied().collect()
    };
    let (v4, v6) = tokio::join!(
        family(of(false), Family::V4, identifier, limit),
        family(of(true), Family::V6, identifier, limit)
    );
    let mut answered = v4?;
    answered.extend(v6?);
    Ok(answered)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

impl Family {
    fn index(self) -> usize {
        match self {
            Self::V4 => 0,
            Self::V6 => 1,
        }
    }

    /// A raw socket. The system calls are those of a datagram socket: the type is borrowed.
    fn open(self) -> io::Result<UdpSocket> {
        let (address, protocol) = match self {
            Self::V4 => (AddressFamily::Inet, SockProtocol::Icmp),
            Self::V6 => (AddressFamily::Inet6, SockProtocol::IcmpV6),
        };
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(address, SockType::Raw, flags, protocol)?;
        UdpSocket::from_std(socket.into())
    }
}

async fn family(
    targets: BTreeSet<IpAddr>,
    family: Family,
    identifier: u16,
    limit: Duration,
) -> io::Result<BTreeSet<IpAddr>> {
    let mut answered = BTreeSet::new();
    if targets.is_empty() {
        return Ok(answered);
    }
    let socket = family.open()?;
    let request = request(family, identifier);
    for target in &targets {
        // Whatever refuses it (no route, no room), it does not answer.
        let _ = socket.send_to(&request, SocketAddr::new(*target, 0)).await;
    }
    let end = Instant::now() + limit;
    let mut buffer = [0; ANSWER];
    while answered != targets {
        let Ok(read) = timeout_at(end, socket.recv_from(&mut buffer)).await else {
            break;
        };
        let (length, from) = read?;
        let answer = buffer.get(..length).unwrap_or_default();
        if targets.contains(&from.ip()) && is_reply(family, answer, identifier) {
            answered.insert(from.ip());
        }
    }
    Ok(answered)
}

/// An echo request without payload. The kernel writes the checksum of ICMPv6.
fn request(family: Family, identifier: u16) -> [u8; HEADER] {
    let [high, low] = identifier.to_be_bytes();
    let kind = ECHO_REQUEST[family.index()];
    let mut message = [kind, 0, 0, 0, high, low, 0, 1];
    if family == Family::V4 {
        let sum: u32 = message
            .chunks_exact(2)
            .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
            .sum();
        let folded = (sum & 0xffff) + (sum >> 16);
        let [high, low] = u16::try_from(folded).map_or([0, 0], |sum| (!sum).to_be_bytes());
        message[2] = high;
        message[3] = low;
    }
    message
}

/// Whether it is the answer to our request. A raw IPv4 socket shows the IP header, too.
fn is_reply(family: Family, bytes: &[u8], identifier: u16) -> bool {
    let skip = match (family, bytes.first()) {
        (Family::V6, _) => 0,
        (Family::V4, Some(first)) => usize::from(first & 0x0f) * 4,
        (Family::V4, None) => return false,
    };
    let Some([kind, code, _, _, high, low, ..]) = bytes.get(skip..) else {
        return false;
    };
    *kind == ECHO_REPLY[family.index()]
        && *code == 0
        && u16::from_be_bytes([*high, *low]) == identifier
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_has_its_checksum() {
        // 0x0800 + 0x1234 + 0x0001 = 0x1a35
        assert_eq!(
            request(Family::V4, 0x1234),
            [8, 0, 0xe5, 0xca, 0x12, 0x34, 0, 1]
        );
        assert_eq!(request(Family::V6, 0x1234)[..4], [128, 0, 0, 0]);
    }

    #[test]
    fn only_our_own_answers_count() {
        let mut answer = vec![0x45; 20];
        answer.extend([0, 0, 0, 0, 0x12, 0x34, 0, 1]);
        assert!(is_reply(Family::V4, &answer, 0x1234));
        assert!(!is_reply(Family::V4, &answer, 0x1235));
        assert!(!is_reply(Family::V4, &answer[..22], 0x1234));
        assert!(!is_reply(Family::V4, &[], 0x1234));
        assert!(is_reply(
            Family::V6,
            &[129, 0, 0, 0, 0x12, 0x34, 0, 1],
            0x1234
        ));
        assert!(!is_reply(
            Family::V6,
            &[128, 0, 0, 0, 0x12, 0x34, 0, 1],
            0x1234
        ));
    }
}
