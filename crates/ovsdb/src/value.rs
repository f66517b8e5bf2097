//! Values of RFC 7047 §5.1: atoms, sets and maps, to and from JSON.
//!
//! A value is always a set or a map; a scalar is a set of one, which is how the RFC's grammar and
//! ovsdb-server treat it. Equality and order are total (reals by `total_cmp`), so that values can
//! be compared and printed in one order.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde_json::{Value, json};
use uuid::Uuid;

/// `<atom>` of RFC 7047 §5.1, with `<named-uuid>` where a transaction may use one.
#[derive(Debug, Clone)]
pub enum Atom {
    /// A 64-bit signed integer.
    Integer(i64),
    /// A double; never NaN or infinite on the wire.
    Real(f64),
    /// `true` or `false`.
    Boolean(bool),
    /// A string.
    String(String),
    /// A row's UUID.
    Uuid(Uuid),
    /// A row inserted by the same transaction.
    NamedUuid(NamedUuid),
}

impl Atom {
    fn rank(&self) -> u8 {
        match self {
            Self::Integer(_) => 0,
            Self::Real(_) => 1,
            Self::Boolean(_) => 2,
            Self::String(_) => 3,
            Self::Uuid(_) => 4,
            Self::NamedUuid(_) => 5,
        }
    }

    /// The JSON of this atom.
    #[must_use]
    pub fn to_json(&self) -> Value {
        match self {
            Self::Integer(value) => json!(value),
            Self::Real(value) => json!(value),
            Self::Boolean(value) => json!(value),
            Self::String(value) => json!(value),
            Self::Uuid(value) => json!(["uuid", value.to_string()]),
            Self::NamedUuid(name) => json!(["named-uuid", name.as_str()]),
        }
    }

    /// Reads an atom.
    ///
    /// # Errors
    /// When the JSON is none of the RFC's atoms.
    pub fn from_json(value: &Value) -> Result<Self, ValueError> {
        match value {
            Value::Bool(value) => Ok(Self::Boolean(*value)),
            Value::String(value) => Ok(Self::String(value.clone())),
            Value::Number(number) => number
                .as_i64()
                .map(Self::Integer)
                .or_else(|| {
                    number
                        .as_f64()
                        .filter(|real| real.is_finite())
                        .map(Self::Real)
                })
                .ok_or_else(|| ValueError::Number(number.to_string())),
            Value::Array(pair) => match pair.as_slice() {
                [Value::String(tag), Value::String(text)] if tag == "uuid" => Uuid::parse_str(text)
                    .map(Self::Uuid)
                    .map_err(|source| ValueError::Uuid {
                        text: clip(text),
                        source,
                    }),
                [Value::String(tag), Value::String(text)] if tag == "named-uuid" => {
                    NamedUuid::new(text).map(Self::NamedUuid)
                }
                _ => Err(ValueError::Atom(clip(&value.to_string()))),
            },
            Value::Null | Value::Object(_) => Err(ValueError::Atom(clip(&value.to_string()))),
        }
    }
}

impl PartialEq for Atom {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Atom {}

impl PartialOrd for Atom {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Atom {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Integer(left), Self::Integer(right)) => left.cmp(right),
            (Self::Real(left), Self::Real(right)) => left.total_cmp(right),
            (Self::Boolean(left), Self::Boolean(right)) => left.cmp(right),
            (Self::String(left), Self::String(right)) => left.cmp(right),
            (Self::Uuid(left), Self::Uuid(right)) => left.cmp(right),
            (Self::NamedUuid(left), Self::NamedUuid(right)) => left.cmp(right),
            _ => self.rank().cmp(&other.rank()),
        }
    }
}

impl fmt::Display for Atom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Integer(value) => value.fmt(f),
            Self::Real(value) => value.fmt(f),
            Self::Boolean(value) => value.fmt(f),
            Self::String(value) => f.write_str(value),
            Self::Uuid(value) => value.fmt(f),
            Self::NamedUuid(name) => f.write_str(name.as_str()),
        }
    }
}

macro_rules! atom_from {
    ($($type:ty => $variant:ident),* $(,)?) => {
        $(impl From<$type> for Atom {
            fn from(value: $type) -> Self {
                Self::$variant(value.into())
            }
        }
        impl From<$type> for Datum {
            fn from(value: $type) -> Self {
                Self::one(Atom::from(value))
            }
        })*
    };
}
atom_from! {
    i64 => Integer, i32 => Integer, u32 => Integer, u16 => Integer, f64 => Real, bool => Boolean,
    String => String, &str => String, Uuid => Uuid, NamedUuid => NamedUuid,
}

/// The name of a row that a transaction inserts: an `<id>` of RFC 7047 §3.1.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NamedUuid(String);

impl NamedUuid {
    /// A name: a letter or `_`, then letters, digits and `_`.
    ///
    /// # Errors
    /// When the name is not an `<id>`.
    pub fn new(name: &str) -> Result<Self, ValueError> {
        let mut bytes = name.bytes();
        let first = bytes
            .next()
            .is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_');
        if first && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
            Ok(Self(name.to_owned()))
        } else {
            Err(ValueError::NamedUuid(clip(name)))
        }
    }

    /// A name made from a number, unlike any other number's.
    #[must_use]
    pub fn numbered(number: usize) -> Self {
        Self(format!("row{number}"))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// `<value>` of RFC 7047 §5.1.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Datum {
    /// A set; a scalar is a set of one.
    Set(BTreeSet<Atom>),
    /// A map.
    Map(BTreeMap<Atom, Atom>),
}

impl Datum {
    /// A scalar.
    #[must_use]
    pub fn one(atom: Atom) -> Self {
        Self::Set(BTreeSet::from([atom]))
    }

    /// The empty set: an optional scalar that is absent.
    #[must_use]
    pub fn empty() -> Self {
        Self::Set(BTreeSet::new())
    }

    /// A set.
    pub fn set<T: Into<Atom>>(atoms: impl IntoIterator<Item = T>) -> Self {
        Self::Set(atoms.into_iter().map(Into::into).collect())
    }

    /// A map.
    pub fn map<K: Into<Atom>, V: Into<Atom>>(pairs: impl IntoIterator<Item = (K, V)>) -> Self {
        Self::Map(
            pairs
                .into_iter()
                .map(|(key, value)| (key.into(), value.into()))
                .collect(),
        )
    }

    /// Whether the set or map has no element.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Set(set) => set.is_empty(),
            Self::Map(map) => map.is_empty(),
        }
    }

    /// The one atom of a scalar, or of an optional scalar that is there.
    #[must_use]
    pub fn scalar(&self) -> Option<&Atom> {
        match self {
            Self::Set(set) if set.len() == 1 => set.first(),
            Self::Set(_) | Self::Map(_) => None,
        }
    }

    /// The JSON of this value: a set of one is written as its atom.
    #[must_use]
    pub fn to_json(&self) -> Value {
        match self {
            Self::Set(set) => match self.scalar() {
                Some(atom) => atom.to_json(),
                None => json!(["set", set.iter().map(Atom::to_json).collect::<Vec<_>>()]),
            },
            Self::Map(map) => {
                let pairs = map
                    .iter()
                    .map(|(key, value)| json!([key.to_json(), value.to_json()]));
                json!(["map", pairs.collect::<Vec<_>>()])
            }
        }
    }

    /// Reads a value.
    ///
    /// # Errors
    /// When the JSON is none of the RFC's values, or repeats a map's key.
    pub fn from_json(value: &Value) -> Result<Self, ValueError> {
        let Value::Array(pair) = value else {
            return Atom::from_json(value).map(Self::one);
        };
        match pair.as_slice() {
            [Value::String(tag), Value::Array(atoms)] if tag == "set" => atoms
                .iter()
                .map(Atom::from_json)
                .collect::<Result<_, _>>()
                .map(Self::Set),
            [Value::String(tag), Value::Array(pairs)] if tag == "map" => {
                let mut map = BTreeMap::new();
                for pair in pairs {
                    let Some([key, value]) = pair.as_array().map(Vec::as_slice) else {
                        return Err(ValueError::Pair(clip(&pair.to_string())));
                    };
                    let key = Atom::from_json(key)?;
                    if map.contains_key(&key) {
                        return Err(ValueError::DuplicateKey(clip(&key.to_string())));
                    }
                    map.insert(key, Atom::from_json(value)?);
                }
                Ok(Self::Map(map))
            }
            _ => Atom::from_json(value).map(Self::one),
        }
    }
}

impl Default for Datum {
    fn default() -> Self {
        Self::empty()
    }
}

impl From<&BTreeMap<String, String>> for Datum {
    fn from(map: &BTreeMap<String, String>) -> Self {
        Self::map(
            map.iter()
                .map(|(key, value)| (key.as_str(), value.as_str())),
        )
    }
}

impl<T: Into<Atom>> From<Option<T>> for Datum {
    fn from(value: Option<T>) -> Self {
        value.map_or_else(Self::empty, |value| Self::one(value.into()))
    }
}

/// Why a JSON value is not a value of RFC 7047.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ValueError {
    /// Not an atom.
    #[error("{0} is not an atom")]
    Atom(String),
    /// An integer beyond 64 bits signed, or a real that is not finite.
    #[error("number {0} is out of range")]
    Number(String),
    /// Not a UUID.
    #[error("{text:?} is not a UUID")]
    Uuid {
        /// What was read.
        text: String,
        /// Why.
        #[source]
        source: uuid::Error,
    },
    /// Not an identifier.
    #[error("{0:?} is not a name for a row (a letter or _, then letters, digits and _)")]
    NamedUuid(String),
    /// An element of a map that is not a pair.
    #[error("{0} is not a pair of a map")]
    Pair(String),
    /// A map with a key twice.
    #[error("key {0:?} stands twice in a map")]
    DuplicateKey(String),
}

/// At most 200 characters of what was read, for an error's text.
pub(crate) fn clip(text: &str) -> String {
    const LONGEST: usize = 200;
    text.char_indices()
        .nth(LONGEST)
        .and_then(|(end, _)| text.get(..end))
        .map_or_else(|| text.to_owned(), |start| format!("{start}…"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn atom() -> impl Strategy<Value = Atom> {
        prop_oneof![
            any::<i64>().prop_map(Atom::Integer),
            any::<f64>()
                .prop_filter("finite and not integral", |real| real.is_finite()
                    && real.fract() != 0.0)
                .prop_map(Atom::Real),
            any::<bool>().prop_map(Atom::Boolean),
            ".{0,20}".prop_map(Atom::String),
            any::<u128>().prop_map(|bits| Atom::Uuid(Uuid::from_u128(bits))),
            "[a-z_][a-z0-9_]{0,8}".prop_map(|name| Atom::NamedUuid(NamedUuid::new(&name).unwrap())),
        ]
    }

    fn datum() -> impl Strategy<Value = Datum> {
        prop_oneof![
            prop::collection::btree_set(atom(), 0..5).prop_map(Datum::Set),
            prop::collection::btree_map(atom(), atom(), 0..5).prop_map(Datum::Map),
        ]
    }

    proptest! {
        #[test]
        fn every_value_survives_json_text(datum in datum()) {
            let text = datum.to_json().to_string();
            let read = Datum::from_json(&serde_json::from_str(&text).unwrap()).unwrap();
            prop_assert_eq!(read, datum);
        }
    }

    #[test]
    fn what_is_no_value_is_refused() {
        for text in [
            "null",
            "{}",
            "[]",
            r#"["set"]"#,
            r#"["set",[null]]"#,
            r#"["map",[[1]]]"#,
            r#"["map",[[1,2],[1,3]]]"#,
            r#"["uuid","x"]"#,
            r#"["named-uuid","1x"]"#,
            "1e400",
            r#"["set",[["set",[]]]]"#,
        ] {
            let Ok(value) = serde_json::from_str(text) else {
                continue;
            };
            assert!(Datum::from_json(&value).is_err(), "{text}");
        }
    }

    #[test]
    fn clip_ends_on_a_character() {
        assert_eq!(clip("short"), "short");
        assert_eq!(clip(&"é".repeat(300)).chars().count(), 201);
    }
}
