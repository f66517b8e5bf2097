//! A real Kubernetes on one machine, for development and end-to-end tests: etcd, kube-apiserver,
//! controller-manager, scheduler, and nodes with kubelet, containerd and runc. No container engine,
//! no registry, no virtual machine, no mock.
//!
//! A [`Cluster`] is made of [`Machine`](machine::Machine)s (namespaces with a process 1 of ours that
//! supervises components), or of [`Guest`](guest::Guest)s (the same with a kernel of their own), joined by two bridges, management (`eth0`) and transport (`eth1`). The
//! control plane is a machine too; its network namespace, the *fabric*, holds both bridges, so that
//! the host has one link per cluster and deleting the fabric deletes every link of it.
//!
//! ```text
//!   host                    carrick.NAME (fabric, control plane)          carrick.NAME.node1
//!   ckhN 198.18.N.254 ───── host ─┐
//!                                 mgmt 198.18.N.1 ── m1 ───────────────── eth0 198.18.N.11
//!                                 transport ──────── t1 ───────────────── eth1 198.19.N.11
//! ```
//!
//! Invariants:
//! - Everything a cluster has on the host is derived from its name ([`names`]) and its index
//!   ([`registry`]): namespaces, link, subnets, cgroups, directories. Clusters side by side never meet.
//! - Processes are ended by cgroup, by process namespace or by (pid, start time), never by name.
//! - State is written before what it describes is made, so `down` removes a cluster whose `up`
//!   crashed anywhere, and `up` mends it.
//! - Nothing is written to the host's `/etc`, `/opt`, `/var` and `/run` by a node: they are overlaid.
//!   A kernel node writes nothing at all there but its disk and its logs: its root is read-only.

mod addons;
pub mod addressing;
pub mod archive;
pub mod binaries;
mod cgroup;
pub mod cluster;
mod control_plane;
mod destroy;
mod exec;
pub mod guest;
pub mod images;
pub mod kernel;
mod links;
pub mod machine;
pub mod names;
pub mod node;
pub mod paths;
mod pki;
mod preloaded;
mod programs;
mod progress;
pub mod registry;
mod report;
pub mod retention;
pub mod spec;

pub use addressing::Addressing;
pub use cluster::Cluster;
pub use links::{Limit, Link};
pub use machine::Machine;
pub use node::Node;
pub use progress::Progress;
pub use spec::{ClusterDns, ClusterSpec, IpFamily, KubeProxy, NodeKind, PodCidrs, StartupTaint};
