//! Watches: what the operator looks at without asking each time, and what makes it look again.
//!
//! Tasks: one per watched kind, started by [`Watches::start`], owned by a `JoinSet` in
//! [`Watches`], ended by dropping it (when leadership or the process ends).

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use carrick_api::names::OPERATOR_FIELD_MANAGER;
use carrick_api::{AgentInfo, ControllerInfo, Networking};
use futures::StreamExt;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::core::{DynamicObject, PartialObjectMeta};
use kube::runtime::WatchStreamExt;
use kube::runtime::reflector::{self, Store};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tracing::{debug, warn};

use crate::object::{Kind, Scope};
use crate::render::MANAGED_BY;

/// Makes the loop look again; many wishes become one look.
#[derive(Debug, Default)]
pub struct Trigger {
    notify: Notify,
    drift: AtomicBool,
}

impl Trigger {
    /// Something changed that the status shows.
    pub fn look(&self) {
        self.notify.notify_one();
    }

    /// An operand changed: look whether it is still as it should be.
    pub fn look_for_drift(&self) {
        self.drift.store(true, Ordering::Release);
        self.notify.notify_one();
    }

    /// Whether operands may have drifted since the last call.
    pub fn take_drift(&self) -> bool {
        self.drift.swap(false, Ordering::AcqRel)
    }

    /// Waits for a wish.
    pub async fn wished(&self) {
        self.notify.notified().await;
    }
}

/// What is kept at hand.
#[derive(Clone, Debug)]
pub struct Stores {
    /// Every node.
    pub nodes: Store<Node>,
    /// Pods of operands.
    pub pods: Store<Pod>,
    /// What agents report.
    pub agents: Store<AgentInfo>,
    /// What controllers report.
    pub controllers: Store<ControllerInfo>,
}

/// Running watches.
#[derive(Debug)]
pub struct Watches {
    /// What they keep.
    pub stores: Stores,
    tasks: JoinSet<()>,
}

impl Watches {
    /// Starts every watch. Each backs off by itself and never ends.
    pub fn start(client: &Client, namespace: &str, trigger: &Arc<Trigger>) -> Self {
        let mut tasks = JoinSet::new();
        let operands = format!("{MANAGED_BY}={OPERATOR_FIELD_MANAGER}");
        let labelled = watcher::Config::default().labels(&operands);
        let stores = Stores {
            nodes: keep(
                &mut tasks,
                Api::all(client.clone()),
                watcher::Config::default(),
                trigger,
            ),
            pods: keep(
                &mut tasks,
                Api::namespaced(client.clone(), namespace),
                labelled.clone(),
                trigger,
            ),
            agents: keep(
                &mut tasks,
                Api::all(client.clone()),
                watcher::Config::default(),
                trigger,
            ),
            controllers: keep(
                &mut tasks,
                Api::all(client.clone()),
                watcher::Config::default(),
                trigger,
            ),
        };
        // The Networking itself is read at each look; its watch only says when, whatever is in it.
        let networkings: Api<PartialObjectMeta<Networking>> = Api::all(client.clone());
        let wish = Arc::clone(trigger);
        tasks.spawn(async move {
            let stream = watcher(networkings, watcher::Config::default()).default_backoff();
            let mut stream = std::pin::pin!(stream.touched_objects());
            while let Some(event) = stream.next().await {
                match event {
                    Ok(_) => wish.look(),
                    Err(error) => warn!(%error, "watching Networkings failed; trying again"),
                }
            }
        });
        for kind in Kind::ALL {
            let resource = kind.resource();
            let api: Api<PartialObjectMeta<DynamicObject>> = match kind.scope() {
                Scope::Cluster => Api::all_with(client.clone(), &resource),
                Scope::Namespaced => Api::namespaced_with(client.clone(), namespace, &resource),
            };
            let wish = Arc::clone(trigger);
            let config = labelled.clone();
            tasks.spawn(async move {
                let mut seen = Seen::default();
                let stream = watcher(api, config).default_backoff();
                let mut stream = std::pin::pin!(stream);
                while let Some(event) = stream.next().await {
                    match event {
                        Ok(event) if seen.is_drift(&event) => wish.look_for_drift(),
                        Ok(Event::Apply(_) | Event::Delete(_)) => wish.look(),
                        Ok(_) => {}
                        Err(error) => {
                            warn!(%error, ?kind, "watching operands failed; trying again");
                        }
                    }
                }
            });
        }
        Self { stores, tasks }
    }

    /// Waits until everything was listed once.
    pub async fn ready(&self) {
        let Stores {
            nodes,
            pods,
            agents,
            controllers,
        } = &self.stores;
        // An error means that a writer is gone, which ends with the tasks only.
        let (nodes, pods, agents, controllers) = tokio::join!(
            nodes.wait_until_ready(),
            pods.wait_until_ready(),
            agents.wait_until_ready(),
            controllers.wait_until_ready()
        );
        if nodes.and(pods).and(agents).and(controllers).is_err() {
            debug!("a watch ended while it was waited for");
        }
    }

    /// Ends every watch and waits until it has ended.
    pub async fn stop(mut self) {
        self.tasks.shutdown().await;
    }
}

/// Tells operands' content from their status by what the last event showed.
#[derive(Debug, Default)]
struct Seen {
    content: HashMap<String, Content>,
}

#[derive(Debug, PartialEq, Eq)]
struct Content {
    /// Kinds with a generation count it up when their spec changes; for others the resource
    /// version has to do.
    version: String,
    labels: Vec<(String, String)>,
    deleting: bool,
}

impl Seen {
    fn is_drift(&mut self, event: &Event<PartialObjectMeta<DynamicObject>>) -> bool {
        match event {
            Event::Apply(object) | Event::InitApply(object) => {
                let meta = &object.metadata;
                let content = Content {
                    version: match meta.generation {
                        Some(generation) => generation.to_string(),
                        None => meta.resource_version.clone().unwrap_or_default(),
                    },
                    labels: meta.labels.clone().into_iter().flatten().collect(),
                    deleting: meta.deletion_timestamp.is_some(),
                };
                let name = meta.name.clone().unwrap_or_default();
                let fresh = self.content.get(&name) != Some(&content);
                self.content.insert(name, content);
                fresh
            }
            Event::Delete(object) => {
                self.content
                    .remove(&object.metadata.name.clone().unwrap_or_default());
                true
            }
            Event::Init | Event::InitDone => false,
        }
    }
}

/// Keeps every object of a kind at hand and wishes for a look when one changes.
fn keep<K>(
    tasks: &mut JoinSet<()>,
    api: Api<K>,
    config: watcher::Config,
    trigger: &Arc<Trigger>,
) -> Store<K>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    let (store, writer) = reflector::store();
    let wish = Arc::clone(trigger);
    tasks.spawn(async move {
        let stream = watcher(api, config)
            .default_backoff()
            .modify(|object| object.managed_fields_mut().clear())
            .reflect(writer)
            .touched_objects();
        let mut stream = std::pin::pin!(stream);
        while let Some(event) = stream.next().await {
            match event {
                Ok(_) => wish.look(),
                Err(error) => {
                    warn!(%error, kind = %K::kind(&()), "a watch failed; trying again");
                }
            }
        }
    });
    store
}
