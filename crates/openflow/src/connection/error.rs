//! What can go wrong with a connection.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;

use crate::error::{DecodeError, EncodeError};
use crate::message::ErrorMessage;

/// A session that was not established.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The socket cannot be opened.
    #[error("connect to {path}")]
    Open {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Reading or writing failed during the handshake.
    #[error("shake hands with {path}")]
    Handshake {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The handshake took too long.
    #[error("{path} did not shake hands within {after:?}")]
    Timeout {
        /// The socket.
        path: PathBuf,
        /// How long was waited.
        after: Duration,
    },
    /// The switch sent something that cannot be read.
    #[error("{path} sent an unreadable message")]
    Decode {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: DecodeError,
    },
    /// The switch does not speak OpenFlow 1.5.
    #[error("{path} speaks OpenFlow version byte {version:#04x} and not 1.5 (0x06)")]
    Version {
        /// The socket.
        path: PathBuf,
        /// The highest version it offers.
        version: u8,
    },
    /// The switch refused something.
    #[error("{path} refused the handshake: {}", error.name)]
    Refused {
        /// The socket.
        path: PathBuf,
        /// What it said.
        error: ErrorMessage,
    },
}

/// A request that was not answered as it should be.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RequestError {
    /// There is no session, or it ended before the answer came.
    #[error("not connected to the switch")]
    Disconnected,
    /// The answer took too long.
    #[error("{what}: no answer within {after:?}")]
    Timeout {
        /// The request.
        what: &'static str,
        /// How long was waited.
        after: Duration,
    },
    /// The switch refused it.
    #[error("{what} was refused: {}", error.name)]
    Refused {
        /// The request.
        what: &'static str,
        /// What it said.
        error: ErrorMessage,
    },
    /// It does not fit the wire.
    #[error("{what} cannot be sent")]
    Encode {
        /// The request.
        what: &'static str,
        /// Why.
        #[source]
        source: EncodeError,
    },
    /// The answer cannot be read.
    #[error("the answer cannot be read")]
    Decode(#[source] DecodeError),
    /// The answer is of another kind.
    #[error("{what}: the answer is of another kind")]
    Unexpected {
        /// The request.
        what: &'static str,
    },
    /// The answer is larger than allowed.
    #[error("the answer has more than {limit} bytes")]
    TooMuch {
        /// What is allowed.
        limit: usize,
    },
}

/// A bundle that was not applied, or of which that is not known.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BundleError {
    /// A modification does not fit the wire. Nothing was applied.
    #[error("modification {index} of the bundle cannot be sent")]
    Encode {
        /// Which, counted from 0.
        index: usize,
        /// Why.
        #[source]
        source: EncodeError,
    },
    /// The switch refused it. Nothing was applied.
    #[error("the bundle was refused: {}{}", error.name, At(*index))]
    Refused {
        /// Which modification, counted from 0, if it says.
        index: Option<usize>,
        /// What it said.
        error: ErrorMessage,
    },
    /// It was not committed. Nothing was applied.
    #[error("the bundle was not sent")]
    NotSent(#[source] RequestError),
    /// The commit was sent and no answer came: it is applied as a whole or not at all. Read back
    /// before anything is tried again.
    #[error("it is not known whether the bundle was applied")]
    Unknown(#[source] RequestError),
}

struct At(Option<usize>);

impl std::fmt::Display for At {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0
            .map_or(Ok(()), |index| write!(f, " (modification {index})"))
    }
}
