//! Garbage: attachments whose sandbox is gone, links nobody owns, DELs that came while the agent
//! was away.
//!
//! containerd 1.6 never calls GC, and a runtime that was reinstalled forgets what it made: what is
//! there is compared with what is known in any case.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use carrick_api::names::link::is_pod;
use carrick_node::{Link, NetlinkError};
use tracing::{info, warn};

use super::network::PodNetwork;
use super::request::{Frame, MAX_FRAME};
use super::server::CniServer;
use super::socket::NETNS_DIR;
use crate::ipam::Attachment;

/// How often the node is looked over.
pub const INTERVAL: Duration = Duration::from_secs(30);
/// Deferred DELs read at once: more wait for the next round.
const MAX_DEFERRED: usize = 4096;

/// What [`collect_forever`] remembers from round to round: only what is garbage twice is removed,
/// for a command may be at work on it.
#[derive(Debug, Default)]
pub struct Suspects {
    attachments: BTreeSet<Vec<u8>>,
    links: BTreeSet<String>,
}

/// Looks the node over every [`INTERVAL`] until `shutdown` is done. The first round comes at once:
/// it does what was deferred.
pub async fn collect_forever<N: PodNetwork>(
    server: Arc<CniServer<N>>,
    deferred: PathBuf,
    shutdown: impl Future<Output = ()>,
) {
    let mut suspects = Suspects::default();
    tokio::pin!(shutdown);
    loop {
        run_deferred(&server, &deferred).await;
        server.sweep(&mut suspects).await;
        tokio::select! {
            () = &mut shutdown => return,
            () = tokio::time::sleep(INTERVAL) => {}
        }
    }
}

/// Does the DELs that `carrick-cni` wrote to `directory` while nobody answered. Each file is the
/// frame of a request; it is removed when its DEL succeeded, or when it is none.
pub async fn run_deferred<N: PodNetwork>(server: &CniServer<N>, directory: &Path) {
    for path in deferred_files(directory) {
        let Ok(metadata) = std::fs::metadata(&path) else {
            continue;
        };
        let frame = (metadata.len() <= MAX_FRAME as u64)
            .then(|| std::fs::read(&path).ok())
            .flatten()
            .and_then(|bytes| serde_json::from_slice::<Frame>(&bytes).ok())
            .filter(|frame| frame.command == "DEL");
        if let Some(frame) = frame {
            info!(
                container = frame.container_id,
                "doing a DEL that came while the agent was away"
            );
            if server.answer(&frame).await.exit != 0 {
                continue;
            }
        }
        if let Err(error) = std::fs::remove_file(&path) {
            warn!(path = %path.display(), %error, "removing a deferred DEL failed");
        }
    }
}

fn deferred_files(directory: &Path) -> Vec<PathBuf> {
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => {
            warn!(path = %directory.display(), %error, "reading deferred DELs failed");
            return Vec::new();
        }
    };
    let mut files: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "json")
        })
        .take(MAX_DEFERRED)
        .collect();
    files.sort();
    files
}

impl<N: PodNetwork> CniServer<N> {
    /// One periodic round: removes what was garbage in the last round and still is.
    pub async fn sweep(&self, suspects: &mut Suspects) {
        let gone = self.gone().await;
        let id = |attachment: &Arc<Attachment>| attachment.key.to_string().into_bytes();
        for attachment in &gone {
            if suspects.attachments.contains(&id(attachment)) {
                self.take_away(attachment).await;
            }
        }
        suspects.attachments = gone.iter().map(id).collect();

        let mut orphans = self.orphan_links().await;
        if !orphans.is_disjoint(&suspects.links) {
            // A link with a living pod behind it is no garbage: its attachment was lost. The pod
            // keeps its network and the store learns of it again.
            self.recover(Path::new(NETNS_DIR)).await;
            orphans = self.orphan_links().await;
        }
        for link in orphans.intersection(&suspects.links) {
            info!(link, "removing a pod link that no attachment owns");
            if let Err(error) = self.sandboxes().delete(link).await {
                warn!(link, %error, "removing a link failed");
            }
        }
        suspects.links = orphans;

        let (store, now) = (Arc::clone(self.store()), self.now());
        let maintained = tokio::task::spawn_blocking(move || store.maintain(now)).await;
        if let Ok(Err(error)) = maintained {
            warn!(%error, "writing the attachments failed");
        }
    }

    /// Removes at once what is gone beyond doubt (GC asked for it); returns failures.
    pub(super) async fn collect(&self) -> Vec<String> {
        let mut failures = Vec::new();
        for attachment in self.gone().await {
            failures.extend(self.take_away(&attachment).await);
        }
        failures
    }

    async fn take_away(&self, attachment: &Arc<Attachment>) -> Option<String> {
        let _turn = match self.turn(&attachment.key.container_id).await {
            Ok(turn) => turn,
            Err(error) => return Some(error.to_string()),
        };
        // Somebody may have been faster, or have made it anew.
        let now = self.store().get(&attachment.key)?;
        if now.netns != attachment.netns || !self.sandboxes().is_gone(&now).await.unwrap_or(false) {
            return None;
        }
        info!(pod = %attachment.pod, attachment = %attachment.key, "collecting an attachment whose sandbox is gone");
        match self.del(&attachment.key).await {
            Ok(()) => None,
            Err(error) => {
                warn!(attachment = %attachment.key, %error, "collecting failed");
                Some(error.to_string())
            }
        }
    }

    /// Attachments whose namespace and link are both gone.
    async fn gone(&self) -> Vec<Arc<Attachment>> {
        let mut gone = Vec::new();
        for attachment in self.store().attachments().values() {
            match self.sandboxes().is_gone(attachment).await {
                Ok(true) => gone.push(Arc::clone(attachment)),
                Ok(false) => {}
                Err(error) => {
                    warn!(attachment = %attachment.key, %error, "looking for a sandbox failed");
                }
            }
        }
        gone
    }

    /// Our veths without an attachment.
    async fn orphan_links(&self) -> BTreeSet<String> {
        match self.orphans().await {
            Ok(orphans) => orphans.into_iter().map(|link| link.name).collect(),
            Err(error) => {
                warn!(
                    error = &error as &dyn std::error::Error,
                    "links could not be listed"
                );
                BTreeSet::new()
            }
        }
    }

    /// The same, as links.
    pub(super) async fn orphans(&self) -> Result<Vec<Link>, NetlinkError> {
        let links = self.sandboxes().host().links().await?;
        let attachments = self.store().attachments();
        let owned: BTreeSet<&str> = attachments
            .values()
            .map(|attachment| attachment.host_link.as_str())
            .collect();
        Ok(links
            .into_iter()
            .filter(|link| link.kind == "veth" && is_pod(&link.name))
            .filter(|link| !owned.contains(link.name.as_str()))
            .collect())
    }
}
