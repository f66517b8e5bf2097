//! Pods: where they are, which addresses they have, and whether they get their records.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use carrick_proto::{Key, NodeName, PodHolding, PodUid, Release};
use ipnet::IpNet;

use super::addresses::TooManyHeld;
use super::{Change, Index, Listed, Scope};
use crate::objects::{PodNetwork, PodObject, PodPeer};

/// Where a pod is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) node: NodeName,
    pub(super) runtime_uid: PodUid,
    created: i64,
}

/// A pod. What else is known of it is in the index of policies.
#[derive(Debug)]
pub(super) struct Pod {
    pub(super) place: Place,
    /// Addresses in its status.
    status: Box<[IpAddr]>,
    /// Its namespace, while its record is withheld.
    withheld_in: Option<Arc<str>>,
}

impl Index {
    /// Namespaces with pods whose records are withheld.
    pub fn withholding(&self) -> impl Iterator<Item = &Arc<str>> {
        self.withheld.namespaces()
    }

    /// Pods of the namespace whose records are withheld.
    #[must_use]
    pub fn withheld(&self, namespace: &str) -> BTreeSet<PodUid> {
        self.withheld.of(namespace)
    }

    /// How many pods' records are withheld.
    #[must_use]
    pub fn withheld_pods(&self) -> usize {
        self.withheld.len()
    }

    /// Records of `pods` are withheld no more if all of what was read after they were seen has
    /// been seen, too; whether it was.
    pub fn vouch(&mut self, namespace: &str, listed: &Listed, pods: &BTreeSet<PodUid>) -> bool {
        if !self.policies.has_seen(namespace, listed) {
            return false;
        }
        for uid in pods {
            let Some(pod) = self.pods.get_mut(uid) else {
                continue;
            };
            if let Some(namespace) = pod.withheld_in.take() {
                self.withheld.remove(&namespace, uid);
                let Place {
                    node, runtime_uid, ..
                } = &pod.place;
                let place = (node.clone(), runtime_uid.clone());
                self.touched_places.insert(place);
            }
        }
        true
    }

    /// What an agent says when its stream opens: all that its pods hold.
    pub fn greeted(&mut self, node: &NodeName, pods: &[PodHolding]) -> Result<(), TooManyHeld> {
        let cidrs = self.pod_cidrs(node);
        self.addresses.greet(node, &cidrs, pods)?;
        self.readdress(node);
        Ok(())
    }

    /// Pods of a node got addresses.
    pub fn assigned(&mut self, node: &NodeName, pods: &[PodHolding]) -> Result<(), TooManyHeld> {
        let cidrs = self.pod_cidrs(node);
        self.addresses.hold(node, &cidrs, pods)?;
        self.readdress(node);
        Ok(())
    }

    /// Pods of a node gave addresses back: they are nobody's, whatever a pod's status says.
    pub fn released(&mut self, node: &NodeName, releases: &[Release]) {
        let cidrs = self.pod_cidrs(node);
        for release in releases {
            self.addresses.release(node, &cidrs, release);
        }
        self.readdress(node);
    }

    /// How many addresses pods of the node hold, as its agent says.
    #[must_use]
    pub fn addresses_held(&self, node: &NodeName) -> usize {
        self.addresses.held(node)
    }

    /// Nodes whose agent has ever said something of itself.
    pub fn nodes_with_agents(&self) -> impl Iterator<Item = &NodeName> {
        let infos = self.infos.keys();
        infos.filter(|name| self.nodes.contains_key(*name))
    }

    fn pod_cidrs(&self, node: &NodeName) -> Vec<IpNet> {
        let node = self.nodes.get(node);
        node.map(|node| node.pod_cidrs.clone()).unwrap_or_default()
    }

    /// Tells policy the addresses of a node's pods. There are few on a node, and most are as they were.
    fn readdress(&mut self, node: &NodeName) {
        let none = BTreeMap::new();
        let pods = self.by_runtime.get(node).unwrap_or(&none);
        self.addresses.tidy(node, |uid| pods.contains_key(uid));
        for (runtime_uid, owners) in pods {
            for (place, (_, uid)) in owners.iter().enumerate() {
                let Some(pod) = self.pods.get(uid) else {
                    continue;
                };
                let addresses = match place {
                    0 => self.addresses.of(node, runtime_uid, &pod.status),
                    _ => self.addresses.unheld(node, &pod.status),
                };
                self.policies.pod_addresses(uid, addresses);
            }
        }
    }

    pub(super) fn pod_is(&mut self, pod: PodObject) {
        let place = Place {
            node: pod.node,
            runtime_uid: pod.runtime_uid,
            created: pod.created,
        };
        let old = self.pods.get(&pod.uid);
        if old.is_some_and(|old| old.place != place) || pod.network == PodNetwork::Detached {
            self.pod_gone(&pod.uid);
        }
        if pod.network == PodNetwork::Detached {
            return;
        }
        let PodPeer {
            labels,
            addresses: status,
            ports,
        } = pod.peer;
        let of_node = self.by_runtime.entry(place.node.clone()).or_default();
        let owners = of_node.entry(place.runtime_uid.clone()).or_default();
        owners.insert((place.created, pod.uid.clone()));
        let first = owners.first().is_some_and(|(_, uid)| *uid == pod.uid);
        let crowded = owners.len() > 1;
        let addresses = if first {
            self.addresses.of(&place.node, &place.runtime_uid, &status)
        } else {
            self.addresses.unheld(&place.node, &status)
        };
        let namespace: Arc<str> = pod.namespace.into();
        let peer = carrick_policy::Pod {
            uid: pod.uid.as_str().into(),
            namespace: Arc::clone(&namespace),
            name: pod.name.into(),
            node: place.node.as_str().into(),
            labels,
            addresses,
            ports,
        };
        self.policies.apply(carrick_policy::Event::Pod(peer));
        let at = (place.node.clone(), place.runtime_uid.clone());
        let status = status.into_boxed_slice();
        if let Some(pod) = self.pods.get_mut(&pod.uid) {
            pod.status = status;
            return;
        }
        let withheld_in = self.pods_listed.then_some(namespace);
        if let Some(namespace) = &withheld_in {
            let namespace = Arc::clone(namespace);
            self.withheld.insert(namespace, pod.uid.clone());
        }
        let known = Pod {
            place,
            status,
            withheld_in,
        };
        self.pods.insert(pod.uid, known);
        if crowded {
            self.readdress(&at.0);
        }
        self.touched_places.insert(at);
    }

    pub(super) fn pod_gone(&mut self, uid: &PodUid) {
        let Some(Pod {
            place, withheld_in, ..
        }) = self.pods.remove(uid)
        else {
            return;
        };
        if let Some(namespace) = withheld_in {
            self.withheld.remove(&namespace, uid);
        }
        let gone = carrick_policy::Event::PodGone(uid.as_str().into());
        self.policies.apply(gone);
        if let Some(of_node) = self.by_runtime.get_mut(&place.node) {
            if let Some(owners) = of_node.get_mut(&place.runtime_uid) {
                owners.remove(&(place.created, uid.clone()));
                if owners.is_empty() {
                    of_node.remove(&place.runtime_uid);
                }
            }
            if of_node.is_empty() {
                self.by_runtime.remove(&place.node);
            }
        }
        // Another pod of the same runtime UID may hold what this one held.
        self.readdress(&place.node);
        self.touched_places.insert((place.node, place.runtime_uid));
    }

    pub(super) fn pod_record(&self, place: (NodeName, PodUid), changes: &mut Vec<Change>) {
        let of_node = self.by_runtime.get(&place.0);
        let owners = of_node.and_then(|of_node| of_node.get(&place.1));
        let owner = owners.and_then(BTreeSet::first).filter(|(_, uid)| {
            let pod = self.pods.get(uid);
            pod.is_some_and(|pod| pod.withheld_in.is_none())
        });
        let record = owner.and_then(|(_, uid)| self.policies.record(uid, &place.1));
        let (node, uid) = place;
        changes.push(Change {
            scope: Scope::Own(node),
            key: Key::Pod(uid),
            record,
        });
    }
}
