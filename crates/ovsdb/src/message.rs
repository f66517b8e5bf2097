//! JSON-RPC 1.0 messages as OVSDB uses them (RFC 7047 §4).

use serde_json::{Value, json};

use crate::value::clip;

/// A message from the server.
#[derive(Debug, Clone, PartialEq)]
pub enum Message {
    /// An answer to one of our requests.
    Response {
        /// The request's number.
        id: u64,
        /// The result, or the error the server sent instead.
        result: Result<Value, Value>,
    },
    /// A request of the server's: only `echo` is used.
    Request {
        /// The method.
        method: String,
        /// Its parameters.
        params: Value,
        /// To be sent back as it is.
        id: Value,
    },
    /// A request without an answer: `update`, `update2`, `update3`, …
    Notification {
        /// The method.
        method: String,
        /// Its parameters.
        params: Value,
    },
    /// An answer to a request that was not ours (an id of another shape).
    Stray,
}

impl Message {
    /// Reads a message.
    ///
    /// # Errors
    /// When the bytes are not JSON or not a JSON-RPC message.
    pub fn parse(bytes: &[u8]) -> Result<Self, MessageError> {
        let value: Value =
            serde_json::from_slice(bytes).map_err(|source| MessageError::Json { source })?;
        let Value::Object(mut object) = value else {
            return Err(MessageError::Shape {
                text: clip(&value.to_string()),
            });
        };
        let id = object.remove("id").unwrap_or(Value::Null);
        if let Some(method) = object.remove("method") {
            let Value::String(method) = method else {
                return Err(MessageError::Shape {
                    text: clip(&method.to_string()),
                });
            };
            let params = object.remove("params").unwrap_or(Value::Null);
            return Ok(if id.is_null() {
                Self::Notification { method, params }
            } else {
                Self::Request { method, params, id }
            });
        }
        let error = object.remove("error").filter(|error| !error.is_null());
        let result = object.remove("result");
        match (id.as_u64(), error, result) {
            (Some(id), Some(error), _) => Ok(Self::Response {
                id,
                result: Err(error),
            }),
            (Some(id), None, Some(result)) => Ok(Self::Response {
                id,
                result: Ok(result),
            }),
            (None, _, _) if !id.is_null() => Ok(Self::Stray),
            _ => Err(MessageError::Shape {
                text: clip(&Value::Object(object).to_string()),
            }),
        }
    }
}

/// The text of a request.
pub(crate) fn request(method: &str, params: &Value, id: u64) -> String {
    json!({"method": method, "params": params, "id": id}).to_string()
}

/// The text of a notification.
pub(crate) fn notification(method: &str, params: &Value) -> String {
    json!({"method": method, "params": params, "id": null}).to_string()
}

/// The text of an answer.
pub(crate) fn response(result: &Value, id: &Value) -> String {
    json!({"result": result, "error": null, "id": id}).to_string()
}

/// The words of an error: a string, or an object with `error` and `details`.
pub(crate) fn words(error: &Value) -> String {
    let text = |member: &str| error.get(member).and_then(Value::as_str);
    match (error.as_str(), text("error"), text("details")) {
        (Some(words), _, _) => clip(words),
        (None, Some(error), Some(details)) => clip(&format!("{error}: {details}")),
        (None, Some(error), None) => clip(error),
        (None, None, _) => clip(&error.to_string()),
    }
}

/// Why bytes are not a message.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MessageError {
    /// Not JSON.
    #[error("a message is not JSON")]
    Json {
        /// Where and why.
        #[source]
        source: serde_json::Error,
    },
    /// Not JSON-RPC.
    #[error("a message is neither a request nor a response: {text}")]
    Shape {
        /// Its beginning.
        text: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_kinds_are_told_apart() {
        let parse = |text: &str| Message::parse(text.as_bytes());
        assert_eq!(
            parse(r#"{"id":3,"result":[],"error":null}"#).unwrap(),
            Message::Response {
                id: 3,
                result: Ok(json!([]))
            }
        );
        assert_eq!(
            parse(r#"{"id":3,"result":null,"error":"unknown method"}"#).unwrap(),
            Message::Response {
                id: 3,
                result: Err(json!("unknown method"))
            }
        );
        assert_eq!(
            parse(r#"{"id":"echo","method":"echo","params":[]}"#).unwrap(),
            Message::Request {
                method: "echo".into(),
                params: json!([]),
                id: json!("echo")
            }
        );
        assert_eq!(
            parse(r#"{"id":null,"method":"update3","params":[1]}"#).unwrap(),
            Message::Notification {
                method: "update3".into(),
                params: json!([1])
            }
        );
        assert_eq!(
            parse(r#"{"id":"x","result":1,"error":null}"#).unwrap(),
            Message::Stray
        );
        for bad in [
            "",
            "{",
            "[]",
            "{}",
            r#"{"id":1}"#,
            r#"{"method":1}"#,
            r#"{"id":null,"result":1}"#,
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        // Deeper than serde_json's limit: an error, no overflow of the stack.
        let deep = format!("{{\"id\":1,\"result\":{}", "[".repeat(100_000));
        assert!(parse(&deep).is_err());
    }
}
