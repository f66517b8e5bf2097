//! The custom resources of carrick.dev, their defaults and validation, and what more than one
//! part must agree on: names, ports, paths and the effective configuration.
//!
//! Pure: no client, no clock, no environment.

pub mod agentinfo;
pub mod controllerinfo;
pub mod crd;
pub mod effective;
pub mod names;
pub mod networking;
pub mod nodeconfig;
pub mod status;

pub use agentinfo::{AgentInfo, AgentInfoSpec, AgentInfoStatus};
pub use controllerinfo::{ControllerInfo, ControllerInfoSpec, ControllerInfoStatus};
pub use crd::{crd_yaml, crds};
pub use networking::{Networking, NetworkingSpec};
pub use status::NetworkingStatus;

/// Reads a value that another version may have written: none when this one does not know it. An older
/// operator must be able to read what a newer one reported.
pub(crate) fn known<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: serde::de::DeserializeOwned,
{
    let value = <serde_json::Value as serde::Deserialize>::deserialize(deserializer)?;
    Ok(serde_json::from_value(value).ok())
}
