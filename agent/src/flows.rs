//! The integration bridge's flows, groups and meters: dump, difference, bundle.
//!
//! # Who may write
//!
//! After each start of ovs-vswitchd `carrick switch` replays the saved commit, and nobody else may
//! write until it is done (`carrick_ovsdb::handover`). So each session with the bridge is
//! [admitted](FlowDriver::admit) before anything is read or written by it:
//!
//! 1. The session stands. The ovs-vswitchd at its other end is some start S.
//! 2. *Then* the database is asked which start is present and whether its replay is done.
//! 3. If it is, everything goes by that one session and by no other ([`Connection::only`]).
//!
//! The id of a start is in the database before its ovs-vswitchd runs, so in step 2 it is S or a later
//! one. If it is S, S is restored and `carrick switch` writes no more to it. If it is a later one, S
//! has ended, the session with it, and nothing that is sent by it reaches anybody. A restart after
//! step 2 ends the session as well. The other way round it would be wrong: a restart between the
//! answer and the session would go unseen, and the session would lead to a switch in its replay.
//!
//! Bridges and ports are not part of this. They are in the database, which is not replayed: a start
//! reads them, and a change meanwhile is one that it reads a moment later.
//!
//! # What is known
//!
//! What the switch holds is read in every session and from time to time; in between it is known,
//! because nobody else writes to our bridge. Whatever fails makes it unknown again.
//!
//! Services and policy are not part of what is known: their drivers remember what they told the switch, in less
//! room. They get their parts of each reading ([`FlowDriver::take_services`], [`FlowDriver::take_policy`]).

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use carrick_datapath::{CT_ZONE, Kind, learned, of_policy, of_services};
use carrick_openflow::connection::{
    BundleError, Config, Connection, Notices, PacketIns, RequestError,
};
use carrick_openflow::message::CtFlush;
use carrick_openflow::message::nicira::CtTuple;
use carrick_openflow::{Cookie, Flow, FlowFilter, FlowStats, Mod, State, diff};
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

/// A session by which the bridge may be written.
#[derive(Debug)]
struct Admitted {
    /// A handle of this session alone.
    session: Connection,
    generation: u64,
    known: Option<Known>,
    /// Services' part of the last reading, until somebody takes it.
    services: Option<State>,
    /// Policy's.
    policy: Option<Vec<Flow>>,
}

/// What the bridge is known to hold.
#[derive(Debug)]
struct Known {
    state: State,
    read: Instant,
}

impl Known {
    fn now(state: State) -> Self {
        let read = Instant::now();
        Self { state, read }
    }
}

/// The bridge. Connects by itself and again.
#[derive(Debug)]
pub struct FlowDriver {
    connection: Connection,
    driver: JoinHandle<()>,
    admitted: Option<Admitted>,
    /// The last session that [`Self::reconnected`] or [`Self::admit`] has met.
    met: u64,
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
            admitted: None,
            met: 0,
            _queues: (packet_ins, notices),
        }
    }

    /// Ends the connection; the bridge keeps what it has.
    pub async fn end(self) {
        drop((self.connection, self.admitted));
        if let Err(error) = self.driver.await {
            error!(%error, "the OpenFlow connection ended badly");
        }
    }

    /// Waits until a session stands that was not met yet; each is told once, admitted or not.
    pub async fn reconnected(&mut self) {
        match self.connection.reconnected(self.met).await {
            Ok(generation) => self.met = generation,
            Err(_) => std::future::pending().await,
        }
    }

    /// The switch is another: nothing is known of it, and it must be admitted.
    pub fn forget(&mut self) {
        self.admitted = None;
    }

    /// Makes sure that a session stands by which the bridge may be written. Of each new one
    /// `restored` must find out, by asking the database, that the start it is to know of is restored:
    /// see the [module](self).
    ///
    /// # Errors
    /// There is no session ([`FlowError::Away`]), or what `restored` says.
    pub async fn admit<E: From<FlowError>>(
        &mut self,
        restored: impl AsyncFnOnce() -> Result<(), E>,
    ) -> Result<(), E> {
        let connected = tokio::time::timeout(CONNECT_LIMIT, self.connection.connected()).await;
        let Ok(Ok(generation)) = connected else {
            self.admitted = None;
            return Err(FlowError::Away.into());
        };
        self.met = generation;
        if self
            .admitted
            .as_ref()
            .is_some_and(|admitted| admitted.generation == generation)
        {
            return Ok(());
        }
        self.admitted = None;
        let only = self.connection.only(generation);
        let session = only.map_err(|_| FlowError::Away)?;
        restored().await?;
        debug!(generation, "the integration bridge may be written");
        self.admitted = Some(Admitted {
            session,
            generation,
            known: None,
            services: None,
            policy: None,
        });
        Ok(())
    }

    /// The number of the session by which the bridge may be written; none is admitted without one.
    pub fn admitted(&self) -> Option<u64> {
        self.admitted.as_ref().map(|admitted| admitted.generation)
    }

    /// What the bridge holds of Services, each time it was read anew.
    pub fn take_services(&mut self) -> Option<State> {
        self.admitted.as_mut()?.services.take()
    }

    /// What the bridge holds of policy, each time it was read anew.
    pub fn take_policy(&mut self) -> Option<Vec<Flow>> {
        self.admitted.as_mut()?.policy.take()
    }

    /// Whether there is something to take.
    pub fn has_policy(&self) -> bool {
        let admitted = self.admitted.as_ref();
        admitted.is_some_and(|admitted| admitted.policy.is_some())
    }

    /// The bridge is read before it is written again.
    pub fn read_again(&mut self) {
        if let Some(admitted) = &mut self.admitted {
            admitted.known = None;
        }
    }

    /// Changes flows and groups of Services. Call [`Self::admit`] before.
    ///
    /// # Errors
    /// The bridge refused or did not answer: nothing or all was applied, and it is read anew before it is
    /// written again.
    pub async fn change_services(&mut self, changes: &[Mod]) -> Result<(), FlowError> {
        let admitted = self.admitted.as_mut().ok_or(FlowError::Away)?;
        // What was read before is no longer so.
        admitted.services = None;
        let done = admitted.session.bundle(changes).await;
        if done.is_err() {
            admitted.known = None;
        }
        done.map_err(FlowError::Bundle)
    }

    /// Reads the bridge when it is not known or was not read for long, and returns what was read, without
    /// Services and policy. Call [`Self::admit`] before.
    ///
    /// # Errors
    /// No session is admitted, or it broke.
    pub async fn fresh_dump(&mut self) -> Result<Option<&State>, FlowError> {
        let admitted = self.admitted.as_mut().ok_or(FlowError::Away)?;
        let known = admitted.known.take();
        if known
            .as_ref()
            .is_some_and(|known| known.read.elapsed() < CHECK)
        {
            admitted.known = known;
            return Ok(None);
        }
        let dumped = admitted.session.dump_state().await;
        let (dumped, services, policy) = apart(dumped.map_err(FlowError::Read)?);
        admitted.services = Some(services);
        admitted.policy = Some(policy);
        let (flows, generation) = (dumped.flows.len(), admitted.generation);
        debug!(flows, generation, "read the integration bridge");
        if let Some(known) = known {
            let drift = diff(&dumped, &known.state, &learned()).bundle.len();
            if drift > 0 {
                warn!(
                    drift,
                    "somebody else changed flows of the integration bridge; mending"
                );
            }
        }
        let known = admitted.known.insert(Known::now(dumped));
        Ok(Some(&known.state))
    }

    /// Makes the bridge hold `target` (canonical) by the least change, and makes `policy` changes in the same
    /// bundle: no packet meets a pod's open port without the pod's policy. How many modifications that were.
    /// Call [`Self::fresh_dump`] before.
    ///
    /// # Errors
    /// The bridge refused or did not answer: nothing or all was applied, and it is read anew before
    /// the next attempt.
    pub async fn sync(&mut self, target: &State, policy: Vec<Mod>) -> Result<usize, FlowError> {
        let admitted = self.admitted.as_mut().ok_or(FlowError::Away)?;
        let known = admitted.known.take().ok_or(FlowError::Away)?;
        let mut plan = diff(&known.state, target, &learned());
        if !policy.is_empty() {
            // What was read before is no longer so.
            admitted.policy = None;
            plan.bundle.extend(policy);
        }
        if plan.is_empty() {
            admitted.known = Some(known);
            return Ok(0);
        }
        let changes = plan.bundle.len() + plan.meters_before.len() + plan.meters_after.len();
        let session = &admitted.session;
        for meter in plan.meters_before {
            session.meter(meter).await.map_err(FlowError::Meter)?;
        }
        let bundle = session.bundle(&plan.bundle).await;
        bundle.map_err(FlowError::Bundle)?;
        for meter in plan.meters_after {
            session.meter(meter).await.map_err(FlowError::Meter)?;
        }
        admitted.known = Some(Known {
            state: target.clone(),
            ..known
        });
        Ok(changes)
    }

    /// The flows by which rules of policy decide, with their counters.
    ///
    /// # Errors
    /// No session is admitted, or it broke.
    pub async fn of_rules(&self) -> Result<Vec<FlowStats>, FlowError> {
        let admitted = self.admitted.as_ref().ok_or(FlowError::Away)?;
        let (cookie, cookie_mask) = Kind::PolicyRule.cookies();
        let filter = FlowFilter {
            cookie: Cookie(cookie),
            cookie_mask,
            ..FlowFilter::default()
        };
        let read = admitted.session.dump_flows(filter).await;
        read.map_err(FlowError::Read)
    }

    /// Removes the connection entries from and to addresses that are not in use any more, so that
    /// their next holder inherits nothing.
    ///
    /// # Errors
    /// The connection broke. A switch that cannot do it is told of and no error: the addresses rest
    /// in quarantine, and entries die of age.
    pub async fn flush_connections(&self, addresses: &BTreeSet<IpAddr>) -> Result<(), FlowError> {
        self.flush(addresses.iter().flat_map(flushes)).await
    }

    /// Removes connection entries.
    ///
    /// # Errors
    /// As [`Self::flush_connections`].
    pub async fn flush(&self, all: impl Iterator<Item = CtFlush>) -> Result<(), FlowError> {
        let admitted = self.admitted.as_ref().ok_or(FlowError::Away)?;
        for flush in all {
            let address = flush.original.source.or(flush.original.destination);
            match admitted.session.ct_flush(flush).await {
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

/// The pipeline's part of a reading, Services' and policy's.
fn apart(dumped: State) -> (State, State, Vec<Flow>) {
    let (of_services, of_policy) = (of_services(), of_policy());
    let (mut own, mut services) = (State::default(), State::default());
    let mut policy = Vec::new();
    for flow in dumped.flows {
        if of_services.contains(&flow) {
            services.flows.push(flow);
        } else if of_policy.contains(&flow) {
            policy.push(flow);
        } else {
            own.flows.push(flow);
        }
    }
    (services.groups, own.groups) = dumped
        .groups
        .into_iter()
        .partition(|group| of_services.contains_group(group.id));
    own.meters = dumped.meters;
    (own, services, policy)
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
