//! Which addresses pods have. What a node's agent says on its stream comes ahead of the kubelet's
//! status, and beats it: an address that was given back may be another pod's before the status of
//! the pod that had it says so.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use carrick_proto::{NodeName, PodHolding, PodUid, Release, limits};
use ipnet::IpNet;

/// An agent says more than one node can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the agent reports more addresses than one node can have")]
pub struct TooManyHeld;

/// What agents said, also those that are away now.
#[derive(Debug, Default)]
pub(super) struct Addresses {
    /// By node and by the UID the container runtime is told.
    nodes: HashMap<NodeName, HashMap<PodUid, Said>>,
}

#[derive(Debug, Default)]
struct Said {
    held: BTreeSet<IpAddr>,
    /// Given back by the pod, whose status may name them still.
    released: BTreeSet<IpAddr>,
}

impl Said {
    fn is_empty(&self) -> bool {
        self.held.is_empty() && self.released.is_empty()
    }
}

/// Those of `addresses` that are in the node's CIDRs: no others are believed.
pub(crate) fn own(cidrs: &[IpNet], addresses: &[IpAddr]) -> impl Iterator<Item = IpAddr> {
    let own = |address: &&IpAddr| cidrs.iter().any(|cidr| cidr.contains(*address));
    addresses.iter().filter(own).copied()
}

impl Addresses {
    /// The agent names all that its pods hold; what they held before and hold no more was given
    /// back.
    pub(super) fn greet(
        &mut self,
        node: &NodeName,
        cidrs: &[IpNet],
        pods: &[PodHolding],
    ) -> Result<(), TooManyHeld> {
        for said in self.nodes.entry(node.clone()).or_default().values_mut() {
            let held = std::mem::take(&mut said.held);
            said.released.extend(held);
        }
        self.hold(node, cidrs, pods)
    }

    /// Pods hold these beside what they held.
    pub(super) fn hold(
        &mut self,
        node: &NodeName,
        cidrs: &[IpNet],
        pods: &[PodHolding],
    ) -> Result<(), TooManyHeld> {
        let of_node = self.nodes.entry(node.clone()).or_default();
        for pod in pods {
            let Ok(uid) = PodUid::new(&pod.uid) else {
                continue;
            };
            let said = of_node.entry(uid).or_default();
            for address in own(cidrs, &pod.addresses) {
                said.released.remove(&address);
                said.held.insert(address);
            }
            if said.held.len() > limits::ADDRESSES {
                return Err(TooManyHeld);
            }
        }
        of_node.retain(|_, said| !said.is_empty());
        let holders = of_node.values().filter(|said| !said.held.is_empty());
        if holders.count() > limits::PODS {
            return Err(TooManyHeld);
        }
        Ok(())
    }

    /// A pod gave these back.
    pub(super) fn release(&mut self, node: &NodeName, cidrs: &[IpNet], release: &Release) {
        let of_node = self.nodes.entry(node.clone()).or_default();
        let Ok(uid) = PodUid::new(&release.uid) else {
            return;
        };
        let said = of_node.entry(uid).or_default();
        for address in own(cidrs, &release.addresses) {
            said.held.remove(&address);
            if said.released.len() < limits::ADDRESSES {
                said.released.insert(address);
            }
        }
    }

    /// There is no such node.
    pub(super) fn node_gone(&mut self, node: &NodeName) {
        self.nodes.remove(node);
    }

    /// Forgets what pods gave back of which `there` says that they are gone.
    pub(super) fn tidy(&mut self, node: &NodeName, there: impl Fn(&PodUid) -> bool) {
        let Some(of_node) = self.nodes.get_mut(node) else {
            return;
        };
        of_node.retain(|uid, said| {
            if !there(uid) {
                said.released.clear();
            }
            !said.is_empty()
        });
    }

    /// The addresses of a pod whose status names `status`.
    pub(super) fn of(&self, node: &NodeName, uid: &PodUid, status: &[IpAddr]) -> Vec<IpAddr> {
        let Some(of_node) = self.nodes.get(node) else {
            return status.to_vec();
        };
        let said = of_node.get(uid);
        if let Some(said) = said.filter(|said| !said.held.is_empty()) {
            return said.held.iter().copied().collect();
        }
        let released = |address| said.is_some_and(|said| said.released.contains(address));
        let anothers = |address| of_node.values().any(|said| said.held.contains(address));
        let status = status.iter();
        let own = status.filter(|address| !released(*address) && !anothers(*address));
        own.copied().collect()
    }

    /// Those of `status` that no pod of the node holds.
    pub(super) fn unheld(&self, node: &NodeName, status: &[IpAddr]) -> Vec<IpAddr> {
        let of_node = self.nodes.get(node);
        let held = |address: &IpAddr| {
            let mut pods = of_node.into_iter().flat_map(HashMap::values);
            pods.any(|said| said.held.contains(address))
        };
        let status = status.iter();
        status.filter(|address| !held(address)).copied().collect()
    }

    /// How many addresses pods of the node hold.
    pub(super) fn held(&self, node: &NodeName) -> usize {
        let of_node = self.nodes.get(node).into_iter().flat_map(HashMap::values);
        of_node.map(|said| said.held.len()).sum()
    }
}
