//! Where the controller is: addresses from its Service's EndpointSlices, kept on disk.
//!
//! An agent must find the controller while no API server answers and no Service works, so what was
//! last seen is a file, and a ClusterIP is never used.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use carrick_api::names::{object, port};
use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt as _, watcher::watcher};
use kube::{Api, Client, ResourceExt as _};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::journal::{JournalError, set_aside, write_atomically};
use carrick_k8s::telemetry::chain;

/// More replicas than anybody runs; bounds a hostile or broken slice.
const MAX_ADDRESSES: usize = 64;
/// How long the watch may be silent before it is opened anew.
const WATCH_TIMEOUT: u32 = 240;
/// Pause after the list of slices failed in a way the watcher does not mend by itself.
const RESTART: Duration = Duration::from_secs(5);

/// Addresses of controller replicas.
pub type Addresses = Arc<BTreeSet<SocketAddr>>;

/// Reads the addresses that were last seen; a damaged file is set aside and its new name returned.
///
/// # Errors
/// A damaged file cannot be set aside.
pub fn load(path: &Path) -> Result<(Addresses, Option<PathBuf>), JournalError> {
    let Ok(bytes) = std::fs::read(path) else {
        return Ok((Addresses::default(), None));
    };
    match serde_json::from_slice::<BTreeSet<SocketAddr>>(&bytes) {
        Ok(addresses) => Ok((
            Arc::new(addresses.into_iter().take(MAX_ADDRESSES).collect()),
            None,
        )),
        Err(_) => Ok((Addresses::default(), Some(set_aside(path)?))),
    }
}

/// Watches the EndpointSlices until `shutdown`. Ends early never: errors are retried with pauses.
/// An empty list does not replace what is known: replicas on host network keep their addresses.
pub async fn follow(
    client: Client,
    namespace: String,
    path: PathBuf,
    addresses: watch::Sender<Addresses>,
    shutdown: CancellationToken,
) {
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = watch_slices(&client, &namespace, &path, &addresses) => {}
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(RESTART) => {}
        }
    }
}

async fn watch_slices(
    client: &Client,
    namespace: &str,
    path: &Path,
    addresses: &watch::Sender<Addresses>,
) {
    let api: Api<EndpointSlice> = Api::namespaced(client.clone(), namespace);
    let selector = format!("kubernetes.io/service-name={}", object::CONTROLLER_SERVICE);
    let config = watcher::Config::default()
        .labels(&selector)
        .timeout(WATCH_TIMEOUT);
    let mut slices = std::collections::BTreeMap::new();
    let mut events = watcher(api, config).default_backoff().boxed();
    loop {
        let complete = match events.try_next().await {
            Ok(Some(Event::Init)) => {
                slices.clear();
                false
            }
            Ok(Some(Event::InitApply(slice))) => {
                slices.insert(slice.name_any(), sockets(&slice));
                false
            }
            Ok(Some(Event::InitDone)) => true,
            Ok(Some(Event::Apply(slice))) => {
                slices.insert(slice.name_any(), sockets(&slice));
                true
            }
            Ok(Some(Event::Delete(slice))) => {
                slices.remove(&slice.name_any());
                true
            }
            Ok(None) => return,
            Err(error) => {
                debug!(
                    error = chain(&error),
                    "watching the controller's EndpointSlices"
                );
                false
            }
        };
        if complete {
            let seen: BTreeSet<_> = slices
                .values()
                .flatten()
                .copied()
                .take(MAX_ADDRESSES)
                .collect();
            if !seen.is_empty() && seen != **addresses.borrow() {
                save(path, &seen);
                info!(addresses = ?seen, "controller addresses");
                addresses.send_replace(Arc::new(seen));
            }
        }
    }
}

fn save(path: &Path, addresses: &BTreeSet<SocketAddr>) {
    let Ok(bytes) = serde_json::to_vec(addresses) else {
        return;
    };
    if let Err(error) = write_atomically(path, &bytes) {
        warn!(
            error = chain(&error),
            "the controller's addresses could not be saved"
        );
    }
}

/// The endpoints of a slice, ready or not: a standby tells who leads, and the stream finds out
/// by itself who answers.
fn sockets(slice: &EndpointSlice) -> BTreeSet<SocketAddr> {
    let number = slice
        .ports
        .iter()
        .flatten()
        .find_map(|port| u16::try_from(port.port?).ok())
        .unwrap_or(port::CONTROLLER_GRPC);
    slice
        .endpoints
        .iter()
        .flat_map(|endpoint| &endpoint.addresses)
        .filter_map(|address| Some(SocketAddr::new(address.parse().ok()?, number)))
        .take(MAX_ADDRESSES)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_come_from_slices_and_survive_the_disk() {
        let slice: EndpointSlice = serde_json::from_value(serde_json::json!({
            "addressType": "IPv6",
            "metadata": {"name": "s"},
            "ports": [{"name": "grpc", "port": 11250}],
            "endpoints": [
                {"addresses": ["fd00::1"], "conditions": {"ready": false}},
                {"addresses": ["not an address"]}
            ]
        }))
        .unwrap();
        let seen = sockets(&slice);
        assert_eq!(seen, BTreeSet::from(["[fd00::1]:11250".parse().unwrap()]));
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("controllers.json");
        save(&path, &seen);
        assert_eq!(*load(&path).unwrap().0, seen);
        std::fs::write(&path, "x").unwrap();
        let (empty, aside) = load(&path).unwrap();
        assert!(empty.is_empty() && aside.is_some());
    }
}
