//! TLS for agents: the serving certificate of the mounted Secret, read again when it changes.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::{Connected, TcpConnectInfo, TlsConnectInfo};
use tracing::{debug, info, warn};

/// How often the files are looked at. The kubelet takes about a minute to bring a changed Secret.
const RELOAD_EVERY: Duration = Duration::from_secs(15);
/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Handshakes under way at once; more wait in the listener's queue.
const HANDSHAKES: usize = 256;
/// Connections one address may have. An agent has one or two; room is left for nodes behind one
/// address, and none for a pod that takes all file descriptors by opening connections.
const PER_ADDRESS: usize = 512;
/// Pause after an accept failed, e.g. for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
/// Largest certificate or key file, in bytes.
const FILE_LIMIT: u64 = 1024 * 1024;

/// The serving certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// A file is larger than any certificate.
    #[error("{} is larger than {FILE_LIMIT} bytes", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// A file holds no PEM of its kind.
    #[error("{} holds no usable {what}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// What it should hold.
        what: &'static str,
    },
    /// Certificate and key do not belong together, or are of an unknown kind.
    #[error("the certificate and key in {} cannot be used", directory.display())]
    Use {
        /// Where they are.
        directory: PathBuf,
        /// The cause.
        #[source]
        source: rustls::Error,
    },
}

/// The certificate in use. Clones share it.
#[derive(Clone)]
pub struct Serving {
    directory: PathBuf,
    key: Arc<ArcSwap<CertifiedKey>>,
}

impl fmt::Debug for Serving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Serving")
            .field("directory", &self.directory)
            .finish_non_exhaustive()
    }
}

impl ResolvesServerCert for Serving {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.key.load_full())
    }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    let fail = |source| TlsError::Read {
        path: path.to_owned(),
        source,
    };
    if std::fs::metadata(path).map_err(fail)?.len() > FILE_LIMIT {
        return Err(TlsError::TooLarge {
            path: path.to_owned(),
        });
    }
    std::fs::read(path).map_err(fail)
}

fn load(directory: &Path) -> Result<CertifiedKey, TlsError> {
    let (certificate, key) = (directory.join("tls.crt"), directory.join("tls.key"));
    let parse = |path: &Path, what| TlsError::Parse {
        path: path.to_owned(),
        what,
    };
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&read(&certificate)?)
        .collect::<Result<_, _>>()
        .map_err(|_| parse(&certificate, "certificate"))?;
    if chain.is_empty() {
        return Err(parse(&certificate, "certificate"));
    }
    let private =
        PrivateKeyDer::from_pem_slice(&read(&key)?).map_err(|_| parse(&key, "private key"))?;
    let provider = rustls::crypto::ring::default_provider();
    CertifiedKey::from_der(chain, private, &provider).map_err(|source| TlsError::Use {
        directory: directory.to_owned(),
        source,
    })
}

impl Serving {
    /// Reads `tls.crt` and `tls.key` of `directory`.
    pub fn open(directory: &Path) -> Result<Self, TlsError> {
        let key = Arc::new(ArcSwap::from_pointee(load(directory)?));
        Ok(Self {
            directory: directory.to_owned(),
            key,
        })
    }

    /// Looks at the files again; handshakes from now on use what they hold. What cannot be used
    /// leaves the certificate in use as it is.
    pub fn reload(&self) -> Result<Reloaded, TlsError> {
        let fresh = load(&self.directory)?;
        if fresh.cert == self.key.load().cert {
            return Ok(Reloaded::Same);
        }
        self.key.store(Arc::new(fresh));
        Ok(Reloaded::Changed)
    }

    /// Reloads until `stop`.
    pub async fn keep_fresh(self, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(RELOAD_EVERY) => {}
            }
            let serving = self.clone();
            match tokio::task::spawn_blocking(move || serving.reload()).await {
                Ok(Ok(Reloaded::Changed)) => info!("serving by a new certificate"),
                Ok(Ok(Reloaded::Same)) => {}
                Ok(Err(error)) => warn!(%error, "the new certificate cannot be used"),
                Err(error) => warn!(%error, "reading the certificate failed"),
            }
        }
    }

    fn acceptor(&self) -> Result<TlsAcceptor, TlsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|source| TlsError::Use {
                directory: self.directory.clone(),
                source,
            })?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(self.clone()));
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(TlsAcceptor::from(Arc::new(config)))
    }

    /// Accepts connections until `stop`; those whose handshake succeeds come out.
    pub fn accept(
        &self,
        listener: TcpListener,
        stop: CancellationToken,
    ) -> Result<mpsc::Receiver<std::io::Result<Connection>>, TlsError> {
        let acceptor = self.acceptor()?;
        // The server takes them out at once; a few are enough to never wait for each other.
        let (out, accepted) = mpsc::channel(64);
        tokio::spawn(accept_all(listener, acceptor, out, stop));
        Ok(accepted)
    }
}

/// Whether a reload brought something new.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reloaded {
    /// A new certificate is in use.
    Changed,
    /// The files hold the one in use.
    Same,
}

async fn accept_all(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    out: mpsc::Sender<std::io::Result<Connection>>,
    stop: CancellationToken,
) {
    let turns = Arc::new(Semaphore::new(HANDSHAKES));
    let places = Places::default();
    loop {
        let Ok(turn) = Arc::clone(&turns).acquire_owned().await else {
            return;
        };
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Some(place) = places.take(peer.ip()) else {
            debug!(%peer, "a connection was refused: its address has too many");
            continue;
        };
        let (acceptor, out) = (acceptor.clone(), out.clone());
        // Ends with the handshake or its time limit.
        tokio::spawn(async move {
            let _turn = turn;
            handshake(&acceptor, stream, peer, place, &out).await;
        });
    }
}

async fn handshake(
    acceptor: &TlsAcceptor,
    stream: TcpStream,
    peer: SocketAddr,
    place: Place,
    out: &mpsc::Sender<std::io::Result<Connection>>,
) {
    if let Err(error) = stream.set_nodelay(true) {
        debug!(%peer, %error, "TCP_NODELAY was refused");
    }
    match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => {
            // The server is gone when nobody takes it: so is the connection.
            let _ = out
                .send(Ok(Connection {
                    stream,
                    _place: place,
                }))
                .await;
        }
        Ok(Err(error)) => debug!(%peer, %error, "a TLS handshake failed"),
        Err(_) => debug!(%peer, "a TLS handshake took too long"),
    }
}

/// How many connections each address has.
#[derive(Debug, Clone, Default)]
struct Places(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// One connection's place; given back when dropped.
#[derive(Debug)]
struct Place {
    places: Places,
    address: IpAddr,
}

impl Places {
    fn take(&self, address: IpAddr) -> Option<Place> {
        let mut taken = self.0.lock();
        let count = taken.entry(address).or_default();
        if *count >= PER_ADDRESS {
            return None;
        }
        *count += 1;
        Some(Place {
            places: self.clone(),
            address,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.0.lock();
        if let Some(count) = taken.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.address);
            }
        }
    }
}

/// A connection of an agent.
#[derive(Debug)]
pub struct Connection {
    stream: TlsStream<TcpStream>,
    _place: Place,
}

impl Connected for Connection {
    type ConnectInfo = TlsConnectInfo<TcpConnectInfo>;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.stream.connect_info()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use carrick_k8s::pki::{LeafNames, Pki, rotation::Policy};
    use jiff::Timestamp;

    fn write(directory: &Path, pki: &Pki) {
        for (name, bytes) in pki.leaf_data() {
            std::fs::write(directory.join(name), bytes).unwrap();
        }
    }

    fn pki() -> Pki {
        let names = LeafNames {
            dns: ["carrick-controller".to_owned()].into(),
            ..LeafNames::default()
        };
        Pki::default()
            .advance("ca", &names, Timestamp::now(), &Policy::default())
            .unwrap()
            .0
    }

    #[test]
    fn one_address_has_a_bounded_number_of_connections() {
        let places = Places::default();
        let (one, other) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        let mut taken: Vec<Place> = (0..PER_ADDRESS).filter_map(|_| places.take(one)).collect();
        assert_eq!(taken.len(), PER_ADDRESS);
        assert!(places.take(one).is_none());
        assert!(places.take(other).is_some());
        taken.pop();
        assert!(places.take(one).is_some());
        drop(taken);
        assert!(places.0.lock().is_empty());
    }

    #[test]
    fn a_rotated_certificate_is_served_and_a_broken_one_is_not() {
        let directory = tempfile::tempdir().unwrap();
        assert!(matches!(
            Serving::open(directory.path()),
            Err(TlsError::Read { .. })
        ));
        write(directory.path(), &pki());
        let serving = Serving::open(directory.path()).unwrap();
        assert_eq!(serving.reload().unwrap(), Reloaded::Same);
        write(directory.path(), &pki());
        let old = serving.key.load().cert.clone();
        assert_eq!(serving.reload().unwrap(), Reloaded::Changed);
        let new = serving.key.load().cert.clone();
        assert_ne!(old, new);

        // A key of another certificate, as between the two writes of a careless hand.
        std::fs::write(
            directory.path().join("tls.key"),
            &pki().leaf_data()["tls.key"],
        )
        .unwrap();
        assert!(matches!(serving.reload(), Err(TlsError::Use { .. })));
        std::fs::write(directory.path().join("tls.crt"), "nothing").unwrap();
        assert!(matches!(serving.reload(), Err(TlsError::Parse { .. })));
        assert_eq!(serving.key.load().cert, new);
    }
}
