//! Starts real parts for tests: Open vSwitch, etcd and kube-apiserver; finds helm.

pub mod apiserver;
mod helm;
pub mod ovs;

pub use helm::helm;
