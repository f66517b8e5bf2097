//! A copy of the monitored part of a database, kept by the server's updates (RFC 7047 §4.1.6 and
//! ovsdb-server(7) "update2", "update3").
//!
//! The cache is pure: updates go in, changes come out. Rows are shared, so that a reader holds what
//! it read while the cache goes on.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde_json::{Map, Value};
use uuid::Uuid;

use crate::schema::{ColumnType, Schema};
use crate::value::{Atom, Datum, ValueError, clip};

/// A row as monitored. Columns that the server left out because they hold the default are absent.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Row {
    columns: BTreeMap<Arc<str>, Datum>,
}

impl Row {
    /// A column's value; `None` for a column that holds its default, is not monitored or not there.
    #[must_use]
    pub fn get(&self, column: &str) -> Option<&Datum> {
        self.columns.get(column)
    }

    /// All columns that do not hold their default.
    pub fn columns(&self) -> impl Iterator<Item = (&str, &Datum)> {
        self.columns.iter().map(|(name, datum)| (&**name, datum))
    }

    /// Sets a column: for rows made by hand.
    pub fn set(&mut self, column: &str, datum: impl Into<Datum>) {
        self.columns.insert(Arc::from(column), datum.into());
    }
}

/// What happened to a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RowChange {
    /// It is new.
    Insert {
        /// The row.
        new: Arc<Row>,
    },
    /// It is another than before.
    Modify {
        /// Before.
        old: Arc<Row>,
        /// Now.
        new: Arc<Row>,
    },
    /// It is gone.
    Delete {
        /// What it was.
        old: Arc<Row>,
    },
}

/// A change of one row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The table.
    pub table: Arc<str>,
    /// The row.
    pub uuid: Uuid,
    /// What happened to it.
    pub change: RowChange,
}

/// How a message describes changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpdateFormat {
    /// `<table-updates>` of RFC 7047 §4.1.6: old and new values.
    Rfc7047,
    /// `<table-updates2>` of ovsdb-server(7): defaults left out, differences of sets and maps.
    Update2,
}

/// The copy. See the [module](self).
#[derive(Debug, Clone, Default)]
pub struct Cache {
    tables: BTreeMap<Arc<str>, CachedTable>,
}

#[derive(Debug, Clone, Default)]
struct CachedTable {
    rows: HashMap<Uuid, Arc<Row>>,
    /// The column rows are found by, and where they are.
    index: Option<(Arc<str>, BTreeMap<Atom, Uuid>)>,
}

impl CachedTable {
    fn key(&self, row: &Row) -> Option<Atom> {
        let (column, _) = self.index.as_ref()?;
        row.get(column)?.scalar().cloned()
    }

    fn put(&mut self, uuid: Uuid, row: Arc<Row>) {
        let key = self.key(&row);
        if let (Some(key), Some((_, index))) = (key, self.index.as_mut()) {
            index.insert(key, uuid);
        }
        self.rows.insert(uuid, row);
    }

    fn take(&mut self, uuid: &Uuid) -> Option<Arc<Row>> {
        let row = self.rows.remove(uuid)?;
        let key = self.key(&row);
        if let (Some(key), Some((_, index))) = (key, self.index.as_mut()) {
            // A row of the same name may have come in the same update, before this one went.
            if index.get(&key) == Some(uuid) {
                index.remove(&key);
            }
        }
        Some(row)
    }
}

impl Cache {
    /// A cache whose tables are found by these columns: (table, column).
    pub(crate) fn indexed<'a>(by: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let mut cache = Self::default();
        for (table, column) in by {
            let index = Some((Arc::from(column), BTreeMap::new()));
            cache.tables.insert(
                Arc::from(table),
                CachedTable {
                    index,
                    ..Default::default()
                },
            );
        }
        cache
    }

    /// The same indexes, no rows.
    fn emptied(&self) -> Self {
        let by = |(table, cached): (&Arc<str>, &CachedTable)| {
            let index = cached
                .index
                .as_ref()
                .map(|(column, _)| (column.clone(), BTreeMap::new()));
            (
                table.clone(),
                CachedTable {
                    index,
                    ..Default::default()
                },
            )
        };
        Self {
            tables: self.tables.iter().map(by).collect(),
        }
    }

    /// A row.
    #[must_use]
    pub fn row(&self, table: &str, uuid: &Uuid) -> Option<&Arc<Row>> {
        self.tables.get(table)?.rows.get(uuid)
    }

    /// The rows of a table, in no order.
    pub fn rows(&self, table: &str) -> impl Iterator<Item = (&Uuid, &Arc<Row>)> {
        self.tables
            .get(table)
            .into_iter()
            .flat_map(|table| table.rows.iter())
    }

    /// How many rows a table has.
    #[must_use]
    pub fn len(&self, table: &str) -> usize {
        self.tables.get(table).map_or(0, |table| table.rows.len())
    }

    /// The row whose column holds the atom: by the index where there is one, else by looking at all.
    #[must_use]
    pub fn find(&self, table: &str, column: &str, atom: &Atom) -> Option<(Uuid, &Arc<Row>)> {
        let cached = self.tables.get(table)?;
        if let Some((indexed, index)) = &cached.index
            && **indexed == *column
        {
            let uuid = index.get(atom)?;
            return cached.rows.get(uuid).map(|row| (*uuid, row));
        }
        let holds = |row: &Row| row.get(column).and_then(Datum::scalar) == Some(atom);
        cached
            .rows
            .iter()
            .find(|(_, row)| holds(row))
            .map(|(uuid, row)| (*uuid, row))
    }

    /// Applies updates; the changes are sorted by table and row.
    ///
    /// # Errors
    /// When an update is malformed or does not fit what is cached. The cache is then of no use and
    /// must be read again.
    pub fn apply(
        &mut self,
        schema: &Schema,
        format: UpdateFormat,
        updates: &Value,
    ) -> Result<Vec<Change>, UpdateError> {
        let tables = object(updates)?;
        let mut changes = Vec::new();
        for (name, rows) in tables {
            let Some((name, columns)) = schema.tables.get_key_value(name.as_str()) else {
                return Err(UpdateError::Table { table: clip(name) });
            };
            for (uuid, update) in object(rows)? {
                let uuid = Uuid::parse_str(uuid).map_err(|source| UpdateError::Row {
                    uuid: clip(uuid),
                    source,
                })?;
                let cached = self.tables.entry(name.clone()).or_default();
                let old = cached.rows.get(&uuid).cloned();
                let change = match format {
                    UpdateFormat::Rfc7047 => rfc_update(&columns.columns, old, update)?,
                    UpdateFormat::Update2 => update2(&columns.columns, uuid, old, update)?,
                };
                let Some(change) = change else { continue };
                // Whatever the kind, the old row's index entry goes first.
                cached.take(&uuid);
                if let RowChange::Insert { new } | RowChange::Modify { new, .. } = &change {
                    cached.put(uuid, new.clone());
                }
                changes.push(Change {
                    table: name.clone(),
                    uuid,
                    change,
                });
            }
        }
        changes.sort_by(|left, right| (&left.table, left.uuid).cmp(&(&right.table, right.uuid)));
        Ok(changes)
    }

    /// Replaces everything by what the server now has; the changes are those between before and
    /// after, as if they had been seen one by one.
    ///
    /// # Errors
    /// As [`Cache::apply`]; the cache then is as before.
    pub fn replace(
        &mut self,
        schema: &Schema,
        format: UpdateFormat,
        updates: &Value,
    ) -> Result<Vec<Change>, UpdateError> {
        let mut fresh = self.emptied();
        let mut changes = fresh.apply(schema, format, updates)?;
        changes.retain_mut(|change| {
            let RowChange::Insert { new } = &change.change else {
                return true;
            };
            let Some(old) = self.row(&change.table, &change.uuid) else {
                return true;
            };
            let same = old == new;
            change.change = RowChange::Modify {
                old: old.clone(),
                new: new.clone(),
            };
            !same
        });
        for (table, cached) in &self.tables {
            for (uuid, old) in &cached.rows {
                if fresh.row(table, uuid).is_none() {
                    let change = RowChange::Delete { old: old.clone() };
                    changes.push(Change {
                        table: table.clone(),
                        uuid: *uuid,
                        change,
                    });
                }
            }
        }
        changes.sort_by(|left, right| (&left.table, left.uuid).cmp(&(&right.table, right.uuid)));
        *self = fresh;
        Ok(changes)
    }
}

type ColumnTypes = BTreeMap<Arc<str>, ColumnType>;

fn object(value: &Value) -> Result<&Map<String, Value>, UpdateError> {
    value.as_object().ok_or_else(|| UpdateError::Shape {
        text: clip(&value.to_string()),
    })
}

/// A column's name, shared with the schema, its type and a value.
type NamedColumn<'a> = (&'a Arc<str>, &'a ColumnType, Datum);

/// The columns a row update names, with their types. A column the schema lacks is an error: the
/// cache could not tell a difference from a value.
fn each_column<'a>(
    types: &'a ColumnTypes,
    row: &'a Value,
) -> Result<Vec<NamedColumn<'a>>, UpdateError> {
    object(row)?
        .iter()
        .filter(|(name, _)| !matches!(name.as_str(), "_uuid" | "_version"))
        .map(|(name, value)| {
            let (name, column) = types
                .get_key_value(name.as_str())
                .ok_or_else(|| UpdateError::Column { column: clip(name) })?;
            let datum = Datum::from_json(value).map_err(|source| UpdateError::Value {
                column: name.to_string(),
                source,
            })?;
            Ok((name, column, column.normalize(datum)))
        })
        .collect()
}

fn store(row: &mut Row, name: &Arc<str>, column: &ColumnType, datum: Datum) {
    if datum == column.default_datum() {
        row.columns.remove(name);
    } else {
        row.columns.insert(name.clone(), datum);
    }
}

fn rfc_update(
    types: &ColumnTypes,
    old: Option<Arc<Row>>,
    update: &Value,
) -> Result<Option<RowChange>, UpdateError> {
    let Some(new) = object(update)?.get("new") else {
        return Ok(old.map(|old| RowChange::Delete { old }));
    };
    let mut row = old.as_deref().cloned().unwrap_or_default();
    for (name, column, datum) in each_column(types, new)? {
        store(&mut row, name, column, datum);
    }
    let new = Arc::new(row);
    Ok(match old {
        None => Some(RowChange::Insert { new }),
        Some(old) if old == new => None,
        Some(old) => Some(RowChange::Modify { old, new }),
    })
}

fn update2(
    types: &ColumnTypes,
    uuid: Uuid,
    old: Option<Arc<Row>>,
    update: &Value,
) -> Result<Option<RowChange>, UpdateError> {
    let update = object(update)?;
    if update.contains_key("delete") {
        return Ok(old.map(|old| RowChange::Delete { old }));
    }
    if let Some(row) = update.get("initial").or_else(|| update.get("insert")) {
        let mut new = Row::default();
        for (name, column, datum) in each_column(types, row)? {
            store(&mut new, name, column, datum);
        }
        let new = Arc::new(new);
        return Ok(match old {
            Some(old) if old == new => None,
            Some(old) => Some(RowChange::Modify { old, new }),
            None => Some(RowChange::Insert { new }),
        });
    }
    let Some(difference) = update.get("modify") else {
        return Err(UpdateError::Kind { uuid });
    };
    let Some(old) = old else {
        return Err(UpdateError::Unknown { uuid });
    };
    let mut row = Row::clone(&old);
    for (name, column, datum) in each_column(types, difference)? {
        let datum = if column.is_composite() {
            let before = row
                .columns
                .remove(name)
                .unwrap_or_else(|| column.default_datum());
            merged(before, datum).ok_or_else(|| UpdateError::Difference {
                column: name.to_string(),
            })?
        } else {
            datum
        };
        store(&mut row, name, column, datum);
    }
    let new = Arc::new(row);
    Ok((old != new).then_some(RowChange::Modify { old, new }))
}

/// Applies a difference of `update2` to a set or map: an element of a set that is there goes, one
/// that is not there comes; a pair of a map that is there as it is goes, any other is set
/// (`ovsdb_datum_apply_diff` in Open vSwitch's lib/ovsdb-data.c).
fn merged(before: Datum, difference: Datum) -> Option<Datum> {
    match (before, difference) {
        (Datum::Set(mut set), Datum::Set(difference)) => {
            for atom in difference {
                if !set.remove(&atom) {
                    set.insert(atom);
                }
            }
            Some(Datum::Set(set))
        }
        (Datum::Map(mut map), Datum::Map(difference)) => {
            for (key, value) in difference {
                if map.get(&key) == Some(&value) {
                    map.remove(&key);
                } else {
                    map.insert(key, value);
                }
            }
            Some(Datum::Map(map))
        }
        _ => None,
    }
}

/// Why an update cannot be applied.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UpdateError {
    /// Not an object where one must be.
    #[error("an update is malformed at {text}")]
    Shape {
        /// What is there.
        text: String,
    },
    /// A table the schema lacks.
    #[error("an update names table {table:?}, which the schema lacks")]
    Table {
        /// The table.
        table: String,
    },
    /// A row's name that is no UUID.
    #[error("an update names row {uuid:?}")]
    Row {
        /// The name.
        uuid: String,
        /// Why it is none.
        #[source]
        source: uuid::Error,
    },
    /// A column the schema lacks.
    #[error("an update names column {column:?}, which the schema lacks")]
    Column {
        /// The column.
        column: String,
    },
    /// A value that cannot be read.
    #[error("the value of column {column:?} cannot be read")]
    Value {
        /// The column.
        column: String,
        /// Why.
        #[source]
        source: ValueError,
    },
    /// Neither initial, insert, delete nor modify.
    #[error("the update of row {uuid} has no known kind")]
    Kind {
        /// The row.
        uuid: Uuid,
    },
    /// A difference to a row that is not cached.
    #[error("row {uuid} is modified but was never seen")]
    Unknown {
        /// The row.
        uuid: Uuid,
    },
    /// A difference of another shape than the column.
    #[error("the difference of column {column:?} has the wrong shape")]
    Difference {
        /// The column.
        column: String,
    },
}

#[cfg(test)]
#[path = "cache_tests.rs"]
mod tests;
