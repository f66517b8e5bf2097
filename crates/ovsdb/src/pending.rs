//! What the connection's task waits for.

use std::sync::Arc;

use serde_json::Value;
use tokio::sync::oneshot;

use crate::client::RequestError;
use crate::monitor::MonitorState;

/// What an awaited answer is for.
#[derive(Debug)]
pub(crate) enum Pending {
    Schema,
    Probe,
    Call {
        number: u64,
        reply: oneshot::Sender<Result<Value, RequestError>>,
    },
    Lock {
        name: String,
        /// `None` when asked for again after a reconnect.
        reply: Option<oneshot::Sender<Result<(), RequestError>>>,
    },
    Monitor {
        state: Arc<MonitorState>,
        method: MonitorMethod,
        /// `None` when set up again after a reconnect.
        reply: Option<oneshot::Sender<Result<(), RequestError>>>,
    },
    /// Nobody waits for it.
    Ending,
}

/// The monitor methods, newest first; an older server refuses the newer ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MonitorMethod {
    CondSince,
    Cond,
    Rfc7047,
}

impl MonitorMethod {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::CondSince => "monitor_cond_since",
            Self::Cond => "monitor_cond",
            Self::Rfc7047 => "monitor",
        }
    }

    pub(crate) fn older(self) -> Option<Self> {
        match self {
            Self::CondSince => Some(Self::Cond),
            Self::Cond => Some(Self::Rfc7047),
            Self::Rfc7047 => None,
        }
    }
}
