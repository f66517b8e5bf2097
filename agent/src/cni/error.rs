//! Errors as a runtime reads them.

use carrick_k8s::telemetry::chain;
use serde_json::{Value, json};

/// Error codes of the CNI specification 1.1.0 ("Error"), and ours from 100 up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// 1: a version of the specification we do not speak.
    IncompatibleVersion,
    /// 4: an environment variable is missing or invalid.
    InvalidEnvironment,
    /// 5: reading or writing failed, the disk is full.
    Io,
    /// 6: something is not JSON.
    Decode,
    /// 7: the network configuration is invalid.
    InvalidConfig,
    /// 11: nothing is wrong with the request: try again.
    TryAgain,
    /// 50: ADD would fail now (STATUS).
    NotAvailable,
    /// 51: ADD would fail now, and pods that are there may not reach everything (STATUS).
    LimitedConnectivity,
    /// 100: the sandbox's interface could not be made or removed.
    Interface,
    /// 101: the switch refused the port.
    Switch,
    /// 102: the interface is not as ADD left it (CHECK).
    Check,
}

impl Code {
    /// The number on the wire.
    pub fn number(self) -> u32 {
        match self {
            Self::IncompatibleVersion => 1,
            Self::InvalidEnvironment => 4,
            Self::Io => 5,
            Self::Decode => 6,
            Self::InvalidConfig => 7,
            Self::TryAgain => 11,
            Self::NotAvailable => 50,
            Self::LimitedConnectivity => 51,
            Self::Interface => 100,
            Self::Switch => 101,
            Self::Check => 102,
        }
    }
}

/// A failed command.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}{}{details}", if details.is_empty() { "" } else { ": " })]
pub struct CniError {
    /// What kind.
    pub code: Code,
    /// In a few words; the kubelet shows it in the pod's event.
    pub message: String,
    /// The causes.
    pub details: String,
}

impl CniError {
    /// An error without more details.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            details: String::new(),
        }
    }

    /// An error with the chain of its causes.
    pub fn caused(
        code: Code,
        message: impl Into<String>,
        cause: &(dyn std::error::Error + 'static),
    ) -> Self {
        Self {
            code,
            message: message.into(),
            details: chain(cause),
        }
    }

    /// As it is printed.
    pub fn to_json(&self, version: &str) -> Value {
        let mut object = json!({
            "cniVersion": version,
            "code": self.code.number(),
            "msg": self.message,
        });
        if !self.details.is_empty()
            && let Some(object) = object.as_object_mut()
        {
            object.insert("details".to_owned(), Value::from(self.details.clone()));
        }
        object
    }
}
