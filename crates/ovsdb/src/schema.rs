//! A database's schema (RFC 7047 §3.2), as far as a client needs it: which tables and columns there
//! are, and of what type, to fill in defaults and to apply differences.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;
use uuid::Uuid;

use crate::value::{Atom, Datum, clip};

/// The type of an atom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AtomType {
    /// 64-bit signed integer.
    Integer,
    /// Double.
    Real,
    /// Boolean.
    Boolean,
    /// String.
    String,
    /// UUID of a row.
    Uuid,
}

impl AtomType {
    fn default_atom(self) -> Atom {
        match self {
            Self::Integer => Atom::Integer(0),
            Self::Real => Atom::Real(0.0),
            Self::Boolean => Atom::Boolean(false),
            Self::String => Atom::String(String::new()),
            Self::Uuid => Atom::Uuid(Uuid::nil()),
        }
    }
}

/// The type of a column (`<type>` of RFC 7047 §3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ColumnType {
    /// Of a set's elements, or of a map's keys.
    pub key: AtomType,
    /// Of a map's values.
    pub value: Option<AtomType>,
    /// Fewest elements: 0 or 1.
    pub min: u64,
    /// Most elements; `None` is "unlimited".
    pub max: Option<u64>,
}

impl ColumnType {
    /// Whether `update2` writes a difference for this column, not its new value (set or map of more
    /// than one element; `ovsdb_type_is_composite` in Open vSwitch's ovsdb-types.h).
    #[must_use]
    pub fn is_composite(&self) -> bool {
        self.max != Some(1)
    }

    /// The value of the column in a new row that does not give one (RFC 7047 §5.2.1).
    #[must_use]
    pub fn default_datum(&self) -> Datum {
        match self {
            Self { value: Some(_), .. } => Datum::Map(BTreeMap::new()),
            Self { min: 0, .. } => Datum::empty(),
            Self { key, .. } => Datum::one(key.default_atom()),
        }
    }

    /// Makes whole numbers of a column of reals reals: JSON does not tell them apart.
    #[must_use]
    pub fn normalize(&self, datum: Datum) -> Datum {
        let real = |atom: Atom, atom_type| match (atom, atom_type) {
            #[expect(
                clippy::cast_precision_loss,
                reason = "the server keeps it as a double, too"
            )]
            (Atom::Integer(value), AtomType::Real) => Atom::Real(value as f64),
            (atom, _) => atom,
        };
        if self.key != AtomType::Real && self.value != Some(AtomType::Real) {
            return datum;
        }
        match (datum, self.value) {
            (Datum::Set(set), _) => {
                Datum::Set(set.into_iter().map(|atom| real(atom, self.key)).collect())
            }
            (Datum::Map(map), Some(value)) => Datum::Map(
                map.into_iter()
                    .map(|(k, v)| (real(k, self.key), real(v, value)))
                    .collect(),
            ),
            (datum, None) => datum,
        }
    }
}

/// A table's columns.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Table {
    /// Column types by name; names are shared with cached rows.
    pub columns: BTreeMap<Arc<str>, ColumnType>,
}

/// A database's schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schema {
    /// The database's name.
    pub name: String,
    /// Version, `<major>.<minor>.<patch>`.
    pub version: String,
    /// Tables by name.
    pub tables: BTreeMap<Arc<str>, Table>,
}

impl Schema {
    /// Whether the table is there and has the column.
    #[must_use]
    pub fn has(&self, table: &str, column: &str) -> bool {
        self.tables
            .get(table)
            .is_some_and(|table| table.columns.contains_key(column))
    }

    /// Reads a `<database-schema>` (RFC 7047 §3.2). Unknown members are skipped.
    ///
    /// # Errors
    /// When a member that is needed is missing or is not what the RFC says.
    pub fn from_json(json: &Value) -> Result<Self, SchemaError> {
        let text = |member: &'static str| {
            json.get(member)
                .and_then(Value::as_str)
                .map(str::to_owned)
                .ok_or(SchemaError::Member { member })
        };
        let (name, version) = (text("name")?, text("version")?);
        let tables = json
            .get("tables")
            .and_then(Value::as_object)
            .ok_or(SchemaError::Member { member: "tables" })?;
        let mut schema = Self {
            name,
            version,
            tables: BTreeMap::new(),
        };
        for (name, table) in tables {
            let columns = table
                .get("columns")
                .and_then(Value::as_object)
                .ok_or_else(|| SchemaError::Columns { table: clip(name) })?;
            let columns = columns
                .iter()
                .map(|(column, json)| {
                    let column_type = json.get("type").and_then(column_type).ok_or_else(|| {
                        SchemaError::Type {
                            table: clip(name),
                            column: clip(column),
                        }
                    })?;
                    Ok((Arc::from(column.as_str()), column_type))
                })
                .collect::<Result<_, SchemaError>>()?;
            schema
                .tables
                .insert(Arc::from(name.as_str()), Table { columns });
        }
        Ok(schema)
    }
}

fn column_type(json: &Value) -> Option<ColumnType> {
    if let Some(key) = base_type(json).filter(|_| json.is_string()) {
        return Some(ColumnType {
            key,
            value: None,
            min: 1,
            max: Some(1),
        });
    }
    let max = match json.get("max") {
        None => Some(1),
        Some(Value::String(text)) if text == "unlimited" => None,
        Some(max) => Some(max.as_u64()?),
    };
    Some(ColumnType {
        key: base_type(json.get("key")?)?,
        value: match json.get("value") {
            Some(value) => Some(base_type(value)?),
            None => None,
        },
        min: json.get("min").map_or(Some(1), Value::as_u64)?,
        max,
    })
}

fn base_type(json: &Value) -> Option<AtomType> {
    match json.as_str().or_else(|| json.get("type")?.as_str())? {
        "integer" => Some(AtomType::Integer),
        "real" => Some(AtomType::Real),
        "boolean" => Some(AtomType::Boolean),
        "string" => Some(AtomType::String),
        "uuid" => Some(AtomType::Uuid),
        _ => None,
    }
}

/// Why a schema cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SchemaError {
    /// A member is missing or of another type.
    #[error("the schema has no {member:?}")]
    Member {
        /// Its name.
        member: &'static str,
    },
    /// A table without columns.
    #[error("table {table:?} has no columns")]
    Columns {
        /// The table.
        table: String,
    },
    /// A column's type is none of RFC 7047's.
    #[error("column {column:?} of table {table:?} has an unknown type")]
    Type {
        /// The table.
        table: String,
        /// The column.
        column: String,
    },
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn types_are_read_with_their_defaults() {
        let schema = Schema::from_json(&json!({"name": "db", "version": "1.0.0", "tables": {"T": {"columns": {
            "s": {"type": "string"},
            "o": {"type": {"key": {"type": "integer", "minInteger": 1}, "min": 0, "max": 1}},
            "set": {"type": {"key": {"type": "uuid", "refTable": "T"}, "min": 0, "max": "unlimited"}},
            "map": {"type": {"key": "string", "value": "real", "min": 0, "max": "unlimited"}}}}}}))
        .unwrap();
        let column = |name| *schema.tables["T"].columns.get(name).unwrap();
        assert_eq!(column("s").default_datum(), Datum::from(""));
        assert!(!column("s").is_composite());
        assert_eq!(column("o").default_datum(), Datum::empty());
        assert!(!column("o").is_composite());
        assert!(column("set").is_composite());
        assert_eq!(column("map").default_datum(), Datum::Map(BTreeMap::new()));
        let whole = Datum::map([("a", Atom::Integer(2))]);
        assert_eq!(
            column("map").normalize(whole),
            Datum::map([("a", Atom::Real(2.0))])
        );
        assert!(schema.has("T", "s") && !schema.has("T", "x") && !schema.has("X", "s"));
    }

    #[test]
    fn broken_schemas_name_what_is_wrong() {
        let read = |json| Schema::from_json(&json).unwrap_err().to_string();
        assert_eq!(read(json!({})), "the schema has no \"name\"");
        assert_eq!(
            read(json!({"name": "d", "version": "1", "tables": {"T": {}}})),
            "table \"T\" has no columns"
        );
        let column = json!({"name": "d", "version": "1", "tables": {"T": {"columns": {"c": {"type": "x"}}}}});
        assert_eq!(
            read(column),
            "column \"c\" of table \"T\" has an unknown type"
        );
    }
}
