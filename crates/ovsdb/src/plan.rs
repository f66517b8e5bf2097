//! From what is cached and what shall be to the operations that lead there. Pure.
//!
//! Sets are changed by `mutate`, never written whole, so that two writers do not undo each other.
//!
//! A port that must be made anew (its device was, or its type changes) is only removed by the first
//! plan; the plan then asks to be made [again](Plan::again) once the switch has acted. In the
//! userspace datapath a port removed and added in one transaction keeps the old device open.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use crate::cache::Cache;
use crate::desired::{
    BridgeConfig, InterfaceType, Keys, OfPort, PortConfig, PortError, PortState, SwitchConfig,
};
use crate::operation::{Columns, Condition, Mutation, Mutator, Operation};
use crate::rows::{Bridge, Interface, OpenVSwitch, Port, TableRow as _, table};
use crate::schema::Schema;
use crate::value::{Atom, Datum, NamedUuid};

/// How a port that is there already is treated when it is added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// It is kept and changed where it differs; made anew only when the switch had failed to add it.
    Keep,
    /// It is made anew: its device is another of the same name.
    Replace,
}

/// A change of one port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PortChange {
    Add {
        bridge: String,
        port: PortConfig,
        existing: Existing,
    },
    Delete {
        bridge: String,
        port: String,
    },
}

impl PortChange {
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Add { port, .. } => &port.name,
            Self::Delete { port, .. } => port,
        }
    }
}

/// What to do now.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// The operations of one transaction; none when all is as it shall be.
    pub(crate) operations: Vec<Operation>,
    /// Whether another plan is needed once the switch has acted on this one.
    pub(crate) again: bool,
    /// Ports that cannot be, by name.
    pub(crate) impossible: BTreeMap<String, PortError>,
    /// Ports removed to be made anew, by name.
    pub(crate) removed: BTreeSet<String>,
}

/// Plans for the whole configuration. `done` names ports that were made anew already.
pub(crate) fn switch(
    cache: &Cache,
    schema: &Schema,
    root: &OpenVSwitch,
    config: &SwitchConfig,
    done: &BTreeSet<String>,
) -> Plan {
    let mut planner = Planner::new(cache, schema, done);
    let row = Row {
        table: table::OPEN_VSWITCH,
        uuid: root.uuid,
    };
    planner.keys(
        row,
        "external_ids",
        &root.external_ids,
        &config.external_ids,
    );
    planner.keys(
        row,
        "other_config",
        &root.other_config,
        &config.other_config,
    );
    let declared: BTreeSet<&str> = config.bridges.iter().map(|b| b.name.as_str()).collect();
    let mut bridges = Changes::default();
    for name in config
        .absent_bridges
        .iter()
        .filter(|name| !declared.contains(name.as_str()))
    {
        if let Some(bridge) = Bridge::by_name(cache, name) {
            bridges.delete.push(bridge.uuid.into());
        }
    }
    // Removals first: a port may move from one of our bridges to another.
    for config in &config.bridges {
        if let Some(bridge) = Bridge::by_name(cache, &config.name) {
            planner.remove_undeclared(&bridge, config);
        }
    }
    for config in &config.bridges {
        if let Some(bridge) = Bridge::by_name(cache, &config.name) {
            planner.change_bridge(&bridge, config);
        } else {
            let name = planner.insert_bridge(config);
            bridges.insert.push(name.into());
        }
    }
    planner.mutate(row, "bridges", bridges);
    planner.finish()
}

/// Plans for single ports, each named once. `done` names ports that were made anew already.
pub(crate) fn ports<'a>(
    cache: &Cache,
    schema: &Schema,
    changes: impl Iterator<Item = &'a PortChange>,
    done: &BTreeSet<String>,
) -> Plan {
    let mut planner = Planner::new(cache, schema, done);
    for change in changes {
        match change {
            PortChange::Add {
                bridge,
                port,
                existing,
            } => {
                if let Some(row) = Bridge::by_name(cache, bridge) {
                    planner.port(&row, port, *existing);
                } else {
                    let (port, bridge) = (port.name.clone(), bridge.clone());
                    let error = PortError::NoBridge {
                        port: port.clone(),
                        bridge,
                    };
                    planner.plan.impossible.insert(port, error);
                }
            }
            PortChange::Delete { bridge, port } => {
                let row = Bridge::by_name(cache, bridge);
                let found = Port::by_name(cache, port);
                if let (Some(row), Some(found)) = (row, found)
                    && row.ports.contains(&found.uuid)
                {
                    planner
                        .change_ports(row.uuid)
                        .delete
                        .push(found.uuid.into());
                }
            }
        }
    }
    planner.finish()
}

/// The port as the switch has it.
pub(crate) fn state(cache: &Cache, port: &PortConfig) -> Result<PortState, PortError> {
    let name = || port.name.clone();
    let Some(row) = Interface::by_name(cache, &port.name) else {
        return Err(PortError::Missing { port: name() });
    };
    let number = row
        .ofport
        .and_then(|number| u16::try_from(number).ok())
        .and_then(OfPort::new);
    match (number, row.error, row.ofport) {
        (Some(got), _, _) => match port.ofport_request {
            Some(wanted) if wanted != got && got != OfPort::LOCAL => Err(PortError::Number {
                port: name(),
                wanted,
                got,
            }),
            Some(_) | None => Ok(PortState {
                name: name(),
                ofport: got,
                mac: row.mac_in_use,
                mtu: row.mtu.and_then(|mtu| u32::try_from(mtu).ok()),
                ifindex: row.ifindex.and_then(|index| u32::try_from(index).ok()),
            }),
        },
        (None, Some(error), _) => Err(PortError::Failed {
            port: name(),
            error,
        }),
        (None, None, Some(_)) => {
            let error = "the switch's log tells why".to_owned();
            Err(PortError::Failed {
                port: name(),
                error,
            })
        }
        (None, None, None) => Err(PortError::Missing { port: name() }),
    }
}

#[derive(Debug, Clone, Copy)]
struct Row {
    table: &'static str,
    uuid: Uuid,
}

/// Elements to add to a set and to take from it.
#[derive(Debug, Default)]
struct Changes {
    insert: Vec<Atom>,
    delete: Vec<Atom>,
}

struct Planner<'a> {
    cache: &'a Cache,
    schema: &'a Schema,
    done: &'a BTreeSet<String>,
    plan: Plan,
    names: usize,
    /// Changes of `Bridge.ports`, by bridge.
    ports: BTreeMap<Uuid, Changes>,
    /// Which bridge has which port; made when first needed.
    owners: Option<BTreeMap<Uuid, (Uuid, String)>>,
}

impl<'a> Planner<'a> {
    fn new(cache: &'a Cache, schema: &'a Schema, done: &'a BTreeSet<String>) -> Self {
        let (plan, ports) = (Plan::default(), BTreeMap::new());
        Self {
            cache,
            schema,
            done,
            plan,
            names: 0,
            ports,
            owners: None,
        }
    }

    fn finish(mut self) -> Plan {
        for (uuid, changes) in std::mem::take(&mut self.ports) {
            self.mutate(
                Row {
                    table: table::BRIDGE,
                    uuid,
                },
                "ports",
                changes,
            );
        }
        self.plan
    }

    fn change_ports(&mut self, bridge: Uuid) -> &mut Changes {
        self.ports.entry(bridge).or_default()
    }

    fn mutate(&mut self, row: Row, column: &str, changes: Changes) {
        let mut mutations = Vec::new();
        for (mutator, atoms) in [
            (Mutator::Delete, changes.delete),
            (Mutator::Insert, changes.insert),
        ] {
            if !atoms.is_empty() {
                mutations.push(Mutation::new(column, mutator, Datum::set(atoms)));
            }
        }
        self.push_mutations(row, mutations);
    }

    fn push_mutations(&mut self, row: Row, mutations: Vec<Mutation>) {
        if !mutations.is_empty() {
            let (table, conditions) = (row.table.to_owned(), vec![Condition::uuid(row.uuid)]);
            self.plan.operations.push(Operation::Mutate {
                table,
                conditions,
                mutations,
            });
        }
    }

    /// Sets the keys that are wanted and differ.
    fn keys(&mut self, row: Row, column: &str, have: &Keys, want: &Keys) {
        let differ: Vec<_> = want
            .iter()
            .filter(|(key, value)| have.get(*key) != Some(value))
            .collect();
        if differ.is_empty() || !self.schema.has(row.table, column) {
            return;
        }
        // `insert` leaves a key that is there as it is: it must go first.
        let stale = differ.iter().filter(|(key, _)| have.contains_key(*key));
        let stale = Datum::set(stale.map(|(key, _)| key.as_str()));
        let mut mutations = Vec::new();
        if !stale.is_empty() {
            mutations.push(Mutation::new(column, Mutator::Delete, stale));
        }
        let fresh = Datum::map(
            differ
                .iter()
                .map(|(key, value)| (key.as_str(), value.as_str())),
        );
        mutations.push(Mutation::new(column, Mutator::Insert, fresh));
        self.push_mutations(row, mutations);
    }

    /// Updates the columns that differ, of those the schema has.
    fn update(&mut self, row: Row, columns: impl IntoIterator<Item = (&'static str, Datum)>) {
        let columns = self.columns(row.table, columns);
        if !columns.is_empty() {
            let (table, conditions) = (row.table.to_owned(), vec![Condition::uuid(row.uuid)]);
            self.plan.operations.push(Operation::Update {
                table,
                conditions,
                row: columns,
            });
        }
    }

    fn columns(
        &self,
        table: &str,
        columns: impl IntoIterator<Item = (&'static str, Datum)>,
    ) -> Columns {
        let known = |(name, _): &(&str, Datum)| self.schema.has(table, name);
        columns
            .into_iter()
            .filter(known)
            .map(|(name, datum)| (name.to_owned(), datum))
            .collect()
    }

    fn insert(
        &mut self,
        table: &'static str,
        columns: impl IntoIterator<Item = (&'static str, Datum)>,
    ) -> NamedUuid {
        let row = self.columns(table, columns);
        let name = NamedUuid::numbered(self.names);
        self.names += 1;
        let (table, uuid_name) = (table.to_owned(), Some(name.clone()));
        self.plan.operations.push(Operation::Insert {
            table,
            row,
            uuid_name,
        });
        name
    }

    fn insert_bridge(&mut self, config: &BridgeConfig) -> NamedUuid {
        let local = PortConfig::new(config.name.as_str(), InterfaceType::Internal);
        let declared = config.ports.iter().any(|port| port.name == config.name);
        let mut ports = Vec::new();
        for port in config.ports.iter().chain((!declared).then_some(&local)) {
            match self.owner(&port.name) {
                None => ports.push(Atom::from(self.insert_port(port))),
                Some(owner) => self.taken(&port.name, owner),
            }
        }
        self.insert(
            table::BRIDGE,
            [
                ("name", Datum::from(config.name.as_str())),
                ("datapath_type", Datum::from(config.datapath_type.as_str())),
                ("fail_mode", Datum::from(config.fail_mode.as_str())),
                ("external_ids", Datum::from(&config.external_ids)),
                ("other_config", Datum::from(&config.other_config)),
                ("ports", Datum::set(ports)),
            ],
        )
    }

    fn change_bridge(&mut self, bridge: &Bridge, config: &BridgeConfig) {
        let row = Row {
            table: table::BRIDGE,
            uuid: bridge.uuid,
        };
        if !config.datapath_type.is(&bridge.datapath_type) {
            self.update(
                row,
                [("datapath_type", Datum::from(config.datapath_type.as_str()))],
            );
        }
        if bridge.fail_mode.as_deref() != Some(config.fail_mode.as_str()) {
            self.update(row, [("fail_mode", Datum::from(config.fail_mode.as_str()))]);
        }
        self.keys(
            row,
            "external_ids",
            &bridge.external_ids,
            &config.external_ids,
        );
        self.keys(
            row,
            "other_config",
            &bridge.other_config,
            &config.other_config,
        );
        for port in &config.ports {
            self.port(bridge, port, Existing::Keep);
        }
    }

    fn remove_undeclared(&mut self, bridge: &Bridge, config: &BridgeConfig) {
        let declared: BTreeSet<&str> = config.ports.iter().map(|port| port.name.as_str()).collect();
        for uuid in &bridge.ports {
            let Some(port) = Port::by_uuid(self.cache, uuid) else {
                continue;
            };
            if port.name != bridge.name && !declared.contains(port.name.as_str()) {
                self.change_ports(bridge.uuid).delete.push(port.uuid.into());
            }
        }
    }

    /// The bridge that has a port of this name.
    fn owner(&mut self, port: &str) -> Option<(Uuid, Uuid, String)> {
        let port = Port::by_name(self.cache, port)?;
        let owners = self.owners.get_or_insert_with(|| {
            let bridges = Bridge::all(self.cache);
            bridges
                .flat_map(|bridge| {
                    let (uuid, name) = (bridge.uuid, bridge.name);
                    bridge
                        .ports
                        .into_iter()
                        .map(move |port| (port, (uuid, name.clone())))
                })
                .collect()
        });
        let (bridge, name) = owners.get(&port.uuid)?;
        Some((port.uuid, *bridge, name.clone()))
    }

    /// A port's name is taken on another bridge: by a port that goes in this very plan, or for good.
    fn taken(&mut self, port: &str, (uuid, bridge, name): (Uuid, Uuid, String)) {
        let goes = |changes: &Changes| changes.delete.contains(&Atom::Uuid(uuid));
        if self.ports.get(&bridge).is_some_and(goes) {
            self.plan.again = true;
        } else {
            let error = PortError::Elsewhere {
                port: port.to_owned(),
                bridge: name,
            };
            self.plan.impossible.insert(port.to_owned(), error);
        }
    }

    fn port(&mut self, bridge: &Bridge, config: &PortConfig, existing: Existing) {
        let Some(port) = Port::by_name(self.cache, &config.name) else {
            let name = self.insert_port(config);
            self.change_ports(bridge.uuid).insert.push(name.into());
            return;
        };
        if !bridge.ports.contains(&port.uuid) {
            if let Some(owner) = self.owner(&config.name) {
                self.taken(&config.name, owner);
            }
            return;
        }
        let interface = match port.interfaces.first() {
            Some(uuid) if port.interfaces.len() == 1 => Interface::by_uuid(self.cache, uuid),
            Some(_) | None => None,
        };
        let usable = interface.filter(|interface| {
            interface.name == config.name && config.interface_type.is(&interface.interface_type)
        });
        let failed = |row: &Interface| row.ofport.is_some_and(|number| number < 0);
        let anew = match &usable {
            None => true,
            Some(row) => existing == Existing::Replace || failed(row),
        };
        // The local port comes and goes with its bridge; each other port is made anew once.
        if anew && config.name != bridge.name && !self.done.contains(&config.name) {
            self.change_ports(bridge.uuid).delete.push(port.uuid.into());
            self.plan.removed.insert(config.name.clone());
            self.plan.again = true;
            return;
        }
        if let Some(interface) = usable {
            self.change_interface(&interface, config);
        }
    }

    fn insert_port(&mut self, port: &PortConfig) -> NamedUuid {
        let interface = self.insert(
            table::INTERFACE,
            [
                ("name", Datum::from(port.name.as_str())),
                ("type", Datum::from(port.interface_type.as_str())),
                ("options", Datum::from(&port.options)),
                (
                    "ofport_request",
                    Datum::from(port.ofport_request.map(OfPort::get)),
                ),
                ("mac", Datum::from(port.mac.as_deref())),
                ("mtu_request", Datum::from(port.mtu_request)),
                ("external_ids", Datum::from(&port.external_ids)),
                ("other_config", Datum::from(&port.other_config)),
            ],
        );
        self.insert(
            table::PORT,
            [
                ("name", Datum::from(port.name.as_str())),
                ("interfaces", Datum::from(interface)),
            ],
        )
    }

    fn change_interface(&mut self, have: &Interface, want: &PortConfig) {
        let row = Row {
            table: table::INTERFACE,
            uuid: have.uuid,
        };
        let mut columns = Vec::new();
        if have.options != want.options {
            columns.push(("options", Datum::from(&want.options)));
        }
        let number = want.ofport_request.map(|number| i64::from(number.get()));
        if number.is_some() && have.ofport_request != number {
            columns.push(("ofport_request", Datum::from(number)));
        }
        if want.mac.is_some() && have.mac != want.mac {
            columns.push(("mac", Datum::from(want.mac.as_deref())));
        }
        let mtu = want.mtu_request.map(i64::from);
        if mtu.is_some() && have.mtu_request != mtu {
            columns.push(("mtu_request", Datum::from(mtu)));
        }
        self.update(row, columns);
        self.keys(row, "external_ids", &have.external_ids, &want.external_ids);
        self.keys(row, "other_config", &have.other_config, &want.other_config);
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
