//! The integration bridge's flows, groups and meters: dump, difference, bundle.
//!
//! What the switch holds is read after every connection and from time to time; in between it is
//! known, because nobody else writes to our bridge. Whatever fails makes it unknown again.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use carrick_datapath::{CT_ZONE, learned};
use carrick_openflow::connection::{
    BundleError, Config, Connection, Notices, PacketIns, RequestError,
};
use carrick_openflow::message::CtFlush;
use carrick_openflow::message::nicira::CtTuple;
use carrick_openflow::{State, diff};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tracing::{debug, error, warn};

/// How long a pass waits for a connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// How often the switch is read although nothing changed: somebody may have changed it.
const CHECK: Duration = Duration::from_secs(30);

/// Why the bridge does not hold what it must.
#[derive(Debug, thiserror::Error)]
pub enum FlowError {
    /// There is no connection.
    #[error("the integration bridge does not answer on its OpenFlow socket")]
    Away,
    /// What the bridge holds cannot be read.
    #[error("reading the integration bridge")]
    Read(#[source] RequestError),
    /// A meter was refused.
    #[error("changing a meter of the integration bridge")]
    Meter(#[source] RequestError),
    /// The bundle was refused or not acknowledged.
    #[error("changing the integration bridge")]
    Bundle(#[source] BundleError),
    /// Connection entries could not be removed.
    #[error("removing connection entries of {address:?}")]
    Flush {
        /// The address.
        address: Option<IpAddr>,
        /// Why.
        #[source]
        source: RequestError,
    },
}

/// What the bridge is known to hold.
#[derive(Debug)]
struct Known {
    generation: u64,
    state: State,
    read: Instant,
}

/// The bridge. Connects by itself and again.
#[derive(Debug)]
pub struct FlowDriver {
    connection: Connection,
    driver: JoinHandle<()>,
    known: Option<Known>,
    /// Nothing of ours sends packets or notices to the controller yet; the queues are bounded.
    _queues: (PacketIns, Notices),
}

impl FlowDriver {
    /// A driver for the bridge at `socket`; must be called within the runtime.
    pub fn new(socket: PathBuf) -> Self {
        let (connection, packet_ins, notices, driver) = Connection::new(Config::new(socket));
        Self {
            connection,
            driver: tokio::spawn(driver.run()),
            known: None,
            _queues: (packet_ins, notices),
        }
    }

    /// Ends the connection; the bridge keeps what it has.
    pub async fn end(self) {
        drop(self.connection);
        if let Err(error) = self.driver.await {
            error!(%error, "the OpenFlow connection ended badly");
        }
    }

    /// Waits until another connection than the known one stands.
    pub async fn reconnected(&self) {
        match &self.known {
            Some(known) => {
                if self.connection.reconnected(known.generation).await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
            // The next pass looks by itself.
            None => std::future::pending().await,
        }
    }

    /// The switch is another: nothing is known of it.
    pub fn forget(&mut self) {
        self.known = None;
    }

    /// Reads the bridge when it is not known or was not read for long, and returns what was read.
    ///
    /// # Errors
    /// There is no connection, or it broke.
    pub async fn fresh_dump(&mut self) -> Result<Option<&State>, FlowError> {
        let connected = tokio::time::timeout(CONNECT_LIMIT, self.connection.connected()).await;
        let Ok(Ok(generation)) = connected else {
            return Err(FlowError::Away);
        };
        let current = self
            .known
            .take()
            .filter(|known| known.generation == generation);
        if let Some(known) = current {
            if known.read.elapsed() < CHECK {
                self.known = Some(known);
                return Ok(None);
            }
            let dumped = self
                .connection
                .dump_state()
                .await
                .map_err(FlowError::Read)?;
            let drift = diff(&dumped, &known.state, &learned()).bundle.len();
            if drift > 0 {
                warn!(
                    drift,
                    "somebody else changed flows of the integration bridge; mending"
                );
            }
            let known = self.known.insert(Known {
                generation,
                state: dumped,
                read: Instant::now(),
            });
            return Ok(Some(&known.state));
        }
        let dumped = self
            .connection
            .dump_state()
            .await
            .map_err(FlowError::Read)?;
        debug!(
            flows = dumped.flows.len(),
            generation, "read the integration bridge"
        );
        let known = self.known.insert(Known {
            generation,
            state: dumped,
            read: Instant::now(),
        });
        Ok(Some(&known.state))
    }

    /// Makes the bridge hold `target` (canonical) by the least change; how many modifications that
    /// were. Call [`Self::fresh_dump`] before.
    ///
    /// # Errors
    /// The bridge refused or did not answer: nothing or all was applied, and it is read anew before
    /// the next attempt.
    pub async fn sync(&mut self, target: State) -> Result<usize, FlowError> {
        let known = self.known.take().ok_or(FlowError::Away)?;
        let plan = diff(&known.state, &target, &learned());
        if plan.is_empty() {
            self.known = Some(known);
            return Ok(0);
        }
        let changes = plan.bundle.len() + plan.meters_before.len() + plan.meters_after.len();
        for meter in plan.meters_before {
            self.connection
                .meter(meter)
                .await
                .map_err(FlowError::Meter)?;
        }
        self.connection
            .bundle(&plan.bundle)
            .await
            .map_err(FlowError::Bundle)?;
        for meter in plan.meters_after {
            self.connection
                .meter(meter)
                .await
                .map_err(FlowError::Meter)?;
        }
        self.known = Some(Known {
            state: target,
            ..known
        });
        Ok(changes)
    }

    /// Removes the connection entries from and to addresses that are not in use any more, so that
    /// their next holder inherits nothing.
    ///
    /// # Errors
    /// The connection broke. A switch that cannot do it is told of and no error: the addresses rest
    /// in quarantine, and entries die of age.
    pub async fn flush_connections(
        &mut self,
        addresses: &BTreeSet<IpAddr>,
    ) -> Result<(), FlowError> {
        for flush in addresses.iter().flat_map(flushes) {
            let address = flush.original.source.or(flush.original.destination);
            match self.connection.ct_flush(flush).await {
                Ok(()) => {}
                Err(source @ RequestError::Refused { .. }) => {
                    warn!(?address, error = %source, "connection entries were not removed");
                }
                Err(source) => return Err(FlowError::Flush { address, source }),
            }
        }
        Ok(())
    }
}

/// What removes the entries from and to an address.
///
/// Open vSwitch 3.1.0 dies when a flush without a protocol meets an ICMPv6 entry, and does not find
/// such an entry by its protocol either. So IPv6 is flushed protocol by protocol, and ICMPv6 entries
/// are left to die of age, which takes less than an address rests.
fn flushes(address: &IpAddr) -> Vec<CtFlush> {
    const TCP: u8 = 6;
    const UDP: u8 = 17;
    const SCTP: u8 = 132;
    let protocols: &[u8] = if address.is_ipv4() {
        &[0]
    } else {
        &[TCP, UDP, SCTP]
    };
    let from = CtTuple {
        source: Some(*address),
        ..CtTuple::default()
    };
    let to = CtTuple {
        destination: Some(*address),
        ..CtTuple::default()
    };
    protocols
        .iter()
        .flat_map(|protocol| [from, to].map(|original| (*protocol, original)))
        .map(|(protocol, original)| CtFlush {
            protocol,
            zone: Some(CT_ZONE),
            original,
            ..CtFlush::default()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_flush_can_meet_an_icmpv6_entry() {
        let v6 = flushes(&"fd00::1".parse().unwrap());
        assert_eq!(v6.len(), 6);
        assert!(v6.iter().all(|flush| ![0, 58].contains(&flush.protocol)));
        assert_eq!(flushes(&"10.0.0.1".parse().unwrap()).len(), 2);
    }
}
