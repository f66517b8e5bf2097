//! The operations of a transaction (RFC 7047 §5.2) and their results.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::value::{Atom, Datum, NamedUuid, ValueError, clip};

/// A row's columns by name: to write, or as read.
pub type Columns = BTreeMap<String, Datum>;

/// One operation (RFC 7047 §5.2).
#[derive(Debug, Clone, PartialEq)]
pub enum Operation {
    /// Adds a row (§5.2.1).
    Insert {
        /// The table.
        table: String,
        /// Columns; absent ones get their defaults.
        row: Columns,
        /// The row's name in the rest of the transaction.
        uuid_name: Option<NamedUuid>,
    },
    /// Reads rows (§5.2.2).
    Select {
        /// The table.
        table: String,
        /// Which rows: all that meet every condition.
        conditions: Vec<Condition>,
        /// Which columns; empty is all.
        columns: Vec<String>,
    },
    /// Sets columns of rows (§5.2.3).
    Update {
        /// The table.
        table: String,
        /// Which rows.
        conditions: Vec<Condition>,
        /// The columns' new values.
        row: Columns,
    },
    /// Changes columns of rows by their present values (§5.2.4).
    Mutate {
        /// The table.
        table: String,
        /// Which rows.
        conditions: Vec<Condition>,
        /// What to do, in order.
        mutations: Vec<Mutation>,
    },
    /// Deletes rows (§5.2.5).
    Delete {
        /// The table.
        table: String,
        /// Which rows.
        conditions: Vec<Condition>,
    },
    /// Waits until rows are as said, or fails the transaction with "timed out" (§5.2.6).
    Wait {
        /// Milliseconds; 0 fails at once; `None` waits as long as it takes.
        timeout: Option<u32>,
        /// The table.
        table: String,
        /// Which rows.
        conditions: Vec<Condition>,
        /// Which columns are compared.
        columns: Vec<String>,
        /// Until equal, or until different.
        until: Until,
        /// The rows to compare with.
        rows: Vec<Columns>,
    },
    /// Commits so far and durably (§5.2.7).
    Commit {
        /// Waits for the disk.
        durability: Durability,
    },
    /// Fails the transaction with "aborted" (§5.2.8).
    Abort,
    /// A comment in the server's log (§5.2.9).
    Comment(String),
    /// Fails the transaction unless the client holds the lock (§5.2.10).
    Assert {
        /// The lock's name.
        lock: String,
    },
}

/// What a [`Operation::Wait`] waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// Rows equal those given.
    Equal,
    /// Rows differ from those given.
    Different,
}

/// Whether a commit is on disk when it is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// On disk.
    Durable,
    /// Perhaps only in memory.
    Volatile,
}

/// `<condition>` (§5.1).
#[derive(Debug, Clone, PartialEq)]
pub struct Condition {
    /// The column; `_uuid` is the row's.
    pub column: String,
    /// How to compare.
    pub function: Function,
    /// With what.
    pub value: Datum,
}

impl Condition {
    /// The row of this UUID.
    #[must_use]
    pub fn uuid(uuid: Uuid) -> Self {
        Self::equal("_uuid", uuid)
    }

    /// Rows whose column has this value.
    pub fn equal(column: impl Into<String>, value: impl Into<Datum>) -> Self {
        Self {
            column: column.into(),
            function: Function::Equal,
            value: value.into(),
        }
    }

    fn to_json(&self) -> Value {
        json!([self.column, self.function.as_str(), self.value.to_json()])
    }
}

/// `<function>` (§5.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Function {
    /// `<`
    Less,
    /// `<=`
    LessOrEqual,
    /// `==`
    Equal,
    /// `!=`
    NotEqual,
    /// `>=`
    GreaterOrEqual,
    /// `>`
    Greater,
    /// `includes`
    Includes,
    /// `excludes`
    Excludes,
}

impl Function {
    fn as_str(self) -> &'static str {
        match self {
            Self::Less => "<",
            Self::LessOrEqual => "<=",
            Self::Equal => "==",
            Self::NotEqual => "!=",
            Self::GreaterOrEqual => ">=",
            Self::Greater => ">",
            Self::Includes => "includes",
            Self::Excludes => "excludes",
        }
    }
}

/// `<mutation>` (§5.1).
#[derive(Debug, Clone, PartialEq)]
pub struct Mutation {
    /// The column.
    pub column: String,
    /// What to do.
    pub mutator: Mutator,
    /// With what. Deleting from a map takes a map (pairs) or a set (keys).
    pub value: Datum,
}

impl Mutation {
    /// A mutation.
    pub fn new(column: impl Into<String>, mutator: Mutator, value: impl Into<Datum>) -> Self {
        Self {
            column: column.into(),
            mutator,
            value: value.into(),
        }
    }

    fn to_json(&self) -> Value {
        // The argument of insert and delete is a set or map, never a bare atom of a map column; a
        // scalar stands for a set of one.
        json!([self.column, self.mutator.as_str(), self.value.to_json()])
    }
}

/// `<mutator>` (§5.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutator {
    /// `+=`
    Add,
    /// `-=`
    Subtract,
    /// `*=`
    Multiply,
    /// `/=`
    Divide,
    /// `%=`
    Remainder,
    /// `insert`: adds elements; keys a map has already keep their values.
    Insert,
    /// `delete`: removes elements.
    Delete,
}

impl Mutator {
    fn as_str(self) -> &'static str {
        match self {
            Self::Add => "+=",
            Self::Subtract => "-=",
            Self::Multiply => "*=",
            Self::Divide => "/=",
            Self::Remainder => "%=",
            Self::Insert => "insert",
            Self::Delete => "delete",
        }
    }
}

pub(crate) fn columns_to_json(columns: &Columns) -> Value {
    Value::Object(
        columns
            .iter()
            .map(|(name, datum)| (name.clone(), datum.to_json()))
            .collect(),
    )
}

fn conditions_to_json(conditions: &[Condition]) -> Value {
    conditions.iter().map(Condition::to_json).collect()
}

impl Operation {
    /// The JSON of this operation.
    #[must_use]
    pub fn to_json(&self) -> Value {
        match self {
            Self::Insert {
                table,
                row,
                uuid_name,
            } => {
                let mut json = json!({"op": "insert", "table": table, "row": columns_to_json(row)});
                if let (Some(name), Some(object)) = (uuid_name, json.as_object_mut()) {
                    object.insert("uuid-name".to_owned(), json!(name.as_str()));
                }
                json
            }
            Self::Select {
                table,
                conditions,
                columns,
            } => {
                let conditions = conditions_to_json(conditions);
                let mut json = json!({"op": "select", "table": table, "where": conditions});
                if let (false, Some(object)) = (columns.is_empty(), json.as_object_mut()) {
                    object.insert("columns".to_owned(), json!(columns));
                }
                json
            }
            Self::Update {
                table,
                conditions,
                row,
            } => json!({"op": "update", "table": table,
                "where": conditions_to_json(conditions), "row": columns_to_json(row)}),
            Self::Mutate {
                table,
                conditions,
                mutations,
            } => {
                let mutations: Value = mutations.iter().map(Mutation::to_json).collect();
                json!({"op": "mutate", "table": table, "where": conditions_to_json(conditions),
                    "mutations": mutations})
            }
            Self::Delete { table, conditions } => {
                json!({"op": "delete", "table": table, "where": conditions_to_json(conditions)})
            }
            Self::Wait {
                timeout,
                table,
                conditions,
                columns,
                until,
                rows,
            } => {
                let until = match until {
                    Until::Equal => "==",
                    Until::Different => "!=",
                };
                let rows: Value = rows.iter().map(columns_to_json).collect();
                let mut json = json!({"op": "wait", "table": table, "columns": columns,
                    "where": conditions_to_json(conditions), "until": until, "rows": rows});
                if let (Some(timeout), Some(object)) = (timeout, json.as_object_mut()) {
                    object.insert("timeout".to_owned(), json!(timeout));
                }
                json
            }
            Self::Commit { durability } => {
                json!({"op": "commit", "durable": *durability == Durability::Durable})
            }
            Self::Abort => json!({"op": "abort"}),
            Self::Comment(comment) => json!({"op": "comment", "comment": comment}),
            Self::Assert { lock } => json!({"op": "assert", "lock": lock}),
        }
    }
}

/// What an operation answered.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct OperationResult {
    /// Rows read, by `select`.
    pub rows: Vec<Columns>,
    /// Rows changed, by `update`, `mutate` and `delete`.
    pub count: u64,
    /// The new row, by `insert`.
    pub uuid: Option<Uuid>,
}

/// An error of one operation, or of the commit (RFC 7047 §4.1.3, §5.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OperationError {
    /// The operation's index; the number of operations for an error at commit.
    pub index: usize,
    /// The error's name: "constraint violation", "timed out", "aborted", …
    pub error: String,
    /// The server's explanation.
    pub details: String,
}

impl std::fmt::Display for OperationError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "operation {}: {}", self.index, self.error)?;
        if self.details.is_empty() {
            Ok(())
        } else {
            write!(f, ": {}", self.details)
        }
    }
}

/// Why the reply to a transaction was of no use, or said no.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ResultError {
    /// An operation, or the commit, failed: nothing was changed.
    #[error("the server refused it: {0}")]
    Refused(OperationError),
    /// The reply is not what RFC 7047 §4.1.3 says.
    #[error("the server's reply is malformed: {0}")]
    Malformed(String),
    /// A value in the reply cannot be read.
    #[error("column {column:?} of the reply cannot be read")]
    Value {
        /// The column.
        column: String,
        /// Why.
        #[source]
        source: ValueError,
    },
}

/// Reads the `result` of a `transact` reply for `operations` operations.
///
/// # Errors
/// When an operation failed, or the reply is malformed.
pub(crate) fn results(
    reply: &Value,
    operations: usize,
) -> Result<Vec<OperationResult>, ResultError> {
    let Some(replies) = reply.as_array() else {
        return Err(ResultError::Malformed(clip(&reply.to_string())));
    };
    if let Some((index, failed)) = replies
        .iter()
        .enumerate()
        .find(|(_, reply)| reply.get("error").is_some())
    {
        let text = |member| {
            failed
                .get(member)
                .and_then(Value::as_str)
                .map(clip)
                .unwrap_or_default()
        };
        let (error, details) = (text("error"), text("details"));
        return Err(ResultError::Refused(OperationError {
            index,
            error,
            details,
        }));
    }
    if replies.len() != operations {
        let text = format!("{} results for {operations} operations", replies.len());
        return Err(ResultError::Malformed(text));
    }
    replies.iter().map(result).collect()
}

fn result(reply: &Value) -> Result<OperationResult, ResultError> {
    let mut result = OperationResult::default();
    if let Some(rows) = reply.get("rows").and_then(Value::as_array) {
        for row in rows {
            let row = row
                .as_object()
                .ok_or_else(|| ResultError::Malformed(format!("row {}", clip(&row.to_string()))))?;
            result.rows.push(columns(row)?);
        }
    }
    result.count = reply
        .get("count")
        .and_then(Value::as_u64)
        .unwrap_or_default();
    if let Some(uuid) = reply.get("uuid") {
        let atom = Atom::from_json(uuid).map_err(|source| ResultError::Value {
            column: "uuid".to_owned(),
            source,
        })?;
        let Atom::Uuid(uuid) = atom else {
            return Err(ResultError::Malformed(format!(
                "uuid {}",
                clip(&uuid.to_string())
            )));
        };
        result.uuid = Some(uuid);
    }
    Ok(result)
}

fn columns(row: &Map<String, Value>) -> Result<Columns, ResultError> {
    row.iter()
        .map(|(column, value)| match Datum::from_json(value) {
            Ok(datum) => Ok((column.clone(), datum)),
            Err(source) => Err(ResultError::Value {
                column: clip(column),
                source,
            }),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_is_written_as_the_rfc_says() {
        let name = NamedUuid::numbered(1);
        let row = Columns::from([("a".to_owned(), Datum::from(1))]);
        let by = vec![Condition::equal("name", "x")];
        let table = || "T".to_owned();
        let text = [
            Operation::Insert {
                table: table(),
                row: row.clone(),
                uuid_name: Some(name),
            },
            Operation::Select {
                table: table(),
                conditions: by.clone(),
                columns: vec!["a".into()],
            },
            Operation::Update {
                table: table(),
                conditions: by.clone(),
                row: row.clone(),
            },
            Operation::Mutate {
                table: table(),
                conditions: vec![],
                mutations: vec![Mutation::new("a", Mutator::Add, 1)],
            },
            Operation::Delete {
                table: table(),
                conditions: by,
            },
            Operation::Wait {
                timeout: Some(0),
                table: table(),
                conditions: vec![],
                columns: vec!["a".into()],
                until: Until::Different,
                rows: vec![row],
            },
            Operation::Commit {
                durability: Durability::Durable,
            },
            Operation::Abort,
            Operation::Comment("why".into()),
            Operation::Assert { lock: "l".into() },
        ]
        .map(|operation| operation.to_json().to_string())
        .join("\n");
        assert_eq!(
            text,
            r#"{"op":"insert","table":"T","row":{"a":1},"uuid-name":"row1"}
{"op":"select","table":"T","where":[["name","==","x"]],"columns":["a"]}
{"op":"update","table":"T","where":[["name","==","x"]],"row":{"a":1}}
{"op":"mutate","table":"T","where":[],"mutations":[["a","+=",1]]}
{"op":"delete","table":"T","where":[["name","==","x"]]}
{"op":"wait","table":"T","columns":["a"],"where":[],"until":"!=","rows":[{"a":1}],"timeout":0}
{"op":"commit","durable":true}
{"op":"abort"}
{"op":"comment","comment":"why"}
{"op":"assert","lock":"l"}"#
        );
    }

    #[test]
    fn replies_are_read_or_refused() {
        let read = |text: &str, n| results(&serde_json::from_str(text).unwrap(), n);
        let good = read(
            r#"[{"uuid":["uuid","00000000-0000-0000-0000-000000000001"]},{"count":2},{}]"#,
            3,
        );
        let good = good.unwrap();
        assert_eq!(good[0].uuid, Some(Uuid::from_u128(1)));
        assert_eq!(good[1].count, 2);
        let refused = read(
            r#"[{},{"error":"constraint violation","details":"no"},null]"#,
            3,
        );
        assert_eq!(
            refused.unwrap_err().to_string(),
            "the server refused it: operation 1: constraint violation: no"
        );
        assert!(read("[{}]", 2).is_err());
        assert!(read("{}", 0).is_err());
        assert!(read(r#"[{"rows":[1]}]"#, 1).is_err());
        assert!(read(r#"[{"rows":[{"a":null}]}]"#, 1).is_err());
        assert!(read(r#"[{"uuid":1}]"#, 1).is_err());
    }
}
