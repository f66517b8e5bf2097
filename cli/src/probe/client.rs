//! The asking end.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use futures::StreamExt;
use nix::errno::Errno;
use nix::sys::socket::{getsockopt, setsockopt, sockopt};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::target::{Protocol, Target};
use super::wire::{ANSWER_HEADER, Answer, Request, pattern};

/// Targets in flight: enough to be quick, few enough not to be what is measured.
pub(crate) const AT_A_TIME: usize = 8;
/// A refused connection is tried again: the other end may be starting.
const REFUSED_RETRY: Duration = Duration::from_millis(200);
/// A lost datagram is sent again after this, growing: UDP may lose.
const RESEND: Duration = Duration::from_millis(400);

/// Why a target failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Failure {
    /// No answer in time.
    Timeout,
    /// Somebody answered that nothing listens there.
    Refused,
    /// No route, or a router said so.
    Unreachable,
    /// A packet of this size does not fit the path.
    TooBig,
    /// The answer was not what was sent.
    Corrupt,
    /// Anything else.
    Other,
}

/// What came of one target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    /// The target.
    pub target: Target,
    /// Why it failed; nothing when it did not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    /// The failure in words.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// The name the other end answered with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answered_by: Option<String>,
    /// This end's address as the other end saw it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen_as: Option<IpAddr>,
    /// From the first byte out to the last byte back.
    #[serde(default)]
    pub micros: u64,
}

/// What an attempt ended with.
struct Failed {
    failure: Failure,
    message: String,
}

impl Failed {
    fn new(failure: Failure, message: impl Into<String>) -> Self {
        Self {
            failure,
            message: message.into(),
        }
    }

    fn io(what: &str, error: &io::Error) -> Self {
        let failure = match error.kind() {
            io::ErrorKind::ConnectionRefused => Failure::Refused,
            io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
                Failure::Unreachable
            }
            io::ErrorKind::TimedOut => Failure::Timeout,
            _ if error.raw_os_error() == Some(Errno::EMSGSIZE as i32) => Failure::TooBig,
            _ => Failure::Other,
        };
        Self::new(failure, format!("{what}: {error}"))
    }
}

/// Asks all targets, a few at a time, and tells each outcome as it comes. How many failed.
///
/// # Errors
/// Those of `tell`.
pub async fn connect<E>(
    targets: Vec<Target>,
    limit: Duration,
    mut tell: impl FnMut(&Outcome) -> Result<(), E>,
) -> Result<usize, E> {
    let mut outcomes = futures::stream::iter(targets)
        .map(|target| ask(target, limit))
        .buffer_unordered(AT_A_TIME);
    let mut failed = 0;
    while let Some(outcome) = outcomes.next().await {
        failed += usize::from(outcome.failure.is_some());
        tell(&outcome)?;
    }
    Ok(failed)
}

/// Asks one target.
async fn ask(target: Target, limit: Duration) -> Outcome {
    let nonce = rand::random();
    let deadline = Instant::now() + limit;
    let started = Instant::now();
    let answer = match target.protocol() {
        Protocol::Tcp => stream(target, nonce, deadline).await,
        Protocol::Udp | Protocol::Mtu => datagram(target, nonce, deadline).await,
    };
    let micros = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
    match answer {
        Ok(answer) => Outcome {
            target,
            failure: None,
            message: String::new(),
            answered_by: Some(answer.name),
            seen_as: Some(answer.peer.ip()),
            micros,
        },
        Err(Failed { failure, message }) => Outcome {
            target,
            failure: Some(failure),
            message,
            answered_by: None,
            seen_as: None,
            micros,
        },
    }
}

async fn stream(target: Target, nonce: u64, deadline: Instant) -> Result<Answer, Failed> {
    loop {
        let attempt = timeout_at(deadline, exchange(target, nonce)).await;
        match attempt {
            Ok(Err(failed))
                if failed.failure == Failure::Refused
                    && Instant::now() + REFUSED_RETRY < deadline =>
            {
                sleep(REFUSED_RETRY).await;
            }
            Ok(done) => return done,
            Err(_) => return Err(Failed::new(Failure::Timeout, "no answer in time")),
        }
    }
}

async fn exchange(target: Target, nonce: u64) -> Result<Answer, Failed> {
    let mut stream = TcpStream::connect(target.address())
        .await
        .map_err(|error| Failed::io("connect", &error))?;
    let payload = pattern(nonce, target.payload());
    let request = Request {
        nonce,
        length: target.bytes(),
    }
    .encode();
    let (mut read, mut write) = stream.split();
    let send = async {
        write.write_all(&request).await?;
        write.write_all(&payload).await
    };
    let receive = async {
        let mut header = [0; ANSWER_HEADER];
        read.read_exact(&mut header).await?;
        let mut echo = vec![0; payload.len()];
        read.read_exact(&mut echo).await?;
        Ok((header, echo))
    };
    // Both at once: neither end may wait for the other with full buffers.
    let ((), (header, echo)) =
        tokio::try_join!(send, receive).map_err(|error| Failed::io("exchange", &error))?;
    verify(&header, &echo, nonce, &payload)
}

async fn datagram(target: Target, nonce: u64, deadline: Instant) -> Result<Answer, Failed> {
    let any: IpAddr = match target.address() {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0))
        .await
        .map_err(|error| Failed::io("bind", &error))?;
    socket
        .connect(target.address())
        .await
        .map_err(|error| Failed::io("connect", &error))?;
    let strict = target.protocol() == Protocol::Mtu;
    if strict && target.address().is_ipv6() {
        setsockopt(&socket, sockopt::Ipv6DontFrag, &true)
            .map_err(|error| Failed::io("IPV6_DONTFRAG", &error.into()))?;
    }
    let size = target.payload();
    let mut packet = Request {
        nonce,
        length: target.bytes(),
    }
    .encode();
    packet.resize(ANSWER_HEADER, 0);
    let payload = pattern(nonce, size.saturating_sub(ANSWER_HEADER));
    packet.extend_from_slice(&payload);
    let mut buffer = vec![0; usize::from(u16::MAX)];
    let mut wait = RESEND;
    let mut last = None;
    loop {
        if strict {
            fits(&socket, target)?;
        }
        match socket.send(&packet).await {
            Ok(_) => {}
            Err(error) => {
                let failed = Failed::io("send", &error);
                if failed.failure == Failure::TooBig {
                    return Err(Failed::new(
                        Failure::TooBig,
                        format!(
                            "the path takes smaller packets than {} bytes",
                            target.bytes()
                        ),
                    ));
                }
                last = Some(failed);
            }
        }
        let until = (Instant::now() + wait).min(deadline);
        while let Ok(received) = timeout_at(until, socket.recv(&mut buffer)).await {
            match received {
                Ok(length) => {
                    let bytes = buffer.get(..length).unwrap_or_default();
                    let Some(answer) = Answer::decode(bytes).filter(|a| a.nonce == nonce) else {
                        continue;
                    };
                    if strict {
                        fits(&socket, target)?;
                    }
                    let echo = bytes.get(ANSWER_HEADER..).unwrap_or_default();
                    return same(answer, echo, &payload);
                }
                Err(error) => {
                    last = Some(Failed::io("receive", &error));
                    // An ICMP error came back at once: wait the rest, then send again.
                    sleep_until(until).await;
                }
            }
        }
        if Instant::now() >= deadline {
            return Err(last.unwrap_or_else(|| Failed::new(Failure::Timeout, "no answer in time")));
        }
        wait *= 2;
    }
}

/// IPv4 fragments by itself once it has learned of a smaller path, which would hide the failure
/// (ip(7), IP_MTU_DISCOVER); IPv6 has an option against it.
fn fits(socket: &UdpSocket, target: Target) -> Result<(), Failed> {
    if target.address().is_ipv6() {
        return Ok(());
    }
    match getsockopt(socket, sockopt::IpMtu) {
        Ok(path) if i64::from(path) < i64::from(target.bytes()) => Err(Failed::new(
            Failure::TooBig,
            format!(
                "the path takes packets of {path} bytes, not {}",
                target.bytes()
            ),
        )),
        Ok(_) => Ok(()),
        Err(error) => Err(Failed::io("IP_MTU", &error.into())),
    }
}

fn verify(header: &[u8], echo: &[u8], nonce: u64, payload: &[u8]) -> Result<Answer, Failed> {
    match Answer::decode(header).filter(|answer| answer.nonce == nonce) {
        Some(answer) => same(answer, echo, payload),
        None => Err(Failed::new(
            Failure::Corrupt,
            "something else answers there",
        )),
    }
}

fn same(answer: Answer, echo: &[u8], payload: &[u8]) -> Result<Answer, Failed> {
    if echo == payload {
        Ok(answer)
    } else {
        Err(Failed::new(
            Failure::Corrupt,
            format!(
                "{} bytes were sent, {} others came back",
                payload.len(),
                echo.len()
            ),
        ))
    }
}
