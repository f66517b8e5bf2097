//! Starts real parts for tests: Open vSwitch, etcd and kube-apiserver, network namespaces; finds
//! helm and Python.

pub mod apiserver;
mod helm;
pub mod netns;
pub mod ovs;
pub mod python;

pub use helm::helm;
