//! How soon an endpoint that comes is reached.

use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use carrick_node::Namespace;

use super::load::{LONELY_AT, Load};

/// Where endpoints listen.
pub const PORT: u16 = 8080;
/// How long one attempt of a connection may take: an answer within a host comes in less than a millisecond.
const ATTEMPT: Duration = Duration::from_millis(20);
/// How long a change may take before it counts as a failure.
const LOST: Duration = Duration::from_mins(2);

/// The lonely Service gets its endpoint so many times; from the API server's answer to the first connection
/// that a process of the node's host gets through.
pub async fn delays(load: &Load, netns: &str, times: usize) -> Vec<Duration> {
    let namespace = Namespace::open(format!("/run/netns/{netns}")).unwrap();
    let listener = { namespace.run(|| TcpListener::bind(("0.0.0.0", PORT)).unwrap()) }
        .await
        .unwrap();
    // Accepted by nobody but the kernel; what waits is dropped with the listener's queue.
    let acceptor = std::thread::spawn(move || {
        for connection in listener.incoming() {
            let Ok(mut connection) = connection else {
                return;
            };
            let mut word = [0; 4];
            let is_end = std::io::Read::read_exact(&mut connection, &mut word).is_ok();
            if is_end && &word == b"stop" {
                return;
            }
        }
    });
    until(&namespace, false).await;
    let mut delays = Vec::new();
    for _ in 0..times {
        load.lonely(true).await;
        delays.push(until(&namespace, true).await);
        load.lonely(false).await;
        until(&namespace, false).await;
    }
    let stop = namespace.run(|| {
        let mut connection = TcpStream::connect(("127.0.0.1", PORT)).unwrap();
        std::io::Write::write_all(&mut connection, b"stop").unwrap();
    });
    stop.await.unwrap();
    acceptor.join().unwrap();
    delays
}

/// Tries until connections are answered, or refused; how long it took.
async fn until(namespace: &Namespace, answered: bool) -> Duration {
    let to = SocketAddr::new(LONELY_AT.0.parse::<IpAddr>().unwrap(), LONELY_AT.1);
    let tries = namespace.run(move || {
        let begun = Instant::now();
        while TcpStream::connect_timeout(&to, ATTEMPT).is_ok() != answered {
            assert!(begun.elapsed() < LOST, "answered: {}", !answered);
        }
        begun.elapsed()
    });
    tries.await.unwrap()
}
