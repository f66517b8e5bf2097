//! Attachments the journal lost, found in the kernel.
//!
//! A journal that was damaged or removed must not lead to an address given twice: every pod link
//! says in its alias whose it is and which host ports lead to it, and the sandbox's own interface has
//! the addresses. Host ports that did not fit into an alias are lost, and that is reported.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use carrick_node::{Link, LinkIndex, Namespace, Netlink};
use tracing::{debug, warn};

use super::alias::LinkAlias;
use super::network::PodNetwork;
use super::server::{CniServer, held};
use super::socket::NETNS_DIR;
use crate::ipam::{Attachment, AttachmentState, host_link_name, mac_of};

/// How often links are asked for before the CNI is served without knowing them: 3 s in all.
const LIST_ATTEMPTS: u32 = 6;
/// The pause after the first failure; each next one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// What [`CniServer::recover`] found; empty when the journal knew every pod link.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Pods whose attachments were recorded again.
    pub adopted: Vec<String>,
    /// Those of them whose host ports are lost until they are made anew.
    pub without_host_ports: Vec<String>,
    /// Links nobody could tell the owner of: the collection removes them.
    pub unknown: Vec<String>,
}

impl<N: PodNetwork> CniServer<N> {
    /// [`Self::recover`] at the start of an agent, before the switch is programmed and before a command
    /// is served: a pass that does not know the pods of a lost journal takes their flows away, and an ADD
    /// could get the address of one of them.
    pub async fn recover_at_start(&self) {
        self.recover(Path::new(NETNS_DIR)).await;
    }

    /// Records attachments of pod links the store does not know, before anything is allocated, and warns
    /// of what it found. `directory` is where the runtime mounts namespaces.
    pub async fn recover(&self, directory: &Path) -> Recovered {
        let mut recovered = Recovered::default();
        let orphans = self.orphans_by_all_means().await;
        let mut candidates = BTreeMap::new();
        for link in orphans {
            match LinkAlias::parse(&link.alias) {
                // The name is made from the key: a copied alias gives itself away.
                Some(alias) if host_link_name(&alias.key) == link.name => {
                    candidates.insert(link.index, (link, alias));
                }
                _ => recovered.unknown.push(link.name),
            }
        }
        if !candidates.is_empty() {
            for entry in namespaces(directory) {
                self.adopt_from(entry, &mut candidates, &mut recovered)
                    .await;
            }
        }
        recovered
            .unknown
            .extend(candidates.into_values().map(|(link, _)| link.name));
        recovered.without_host_ports.sort();
        if let Some(first) = recovered.without_host_ports.first() {
            let more = match recovered.without_host_ports.len() {
                1 => String::new(),
                count => format!(" and {} more pods", count - 1),
            };
            self.network().state_lost(format!(
                "the host ports of {first}{more} were lost with the journal and lead nowhere until the \
                 pods are made anew: delete them"
            ));
        }
        if recovered != Recovered::default() {
            warn!(
                adopted = ?recovered.adopted,
                without_host_ports = ?recovered.without_host_ports,
                unknown = ?recovered.unknown,
                "pod links that the journal did not know"
            );
        }
        recovered
    }

    /// The links, asked for again while the kernel's list keeps changing (as it does when the
    /// switch starts together with us). Whoever is missed here is found by the collection.
    async fn orphans_by_all_means(&self) -> Vec<Link> {
        let mut pause = FIRST_PAUSE;
        for _ in 0..LIST_ATTEMPTS {
            match self.orphans().await {
                Ok(orphans) => return orphans,
                Err(error) => warn!(
                    error = &error as &dyn std::error::Error,
                    "links could not be listed; trying again"
                ),
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        Vec::new()
    }

    async fn adopt_from(
        &self,
        namespace: Namespace,
        candidates: &mut BTreeMap<LinkIndex, (Link, LinkAlias)>,
        recovered: &mut Recovered,
    ) {
        let Ok(pod) = Netlink::open_in(&namespace).await else {
            return;
        };
        let Ok(links) = pod.links().await else { return };
        for link in links {
            let Some(index) = link.peer else { continue };
            let Some((host, alias)) = candidates.get(&index) else {
                continue;
            };
            // Indexes repeat in other namespaces; name and MAC do not lie.
            if link.name != alias.key.ifname || link.mac != Some(mac_of(&alias.key)) {
                continue;
            }
            let Ok(found) = pod.addresses(Some(link.index)).await else {
                continue;
            };
            let addresses: Vec<IpAddr> = found
                .iter()
                .filter(|a| !a.scope_link)
                .map(|a| a.net.addr())
                .collect();
            let taken = |held: &Attachment| held.addresses.iter().any(|a| addresses.contains(a));
            if addresses.is_empty() || self.store().attachments().values().any(|a| taken(a)) {
                continue;
            }
            let attachment = Attachment {
                key: alias.key.clone(),
                netns: namespace.path().to_owned(),
                pod: alias.pod.clone(),
                addresses,
                mac: mac_of(&alias.key),
                host_link: host.name.clone(),
                ofport: alias.ofport,
                port_mappings: alias.port_mappings.clone().unwrap_or_default(),
                state: AttachmentState::Ready,
            };
            match self.store().adopt(attachment.clone(), self.now()) {
                Ok(()) => {
                    self.network().addresses_changed(&[held(&attachment)], &[]);
                    if alias.port_mappings.is_none() {
                        recovered
                            .without_host_ports
                            .push(attachment.pod.to_string());
                    }
                    recovered.adopted.push(attachment.pod.to_string());
                    candidates.remove(&index);
                }
                Err(error) => warn!(link = host.name, %error, "a lost attachment was not recorded"),
            }
        }
    }
}

fn namespaces(directory: &Path) -> Vec<Namespace> {
    let Ok(entries) = fs::read_dir(directory) else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter_map(|path| match Namespace::open(&path) {
            Ok(namespace) => Some(namespace),
            Err(error) => {
                debug!(%error, "not a namespace");
                None
            }
        })
        .collect()
}
