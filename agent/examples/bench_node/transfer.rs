//! TCP between two namespaces: a stream, request/response, and connect/request/response.
//!
//! Each end is this program once more, in the pod's namespace: `bench_node serve` and
//! `bench_node drive KIND ADDRESS SECONDS`.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::lab::wait;

const PORT: u16 = 7070;
/// What one write of the stream holds.
const BLOCK: u32 = 128 << 10;
/// A server that says nothing for so long is not reached.
const SILENCE: Duration = Duration::from_secs(10);

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Bytes in one direction on one connection.
    Stream,
    /// A byte there and a byte back on one connection, again and again.
    RequestResponse,
    /// The same with a connection for each.
    ConnectRequestResponse,
}

impl Kind {
    pub const ALL: [Self; 3] = [
        Self::Stream,
        Self::RequestResponse,
        Self::ConnectRequestResponse,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Stream => "stream",
            Self::RequestResponse => "request/response",
            Self::ConnectRequestResponse => "connect/request/response",
        }
    }

    pub fn unit(self) -> &'static str {
        match self {
            Self::Stream => "Mbit/s",
            Self::RequestResponse | Self::ConnectRequestResponse => "each/s",
        }
    }

    /// The first byte of a connection.
    fn byte(self) -> u8 {
        match self {
            Self::Stream => b's',
            Self::RequestResponse => b'r',
            Self::ConnectRequestResponse => b'c',
        }
    }
}

/// A server in a namespace.
pub struct Server(Child);

impl Server {
    /// Starts it and waits until it listens.
    pub fn start(netns: &str) -> Self {
        let child = program(netns).arg("serve").spawn().unwrap();
        let listens = || {
            let sockets = crate::lab::must(netns, "ss -Hltn");
            sockets.contains(&format!(":{PORT}"))
        };
        wait("the server to listen", listens);
        Self(child)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// This program in a namespace.
fn program(netns: &str) -> Command {
    let mut command = Command::new("ip");
    command
        .args(["netns", "exec", netns])
        .arg(std::env::current_exe().unwrap())
        .stdin(Stdio::null());
    command
}

/// What was moved from a namespace to a server's address, in [`Kind::unit`].
pub fn measure(kind: Kind, netns: &str, address: &str, length: Duration) -> f64 {
    let output = program(netns)
        .args(["drive", &char::from(kind.byte()).to_string(), address])
        .arg(length.as_secs_f64().to_string())
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    assert!(output.status.success(), "{kind:?} to {address}");
    let text = String::from_utf8(output.stdout).unwrap();
    text.trim().parse().unwrap()
}

fn block() -> Vec<u8> {
    vec![0; usize::try_from(BLOCK).unwrap()]
}

/// Serves one connection after the other, until the process is ended.
pub fn serve() {
    let listener = TcpListener::bind(("0.0.0.0", PORT)).unwrap();
    let mut buffer = block();
    for connection in listener.incoming() {
        // A client that went away is no matter of the next one's.
        let _ = answer(connection.unwrap(), &mut buffer);
    }
}

fn answer(mut connection: TcpStream, buffer: &mut [u8]) -> std::io::Result<()> {
    connection.set_nodelay(true)?;
    let mut kind = [0];
    connection.read_exact(&mut kind)?;
    if kind[0] == Kind::Stream.byte() {
        while connection.read(buffer)? > 0 {}
        return Ok(());
    }
    loop {
        connection.write_all(&kind)?;
        if connection.read(&mut buffer[..1])? == 0 {
            return Ok(());
        }
    }
}

/// In the client's process: works for so long and prints what was moved.
pub fn drive(kind: &str, address: &str, seconds: &str) {
    let kind = Kind::ALL
        .into_iter()
        .find(|known| kind.as_bytes() == [known.byte()])
        .unwrap();
    let to = SocketAddr::new(address.parse().unwrap(), PORT);
    let length = Duration::from_secs_f64(seconds.parse().unwrap());
    let per_second = match kind {
        Kind::Stream => stream(to, length) * 8.0 / 1e6,
        Kind::RequestResponse => request_response(to, length),
        Kind::ConnectRequestResponse => connect_request_response(to, length),
    };
    println!("{per_second}");
}

fn connect(to: SocketAddr, kind: Kind) -> TcpStream {
    let mut connection = TcpStream::connect_timeout(&to, SILENCE).unwrap();
    connection.set_nodelay(true).unwrap();
    connection.set_read_timeout(Some(SILENCE)).unwrap();
    connection.set_write_timeout(Some(SILENCE)).unwrap();
    connection.write_all(&[kind.byte()]).unwrap();
    connection
}

/// Bytes per second that the network took. What waits in the socket at the end is less than a
/// hundredth of it.
fn stream(to: SocketAddr, length: Duration) -> f64 {
    let mut connection = connect(to, Kind::Stream);
    let block = block();
    let begun = Instant::now();
    let mut blocks = 0.0;
    while begun.elapsed() < length {
        connection.write_all(&block).unwrap();
        blocks += 1.0;
    }
    blocks * f64::from(BLOCK) / begun.elapsed().as_secs_f64()
}

fn request_response(to: SocketAddr, length: Duration) -> f64 {
    let mut connection = connect(to, Kind::RequestResponse);
    let mut byte = [0];
    connection.read_exact(&mut byte).unwrap();
    let begun = Instant::now();
    let mut count = 0.0;
    while begun.elapsed() < length {
        connection.write_all(&byte).unwrap();
        connection.read_exact(&mut byte).unwrap();
        count += 1.0;
    }
    count / begun.elapsed().as_secs_f64()
}

fn connect_request_response(to: SocketAddr, length: Duration) -> f64 {
    let begun = Instant::now();
    let mut count = 0.0;
    while begun.elapsed() < length {
        let mut connection = connect(to, Kind::ConnectRequestResponse);
        connection.read_exact(&mut [0]).unwrap();
        count += 1.0;
    }
    count / begun.elapsed().as_secs_f64()
}
