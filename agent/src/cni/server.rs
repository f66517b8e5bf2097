//! The commands, in order per container.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use carrick_api::names::link::GATEWAY;
use carrick_node::{Sysctls, flush_connections};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::time::timeout;
use tracing::{debug, info, warn};

use super::error::{CniError, Code};
use super::network::{PodNetwork, PodNetworkSettings, PortError};
use super::request::{Add, Answer, Check, Command, Frame, Request, version_of};
use super::result::add_result;
use super::sandbox::{SandboxError, Sandboxes, same_namespace};
use crate::ipam::{
    AllocateError, Attachment, AttachmentKey, AttachmentState, AttachmentStore, HeldAddresses,
    StoreError,
};
use crate::laps::{Laps, timed};

/// How long ADD waits for the settings and the pod's record together (invariant 2).
pub const RECORD_LIMIT: Duration = Duration::from_secs(10);
/// How long the switch may take for one port.
const PORT_LIMIT: Duration = Duration::from_secs(20);
/// How long making, changing or removing the interface may take, and writing the journal. The kernel
/// takes a fifth of a second to remove a link on a busy node, one after the other.
const SANDBOX_LIMIT: Duration = Duration::from_secs(45);
/// How long a command waits for the one before it for the same container. That one ends, each of its
/// steps is bounded, but a caller does not wait for the sum of them.
const TURN_LIMIT: Duration = Duration::from_secs(55);
/// A command that takes longer is worth a line, though it succeeds.
const SLOW: Duration = Duration::from_secs(15);
/// An attachment this young is not collected by GC: the runtime writes its list before it hears
/// of the result.
const YOUNG: Duration = Duration::from_mins(2);

/// The CNI server: one per agent.
#[derive(Debug)]
pub struct CniServer<N> {
    network: Arc<N>,
    store: Arc<AttachmentStore>,
    sandboxes: Sandboxes,
    sysctls: Sysctls,
    origin: Instant,
    record_limit: Duration,
    locks: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
    added: Mutex<HashMap<AttachmentKey, Instant>>,
    ending: Mutex<Vec<IpAddr>>,
    flushing: tokio::sync::Mutex<()>,
}

impl<N: PodNetwork> CniServer<N> {
    /// Makes a server. `origin` is the instant the store's times count from.
    pub fn new(
        network: Arc<N>,
        store: Arc<AttachmentStore>,
        sandboxes: Sandboxes,
        sysctls: Sysctls,
        origin: Instant,
    ) -> Self {
        Self {
            network,
            store,
            sandboxes,
            sysctls,
            origin,
            record_limit: RECORD_LIMIT,
            locks: Mutex::default(),
            added: Mutex::default(),
            ending: Mutex::default(),
            flushing: tokio::sync::Mutex::default(),
        }
    }

    /// Another limit for the wait for settings and record.
    #[must_use]
    pub fn with_record_limit(mut self, limit: Duration) -> Self {
        self.record_limit = limit;
        self
    }

    pub(super) fn store(&self) -> &Arc<AttachmentStore> {
        &self.store
    }

    pub(super) fn network(&self) -> &N {
        &self.network
    }

    pub(super) fn sandboxes(&self) -> &Sandboxes {
        &self.sandboxes
    }

    pub(super) fn now(&self) -> Duration {
        self.origin.elapsed()
    }

    /// Answers one request. Never fails: errors are answers.
    pub async fn answer(&self, frame: &Frame) -> Answer {
        let started = Instant::now();
        let (version, result) = match Request::parse(frame) {
            Ok(request) => (request.version, self.execute(request).await),
            Err(error) => (version_of(&frame.config), Err(error)),
        };
        let milliseconds = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let (command, container) = (&frame.command, &frame.container_id);
        match result {
            Ok(output) => {
                if started.elapsed() > SLOW {
                    warn!(command, container, milliseconds, "CNI command was slow");
                } else {
                    debug!(command, container, milliseconds, "CNI command done");
                }
                Answer { exit: 0, output }
            }
            Err(error) => {
                let code = error.code.number();
                warn!(command, container, code, milliseconds, %error, "CNI command failed");
                Answer {
                    exit: 1,
                    output: error.to_json(version.as_str()),
                }
            }
        }
    }

    async fn execute(&self, request: Request) -> Result<Value, CniError> {
        match request.command {
            Command::Add(add) => {
                let _turn = self.turn(&add.key.container_id).await?;
                let (attachment, settings) = self.add(add).await?;
                let mac = bounded(
                    "reading the link's MAC",
                    self.sandboxes.host_mac(&attachment),
                );
                let mac = mac.await.ok().flatten();
                Ok(add_result(request.version, &attachment, mac, &settings))
            }
            Command::Del(key) => {
                let _turn = self.turn(&key.container_id).await?;
                self.del(&key).await.map(|()| Value::Null)
            }
            Command::Check(check) => {
                let _turn = self.turn(&check.key.container_id).await?;
                self.check(&check).await.map(|()| Value::Null)
            }
            Command::Gc(valid) => self.gc(valid).await.map(|()| Value::Null),
            Command::Status => self.status().map(|()| Value::Null),
        }
    }

    /// The caller's turn for a container: commands for one container never overlap, even when the
    /// runtime gave up on the one before.
    pub(super) async fn turn(
        &self,
        container: &str,
    ) -> Result<tokio::sync::OwnedMutexGuard<()>, CniError> {
        let lock = {
            let mut locks = self.locks.lock();
            if locks.len() > 256 {
                locks.retain(|_, lock| Arc::strong_count(lock) > 1);
            }
            Arc::clone(locks.entry(container.to_owned()).or_default())
        };
        timeout(TURN_LIMIT, lock.lock_owned()).await.map_err(|_| {
            let message = format!("the command before for container {container} is still at work");
            CniError::new(Code::TryAgain, message)
        })
    }

    async fn add(&self, add: Add) -> Result<(Arc<Attachment>, Arc<PodNetworkSettings>), CniError> {
        let deadline = Instant::now() + self.record_limit;
        let settings = self.settings(self.record_limit).await?;
        if let Some(existing) = self.store.get(&add.key) {
            // The runtime must not ask twice; when it does, the same answer does no harm. What an
            // interrupted ADD left is taken away first.
            if existing.state == AttachmentState::Ready
                && same_namespace(&existing.netns, &add.netns)
                && self.check_sandbox(&existing).await.is_ok()
            {
                return Ok((existing, settings));
            }
            self.remove(&existing).await?;
        }
        let wait = deadline.saturating_duration_since(Instant::now());
        let settings = self
            .network
            .wait_pod(&add.pod, wait)
            .await
            .map_err(|error| CniError::new(Code::TryAgain, format!("{}: {error}", add.pod)))?;
        self.host_ports_free(&add)?;

        self.store.set_pools(&settings.pod_cidrs);
        let request = crate::ipam::Request {
            key: add.key.clone(),
            netns: add.netns,
            pod: add.pod,
            port_mappings: add.port_mappings,
        };
        let attachment = self
            .blocking(move |store, now| store.reserve(request, now))
            .await?
            .map_err(|error| store_error(&error))?;
        self.network.addresses_changed(&[held(&attachment)], &[]);
        match self.connect(&attachment, &settings).await {
            Ok(ready) => {
                self.note_added(&ready.key);
                info!(
                    pod = %ready.pod, container = ready.key.container_id,
                    addresses = ?ready.addresses, port = ready.ofport, "pod attached"
                );
                Ok((ready, settings))
            }
            Err(error) => {
                if let Err(left) = self.remove(&attachment).await {
                    // DEL follows a failed ADD, and the collection finds what that leaves.
                    warn!(pod = %attachment.pod, error = %left, "a failed ADD left something behind");
                }
                Err(error)
            }
        }
    }

    /// What of ADD comes after the reservation.
    async fn connect(
        &self,
        attachment: &Arc<Attachment>,
        settings: &PodNetworkSettings,
    ) -> Result<Arc<Attachment>, CniError> {
        let mut laps = Laps::start();
        let namespace = bounded(
            "making the pod's interface",
            self.sandboxes.create(attachment, settings),
        )
        .await?;
        laps.lap("pair");
        // Neither needs the other: no packet passes before the host's end is up.
        let ((furnished, inside), attached) = tokio::join!(
            timed(bounded(
                "making the pod's interface ready",
                self.sandboxes.furnish(&namespace, attachment, settings),
            )),
            timeout(PORT_LIMIT, self.network.attach(attachment)),
        );
        laps.lap("port");
        laps.beside("beside it the sandbox", inside);
        furnished?;
        attached
            .unwrap_or_else(|_| Err(late("attach")))
            .map_err(|error| port_error("attaching the pod's port", &error))?;
        bounded(
            "setting the pod's link up",
            self.sandboxes.set_up(attachment),
        )
        .await?;
        laps.lap("link up");
        let key = attachment.key.clone();
        let ready = self
            .blocking(move |store, now| store.ready(&key, now))
            .await?
            .map_err(|error| store_error(&error))?;
        laps.lap("journal");
        if !ready.port_mappings.is_empty() {
            self.map_ports().await?;
            laps.lap("host ports");
        }
        debug!(pod = %attachment.pod, %laps, "connected");
        Ok(ready)
    }

    async fn map_ports(&self) -> Result<(), CniError> {
        // What the host sends to 127.0.0.1:hostPort leaves through the gateway with that source.
        let key = format!("ipv4/conf/{GATEWAY}/route_localnet");
        if let Err(error) = self.sysctls.set(&key, "1") {
            warn!(%error, "hostPorts will not answer on 127.0.0.1");
        }
        timeout(PORT_LIMIT, self.network.apply_port_mappings())
            .await
            .unwrap_or_else(|_| Err(late("port mappings")))
            .map_err(|error| port_error("mapping the pod's host ports", &error))
    }

    /// A host port belongs to one pod. The scheduler sees to that; here it is the pod before that is
    /// still on its way out.
    fn host_ports_free(&self, add: &Add) -> Result<(), CniError> {
        if add.port_mappings.is_empty() {
            return Ok(());
        }
        for other in self.store.attachments().values() {
            if other.key == add.key {
                continue;
            }
            for wanted in &add.port_mappings {
                if other.port_mappings.iter().any(|held| held.overlaps(wanted)) {
                    let message =
                        format!("host port {} is held by {}", wanted.host_port, other.pod);
                    return Err(CniError::new(Code::TryAgain, message));
                }
            }
        }
        Ok(())
    }

    pub(super) async fn del(&self, key: &AttachmentKey) -> Result<(), CniError> {
        self.added.lock().remove(key);
        if let Some(attachment) = self.store.get(key) {
            return self.remove(&attachment).await;
        }
        // Unknown: a DEL again, or state that was lost. The link's name tells by itself.
        let link = crate::ipam::host_link_name(key);
        bounded("removing the pod's interface", self.sandboxes.delete(&link)).await
    }

    /// Takes an attachment away. Errors of the switch do not stop it: the port's flows go by the
    /// next difference, its link is deleted here, its addresses rest.
    async fn remove(&self, attachment: &Arc<Attachment>) -> Result<(), CniError> {
        let key = &attachment.key;
        self.store.removing(key);
        let removed = timeout(PORT_LIMIT, self.network.detach(&[Arc::clone(attachment)])).await;
        if let Err(error) = removed.unwrap_or_else(|_| Err(late("detach"))) {
            warn!(pod = %attachment.pod, %error, "the port is removed later");
        }
        bounded(
            "removing the pod's interface",
            self.sandboxes.delete(&attachment.host_link),
        )
        .await?;
        let ended = self.end_connections(&attachment.addresses);
        if timeout(SANDBOX_LIMIT, ended).await.is_err() {
            debug!("the host's connection entries end with the next DEL, or by themselves");
        }
        let owned = key.clone();
        let released = self
            .blocking(move |store, now| store.release(&owned, now))
            .await?;
        if let Some(error) = released.deferred {
            warn!(%error, "the removal is written to disk later");
        }
        if let Some(released) = released.addresses {
            self.network.addresses_changed(&[], &[released]);
            info!(pod = %attachment.pod, container = key.container_id, "pod detached");
        }
        if !attachment.port_mappings.is_empty()
            && let Ok(Err(error)) = timeout(PORT_LIMIT, self.network.apply_port_mappings()).await
        {
            warn!(%error, "host ports are unmapped later");
        }
        Ok(())
    }

    /// Ends what the host's own stack still translates for these addresses: their next holder must
    /// not get it. Listing the kernel's table is dear, so DELs that meet share it: whoever has the
    /// turn does it for all that wait.
    async fn end_connections(&self, addresses: &[IpAddr]) {
        self.ending.lock().extend_from_slice(addresses);
        let _turn = self.flushing.lock().await;
        let addresses = std::mem::take(&mut *self.ending.lock());
        if addresses.is_empty() {
            return;
        }
        if let Err(error) = flush_connections(None, addresses).await {
            debug!(%error, "the host's connection entries end by themselves");
        }
    }

    async fn check(&self, check: &Check) -> Result<(), CniError> {
        let failed = |message: String| CniError::new(Code::Check, message);
        let Some(attachment) = self.store.get(&check.key) else {
            return Err(failed(format!("{} is not attached", check.key)));
        };
        if attachment.state != AttachmentState::Ready {
            return Err(failed(format!("{} is not ready", check.key)));
        }
        let ours: Vec<&IpAddr> = check
            .addresses
            .iter()
            .filter(|address| attachment.addresses.contains(address))
            .collect();
        if ours.len() != attachment.addresses.len() {
            let message = format!(
                "prevResult has not the addresses {:?}",
                attachment.addresses
            );
            return Err(failed(message));
        }
        if !same_namespace(&check.netns, &attachment.netns) {
            let message = format!("the sandbox is at {}", attachment.netns.display());
            return Err(failed(message));
        }
        let looked = self.check_sandbox(&attachment).await;
        looked.map_err(|error| CniError {
            code: Code::Check,
            ..error
        })?;
        timeout(PORT_LIMIT, self.network.check(&attachment))
            .await
            .unwrap_or_else(|_| Err(late("check")))
            .map_err(|error| CniError::caused(Code::Check, "the port is not in place", &error))
    }

    async fn check_sandbox(&self, attachment: &Attachment) -> Result<(), CniError> {
        bounded(
            "looking at the pod's interface",
            self.sandboxes.check(attachment),
        )
        .await
    }

    async fn gc(&self, valid: Option<Vec<AttachmentKey>>) -> Result<(), CniError> {
        let mut failures = Vec::new();
        if let Some(valid) = valid {
            let valid: std::collections::BTreeSet<_> = valid.into_iter().collect();
            let stale: Vec<AttachmentKey> = self
                .store
                .attachments()
                .keys()
                .filter(|key| !valid.contains(key) && !self.is_young(key))
                .cloned()
                .collect();
            for key in stale {
                let removed = async {
                    let _turn = self.turn(&key.container_id).await?;
                    info!(attachment = %key, "GC removes what the runtime does not know");
                    self.del(&key).await
                };
                if let Err(error) = removed.await {
                    failures.push(error.to_string());
                }
            }
        }
        failures.extend(self.collect().await);
        match failures.first() {
            None => Ok(()),
            Some(first) => {
                let message = format!("{} attachments could not be removed", failures.len());
                Err(CniError {
                    code: Code::Interface,
                    message,
                    details: first.clone(),
                })
            }
        }
    }

    /// Whether ADD would work now (specification, "STATUS"). Without a controller it does, for the pods
    /// it should: that is no reason to call the node's network down.
    fn status(&self) -> Result<(), CniError> {
        if self.network.settings().borrow().is_none() {
            let message = "the agent has no node configuration yet";
            return Err(CniError::new(Code::NotAvailable, message));
        }
        match self.network.trouble() {
            None => Ok(()),
            Some(trouble) => Err(CniError {
                code: Code::LimitedConnectivity,
                message: "the switch is not as it must be".to_owned(),
                details: trouble,
            }),
        }
    }

    async fn settings(&self, limit: Duration) -> Result<Arc<PodNetworkSettings>, CniError> {
        let mut watch = self.network.settings();
        let settings = match timeout(limit, watch.wait_for(Option::is_some)).await {
            Ok(Ok(settings)) => settings.clone(),
            _ => None,
        };
        settings.ok_or_else(|| {
            CniError::new(Code::TryAgain, "the network of this node is not ready yet")
        })
    }

    fn note_added(&self, key: &AttachmentKey) {
        let mut added = self.added.lock();
        added.retain(|_, at| at.elapsed() < YOUNG);
        added.insert(key.clone(), Instant::now());
    }

    fn is_young(&self, key: &AttachmentKey) -> bool {
        let ready = self
            .store
            .get(key)
            .is_some_and(|found| found.state == AttachmentState::Ready);
        self.added
            .lock()
            .get(key)
            .is_some_and(|at| at.elapsed() < YOUNG)
            || (!ready && self.is_busy(key))
    }

    fn is_busy(&self, key: &AttachmentKey) -> bool {
        self.locks
            .lock()
            .get(&key.container_id)
            .is_some_and(|lock| lock.try_lock().is_err())
    }

    /// Runs what waits for the disk where blocking is allowed.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&AttachmentStore, Duration) -> T + Send + 'static,
    ) -> Result<T, CniError> {
        let store = Arc::clone(&self.store);
        let now = self.now();
        let worked = tokio::task::spawn_blocking(move || work(&store, now));
        match timeout(SANDBOX_LIMIT, worked).await {
            Ok(worked) => worked
                .map_err(|error| CniError::caused(Code::Io, "the attachment store died", &error)),
            Err(_) => Err(CniError::new(
                Code::Io,
                format!("the disk took longer than {SANDBOX_LIMIT:?} to write the journal"),
            )),
        }
    }
}

/// Work on the pod's interface, which ends in any case: the runtime tries again.
async fn bounded<T>(
    what: &'static str,
    work: impl Future<Output = Result<T, SandboxError>>,
) -> Result<T, CniError> {
    let done = timeout(SANDBOX_LIMIT, work).await.map_err(|_| {
        let message = format!("{what} took longer than {SANDBOX_LIMIT:?}");
        CniError::new(Code::TryAgain, message)
    })?;
    done.map_err(|error| sandbox_error(what, &error))
}

pub(super) fn held(attachment: &Attachment) -> HeldAddresses {
    HeldAddresses {
        pod: attachment.pod.clone(),
        addresses: attachment.addresses.clone(),
    }
}

fn late(what: &str) -> PortError {
    PortError::NotReady {
        reason: format!("{what} took longer than {} s", PORT_LIMIT.as_secs()),
    }
}

fn store_error(error: &StoreError) -> CniError {
    let code = match error {
        StoreError::Allocate {
            source: AllocateError::NoPool,
            ..
        }
        | StoreError::Allocate {
            source: AllocateError::Exhausted { .. },
            ..
        }
        | StoreError::Allocate {
            source: AllocateError::NoPort,
            ..
        } => Code::TryAgain,
        StoreError::Journal { .. } => Code::Io,
        StoreError::Exists { .. } | StoreError::Unknown { .. } => Code::Interface,
    };
    CniError::caused(code, "no addresses for the pod", error)
}

fn sandbox_error(message: &str, error: &SandboxError) -> CniError {
    let code = match error {
        SandboxError::Namespace(gone) if gone.is_gone() => Code::InvalidEnvironment,
        _ => Code::Interface,
    };
    CniError::caused(code, message, error)
}

fn port_error(message: &str, error: &PortError) -> CniError {
    let code = match error {
        PortError::NotReady { .. } => Code::TryAgain,
        PortError::Refused { .. } => Code::Switch,
    };
    CniError::caused(code, message, error)
}
