//! Typed rows of the tables Carrick uses (ovs-vswitchd.conf.db(5)).
//!
//! Reading is tolerant: a column that an older switch lacks, or that is not monitored, has its
//! default.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use crate::cache::{Cache, Row};
use crate::monitor::MonitorRequest;
use crate::operation::Columns;
use crate::value::{Atom, Datum};

/// Names of tables and columns.
pub mod table {
    /// The root table, with one row.
    pub const OPEN_VSWITCH: &str = "Open_vSwitch";
    /// Bridges.
    pub const BRIDGE: &str = "Bridge";
    /// Ports of bridges.
    pub const PORT: &str = "Port";
    /// Interfaces of ports.
    pub const INTERFACE: &str = "Interface";
}

/// Where columns are read from: a cached row or the result of a `select`.
pub trait Source {
    /// A column's value, when it is there.
    fn column(&self, name: &str) -> Option<&Datum>;
}

impl Source for Row {
    fn column(&self, name: &str) -> Option<&Datum> {
        self.get(name)
    }
}

impl Source for Columns {
    fn column(&self, name: &str) -> Option<&Datum> {
        self.get(name)
    }
}

/// A row of a known table.
pub trait TableRow: Sized {
    /// The table.
    const TABLE: &'static str;
    /// The columns that are read.
    const COLUMNS: &'static [&'static str];

    /// Reads the row.
    fn read(uuid: Uuid, row: &impl Source) -> Self;

    /// All cached rows, in no order.
    fn all(cache: &Cache) -> impl Iterator<Item = Self> {
        cache
            .rows(Self::TABLE)
            .map(|(uuid, row)| Self::read(*uuid, &**row))
    }

    /// The cached row of this UUID.
    #[must_use]
    fn by_uuid(cache: &Cache, uuid: &Uuid) -> Option<Self> {
        cache
            .row(Self::TABLE, uuid)
            .map(|row| Self::read(*uuid, &**row))
    }

    /// The cached row of this name.
    #[must_use]
    fn by_name(cache: &Cache, name: &str) -> Option<Self> {
        let found = cache.find(Self::TABLE, "name", &Atom::from(name));
        found.map(|(uuid, row)| Self::read(uuid, &**row))
    }
}

/// The columns of the four tables, indexed by name.
#[must_use]
pub fn switch_request() -> MonitorRequest {
    let columns = |columns: &'static [&'static str]| columns.iter().copied();
    MonitorRequest::new()
        .table(OpenVSwitch::TABLE, columns(OpenVSwitch::COLUMNS))
        .table(Bridge::TABLE, columns(Bridge::COLUMNS))
        .table(Port::TABLE, columns(Port::COLUMNS))
        .table(Interface::TABLE, columns(Interface::COLUMNS))
        .indexed(Bridge::TABLE, "name")
        .indexed(Port::TABLE, "name")
        .indexed(Interface::TABLE, "name")
}

/// The row of table `Open_vSwitch` (ovs-vswitchd.conf.db(5)).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenVSwitch {
    /// The row.
    pub uuid: Uuid,
    /// Bridges of the switch.
    pub bridges: BTreeSet<Uuid>,
    /// Last configuration the switch has acted on.
    pub cur_cfg: i64,
    /// Last configuration asked for.
    pub next_cfg: i64,
    /// Datapath types the running switch knows.
    pub datapath_types: BTreeSet<String>,
    /// Free for users.
    pub external_ids: BTreeMap<String, String>,
    /// Options of the switch.
    pub other_config: BTreeMap<String, String>,
    /// The version of Open vSwitch.
    pub ovs_version: Option<String>,
}

impl TableRow for OpenVSwitch {
    const TABLE: &'static str = table::OPEN_VSWITCH;
    const COLUMNS: &'static [&'static str] = &[
        "bridges",
        "cur_cfg",
        "next_cfg",
        "datapath_types",
        "external_ids",
        "other_config",
        "ovs_version",
    ];

    fn read(uuid: Uuid, row: &impl Source) -> Self {
        Self {
            uuid,
            bridges: uuids(row, "bridges"),
            cur_cfg: integer(row, "cur_cfg").unwrap_or_default(),
            next_cfg: integer(row, "next_cfg").unwrap_or_default(),
            datapath_types: strings(row, "datapath_types"),
            external_ids: map(row, "external_ids"),
            other_config: map(row, "other_config"),
            ovs_version: string(row, "ovs_version"),
        }
    }
}

impl OpenVSwitch {
    /// The one row, once the database has been initialised.
    #[must_use]
    pub fn one(cache: &Cache) -> Option<Self> {
        Self::all(cache).next()
    }
}

/// A row of table `Bridge`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bridge {
    /// The row.
    pub uuid: Uuid,
    /// Its name.
    pub name: String,
    /// Its datapath: `netdev`, or `system` or nothing for the kernel's.
    pub datapath_type: String,
    /// The datapath's id, once the switch has made the bridge: 16 hexadecimal digits.
    pub datapath_id: Option<String>,
    /// What happens without a controller: `secure`, or `standalone` or nothing.
    pub fail_mode: Option<String>,
    /// Its ports.
    pub ports: BTreeSet<Uuid>,
    /// OpenFlow versions allowed; empty is the switch's default.
    pub protocols: BTreeSet<String>,
    /// Free for users.
    pub external_ids: BTreeMap<String, String>,
    /// Options.
    pub other_config: BTreeMap<String, String>,
}

impl TableRow for Bridge {
    const TABLE: &'static str = table::BRIDGE;
    const COLUMNS: &'static [&'static str] = &[
        "name",
        "datapath_type",
        "datapath_id",
        "fail_mode",
        "ports",
        "protocols",
        "external_ids",
        "other_config",
    ];

    fn read(uuid: Uuid, row: &impl Source) -> Self {
        Self {
            uuid,
            name: string(row, "name").unwrap_or_default(),
            datapath_type: string(row, "datapath_type").unwrap_or_default(),
            datapath_id: string(row, "datapath_id"),
            fail_mode: string(row, "fail_mode"),
            ports: uuids(row, "ports"),
            protocols: strings(row, "protocols"),
            external_ids: map(row, "external_ids"),
            other_config: map(row, "other_config"),
        }
    }
}

/// A row of table `Port`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// The row.
    pub uuid: Uuid,
    /// Its name.
    pub name: String,
    /// Its interfaces; more than one is a bond.
    pub interfaces: BTreeSet<Uuid>,
    /// Free for users.
    pub external_ids: BTreeMap<String, String>,
    /// Options.
    pub other_config: BTreeMap<String, String>,
}

impl TableRow for Port {
    const TABLE: &'static str = table::PORT;
    const COLUMNS: &'static [&'static str] =
        &["name", "interfaces", "external_ids", "other_config"];

    fn read(uuid: Uuid, row: &impl Source) -> Self {
        Self {
            uuid,
            name: string(row, "name").unwrap_or_default(),
            interfaces: uuids(row, "interfaces"),
            external_ids: map(row, "external_ids"),
            other_config: map(row, "other_config"),
        }
    }
}

/// A row of table `Interface`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// The row.
    pub uuid: Uuid,
    /// Its name.
    pub name: String,
    /// Its type: empty or `system`, `internal`, `geneve`, …
    pub interface_type: String,
    /// Options of its type.
    pub options: BTreeMap<String, String>,
    /// Its OpenFlow port number; −1 when it could not be added.
    pub ofport: Option<i64>,
    /// The number asked for.
    pub ofport_request: Option<i64>,
    /// Why it could not be added.
    pub error: Option<String>,
    /// Its address, as asked for.
    pub mac: Option<String>,
    /// Its address.
    pub mac_in_use: Option<String>,
    /// Its MTU.
    pub mtu: Option<i64>,
    /// The MTU asked for.
    pub mtu_request: Option<i64>,
    /// The kernel's index of it.
    pub ifindex: Option<i64>,
    /// `up` or `down`.
    pub link_state: Option<String>,
    /// Free for users.
    pub external_ids: BTreeMap<String, String>,
    /// Options.
    pub other_config: BTreeMap<String, String>,
}

impl TableRow for Interface {
    const TABLE: &'static str = table::INTERFACE;
    // Not `statistics`: every five seconds for every port.
    const COLUMNS: &'static [&'static str] = &[
        "name",
        "type",
        "options",
        "ofport",
        "ofport_request",
        "error",
        "mac",
        "mac_in_use",
        "mtu",
        "mtu_request",
        "ifindex",
        "link_state",
        "external_ids",
        "other_config",
    ];

    fn read(uuid: Uuid, row: &impl Source) -> Self {
        Self {
            uuid,
            name: string(row, "name").unwrap_or_default(),
            interface_type: string(row, "type").unwrap_or_default(),
            options: map(row, "options"),
            ofport: integer(row, "ofport"),
            ofport_request: integer(row, "ofport_request"),
            error: string(row, "error"),
            mac: string(row, "mac"),
            mac_in_use: string(row, "mac_in_use"),
            mtu: integer(row, "mtu"),
            mtu_request: integer(row, "mtu_request"),
            ifindex: integer(row, "ifindex"),
            link_state: string(row, "link_state"),
            external_ids: map(row, "external_ids"),
            other_config: map(row, "other_config"),
        }
    }
}

fn integer(row: &impl Source, column: &str) -> Option<i64> {
    match row.column(column)?.scalar()? {
        Atom::Integer(value) => Some(*value),
        _ => None,
    }
}

fn string(row: &impl Source, column: &str) -> Option<String> {
    match row.column(column)?.scalar()? {
        Atom::String(value) => Some(value.clone()),
        _ => None,
    }
}

fn strings(row: &impl Source, column: &str) -> BTreeSet<String> {
    let Some(Datum::Set(set)) = row.column(column) else {
        return BTreeSet::new();
    };
    let string = |atom: &Atom| match atom {
        Atom::String(value) => Some(value.clone()),
        _ => None,
    };
    set.iter().filter_map(string).collect()
}

fn uuids(row: &impl Source, column: &str) -> BTreeSet<Uuid> {
    let Some(Datum::Set(set)) = row.column(column) else {
        return BTreeSet::new();
    };
    let uuid = |atom: &Atom| match atom {
        Atom::Uuid(value) => Some(*value),
        _ => None,
    };
    set.iter().filter_map(uuid).collect()
}

fn map(row: &impl Source, column: &str) -> BTreeMap<String, String> {
    let Some(Datum::Map(map)) = row.column(column) else {
        return BTreeMap::new();
    };
    let pair = |(key, value): (&Atom, &Atom)| match (key, value) {
        (Atom::String(key), Atom::String(value)) => Some((key.clone(), value.clone())),
        _ => None,
    };
    map.iter().filter_map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_an_older_switch_lacks_have_their_defaults() {
        let mut row = Row::default();
        row.set("name", "p");
        row.set("ofport", -1);
        row.set("error", "no such device");
        row.set("options", Datum::map([("key", "0")]));
        row.set("mtu", "not a number");
        let interface = Interface::read(Uuid::nil(), &row);
        assert_eq!(interface.ofport, Some(-1));
        assert_eq!(interface.error.as_deref(), Some("no such device"));
        assert_eq!(interface.options["key"], "0");
        assert_eq!((interface.mtu, interface.mtu_request), (None, None));
    }
}
