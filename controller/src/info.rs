//! `ControllerInfo`: what this replica says about itself, written on change and not often.

use std::sync::Arc;
use std::time::Duration;

use carrick_api::controllerinfo::condition::{NODE_CIDRS_ALLOCATED, READY};
use carrick_api::{ControllerInfo, ControllerInfoSpec, ControllerInfoStatus};
use carrick_k8s::apply::{ApplyError, apply, apply_status, delete};
use carrick_k8s::client::{CallError, timely};
use carrick_k8s::condition::{self, Status};
use carrick_k8s::health::Health;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, ListParams};
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::hub::Hub;
use crate::nodeipam::finding::Verdict;
use crate::reign::Reign;

/// The field manager.
const MANAGER: &str = "carrick-controller";
/// Least time between two writes, so that a thousand agents that connect are a few writes.
const PAUSE: Duration = Duration::from_secs(5);
/// How long something told waits for more.
const SETTLE: Duration = Duration::from_secs(1);
/// How long a write that failed waits.
const RETRY: Duration = Duration::from_secs(15);
/// How often a leader looks for what replicas left behind.
const PRUNE_EVERY: Duration = Duration::from_mins(10);
/// Longest `lastError` in bytes; the CRD counts characters.
const LAST_ERROR: usize = 1024;
/// Most ControllerInfos looked at then.
const MOST: u32 = 100;
/// How long one request may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Who we are.
#[derive(Debug, Clone)]
pub struct Me {
    /// Our pod's name, also the object's.
    pub pod: String,
    /// Our pod's namespace.
    pub namespace: String,
    /// Our node.
    pub node: String,
    /// Where agents reach us.
    pub address: String,
    /// Our version.
    pub version: String,
}

/// What is to be said now.
#[must_use]
pub fn status(
    me: &Me,
    hub: &Hub,
    reign: &Reign,
    health: &Health,
    node_cidrs: Option<&Verdict>,
    old: &ControllerInfoStatus,
    now: Timestamp,
) -> ControllerInfoStatus {
    let figures = hub.figures();
    let leader = reign.term().is_some();
    let mut conditions = old.conditions.clone();
    let ready = health.readiness();
    let (reason, message) = match &ready {
        Ok(()) if leader => ("Leading", String::new()),
        Ok(()) => ("Standby", String::new()),
        Err(text) => ("NotReady", text.clone()),
    };
    condition::set(
        &mut conditions,
        READY,
        Status::from(ready.is_ok()),
        reason,
        &message,
        None,
        now,
    );
    // Said by the one who allocates; a standby's old word would contradict it.
    match node_cidrs.filter(|_| leader) {
        Some(said) => {
            let (status, reason) = (said.status, said.reason);
            let set = &mut conditions;
            condition::set(
                set,
                NODE_CIDRS_ALLOCATED,
                status,
                reason,
                &said.message,
                None,
                now,
            );
        }
        None => conditions.retain(|condition| condition.type_ != NODE_CIDRS_ALLOCATED),
    }
    let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    ControllerInfoStatus {
        version: me.version.clone(),
        node: me.node.clone(),
        address: me.address.clone(),
        leader,
        epoch: number(figures.number.epoch()),
        sequence: number(figures.number.sequence()),
        connected_agents: i32::try_from(figures.connected).unwrap_or(i32::MAX),
        conditions,
        last_error: hub.trouble().map(cut).unwrap_or_default(),
    }
}

/// Cuts a text to what `lastError` may hold.
fn cut(mut text: String) -> String {
    let mut end = text.len().min(LAST_ERROR);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text
}

/// Whether a person would see a difference; the sequence alone is none.
fn differs(old: &ControllerInfoStatus, new: &ControllerInfoStatus) -> bool {
    let sequence = old.sequence;
    *old != ControllerInfoStatus {
        sequence,
        ..new.clone()
    }
}

/// Writes our `ControllerInfo` until `stop`; `node_cidrs` is what the allocation of nodes' CIDRs
/// says.
pub async fn run(
    me: Me,
    hub: Arc<Hub>,
    reign: Reign,
    health: Health,
    node_cidrs: watch::Receiver<Option<Verdict>>,
    client: Client,
    stop: CancellationToken,
) {
    let api: Api<ControllerInfo> = Api::all(client.clone());
    let mut written = ControllerInfoStatus::default();
    let mut made = false;
    let mut next = Instant::now();
    let mut pruned: Option<Instant> = None;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep_until(next) => {}
        }
        let said = node_cidrs.borrow().clone();
        let (said, now) = (said.as_ref(), Timestamp::now());
        let fresh = status(&me, &hub, &reign, &health, said, &written, now);
        if !made || differs(&written, &fresh) {
            match write(&api, &me, &fresh, made).await {
                Ok(()) => {
                    written = fresh;
                    made = true;
                    next = Instant::now() + PAUSE;
                }
                Err(error) => {
                    // Gone, perhaps: made anew the next time.
                    made = false;
                    let cause = std::error::Error::source(&error).map(ToString::to_string);
                    warn!(%error, cause, "the ControllerInfo was not written");
                    next = Instant::now() + RETRY;
                }
            }
            continue;
        }
        if fresh.leader && pruned.is_none_or(|last| last.elapsed() > PRUNE_EVERY) {
            pruned = Some(Instant::now());
            if let Err(error) = prune(&api, &client, &me).await {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                warn!(%error, cause, "ControllerInfos of replicas that are gone stay for now");
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            // Much is told and little of it is said here: looking once a second is enough.
            () = hub.told.notified() => next = next.max(Instant::now() + SETTLE),
        }
    }
}

async fn write(
    api: &Api<ControllerInfo>,
    me: &Me,
    status: &ControllerInfoStatus,
    made: bool,
) -> Result<(), ApplyError> {
    let mut info = ControllerInfo::new(&me.pod, ControllerInfoSpec {});
    if !made {
        apply(api, MANAGER, &info).await?;
    }
    info.status = Some(status.clone());
    apply_status(api, MANAGER, &info).await?;
    Ok(())
}

/// Deletes what replicas left behind whose Pods are gone. A cluster-scoped object cannot belong to
/// a Pod, so the leader sees to it.
async fn prune(api: &Api<ControllerInfo>, client: &Client, me: &Me) -> Result<(), PruneError> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), &me.namespace);
    let params = ListParams::default().limit(MOST);
    let infos = timely(
        "a list of ControllerInfos",
        PATIENCE,
        api.list_metadata(&params),
    )
    .await?;
    for name in infos
        .items
        .into_iter()
        .filter_map(|info| info.metadata.name)
    {
        if name == me.pod {
            continue;
        }
        if timely("a Pod", PATIENCE, pods.get_metadata_opt(&name))
            .await?
            .is_none()
        {
            debug!(
                name,
                "deleting the ControllerInfo of a replica that is gone"
            );
            delete(api, &name, &DeleteParams::default()).await?;
        }
    }
    Ok(())
}

/// Pruning failed.
#[derive(Debug, thiserror::Error)]
enum PruneError {
    #[error("reading failed")]
    Read(#[from] CallError),
    #[error("deleting failed")]
    Delete(#[from] ApplyError),
}
