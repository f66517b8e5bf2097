//! ICMP echo (RFC 792, RFC 4443) from the host's own network: does an address answer, and does a
//! packet of this size reach it whole?

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, SockFlag, SockProtocol, SockType, setsockopt, socket, sockopt,
};
use rustix::net::sockopt::{
    Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery, set_ip_mtu_discover, set_ipv6_mtu_discover,
};
use tokio::net::UdpSocket;
use tokio::time::{Instant, sleep, timeout_at};

const ECHO_REQUEST: [u8; 2] = [8, 128];
const ECHO_REPLY: [u8; 2] = [0, 129];
const HEADER: usize = 8;
/// Bytes of the IP headers in front of it, without options (RFC 791 §3.1, RFC 8200 §3).
const IP_HEADER: [u16; 2] = [20, 40];
/// How much of an answer is looked at: an IPv4 header has at most 60 bytes. The rest is padding.
const ANSWER: usize = 128;

/// Pause between one size and the next. Open vSwitch in userspace, which takes packets in batches, drops what
/// comes in one batch behind a packet that a device refuses: a packet that is too large must not take
/// others with it.
const STEP: Duration = Duration::from_millis(10);

/// An echo request: whom it asks, and how large it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Echo {
    /// Who is asked.
    pub address: IpAddr,
    /// Bytes of the whole packet with its IP header. Never fewer than a header and an empty request
    /// have (28 over IPv4, 48 over IPv6).
    pub bytes: u16,
}

impl Echo {
    /// One of this size; of the least size where that is too small.
    pub fn new(address: IpAddr, bytes: u16) -> Self {
        Self {
            address,
            bytes: bytes.max(Family::of(address).least()),
        }
    }

    /// The smallest one.
    pub fn small(address: IpAddr) -> Self {
        Self::new(address, 0)
    }
}

/// Which of `targets` answer one echo request of the least size within `limit`. Needs `CAP_NET_RAW`.
///
/// # Errors
/// The kernel gives no socket. A target that cannot be asked (no route) has not answered.
pub async fn ping(
    targets: &BTreeSet<IpAddr>,
    identifier: u16,
    limit: Duration,
) -> io::Result<BTreeSet<IpAddr>> {
    let echoes = targets.iter().map(|target| Echo::small(*target)).collect();
    let answered = ping_sizes(&echoes, identifier, limit).await?;
    Ok(answered.into_iter().map(|echo| echo.address).collect())
}

/// Which of `echoes` are answered within `limit` of the last, each sent once, the smaller ones first. No request is fragmented, here or
/// on the way, and what the kernel believes about the path does not count (`IP_PMTUDISC_PROBE` of
/// ip(7)): one that is too large for the path is lost, and that is what the caller wants to know. The
/// answers may be fragmented. Needs `CAP_NET_RAW`.
///
/// # Errors
/// The kernel gives no socket. What cannot be sent (no route, larger than the interface's MTU) is not
/// answered.
pub async fn ping_sizes(
    echoes: &BTreeSet<Echo>,
    identifier: u16,
    limit: Duration,
) -> io::Result<BTreeSet<Echo>> {
    let of = |family: Family| -> BTreeSet<Echo> {
        let own = |echo: &&Echo| Family::of(echo.address) == family;
        echoes.iter().filter(own).copied().collect()
    };
    let (of_v4, of_v6) = (of(Family::V4), of(Family::V6));
    let open = |family: Family, of: &BTreeSet<Echo>| {
        let some = !of.is_empty();
        some.then(|| family.open()).transpose()
    };
    let (v4, v6) = (open(Family::V4, &of_v4)?, open(Family::V6, &of_v6)?);
    let mut order: Vec<&Echo> = echoes.iter().collect();
    order.sort_by_key(|echo| echo.bytes);
    let sizes: BTreeSet<u16> = order.iter().map(|echo| echo.bytes).collect();
    let steps = u32::try_from(sizes.len()).unwrap_or(u32::MAX);
    let end = Instant::now() + STEP.saturating_mul(steps) + limit;
    let send = async {
        let mut size = None;
        for echo in order {
            if size
                .replace(echo.bytes)
                .is_some_and(|last| last != echo.bytes)
            {
                sleep(STEP).await;
            }
            let family = Family::of(echo.address);
            let socket = match family {
                Family::V4 => &v4,
                Family::V6 => &v6,
            };
            if let Some(socket) = socket {
                let request = request(family, identifier, echo.bytes);
                // Whatever refuses it (no route, no room, too large), it is not answered.
                let to = SocketAddr::new(echo.address, 0);
                let _ = timeout_at(end, socket.send_to(&request, to)).await;
            }
        }
    };
    // All at once: answers to the first must not wait in the socket's buffer for the last.
    let ((), v4, v6) = tokio::join!(
        send,
        receive(Family::V4, v4.as_ref(), &of_v4, identifier, end),
        receive(Family::V6, v6.as_ref(), &of_v6, identifier, end)
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
    fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    fn index(self) -> usize {
        match self {
            Self::V4 => 0,
            Self::V6 => 1,
        }
    }

    /// The least size of a packet.
    fn least(self) -> u16 {
        IP_HEADER[self.index()] + 8
    }

    /// A raw socket whose packets are never fragmented. The system calls are those of a datagram
    /// socket: the type is borrowed.
    fn open(self) -> io::Result<UdpSocket> {
        let (address, protocol) = match self {
            Self::V4 => (AddressFamily::Inet, SockProtocol::Icmp),
            Self::V6 => (AddressFamily::Inet6, SockProtocol::IcmpV6),
        };
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(address, SockType::Raw, flags, protocol)?;
        match self {
            Self::V4 => set_ip_mtu_discover(&socket, Ipv4PathMtuDiscovery::PROBE)?,
            Self::V6 => {
                set_ipv6_mtu_discover(&socket, Ipv6PathMtuDiscovery::PROBE)?;
                setsockopt(&socket, sockopt::Ipv6DontFrag, &true)?;
            }
        }
        UdpSocket::from_std(socket.into())
    }
}

/// Which of `echoes` are answered until `end`.
async fn receive(
    family: Family,
    socket: Option<&UdpSocket>,
    echoes: &BTreeSet<Echo>,
    identifier: u16,
    end: Instant,
) -> io::Result<BTreeSet<Echo>> {
    let mut answered = BTreeSet::new();
    let Some(socket) = socket else {
        return Ok(answered);
    };
    let mut buffer = [0; ANSWER];
    while answered != *echoes {
        let Ok(read) = timeout_at(end, socket.recv_from(&mut buffer)).await else {
            break;
        };
        let (length, from) = read?;
        let answer = buffer.get(..length).unwrap_or_default();
        if let Some(bytes) = reply(family, answer, identifier) {
            let echo = Echo {
                address: from.ip(),
                bytes,
            };
            if echoes.contains(&echo) {
                answered.insert(echo);
            }
        }
    }
    Ok(answered)
}

/// An echo request that makes a packet of so many bytes. Its sequence number is the size, which the
/// answer repeats. The kernel writes the checksum of ICMPv6.
fn request(family: Family, identifier: u16, bytes: u16) -> Vec<u8> {
    let header = [
        ECHO_REQUEST[family.index()],
        0,
        0,
        0,
        identifier.to_be_bytes()[0],
        identifier.to_be_bytes()[1],
        bytes.to_be_bytes()[0],
        bytes.to_be_bytes()[1],
    ];
    let mut message = header.to_vec();
    // Zeros: they change no checksum.
    let length = usize::from(bytes.saturating_sub(IP_HEADER[family.index()]));
    message.resize(length.max(HEADER), 0);
    if family == Family::V4 {
        let sum: u32 = header
            .chunks_exact(2)
            .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
            .sum();
        // Twice: the first fold may carry again (RFC 1071 §4.1).
        let fold = |sum: u32| (sum & 0xffff) + (sum >> 16);
        let checksum = u16::try_from(fold(fold(sum))).map_or([0, 0], |sum| (!sum).to_be_bytes());
        message[2..4].copy_from_slice(&checksum);
    }
    message
}

/// The size of the request that this answers, if it is ours. A raw IPv4 socket shows the IP header,
/// too.
fn reply(family: Family, bytes: &[u8], identifier: u16) -> Option<u16> {
    let skip = match (family, bytes.first()) {
        (Family::V6, _) => 0,
        (Family::V4, first) => usize::from(first? & 0x0f) * 4,
    };
    let [kind, code, _, _, high, low, size @ ..] = bytes.get(skip..)? else {
        return None;
    };
    let ours = *kind == ECHO_REPLY[family.index()]
        && *code == 0
        && u16::from_be_bytes([*high, *low]) == identifier;
    ours.then(|| Some(u16::from_be_bytes([*size.first()?, *size.get(1)?])))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_has_its_checksum() {
        // 0x0800 + 0x1234 + 0x001c = 0x1a50
        assert_eq!(
            request(Family::V4, 0x1234, 28),
            [8, 0, 0xe5, 0xaf, 0x12, 0x34, 0, 28]
        );
        assert_eq!(request(Family::V6, 0x1234, 48)[..4], [128, 0, 0, 0]);
        // 0xffff + 0x0800 + 0x05dc carries: 0x0ddc. So does 0xf7ff + 0x0800 + 0xffff, twice: 0x07ff.
        let full = request(Family::V4, 0xffff, 1500);
        assert_eq!((full.len(), &full[2..4]), (1480, &[0xf2, 0x23][..]));
        let carries = request(Family::V4, 0xf800, 0xffff);
        assert_eq!(carries[2..4], [0xff, 0xfe]);
        assert_eq!(request(Family::V6, 1, 1280).len(), 1240);
    }

    #[test]
    fn a_size_below_the_least_is_the_least() {
        let [v4, v6]: [IpAddr; 2] = ["192.0.2.1", "fd00::1"].map(|text| text.parse().unwrap());
        assert_eq!((Echo::small(v4).bytes, Echo::small(v6).bytes), (28, 48));
        assert_eq!(Echo::new(v6, 1500).bytes, 1500);
    }

    #[test]
    fn only_our_own_answers_count() {
        let mut answer = vec![0x45; 20];
        answer.extend([0, 0, 0, 0, 0x12, 0x34, 5, 220]);
        assert_eq!(reply(Family::V4, &answer, 0x1234), Some(1500));
        assert_eq!(reply(Family::V4, &answer, 0x1235), None);
        assert_eq!(reply(Family::V4, &answer[..22], 0x1234), None);
        assert_eq!(reply(Family::V4, &answer[..27], 0x1234), None);
        assert_eq!(reply(Family::V4, &[], 0x1234), None);
        let v6 = |kind| reply(Family::V6, &[kind, 0, 0, 0, 0x12, 0x34, 0, 48], 0x1234);
        assert_eq!((v6(129), v6(128)), (Some(48), None));
    }
}
