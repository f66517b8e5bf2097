//! Starts real parts for tests: Open vSwitch, etcd and kube-apiserver, network namespaces.

pub mod apiserver;
pub mod netns;
pub mod ovs;
