//! The way from a node to a real API server: a relay on the node's own loopback, which can be cut.

use std::net::{Ipv4Addr, SocketAddr};

use carrick_node::Namespace;
use carrick_testkit::apiserver::ApiServer;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

/// Carries connections of a node to the API server until it is dropped.
pub struct Relay(JoinHandle<()>);

impl Drop for Relay {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Relay {
    /// Listens in the namespace where the API server listens here, so that its certificate fits.
    pub async fn open(netns: &str, server: &ApiServer) -> Self {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, server.port()));
        let namespace = Namespace::open(format!("/run/netns/{netns}")).unwrap();
        let listener = namespace
            .run(move || {
                let socket = std::net::TcpListener::bind(address).unwrap();
                socket.set_nonblocking(true).unwrap();
                socket
            })
            .await
            .unwrap();
        let listener = TcpListener::from_std(listener).unwrap();
        Self(tokio::spawn(async move {
            // Dropped with this task, and the connections with it.
            let mut connections = JoinSet::new();
            while let Ok((mut near, _)) = listener.accept().await {
                connections.spawn(async move {
                    if let Ok(mut far) = TcpStream::connect(address).await {
                        let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                    }
                });
            }
        }))
    }
}
