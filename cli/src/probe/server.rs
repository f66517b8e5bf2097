//! The answering end.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use super::wire::{ANSWER_HEADER, Answer, REQUEST_HEADER, Request};

/// Connections at a time on one address; more wait in the backlog.
const CONNECTIONS: usize = 64;
/// The life of one connection.
const CONNECTION_LIMIT: Duration = Duration::from_secs(30);
/// How long an address may take to become usable (duplicate address detection).
const BIND_LIMIT: Duration = Duration::from_secs(10);
const BIND_RETRY: Duration = Duration::from_millis(100);
/// A failing accept (no file descriptors) must not spin.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// The server could not start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address is not ours or the port is taken.
    #[error("cannot listen on {protocol} {address}")]
    Bind {
        /// tcp or udp.
        protocol: &'static str,
        /// Where.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Answers on every address until `token` is cancelled.
///
/// # Errors
/// An address that cannot be listened on.
pub async fn serve(
    listen: &[IpAddr],
    port: u16,
    name: &str,
    token: CancellationToken,
) -> Result<(), ServeError> {
    let name: Arc<str> = name.into();
    let mut tasks = JoinSet::new();
    for address in listen {
        let address = SocketAddr::new(*address, port);
        let tcp = bind("tcp", address, || TcpListener::bind(address)).await?;
        let udp = bind("udp", address, || UdpSocket::bind(address)).await?;
        if address.is_ipv6() {
            // A lost answer tells more than a fragmented one. Without the option the test is only
            // less strict.
            let _ =
                nix::sys::socket::setsockopt(&udp, nix::sys::socket::sockopt::Ipv6DontFrag, &true);
        }
        info!(%address, "listening");
        tasks.spawn(streams(tcp, Arc::clone(&name), token.clone()));
        tasks.spawn(datagrams(udp, Arc::clone(&name), token.clone()));
    }
    while tasks.join_next().await.is_some() {}
    Ok(())
}

/// An IPv6 address is not to be bound until duplicate address detection is over.
async fn bind<T, F>(
    protocol: &'static str,
    address: SocketAddr,
    mut attempt: impl FnMut() -> F,
) -> Result<T, ServeError>
where
    F: Future<Output = io::Result<T>>,
{
    let deadline = Instant::now() + BIND_LIMIT;
    loop {
        match attempt().await {
            Ok(socket) => return Ok(socket),
            Err(error)
                if error.kind() == io::ErrorKind::AddrNotAvailable && Instant::now() < deadline =>
            {
                sleep(BIND_RETRY).await;
            }
            Err(source) => {
                return Err(ServeError::Bind {
                    protocol,
                    address,
                    source,
                });
            }
        }
    }
}

async fn streams(listener: TcpListener, name: Arc<str>, token: CancellationToken) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let accepted = tokio::select! {
            () = token.cancelled() => return,
            accepted = async {
                let slot = Arc::clone(&slots).acquire_owned().await;
                (slot, listener.accept().await)
            } => accepted,
        };
        match accepted {
            (Ok(slot), Ok((stream, peer))) => {
                let name = Arc::clone(&name);
                connections.spawn(async move {
                    let _slot = slot;
                    let answered = timeout(CONNECTION_LIMIT, answer(stream, peer, &name)).await;
                    debug!(%peer, ?answered, "connection over");
                });
            }
            (Ok(_), Err(error)) => {
                debug!(%error, "accept failed");
                sleep(ACCEPT_RETRY).await;
            }
            // The semaphore is never closed.
            (Err(_), _) => return,
        }
    }
}

async fn answer(mut stream: TcpStream, peer: SocketAddr, name: &str) -> io::Result<()> {
    let mut header = [0; REQUEST_HEADER];
    stream.read_exact(&mut header).await?;
    let Some(Request { nonce, length }) = Request::decode(&header) else {
        return Err(io::ErrorKind::InvalidData.into());
    };
    let answer = Answer {
        nonce,
        length,
        peer,
        name: name.to_owned(),
    };
    stream.write_all(&answer.encode()).await?;
    let (read, mut write) = stream.split();
    tokio::io::copy(&mut read.take(u64::from(length)), &mut write).await?;
    write.shutdown().await
}

async fn datagrams(socket: UdpSocket, name: Arc<str>, token: CancellationToken) {
    let mut buffer = vec![0; usize::from(u16::MAX)];
    loop {
        let received = tokio::select! {
            () = token.cancelled() => return,
            received = socket.recv_from(&mut buffer) => received,
        };
        // Errors here are those of earlier answers (ICMP); the next datagram is another matter.
        let Ok((size, peer)) = received else { continue };
        let Some(datagram) = buffer.get_mut(..size) else {
            continue;
        };
        let Some(Request { nonce, length }) = Request::decode(datagram) else {
            continue;
        };
        // Never answer more than was asked: no amplifier.
        let Some(head) = datagram.get_mut(..ANSWER_HEADER) else {
            continue;
        };
        let answer = Answer {
            nonce,
            length,
            peer,
            name: name.to_string(),
        };
        head.copy_from_slice(&answer.encode());
        if let Err(error) = socket.send_to(datagram, peer).await {
            debug!(%peer, %error, "answer not sent");
        }
    }
}
