//! What can happen to a cluster, as data.

use std::fmt;

use carrick_testbed::NodeKind;

/// A node by its place.
pub type Place = usize;

/// A process that can be killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// Of a node.
    Agent(Place),
    /// The one that holds the Lease.
    ControllerLeader,
    /// The other one.
    ControllerStandby,
    /// The one that holds the Lease.
    Operator,
    /// Of a node.
    Vswitchd(Place),
    /// `ovsdb-server` of a node.
    Database(Place),
    /// containerd of a node.
    Runtime(Place),
    /// Of a node.
    Kubelet(Place),
}

/// A file of the agent's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StateFile {
    /// Attachments with their addresses.
    Attachments,
    /// What the controller sent.
    Records,
    /// The id ledger.
    Ledger,
    /// The saved commit.
    Commit,
}

/// What happens at once and mends itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Strike {
    /// SIGKILL.
    Kill(Part),
    /// SIGKILL of two, one right after the other.
    KillTwo(Part, Part),
    /// A power failure and a new start with the same disk.
    PowerOff(Place),
    /// Garbage in a file of the agent's, which is killed then.
    Corrupt(Place, StateFile),
    /// A file of the agent's says that it is of another boot; the agent is killed then.
    OtherBoot(Place, StateFile),
    /// One more agent is started beside the node's.
    SecondAgent(Place),
    /// The controller's certificate is gone and signed anew.
    Rotate,
    /// So many pods start at once and are deleted.
    Crowd(Place, usize),
    /// So many policies for the pods that send, which open nothing to anybody, come and go.
    Policies(usize),
    /// A pod is deleted while the node's agent is away.
    DeleteBehind(Place),
    /// The Node object is deleted and its kubelet registers it again.
    RegisterAgain(Place),
    /// The node's clock goes forth and back by so many seconds.
    ClockJump(Place, i64),
    /// The agent reaches the memory limit of its container: the kernel kills it.
    OutOfMemory(Place),
}

/// What lasts until it is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lasting {
    /// kube-apiserver is stopped.
    ApiServerAway,
    /// etcd has got SIGSTOP.
    EtcdPaused,
    /// Frames on the transport link vanish, carrier stays.
    LinkCut(Place),
    /// Frames of more than 1,200 bytes vanish on their way to the node.
    LowMtu(Place),
    /// Of the packets to the node 5 % are lost.
    Lossy(Place),
    /// Packets from the node take 200 ms longer.
    Slow(Place),
    /// No byte is free on the node's disk.
    DiskFull(Place),
    /// The agent may open a few more files only.
    FewDescriptors(Place),
}

/// One step of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Event {
    /// It happens and mends itself.
    Strike(Strike),
    /// It begins.
    Begin(Lasting),
    /// It ends.
    End(Lasting),
}

/// Where traffic goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Way {
    /// Between two pods of a node.
    Within(Place),
    /// Between pods of two nodes.
    Across(Place, Place),
}

/// What a cluster is made of, as far as events depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// How many nodes; at least two.
    pub nodes: usize,
    /// Kernel nodes have a clock, a disk and netem of their own.
    pub kind: NodeKind,
}

impl Way {
    /// Within every node, and from every node to the next.
    pub fn all(nodes: usize) -> Vec<Self> {
        let within = (0..nodes).map(Self::Within);
        let across = (0..nodes).map(|from| Self::Across(from, (from + 1) % nodes));
        within.chain(across).collect()
    }

    /// Whether one of its ends is on the node.
    pub fn touches(self, node: Place) -> bool {
        match self {
            Self::Within(place) => place == node,
            Self::Across(from, to) => from == node || to == node,
        }
    }

    /// Whether it crosses the node's transport link.
    pub fn crosses(self, node: Place) -> bool {
        matches!(self, Self::Across(..)) && self.touches(node)
    }
}

impl Part {
    /// The node it is on; of the ones that move, none.
    pub fn node(self) -> Option<Place> {
        match self {
            Self::Agent(node)
            | Self::Vswitchd(node)
            | Self::Database(node)
            | Self::Runtime(node)
            | Self::Kubelet(node) => Some(node),
            Self::ControllerLeader | Self::ControllerStandby | Self::Operator => None,
        }
    }
}

impl Lasting {
    /// The node that has it.
    pub fn node(self) -> Option<Place> {
        match self {
            Self::ApiServerAway | Self::EtcdPaused => None,
            Self::LinkCut(node)
            | Self::LowMtu(node)
            | Self::Lossy(node)
            | Self::Slow(node)
            | Self::DiskFull(node)
            | Self::FewDescriptors(node) => Some(node),
        }
    }

    /// Whether Kubernetes does not answer while it lasts.
    pub fn stops_kubernetes(self) -> bool {
        matches!(self, Self::ApiServerAway | Self::EtcdPaused)
    }
}

/// Nodes are told by their names: node1 has place 0.
struct Node(Place);

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node{}", self.0 + 1)
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Within(node) => write!(f, "{}", Node(node)),
            Self::Across(from, to) => write!(f, "{}-{}", Node(from), Node(to)),
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, node) = match *self {
            Self::ControllerLeader => return f.write_str("controller (leader)"),
            Self::ControllerStandby => return f.write_str("controller (standby)"),
            Self::Operator => return f.write_str("operator"),
            Self::Agent(node) => ("agent", node),
            Self::Vswitchd(node) => ("ovs-vswitchd", node),
            Self::Database(node) => ("ovsdb-server", node),
            Self::Runtime(node) => ("containerd", node),
            Self::Kubelet(node) => ("kubelet", node),
        };
        write!(f, "{name} of {}", Node(node))
    }
}

impl fmt::Display for StateFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Attachments => "addresses",
            Self::Records => "records",
            Self::Ledger => "ledger",
            Self::Commit => "saved commit",
        })
    }
}

impl fmt::Display for Strike {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Kill(part) => write!(f, "kill {part}"),
            Self::KillTwo(one, two) => write!(f, "kill {one} and {two}"),
            Self::PowerOff(node) => write!(f, "power failure of {}", Node(node)),
            Self::Corrupt(node, file) => write!(f, "{file} of {} corrupted", Node(node)),
            Self::OtherBoot(node, file) => write!(f, "{file} of {} from another boot", Node(node)),
            Self::SecondAgent(node) => write!(f, "second agent on {}", Node(node)),
            Self::Rotate => f.write_str("controller's certificate rotated"),
            Self::Crowd(node, count) => write!(f, "{count} pods at once on {}", Node(node)),
            Self::Policies(count) => write!(f, "{count} policies come and go"),
            Self::DeleteBehind(node) => {
                write!(f, "pod deleted while the agent of {} is down", Node(node))
            }
            Self::RegisterAgain(node) => write!(f, "{} deleted and registered again", Node(node)),
            Self::ClockJump(node, seconds) => {
                write!(f, "clock of {} jumps by {seconds} s and back", Node(node))
            }
            Self::OutOfMemory(node) => write!(f, "agent of {} out of memory", Node(node)),
        }
    }
}

impl fmt::Display for Lasting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::ApiServerAway => f.write_str("API server away"),
            Self::EtcdPaused => f.write_str("etcd paused"),
            Self::LinkCut(node) => write!(f, "link of {} cut", Node(node)),
            Self::LowMtu(node) => write!(f, "MTU lowered on the way to {}", Node(node)),
            Self::Lossy(node) => write!(f, "5 % loss to {}", Node(node)),
            Self::Slow(node) => write!(f, "200 ms delay from {}", Node(node)),
            Self::DiskFull(node) => write!(f, "disk of {} full", Node(node)),
            Self::FewDescriptors(node) => {
                write!(f, "agent of {} short of file descriptors", Node(node))
            }
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Strike(strike) => write!(f, "{strike}"),
            Self::Begin(lasting) => write!(f, "begins: {lasting}"),
            Self::End(lasting) => write!(f, "ends: {lasting}"),
        }
    }
}
