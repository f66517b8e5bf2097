//! The stream to the controller: finds a leader, opens a session, and opens the next one.
//!
//! Nothing here is needed to keep forwarding. Reconnects are jittered and bounded, so that a
//! controller that comes back is not met by all agents at once.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use carrick_api::agentinfo::condition;
use carrick_api::names::{object, port};
use carrick_proto::{AddressChange, limits, v1::distribution_client::DistributionClient};
use jiff::Timestamp;
use rand::RngExt as _;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tracing::{debug, info};

use crate::controllers::Addresses;
use crate::node::Node;
use crate::session::{SessionEnd, session};
use crate::status::{ControllerStream, Fact};
use carrick_k8s::telemetry::chain;

/// How long a TCP and TLS connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A silent connection is asked this often and given up after twice the time.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// First and longest pause between sessions, before jitter.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(10));
/// How many times in a row another replica's word is followed without a pause.
const MAX_REDIRECTS: u32 = 3;
/// Longest token read: a ServiceAccount token has about 1 KB.
const MAX_TOKEN_BYTES: usize = 64 << 10;
/// Longest CA bundle read.
const MAX_BUNDLE_BYTES: usize = 1 << 20;

/// Why no session could be opened.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// A file that the operator mounts cannot be used.
    #[error("reading {what} {}", path.display())]
    File {
        /// What it is.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The token cannot stand in a header.
    #[error("the token in {} cannot be sent", path.display())]
    Token {
        /// The file.
        path: PathBuf,
    },
    /// No connection.
    #[error("connecting to the controller at {address}")]
    Connect {
        /// The replica.
        address: SocketAddr,
        /// Why.
        #[source]
        source: tonic::transport::Error,
    },
}

/// What the stream's task needs beside the node.
#[derive(Debug)]
pub struct StreamInputs {
    /// Where controllers are.
    pub addresses: watch::Receiver<Addresses>,
    /// Address changes to tell, in order.
    pub changes: mpsc::Receiver<AddressChange>,
}

/// Holds a stream to the leading controller until `shutdown`.
pub async fn run(node: Arc<Node>, mut inputs: StreamInputs, shutdown: CancellationToken) {
    let mut chooser = Chooser::default();
    let mut failures = 0_u32;
    set_lost(&node, None, "no session was opened yet");
    loop {
        let Some(address) = chooser.next(&inputs.addresses.borrow_and_update()) else {
            set_lost(&node, None, "no address of a controller is known yet");
            tokio::select! {
                () = shutdown.cancelled() => return,
                changed = inputs.addresses.changed() => if changed.is_err() { return },
            }
            continue;
        };
        let ended = tokio::select! {
            () = shutdown.cancelled() => return,
            ended = attempt(&node, address, &mut inputs.changes) => ended,
        };
        node.attachments.controller_lost();
        let served = match ended {
            Attempt::Ended {
                served,
                end: SessionEnd::NotLeader { leader },
            } => {
                debug!(%address, ?leader, "not the leader");
                set_lost(&node, Some(address), "that replica does not lead");
                chooser.redirected(address, leader);
                served
            }
            Attempt::Ended {
                served,
                end: SessionEnd::Lost { reason },
            } => {
                info!(%address, reason, "the stream to the controller ended");
                set_lost(&node, Some(address), &reason);
                chooser.failed(address, served);
                served
            }
            Attempt::Failed(reason) => {
                debug!(%address, reason, "no stream to the controller");
                set_lost(&node, Some(address), &reason);
                chooser.failed(address, false);
                false
            }
        };
        failures = if served {
            0
        } else {
            failures.saturating_add(1)
        };
        if chooser.is_redirect() {
            continue;
        }
        let pause = jittered(failures, rand::rng().random_range(0.5..1.0));
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
            // A new address may be the one that answers.
            changed = inputs.addresses.changed() => if changed.is_err() { return },
        }
    }
}

enum Attempt {
    Failed(String),
    Ended { served: bool, end: SessionEnd },
}

async fn attempt(
    node: &Arc<Node>,
    address: SocketAddr,
    changes: &mut mpsc::Receiver<AddressChange>,
) -> Attempt {
    let opened = async {
        let channel = connect(&node.paths.ca_bundle, address).await?;
        let token = token(&node.paths.token)?;
        Ok::<_, ConnectError>((channel, token))
    };
    let (channel, token) = match opened.await {
        Ok(opened) => opened,
        Err(error) => return Attempt::Failed(chain(&error)),
    };
    let client = DistributionClient::new(channel)
        .max_decoding_message_size(limits::ANSWER_BYTES)
        .max_encoding_message_size(limits::MESSAGE_BYTES);
    let (served, end) = session(node, client, token, address, changes).await;
    Attempt::Ended { served, end }
}

async fn connect(ca_bundle: &Path, address: SocketAddr) -> Result<Channel, ConnectError> {
    let pem = read(ca_bundle, "the CA bundle", MAX_BUNDLE_BYTES)?;
    let failed = |source| ConnectError::Connect { address, source };
    // The certificate names the controller, not its address.
    let tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(pem))
        .domain_name(object::CONTROLLER);
    Endpoint::from_shared(format!("https://{address}"))
        .map_err(failed)?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .keep_alive_while_idle(true)
        .tls_config(tls)
        .map_err(failed)?
        .connect()
        .await
        .map_err(failed)
}

/// The token, read anew for each session: the kubelet renews the file.
fn token(path: &Path) -> Result<MetadataValue<Ascii>, ConnectError> {
    let bytes = read(path, "the token", MAX_TOKEN_BYTES)?;
    let unusable = || ConnectError::Token {
        path: path.to_owned(),
    };
    let text = std::str::from_utf8(&bytes).map_err(|_| unusable())?;
    let mut value: MetadataValue<Ascii> = format!("Bearer {}", text.trim())
        .parse()
        .map_err(|_| unusable())?;
    value.set_sensitive(true);
    Ok(value)
}

fn read(path: &Path, what: &'static str, limit: usize) -> Result<Vec<u8>, ConnectError> {
    let file = |source| ConnectError::File {
        what,
        path: path.to_owned(),
        source,
    };
    let bytes = std::fs::read(path).map_err(file)?;
    if bytes.len() > limit {
        return Err(file(std::io::Error::other(format!(
            "it is longer than {limit} bytes"
        ))));
    }
    Ok(bytes)
}

/// Tells that there is no stream. The text changes seldom, so that nothing is written per attempt.
fn set_lost(node: &Node, address: Option<SocketAddr>, reason: &str) {
    let message = format!("{reason}; the node forwards by what it was told last");
    node.board.update(|report| {
        report.conditions.insert(
            condition::CONTROLLER_CONNECTED,
            Fact::fails("NoStream", message),
        );
        let since = match &report.controller {
            Some(stream) if !stream.connected => stream.since,
            _ => Timestamp::now(),
        };
        let address = address
            .map(|address| address.to_string())
            .unwrap_or_default();
        report.controller = Some(ControllerStream {
            address,
            since,
            connected: false,
        });
    });
}

/// Which replica to try next.
#[derive(Debug, Default)]
struct Chooser {
    /// Where a leader is said to be, or was.
    hint: Option<SocketAddr>,
    /// The last one tried: others come first.
    last: Option<SocketAddr>,
    redirects: u32,
    redirect: bool,
}

impl Chooser {
    fn next(&mut self, known: &Addresses) -> Option<SocketAddr> {
        self.redirect = false;
        let chosen = self.hint.take().or_else(|| {
            let after = self
                .last
                .and_then(|last| known.iter().find(|address| **address > last));
            after.or_else(|| known.first()).copied()
        })?;
        self.last = Some(chosen);
        Some(chosen)
    }

    /// `from` said that `leader` leads. Two replicas that name each other are not followed for ever.
    fn redirected(&mut self, from: SocketAddr, leader: Option<SocketAddr>) {
        let leader = leader.filter(|leader| *leader != from);
        if leader.is_some() && self.redirects < MAX_REDIRECTS {
            self.redirects += 1;
            self.hint = leader;
            self.redirect = true;
        } else {
            self.redirects = 0;
        }
    }

    fn failed(&mut self, address: SocketAddr, served: bool) {
        self.redirects = 0;
        // Who led a moment ago most likely leads again.
        self.hint = served.then_some(address);
    }

    const fn is_redirect(&self) -> bool {
        self.redirect
    }
}

/// The address in a redirect: with a port, or the usual one.
pub fn leader_address(text: &str) -> Option<SocketAddr> {
    let bare = || Some(SocketAddr::new(text.parse().ok()?, port::CONTROLLER_GRPC));
    text.parse().ok().or_else(bare)
}

fn jittered(failures: u32, factor: f64) -> Duration {
    let doubled = BACKOFF
        .0
        .saturating_mul(1 << failures.min(10))
        .min(BACKOFF.1);
    doubled.mul_f64(factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(texts: &[&str]) -> Addresses {
        Arc::new(texts.iter().map(|text| text.parse().unwrap()).collect())
    }

    #[test]
    fn replicas_are_tried_in_turn_and_a_redirect_is_followed() {
        let both = known(&["10.0.0.1:1", "10.0.0.2:1"]);
        let mut chooser = Chooser::default();
        let first = chooser.next(&both).unwrap();
        chooser.failed(first, false);
        let second = chooser.next(&both).unwrap();
        assert_ne!(first, second);
        chooser.redirected(second, Some(first));
        assert!(chooser.is_redirect());
        assert_eq!(chooser.next(&both), Some(first));
        chooser.failed(first, true);
        assert_eq!(chooser.next(&both), Some(first), "who led is asked first");
    }

    #[test]
    fn replicas_that_name_each_other_are_not_followed_for_ever() {
        let both = known(&["10.0.0.1:1", "10.0.0.2:1"]);
        let mut chooser = Chooser::default();
        let mut followed = 0;
        for _ in 0..10 {
            let at = chooser.next(&both).unwrap();
            let other = both.iter().copied().find(|address| *address != at);
            chooser.redirected(at, other);
            followed += u32::from(chooser.is_redirect());
            if !chooser.is_redirect() {
                break;
            }
        }
        assert_eq!(followed, MAX_REDIRECTS);
        chooser.redirected(
            "10.0.0.1:1".parse().unwrap(),
            Some("10.0.0.1:1".parse().unwrap()),
        );
        assert!(
            !chooser.is_redirect(),
            "a replica that names itself is not followed"
        );
    }

    #[test]
    fn pauses_are_bounded() {
        assert_eq!(jittered(0, 1.0), BACKOFF.0);
        assert_eq!(jittered(u32::MAX, 1.0), BACKOFF.1);
        assert_eq!(jittered(1, 0.5), BACKOFF.0);
    }

    #[test]
    fn a_leader_is_named_with_or_without_port() {
        assert_eq!(
            leader_address("10.0.0.1"),
            Some("10.0.0.1:11250".parse().unwrap())
        );
        assert_eq!(
            leader_address("[fd00::1]:7"),
            Some("[fd00::1]:7".parse().unwrap())
        );
        assert_eq!(
            leader_address("fd00::1"),
            Some("[fd00::1]:11250".parse().unwrap())
        );
        assert_eq!(leader_address(""), None);
    }
}
