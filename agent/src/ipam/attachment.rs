//! What an attachment is.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use carrick_node::MacAddr;
use serde::{Deserialize, Serialize};

/// A pod as the CNI is told of it (`K8S_POD_NAMESPACE`, `K8S_POD_NAME`, `K8S_POD_UID`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PodRef {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// UID; of a static pod the hash of its manifest.
    pub uid: String,
}

impl fmt::Display for PodRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// The primary key of an attachment (CNI specification, "General considerations").
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AttachmentKey {
    /// The sandbox's id, by the runtime.
    pub container_id: String,
    /// The interface's name inside the sandbox.
    pub ifname: String,
}

impl fmt::Display for AttachmentKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.container_id, self.ifname)
    }
}

/// Transport protocol of a port mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

/// One entry of the `portMappings` capability: a pod's `hostPort`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortMapping {
    /// Port on the node.
    pub host_port: u16,
    /// Port in the pod.
    pub container_port: u16,
    /// Protocol.
    pub protocol: Protocol,
    /// Only this address of the node; the unspecified one is every one of its family; `None` is every
    /// one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_ip: Option<IpAddr>,
}

impl PortMapping {
    /// Whether a connection to the node could be for this one as well as for `other`.
    pub fn overlaps(&self, other: &Self) -> bool {
        let addresses = match (self.host_ip, other.host_ip) {
            (Some(a), Some(b)) => {
                a == b || (a.is_ipv4() == b.is_ipv4() && (a.is_unspecified() || b.is_unspecified()))
            }
            _ => true,
        };
        self.host_port == other.host_port && self.protocol == other.protocol && addresses
    }
}

/// Where an attachment is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum AttachmentState {
    /// Addresses are reserved; ADD is at work (or died: DEL or garbage collection follows).
    Adding,
    /// ADD succeeded.
    Ready,
    /// DEL is at work: its port must have no flows.
    Removing,
}

/// One interface of one sandbox, as long as anything of it exists on the node.
///
/// Flows are rendered for every attachment that is `Adding` or `Ready` *and* whose pod has a
/// record; never for one that is `Removing`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attachment {
    /// Sandbox and interface.
    #[serde(flatten)]
    pub key: AttachmentKey,
    /// Path of the sandbox's network namespace.
    pub netns: PathBuf,
    /// The pod.
    pub pod: PodRef,
    /// At most one address per family, IPv4 first.
    pub addresses: Vec<IpAddr>,
    /// MAC of the interface inside the sandbox.
    pub mac: MacAddr,
    /// The host's end of the veth pair, also the name of the Open vSwitch port.
    pub host_link: String,
    /// OpenFlow port, asked for by `ofport_request`.
    pub ofport: u32,
    /// `hostPort`s.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub port_mappings: Vec<PortMapping>,
    /// Where it is in its life.
    pub state: AttachmentState,
}

/// A snapshot of all attachments. Cheap to clone: entries are shared.
pub type Attachments = Arc<BTreeMap<AttachmentKey, Arc<Attachment>>>;

/// Addresses in use, for the stream's `Hello` and `AddressReport`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct HeldAddresses {
    /// Who holds them.
    pub pod: PodRef,
    /// The addresses.
    pub addresses: Vec<IpAddr>,
}

/// Addresses in quarantine, for the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReleasedAddresses {
    /// Who held them.
    pub pod: PodRef,
    /// The addresses.
    pub addresses: Vec<IpAddr>,
    /// Which release this is: grows with each of this process. The controller ends the quarantine of
    /// just this one.
    pub release: u64,
}
