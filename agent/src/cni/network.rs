//! What the CNI server needs from the rest of the agent.

use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use carrick_node::MacAddr;
use carrick_proto::NodeFacts;
use ipnet::IpNet;
use tokio::sync::watch;

use crate::ipam::{Attachment, HeldAddresses, PodRef, ReleasedAddresses};

/// Which datapath the integration bridge has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DatapathKind {
    /// `system`: the kernel's.
    Kernel,
    /// `netdev`: vswitchd's own; pods' veths need transmit checksums off.
    Userspace,
}

/// What every pod's interface is built by. Changes when the node is registered again or the
/// configuration changes; attachments that exist keep what they have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodNetworkSettings {
    /// The node's pod CIDRs.
    pub pod_cidrs: Vec<IpNet>,
    /// Addresses of the gateway port: [`crate::ipam::gateway`] of each CIDR.
    pub gateways: Vec<IpAddr>,
    /// MAC of the gateway port.
    pub gateway_mac: MacAddr,
    /// MTU of pods' interfaces.
    pub mtu: u32,
    /// The bridge's datapath.
    pub datapath: DatapathKind,
    /// UID of the Node object: another one is another registration.
    pub node_uid: String,
}

impl PodNetworkSettings {
    /// Whether they are made from this record of the node, or from one that tells pods the same.
    pub fn are_of(&self, node: &NodeFacts) -> bool {
        let still_there = |cidr| node.pod_cidrs.contains(cidr);
        node.uid == self.node_uid
            && node.problem.is_none()
            && self.pod_cidrs.iter().all(still_there)
    }
}

/// The pod's record has not arrived by the deadline.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct NotYet {
    /// In words for the kubelet's event: "the controller is not connected", "no record within 10 s".
    pub reason: String,
}

/// Why a port could not be attached or detached.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// Nothing is wrong with the request: the switch is away, or the commit did not finish in time.
    #[error("the switch is not ready: {reason}")]
    NotReady {
        /// In words for the kubelet's event.
        reason: String,
    },
    /// The switch refused the port or its flows.
    #[error("the switch refused port {port}")]
    Refused {
        /// The link.
        port: String,
        /// Its answer.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// The rest of the agent, as the CNI server sees it.
///
/// Futures may be dropped by a caller's deadline; the implementation then leaves the port to the
/// next attach, detach or difference.
pub trait PodNetwork: Send + Sync + 'static {
    /// The settings pods are built by; `None` until the node's record was committed and the
    /// gateway exists. Never waits.
    fn settings(&self) -> watch::Receiver<Option<Arc<PodNetworkSettings>>>;

    /// Waits until the pod's record is in the committed state (invariant 2) and the settings are made
    /// from the node's record in it, at most `limit`. Answers at once when that is so already,
    /// controller or not. One batch can bring the pod and another registration of its node: the
    /// settings of the one before would give the pod an address that no other node routes here.
    fn wait_pod(
        &self,
        pod: &PodRef,
        limit: Duration,
    ) -> impl Future<Output = Result<Arc<PodNetworkSettings>, NotYet>> + Send;

    /// Makes the attachment's port carry packets. Called in state `Adding`, when the veth pair
    /// exists with its host end *down*. On `Ok`: on the userspace datapath the link is in the
    /// `netdev carrick` table; the OVSDB port exists with the wanted `ofport`; the flows of the
    /// attachment are committed. The caller then sets the host end up.
    /// Attaching again what is attached is `Ok`.
    fn attach(&self, attachment: &Attachment)
    -> impl Future<Output = Result<(), PortError>> + Send;

    /// Removes ports: called when the attachments are `Removing` (or already forgotten), before
    /// their links are deleted. On `Ok`: no flows for them, no OVSDB ports, and connection
    /// entries of their addresses flushed. Detaching what is not there is `Ok`.
    fn detach(
        &self,
        attachments: &[Arc<Attachment>],
    ) -> impl Future<Output = Result<(), PortError>> + Send;

    /// Whether the port and flows of a `Ready` attachment are in place (CNI CHECK).
    fn check(&self, attachment: &Attachment) -> impl Future<Output = Result<(), PortError>> + Send;

    /// Addresses were given to or taken from pods: to be reported on the stream, in this order.
    /// Must not block.
    fn addresses_changed(&self, assigned: &[HeldAddresses], released: &[ReleasedAddresses]);

    /// Why the switch does not hold what it must, if it does not: neither would a new pod work, nor can
    /// those that are there be relied on. Never waits.
    fn trouble(&self) -> Option<String>;

    /// State was lost that cannot be rebuilt: to be reported, with what mends it. Must not block.
    fn state_lost(&self, message: String);

    /// The desired `hostPort`s changed (the snapshot of attachments has them): apply the node's
    /// nftables table. On `Ok` the kernel has [`crate::portmap`]'s chains for every attachment that
    /// is not `Removing`.
    fn apply_port_mappings(&self) -> impl Future<Output = Result<(), PortError>> + Send;
}
