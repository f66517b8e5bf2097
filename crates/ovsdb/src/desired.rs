//! What the switch shall be: bridges and their ports, as data.
//!
//! Only what is declared is managed: bridges not named are left alone, and of maps only the keys
//! given. On a bridge that is named, ports that are not named are removed (not its own local port).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Keys of a map column (RFC 7047 §5.1) that shall have these values; other keys are left alone.
pub type Keys = BTreeMap<String, String>;

/// What the switch shall be (ovs-vswitchd.conf.db(5), table Open_vSwitch).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SwitchConfig {
    /// Keys of `Open_vSwitch.external_ids`.
    pub external_ids: Keys,
    /// Keys of `Open_vSwitch.other_config`.
    pub other_config: Keys,
    /// Bridges that shall be there.
    pub bridges: Vec<BridgeConfig>,
    /// Bridges that shall not be there.
    pub absent_bridges: BTreeSet<String>,
}

/// A bridge's datapath (ovs-vswitchd.conf.db(5), `Bridge.datapath_type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DatapathType {
    /// The kernel's: `system`.
    System,
    /// Userspace: `netdev`.
    Netdev,
}

impl DatapathType {
    /// The value of column `datapath_type`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::Netdev => "netdev",
        }
    }

    /// Whether a bridge whose column has this value has this datapath: nothing is the kernel's.
    #[must_use]
    pub fn is(self, column: &str) -> bool {
        column == self.as_str() || (self == Self::System && column.is_empty())
    }
}

/// What a bridge does without a controller (ovs-vswitchd.conf.db(5), `Bridge.fail_mode`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FailMode {
    /// Only what flows say: `secure`. Changing it later removes all flows.
    Secure,
    /// As an ordinary learning switch, unless flows say otherwise: `standalone`.
    Standalone,
}

impl FailMode {
    /// The value of column `fail_mode`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Secure => "secure",
            Self::Standalone => "standalone",
        }
    }
}

/// A bridge that shall be there (ovs-vswitchd.conf.db(5), table Bridge).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BridgeConfig {
    /// Its name; also the name of its local port.
    pub name: String,
    /// Its datapath.
    pub datapath_type: DatapathType,
    /// What it does without a controller.
    pub fail_mode: FailMode,
    /// Keys of `external_ids`.
    pub external_ids: Keys,
    /// Keys of `other_config`, for example `hwaddr`.
    pub other_config: Keys,
    /// All its ports. The local port need not be named; named it can be given an MTU.
    pub ports: Vec<PortConfig>,
}

impl BridgeConfig {
    /// A bridge without ports, `fail_mode=secure`.
    pub fn new(name: impl Into<String>, datapath_type: DatapathType) -> Self {
        Self {
            name: name.into(),
            datapath_type,
            fail_mode: FailMode::Secure,
            external_ids: Keys::new(),
            other_config: Keys::new(),
            ports: Vec::new(),
        }
    }
}

/// An interface's type (ovs-vswitchd.conf.db(5), `Interface.type`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum InterfaceType {
    /// A device of the host, such as one end of a veth pair or a NIC.
    System,
    /// A device that the switch makes.
    Internal,
    /// A Geneve tunnel (RFC 8926).
    Geneve,
    /// A VXLAN tunnel (RFC 7348).
    Vxlan,
    /// A GRE tunnel (RFC 2890).
    Gre,
    /// One end of a patch between two bridges.
    Patch,
    /// Any other, by its name.
    Other(String),
}

impl InterfaceType {
    /// The value of column `type`. The empty string is the usual way to write `system`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::System => "",
            Self::Internal => "internal",
            Self::Geneve => "geneve",
            Self::Vxlan => "vxlan",
            Self::Gre => "gre",
            Self::Patch => "patch",
            Self::Other(name) => name,
        }
    }

    /// Whether an interface whose column has this value is of this type.
    #[must_use]
    pub fn is(&self, column: &str) -> bool {
        let column = if column == "system" { "" } else { column };
        column == self.as_str()
    }
}

/// The OpenFlow port number of a port: 1 to 65279, or the bridge's local port (`OFPP_MAX` and
/// `OFPP_LOCAL` of Open vSwitch's openflow-1.0.h, to which newer versions are mapped).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OfPort(u16);

impl OfPort {
    /// The local port of a bridge.
    pub const LOCAL: Self = Self(0xfffe);

    /// A port number.
    #[must_use]
    pub fn new(number: u16) -> Option<Self> {
        let number = Self(number);
        ((1..=65_279).contains(&number.0) || number == Self::LOCAL).then_some(number)
    }

    /// The number.
    #[must_use]
    pub fn get(self) -> u16 {
        self.0
    }
}

impl fmt::Display for OfPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A port that shall be there, with one interface of the same name (ovs-vswitchd.conf.db(5), tables
/// Port and Interface).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortConfig {
    /// Its name.
    pub name: String,
    /// Its interface's type.
    pub interface_type: InterfaceType,
    /// All options of the interface, for example `remote_ip=flow`.
    pub options: Keys,
    /// The OpenFlow port number it shall have.
    pub ofport_request: Option<OfPort>,
    /// The address it shall have (internal ports).
    pub mac: Option<String>,
    /// The MTU it shall have (internal ports, and devices of the host).
    pub mtu_request: Option<u16>,
    /// Keys of the interface's `external_ids`.
    pub external_ids: Keys,
    /// Keys of the interface's `other_config`.
    pub other_config: Keys,
}

impl PortConfig {
    /// A port with nothing but a name and a type.
    pub fn new(name: impl Into<String>, interface_type: InterfaceType) -> Self {
        Self {
            name: name.into(),
            interface_type,
            options: Keys::new(),
            ofport_request: None,
            mac: None,
            mtu_request: None,
            external_ids: Keys::new(),
            other_config: Keys::new(),
        }
    }

    /// With this OpenFlow port number.
    #[must_use]
    pub fn ofport(mut self, number: OfPort) -> Self {
        self.ofport_request = Some(number);
        self
    }

    /// With this option.
    #[must_use]
    pub fn option(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.options.insert(key.into(), value.into());
        self
    }

    /// With this key in `external_ids`.
    #[must_use]
    pub fn external_id(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.external_ids.insert(key.into(), value.into());
        self
    }
}

/// A port as the switch has it (ovs-vswitchd.conf.db(5), "Interface Status").
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortState {
    /// Its name.
    pub name: String,
    /// Its OpenFlow port number.
    pub ofport: OfPort,
    /// Its address.
    pub mac: Option<String>,
    /// Its MTU.
    pub mtu: Option<u32>,
    /// The kernel's index of its device.
    pub ifindex: Option<u32>,
}

/// A port the switch could not make (ovs-vswitchd.conf.db(5), `Interface.error` and `.ofport`).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PortError {
    /// The switch tried and failed (`ofport` is −1).
    #[error("the switch cannot add port {port}: {error}")]
    Failed {
        /// The port.
        port: String,
        /// The switch's words (`Interface.error`).
        error: String,
    },
    /// The switch gave it another OpenFlow port number than asked for: that one is taken.
    #[error("port {port} has OpenFlow port {got}, not {wanted} as asked for")]
    Number {
        /// The port.
        port: String,
        /// What was asked for.
        wanted: OfPort,
        /// What it has.
        got: OfPort,
    },
    /// A port of this name is on another bridge.
    #[error("port {port} is on bridge {bridge}")]
    Elsewhere {
        /// The port.
        port: String,
        /// The other bridge.
        bridge: String,
    },
    /// The bridge is not there.
    #[error("port {port} has no bridge {bridge}")]
    NoBridge {
        /// The port.
        port: String,
        /// The bridge.
        bridge: String,
    },
    /// The switch acted on the configuration but says nothing about the port.
    #[error("the switch says nothing about port {port}")]
    Missing {
        /// The port.
        port: String,
    },
}

/// What came of a [`SwitchConfig`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Applied {
    /// The ports that are there, by name.
    pub ports: BTreeMap<String, PortState>,
    /// The ports that are not, by name.
    pub failed: BTreeMap<String, PortError>,
    /// Whether anything had to be changed.
    pub changed: bool,
}
