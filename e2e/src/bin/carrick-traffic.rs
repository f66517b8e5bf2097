//! Traffic that runs while a node, a part or a link fails, and what became of it.
//!
//! ```text
//! carrick-traffic answer PORT                   echoes UDP and TCP
//! carrick-traffic send ADDRESS:PORT STATUS      10 ms pings, one TCP stream, five new connections a second
//! ```
//!
//! `send` writes [`Status`](carrick_e2e::traffic::Status) as JSON to the file STATUS, five times a second,
//! until it is killed. It counts only: whoever reads the file twice knows what happened in between, and no
//! two clocks are compared.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use carrick_e2e::timeline::Timeline;
use carrick_e2e::traffic::Status;
use nix::sys::socket::{setsockopt, sockopt::RcvBufForce};

/// Between two pings.
const PING: Duration = Duration::from_millis(10);
/// Between two words of the stream.
const WORD: Duration = Duration::from_millis(50);
/// How long a stream may stall: a connection outlives an outage by retransmissions.
const STALL: Duration = Duration::from_mins(2);
/// Between two new connections.
const CONNECT: Duration = Duration::from_millis(200);
/// How long a new connection may take: two retransmissions of its first segment.
const CONNECT_LIMIT: Duration = Duration::from_secs(4);
/// Between two writings of the status.
const WRITE: Duration = Duration::from_millis(200);

/// Bytes that wait in a socket, with what the kernel adds to each ping.
const HELD: usize = 8 << 20;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let done = match *words {
        ["answer", port] => port.parse().context("PORT").and_then(answer),
        ["send", target, status] => target
            .parse()
            .context("ADDRESS:PORT")
            .and_then(|target| send(target, Path::new(status))),
        _ => Err(anyhow::anyhow!(
            "usage: carrick-traffic answer PORT | send ADDRESS:PORT STATUS"
        )),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "carrick-traffic: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Echoes until it is killed.
fn answer(port: u16) -> Result<()> {
    let any = [
        SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)),
        SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)),
    ];
    let udp = UdpSocket::bind(&any[..]).context("bind UDP")?;
    hold_much(&udp)?;
    let tcp = TcpListener::bind(&any[..]).context("bind TCP")?;
    thread::spawn(move || {
        let mut bytes = [0; 64];
        loop {
            // An unreachable peer is told here; the next datagram may come from another.
            if let Ok((length, from)) = udp.recv_from(&mut bytes) {
                let _ = udp.send_to(bytes.get(..length).unwrap_or_default(), from);
            }
        }
    });
    for stream in tcp.incoming().flatten() {
        thread::spawn(move || {
            let _ = stream.set_nodelay(true);
            let _ = std::io::copy(&mut &stream, &mut &stream);
        });
    }
    bail!("no more connections are accepted")
}

type Shared = Arc<Mutex<Status>>;

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

fn send(target: SocketAddr, file: &Path) -> Result<()> {
    let status = Shared::default();
    let pings = Arc::new(Mutex::new(Timeline::new(Instant::now())));
    let socket = ping_socket(target)?;
    let receiver = socket.try_clone().context("clone the socket")?;
    let answers = Arc::clone(&pings);
    thread::spawn(move || {
        let mut bytes = [0; 8];
        loop {
            if let Ok(8) = receiver.recv(&mut bytes) {
                lock(&answers).answer(u64::from_be_bytes(bytes));
            }
        }
    });
    let requests = Arc::clone(&pings);
    thread::spawn(move || {
        let mut next = Instant::now();
        loop {
            let number = lock(&requests).send(Instant::now());
            // What cannot be sent is not answered.
            let _ = socket.send(&number.to_be_bytes());
            next += PING;
            let now = Instant::now();
            // After a stop of the machine pings go on from now, not in a burst.
            next = next.max(now);
            thread::sleep(next.duration_since(now));
        }
    });
    let stream = Arc::clone(&status);
    thread::spawn(move || keep_stream(target, &stream));
    let connections = Arc::clone(&status);
    thread::spawn(move || keep_connecting(target, &connections));
    let partial = file.with_extension("partial");
    loop {
        thread::sleep(WRITE);
        let now = Instant::now();
        let text = {
            let mut pings = lock(&pings);
            pings.judge(now);
            let mut status = lock(&status);
            status.pings.note(&pings, now);
            serde_json::to_vec(&*status).context("encode the status")?
        };
        std::fs::write(&partial, text).with_context(|| format!("write {}", partial.display()))?;
        std::fs::rename(&partial, file).with_context(|| format!("write {}", file.display()))?;
    }
}

/// A node whose one processor is busy for a second lets several hundred pings wait: what the socket cannot
/// hold would count as lost by the network.
fn hold_much(socket: &UdpSocket) -> Result<()> {
    setsockopt(socket, RcvBufForce, &HELD).context("set SO_RCVBUFFORCE")
}

fn ping_socket(target: SocketAddr) -> Result<UdpSocket> {
    let any = match target {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    let socket = UdpSocket::bind(any).context("bind UDP")?;
    hold_much(&socket)?;
    socket.connect(target).context("connect UDP")?;
    Ok(socket)
}

/// Holds one stream open, says words and hears them; makes another when it breaks.
fn keep_stream(target: SocketAddr, status: &Mutex<Status>) {
    loop {
        if let Ok(stream) = connect(target, STALL) {
            lock(status).stream.is_open = true;
            let reason = talk(&stream, status);
            let mut status = lock(status);
            status.stream.is_open = false;
            status.stream.broken += 1;
            status.stream.last_reason = reason;
        }
        thread::sleep(CONNECT);
    }
}

/// Ends with the reason why it broke.
fn talk(mut stream: &TcpStream, status: &Mutex<Status>) -> String {
    let mut word = 0_u64;
    loop {
        let mut bytes = word.to_be_bytes();
        let said = stream
            .write_all(&bytes)
            .and_then(|()| stream.read_exact(&mut bytes));
        if let Err(error) = said {
            return error.to_string();
        }
        if u64::from_be_bytes(bytes) != word {
            return format!("said {word} and heard {}", u64::from_be_bytes(bytes));
        }
        lock(status).stream.words += 1;
        word += 1;
        thread::sleep(WORD);
    }
}

fn keep_connecting(target: SocketAddr, status: &Mutex<Status>) {
    let mut failing = None;
    loop {
        let begun = Instant::now();
        let made = connect(target, CONNECT_LIMIT).and_then(|mut stream| {
            let mut byte = [7];
            stream.write_all(&byte)?;
            stream.read_exact(&mut byte)
        });
        let mut status = lock(status);
        let connections = &mut status.connections;
        if made.is_ok() {
            connections.made += 1;
            if let Some(since) = failing.take() {
                connections.longest_failing_ms = connections
                    .longest_failing_ms
                    .max(carrick_e2e::traffic::millis(begun.duration_since(since)));
            }
        } else {
            connections.failed += 1;
            failing.get_or_insert(begun);
        }
        connections.is_failing = failing.is_some();
        drop(status);
        thread::sleep(CONNECT.saturating_sub(begun.elapsed()));
    }
}

fn connect(target: SocketAddr, limit: Duration) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&target, CONNECT_LIMIT)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(limit))?;
    stream.set_write_timeout(Some(limit))?;
    Ok(stream)
}
