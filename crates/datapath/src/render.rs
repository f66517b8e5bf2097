//! From a node's state to everything the switch must hold.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::commit::{COMMIT_VERSION, Commit, DatapathKind};
use crate::cookie::{CookieParts, Kind};
use crate::flow::FlowLine;
use crate::ledger::{IdLedger, LedgerError};
use crate::pipeline::{Stage, node_flows, peer_flows, pod_flows};
use crate::services::{hairpin_flows, service_tables};
use crate::state::{NodeState, Pod, Port, Way};

/// Everything the integration bridge must hold, sorted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Desired {
    /// Flows by table, falling priority, match.
    pub flows: Vec<FlowLine>,
    /// Groups, as `ovs-ofctl add-group` takes them.
    pub groups: Vec<String>,
    /// Meters, as `ovs-ofctl add-meter` takes them.
    pub meters: Vec<String>,
    /// Pods left out because another has their port or address, with the reason.
    pub left_out: Vec<LeftOut>,
}

/// A pod that has no flows because they would contradict another's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    /// Key of the pod in [`NodeState::pods`].
    pub pod: String,
    /// Why, in words.
    pub reason: String,
}

/// Why a state cannot be rendered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RenderError {
    /// An object needs an id and there is none.
    #[error("giving ids to the objects of the node")]
    Ids(#[source] LedgerError),
}

/// Renders the whole desired state of the integration bridge. Deterministic: the same state and
/// ledger give the same bytes; new objects get ids in the order of their keys.
///
/// # Errors
/// The ledger is full.
pub fn render(state: &NodeState, ledger: &mut IdLedger) -> Result<Desired, RenderError> {
    let mut flows = Vec::with_capacity(64 + 4 * state.peers.len() + 12 * state.pods.len());
    let mut groups = Vec::new();
    let mut stage = Stage::new(CookieParts::PIPELINE, &mut flows);
    node_flows(&mut stage, state);
    service_tables(&mut stage, &mut groups, state);
    if let Some(tunnel) = state.tunnel {
        for (name, peer) in &state.peers {
            // What goes as it is is the host's to route: the pipeline gives it to the gateway.
            let tunnelled = |cidr: &IpNet| match state.way(peer, *cidr) {
                Some(Way::Tunnel(destination)) => Some((*cidr, destination)),
                Some(Way::Direct(_) | Way::Fabric) | None => None,
            };
            let ranges: Vec<_> = peer.pod_cidrs.iter().filter_map(tunnelled).collect();
            if ranges.is_empty() {
                continue;
            }
            let object = ledger.id(Kind::Peer, name).map_err(RenderError::Ids)?;
            let cookie = CookieParts {
                kind: Kind::Peer,
                object,
            };
            let mut stage = Stage::new(cookie, &mut flows);
            for (cidr, destination) in ranges {
                peer_flows(&mut stage, cidr, destination, tunnel);
            }
        }
    }
    let mut taken = Taken::of(state);
    let mut left_out = Vec::new();
    for (key, pod) in &state.pods {
        if let Err(reason) = taken.take(pod) {
            left_out.push(LeftOut {
                pod: key.clone(),
                reason,
            });
            continue;
        }
        let object = ledger.id(Kind::Pod, key).map_err(RenderError::Ids)?;
        let cookie = CookieParts {
            kind: Kind::Pod,
            object,
        };
        let mut stage = Stage::new(cookie, &mut flows);
        pod_flows(&mut stage, pod, &state.gateway);
        hairpin_flows(&mut stage, state, pod);
    }
    flows.sort_by(|a, b| a.key().cmp(&b.key()));
    Ok(Desired {
        flows,
        groups,
        meters: Vec::new(),
        left_out,
    })
}

/// Ports and addresses that have an owner.
struct Taken {
    ports: BTreeSet<Port>,
    addresses: BTreeSet<IpAddr>,
}

impl Taken {
    fn of(state: &NodeState) -> Self {
        let mut ports = BTreeSet::from([state.gateway.port]);
        ports.extend(state.tunnel);
        Self {
            ports,
            addresses: state.gateway.addresses.iter().collect(),
        }
    }

    fn take(&mut self, pod: &Pod) -> Result<(), String> {
        if pod.mac.is_multicast() {
            return Err(format!(
                "its MAC address {} is a multicast address",
                pod.mac
            ));
        }
        if self.ports.contains(&pod.port) {
            return Err(format!("OpenFlow port {} is another's", pod.port));
        }
        if let Some(address) = pod
            .addresses
            .iter()
            .find(|own| self.addresses.contains(own))
        {
            return Err(format!("address {address} is another's"));
        }
        self.ports.insert(pod.port);
        self.addresses.extend(pod.addresses.iter());
        Ok(())
    }
}

impl Desired {
    /// The desired state as text, one line each: what golden files hold.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        for line in self.meters.iter().chain(&self.groups) {
            text.push_str(line);
            text.push('\n');
        }
        for flow in &self.flows {
            text.push_str(&flow.to_string());
            text.push('\n');
        }
        text
    }

    /// The saved commit for this desired state.
    pub fn to_commit(&self, boot_id: &str, datapath: DatapathKind, bridge: &str) -> Commit {
        Commit {
            version: COMMIT_VERSION,
            boot_id: boot_id.to_owned(),
            datapath,
            bridge: bridge.to_owned(),
            flows: self.flows.iter().map(ToString::to_string).collect(),
            groups: self.groups.clone(),
            meters: self.meters.clone(),
        }
    }
}
