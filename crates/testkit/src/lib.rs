//! Starts real parts for tests: Open vSwitch, etcd and kube-apiserver, network namespaces; finds
//! helm and Python; and says figures as `cargo xtask bench` reads them.

pub mod apiserver;
pub mod figure;
mod helm;
pub mod netns;
pub mod ovs;
pub mod python;

pub use helm::helm;
