//! Watches of Services and EndpointSlices: what every node needs whole (invariant 7).
//!
//! ```text
//! API server ──▶ watch (one task per kind) ──▶ Change ──▶ programmer, which has the proxy
//! ```
//!
//! A listing is handed on object by object, between [`Change::Begins`] and [`Change::Ends`]: 250,000
//! endpoints at once would be more than the agent may have. Both tasks wait where the programmer is
//! busy: the queue is short, and the API server keeps what is not read.

use std::fmt::Debug;
use std::time::Duration;

use carrick_datapath::services::{EndpointSlice, Service, ServiceName};
use carrick_k8s::telemetry::chain;
use futures::StreamExt as _;
use jiff::Timestamp;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::object;

/// Changes that may wait: they gather while the switch acts on those before.
pub const CHANGES: usize = 1024;
/// Objects per page where lists are not streamed.
const PAGE: u32 = 500;
/// How long a watch may be silent before it is opened anew, in seconds.
const SILENCE: u32 = 240;
/// Pause after a watch ended in a way the watcher does not mend by itself.
const RESTART: Duration = Duration::from_secs(5);

/// A kind of objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Services.
    Services,
    /// EndpointSlices.
    Slices,
}

/// What happened.
#[derive(Debug, PartialEq, Eq)]
pub enum Change {
    /// A Service is so.
    Service(Box<Service>),
    /// A Service is gone.
    ServiceGone(ServiceName),
    /// A slice is so.
    Slice {
        /// The slice.
        slice: Box<EndpointSlice>,
        /// When what it tells of happened.
        triggered: Option<Timestamp>,
    },
    /// A slice is gone.
    SliceGone {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// Everything of a kind follows.
    Begins(Kind),
    /// That was everything: what did not come is gone.
    Ends(Kind),
}

/// Where changes go, and when everything must be told anew.
#[derive(Debug, Clone)]
pub struct Outlet {
    /// Takes changes.
    pub changes: mpsc::Sender<Change>,
    /// Changed when whoever takes them has forgotten everything.
    pub forgotten: watch::Receiver<u64>,
}

/// Watches both kinds until `shutdown`.
pub async fn run(client: Client, out: Outlet, shutdown: CancellationToken) {
    let services = Source {
        kind: Kind::Services,
        is: |service: &core::Service| object::service(service).map(Box::new).map(Change::Service),
        gone: |service: &core::Service| object::service_name(service).map(Change::ServiceGone),
    };
    let slices = Source {
        kind: Kind::Slices,
        is: |slice: &discovery::EndpointSlice| {
            Some(Change::Slice {
                slice: Box::new(object::endpoint_slice(slice)?),
                triggered: object::triggered(slice),
            })
        },
        gone: |slice: &discovery::EndpointSlice| {
            let (namespace, name) = object::slice_name(slice)?;
            Some(Change::SliceGone { namespace, name })
        },
    };
    tokio::join!(
        follow(
            Api::all(client.clone()),
            services,
            out.clone(),
            shutdown.clone()
        ),
        follow(Api::all(client), slices, out, shutdown),
    );
}

/// How objects of a kind become changes.
struct Source<I, G> {
    kind: Kind,
    /// It is so; `None` when it is none of ours.
    is: I,
    gone: G,
}

async fn follow<K, I, G>(
    api: Api<K>,
    source: Source<I, G>,
    mut out: Outlet,
    shutdown: CancellationToken,
) where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
    I: Fn(&K) -> Option<Change>,
    G: Fn(&K) -> Option<Change>,
{
    let selector = object::NOT_OURS.map(|label| format!("!{label}")).join(",");
    let config = watcher::Config::default()
        .labels(&selector)
        .page_size(PAGE)
        .timeout(SILENCE);
    // The API server may be away for long, and the backoff asks often.
    let mut told = false;
    loop {
        let mut events = watcher(api.clone(), config.clone())
            .default_backoff()
            .boxed();
        loop {
            let next = tokio::select! {
                () = shutdown.cancelled() => return,
                forgotten = out.forgotten.changed() => match forgotten {
                    Ok(()) => {
                        events = watcher(api.clone(), config.clone()).default_backoff().boxed();
                        continue;
                    }
                    Err(_) => return,
                },
                next = events.next() => next,
            };
            let event = match next {
                None => break,
                Some(Ok(event)) => event,
                Some(Err(error)) => {
                    let (kind, error) = (source.kind, chain(&error));
                    if told {
                        debug!(?kind, error, "a watch is tried again");
                    } else {
                        warn!(?kind, error, "a watch does not work and is tried again");
                    }
                    told = true;
                    continue;
                }
            };
            told = false;
            if let Some(change) = source.change(&event)
                && out.changes.send(change).await.is_err()
            {
                return;
            }
        }
        warn!(kind = ?source.kind, "a watch ended and is begun anew");
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(RESTART) => {}
        }
    }
}

impl<I, G> Source<I, G> {
    fn change<K>(&self, event: &Event<K>) -> Option<Change>
    where
        I: Fn(&K) -> Option<Change>,
        G: Fn(&K) -> Option<Change>,
    {
        match event {
            Event::Init => Some(Change::Begins(self.kind)),
            Event::InitDone => Some(Change::Ends(self.kind)),
            Event::InitApply(object) => (self.is)(object),
            // One that is none of ours any more is gone.
            Event::Apply(object) => (self.is)(object).or_else(|| (self.gone)(object)),
            Event::Delete(object) => (self.gone)(object),
        }
    }
}
