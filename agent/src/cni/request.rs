//! A request as `carrick-cni` hands it on, validated (pure).
//!
//! Everything here comes from outside: the environment and standard input of the plugin.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::error::{CniError, Code};
use crate::ipam::{AttachmentKey, PodRef, PortMapping, Protocol};

/// The longest request, and the longest answer: GC may name every attachment of a node.
pub const MAX_FRAME: usize = 4 << 20;
/// How many port mappings one sandbox may have.
const MAX_PORT_MAPPINGS: usize = 1024;
/// How long a container id, a pod's name or UID may be.
const MAX_NAME: usize = 253;

/// The frame `carrick-cni` sends: a length (four bytes, big-endian), then this as JSON. The answer
/// is an [`Answer`] in a frame of the same form.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Frame {
    /// `CNI_COMMAND`.
    pub command: String,
    /// `CNI_CONTAINERID`.
    pub container_id: String,
    /// `CNI_NETNS`.
    pub netns: String,
    /// `CNI_IFNAME`.
    pub ifname: String,
    /// `CNI_ARGS`.
    pub args: String,
    /// Standard input: the network configuration.
    pub config: String,
}

/// The answer to a [`Frame`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// The plugin's exit status.
    pub exit: u8,
    /// What the plugin prints; null prints nothing.
    pub output: Value,
}

/// A version of the specification we speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum CniVersion {
    /// 0.4.0.
    V040,
    /// 1.0.0.
    V100,
    /// 1.1.0.
    V110,
}

impl CniVersion {
    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V040 => "0.4.0",
            Self::V100 => "1.0.0",
            Self::V110 => "1.1.0",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [Self::V040, Self::V100, Self::V110]
            .into_iter()
            .find(|version| version.as_str() == text)
    }
}

/// What is asked, with what each command needs.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// Attach a sandbox.
    Add(Add),
    /// Detach it; twice is fine.
    Del(AttachmentKey),
    /// Is it still as ADD left it?
    Check(Check),
    /// Forget what is not in the list; `None` when the runtime gave none.
    Gc(Option<Vec<AttachmentKey>>),
    /// Would ADD work now?
    Status,
}

/// The inputs of ADD.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Add {
    /// Sandbox and interface.
    pub key: AttachmentKey,
    /// The sandbox's network namespace.
    pub netns: PathBuf,
    /// The pod.
    pub pod: PodRef,
    /// Its `hostPort`s.
    pub port_mappings: Vec<PortMapping>,
}

/// The inputs of CHECK.
#[derive(Debug, Clone, PartialEq)]
pub struct Check {
    /// Sandbox and interface.
    pub key: AttachmentKey,
    /// The sandbox's network namespace.
    pub netns: PathBuf,
    /// Addresses in `prevResult`.
    pub addresses: Vec<IpAddr>,
}

/// A validated request.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// The version its answer is written in.
    pub version: CniVersion,
    /// What is asked.
    pub command: Command,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Config {
    #[serde(default)]
    cni_version: String,
    #[serde(default)]
    name: String,
    #[serde(default, rename = "runtimeConfig")]
    runtime: Option<RuntimeConfig>,
    #[serde(default)]
    prev_result: Option<PrevResult>,
    /// The specification's key; libcni also writes the second, which an early draft named.
    #[serde(
        default,
        rename = "cni.dev/valid-attachments",
        alias = "cni.dev/attachments"
    )]
    valid_attachments: Option<Value>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RuntimeConfig {
    #[serde(default)]
    port_mappings: Option<Vec<RawMapping>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawMapping {
    #[serde(default)]
    host_port: i64,
    #[serde(default)]
    container_port: i64,
    #[serde(default)]
    protocol: String,
    #[serde(default, rename = "hostIP")]
    host_ip: String,
}

#[derive(Deserialize)]
struct PrevResult {
    #[serde(default)]
    ips: Vec<PrevAddress>,
}

#[derive(Deserialize)]
struct PrevAddress {
    address: ipnet::IpNet,
}

#[derive(Deserialize)]
struct ValidAttachment {
    #[serde(rename = "containerID")]
    container_id: String,
    ifname: String,
}

/// The version an error is written in when the configuration tells none.
pub fn version_of(config: &str) -> CniVersion {
    serde_json::from_str::<Value>(config)
        .ok()
        .and_then(|config| {
            config
                .get("cniVersion")?
                .as_str()
                .and_then(CniVersion::parse)
        })
        .unwrap_or(CniVersion::V100)
}

impl Request {
    /// Validates a frame.
    pub fn parse(frame: &Frame) -> Result<Self, CniError> {
        let config = parse_config(&frame.config)?;
        let version = CniVersion::parse(&config.cni_version).ok_or_else(|| {
            CniError::new(
                Code::IncompatibleVersion,
                format!(
                    "version {:?} is not supported: 0.4.0, 1.0.0 and 1.1.0 are",
                    clip(&config.cni_version)
                ),
            )
        })?;
        if config.name.is_empty() {
            return Err(CniError::new(
                Code::InvalidConfig,
                "the network configuration has no name",
            ));
        }
        let command = match frame.command.as_str() {
            "ADD" => Command::Add(Add {
                key: key(frame)?,
                netns: netns(frame)?,
                pod: pod(&frame.args)?,
                port_mappings: mappings(config.runtime)?,
            }),
            "DEL" => Command::Del(key(frame)?),
            "CHECK" => {
                let Some(previous) = config.prev_result else {
                    return Err(CniError::new(
                        Code::InvalidConfig,
                        "CHECK needs a prevResult",
                    ));
                };
                let addresses = previous.ips.iter().map(|ip| ip.address.addr()).collect();
                Command::Check(Check {
                    key: key(frame)?,
                    netns: netns(frame)?,
                    addresses,
                })
            }
            "GC" if version >= CniVersion::V110 => {
                Command::Gc(config.valid_attachments.map(valid).transpose()?)
            }
            "STATUS" if version >= CniVersion::V110 => Command::Status,
            other => {
                let message = format!(
                    "CNI_COMMAND {:?} is not one of version {}",
                    clip(other),
                    version.as_str()
                );
                return Err(CniError::new(Code::InvalidEnvironment, message));
            }
        };
        Ok(Self { version, command })
    }
}

/// `cni.dev/valid-attachments` and its early name may both be there: serde calls that a duplicate.
fn parse_config(text: &str) -> Result<Config, CniError> {
    let decode = |error: serde_json::Error| {
        CniError::caused(
            Code::Decode,
            "the network configuration cannot be read",
            &error,
        )
    };
    let mut value: Value = serde_json::from_str(text).map_err(decode)?;
    let Some(object) = value.as_object_mut() else {
        let message = "the network configuration is no object";
        return Err(CniError::new(Code::InvalidConfig, message));
    };
    if object.contains_key("cni.dev/valid-attachments") {
        object.remove("cni.dev/attachments");
    }
    serde_json::from_value(value).map_err(|error| {
        CniError::caused(
            Code::InvalidConfig,
            "the network configuration is invalid",
            &error,
        )
    })
}

fn environment(message: impl Into<String>) -> CniError {
    CniError::new(Code::InvalidEnvironment, message)
}

fn clip(text: &str) -> String {
    text.chars().take(64).collect()
}

/// Specification, "Parameters": an id starts alphanumeric, then also `_`, `.` and `-`.
fn is_container_id(text: &str) -> bool {
    text.len() <= MAX_NAME
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

/// A name the kernel takes (`dev_valid_name`), and the specification's own exclusions.
fn is_ifname(text: &str) -> bool {
    !matches!(text, "" | "." | "..")
        && text.len() < 16
        && !text.contains(['/', ':', '\0'])
        && !text.contains(char::is_whitespace)
}

fn key(frame: &Frame) -> Result<AttachmentKey, CniError> {
    if !is_container_id(&frame.container_id) {
        return Err(environment(format!(
            "CNI_CONTAINERID {:?} is not a container id",
            clip(&frame.container_id)
        )));
    }
    if !is_ifname(&frame.ifname) {
        return Err(environment(format!(
            "CNI_IFNAME {:?} is not an interface name",
            clip(&frame.ifname)
        )));
    }
    Ok(AttachmentKey {
        container_id: frame.container_id.clone(),
        ifname: frame.ifname.clone(),
    })
}

fn netns(frame: &Frame) -> Result<PathBuf, CniError> {
    if frame.netns.starts_with('/') && !frame.netns.contains('\0') && frame.netns.len() < 4096 {
        Ok(PathBuf::from(&frame.netns))
    } else {
        Err(environment(format!(
            "CNI_NETNS {:?} is not a path",
            clip(&frame.netns)
        )))
    }
}

fn pod(args: &str) -> Result<PodRef, CniError> {
    let pairs: BTreeMap<&str, &str> = args
        .split(';')
        .filter_map(|pair| pair.split_once('='))
        .collect();
    let value = |name: &str| {
        pairs
            .get(name)
            .filter(|value| !value.is_empty() && value.len() <= MAX_NAME)
            .map(|value| (*value).to_owned())
            .ok_or_else(|| environment(format!("CNI_ARGS has no valid {name}")))
    };
    Ok(PodRef {
        namespace: value("K8S_POD_NAMESPACE")?,
        name: value("K8S_POD_NAME")?,
        uid: value("K8S_POD_UID")?,
    })
}

fn mappings(config: Option<RuntimeConfig>) -> Result<Vec<PortMapping>, CniError> {
    let raw = config.unwrap_or_default().port_mappings.unwrap_or_default();
    if raw.len() > MAX_PORT_MAPPINGS {
        let message = format!(
            "{} portMappings are more than {MAX_PORT_MAPPINGS}",
            raw.len()
        );
        return Err(CniError::new(Code::InvalidConfig, message));
    }
    let mut mappings = Vec::new();
    for mapping in raw.iter().filter(|mapping| mapping.host_port != 0) {
        let invalid = |what: &str| {
            let message = format!(
                "portMappings: {what} of host port {} is invalid",
                mapping.host_port
            );
            CniError::new(Code::InvalidConfig, message)
        };
        let port = |number: i64| u16::try_from(number).ok().filter(|&port| port != 0);
        let protocol = match mapping.protocol.to_ascii_lowercase().as_str() {
            "" | "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            "sctp" => Protocol::Sctp,
            _ => return Err(invalid("the protocol")),
        };
        let host_ip = match mapping.host_ip.as_str() {
            "" => None,
            text => Some(text.parse::<IpAddr>().map_err(|_| invalid("hostIP"))?),
        };
        mappings.push(PortMapping {
            host_port: port(mapping.host_port).ok_or_else(|| invalid("the number"))?,
            container_port: port(mapping.container_port).ok_or_else(|| invalid("containerPort"))?,
            protocol,
            host_ip,
        });
    }
    mappings.sort_unstable();
    mappings.dedup();
    Ok(mappings)
}

fn valid(list: Value) -> Result<Vec<AttachmentKey>, CniError> {
    // Go writes an empty list as null.
    let list: Option<Vec<ValidAttachment>> = serde_json::from_value(list).map_err(|error| {
        CniError::caused(Code::InvalidConfig, "valid-attachments is invalid", &error)
    })?;
    Ok(list
        .unwrap_or_default()
        .into_iter()
        .map(|valid| AttachmentKey {
            container_id: valid.container_id,
            ifname: valid.ifname,
        })
        .collect())
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;
