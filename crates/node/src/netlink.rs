//! The route netlink socket of one network namespace.

use std::fmt;
use std::io;
use std::sync::Arc;

use futures::{Stream, StreamExt};
use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_proto::ConnectionHandle;
use netlink_proto::sys::{SocketAddr, TokioSocket, protocols::NETLINK_ROUTE};
use nix::errno::Errno;
use tokio::time::timeout;

use crate::namespace::{Namespace, NamespaceError};
use crate::raw::ANSWER_LIMIT;

/// Set by the kernel when what it dumped changed meanwhile.
const NLM_F_DUMP_INTR: u16 = 0x10;
/// How often an interrupted dump is asked for again.
const DUMP_ATTEMPTS: usize = 8;

/// A request the kernel refused, or that did not reach it.
#[derive(Debug, thiserror::Error)]
#[error("{operation}")]
pub struct NetlinkError {
    /// What was attempted, with its inputs.
    pub operation: String,
    /// The kernel's answer.
    #[source]
    pub source: io::Error,
}

impl NetlinkError {
    pub(crate) fn new(operation: impl Into<String>, errno: Errno) -> Self {
        Self {
            operation: operation.into(),
            source: errno.into(),
        }
    }

    fn errno(&self) -> Option<Errno> {
        self.source.raw_os_error().map(Errno::from_raw)
    }

    /// Whether what the request was about does not exist.
    pub fn is_not_found(&self) -> bool {
        matches!(
            self.errno(),
            Some(
                Errno::ENODEV | Errno::ENOENT | Errno::ESRCH | Errno::ENXIO | Errno::EADDRNOTAVAIL
            )
        )
    }

    /// Whether what the request would make exists already.
    pub fn is_exists(&self) -> bool {
        self.errno() == Some(Errno::EEXIST)
    }
}

/// Requests to the kernel's links, addresses, routes and neighbours of one namespace. Clones share
/// the socket; its task ends when the last one is dropped.
#[derive(Clone)]
pub struct Netlink {
    handle: ConnectionHandle<RouteNetlinkMessage>,
    /// One request at a time. The kernel handles a request while it is sent, under a lock of its own:
    /// nothing is gained by more. A second dump would be refused with EBUSY (the kernel's
    /// `__netlink_dump_start`), and whoever waits in a queue must not take that for a kernel that
    /// does not answer.
    asking: Arc<tokio::sync::Mutex<()>>,
}

impl fmt::Debug for Netlink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Netlink").finish_non_exhaustive()
    }
}

impl Netlink {
    /// Opens the namespace of the calling process. Needs a tokio runtime.
    pub fn open() -> io::Result<Self> {
        let (connection, handle, _unsolicited) = netlink_proto::new_connection_with_socket::<
            RouteNetlinkMessage,
            TokioSocket,
        >(NETLINK_ROUTE)?;
        tokio::spawn(connection);
        Ok(Self {
            handle,
            asking: Arc::default(),
        })
    }

    /// Opens another namespace.
    pub async fn open_in(namespace: &Namespace) -> Result<Self, NamespaceError> {
        let runtime = tokio::runtime::Handle::current();
        let opened = namespace
            .run(move || {
                // The socket belongs to the namespace it is made in; the runtime polls it.
                let _entered = runtime.enter();
                Self::open()
            })
            .await?;
        opened.map_err(|source| NamespaceError::Enter {
            path: namespace.path().to_owned(),
            source,
        })
    }

    /// Sends a request that changes something and waits for the acknowledgement.
    pub(crate) async fn change(
        &self,
        message: RouteNetlinkMessage,
        flags: u16,
        operation: impl FnOnce() -> String,
    ) -> Result<(), NetlinkError> {
        self.exchange(message, NLM_F_REQUEST | NLM_F_ACK | flags)
            .await
            .map(drop)
            .map_err(|source| NetlinkError {
                operation: operation(),
                source,
            })
    }

    /// Asks for one object.
    pub(crate) async fn get(
        &self,
        message: RouteNetlinkMessage,
        operation: impl FnOnce() -> String,
    ) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
        self.exchange(message, NLM_F_REQUEST)
            .await
            .map(|(messages, _)| messages)
            .map_err(|source| NetlinkError {
                operation: operation(),
                source,
            })
    }

    /// Asks for all objects of a kind; again when they changed while they were listed.
    pub(crate) async fn dump(
        &self,
        message: RouteNetlinkMessage,
        operation: impl FnOnce() -> String,
    ) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
        for _ in 0..DUMP_ATTEMPTS {
            match self
                .exchange(message.clone(), NLM_F_REQUEST | NLM_F_DUMP)
                .await
            {
                Ok((messages, Consistency::Whole)) => return Ok(messages),
                Ok((_, Consistency::Interrupted)) => {}
                Err(source) => {
                    return Err(NetlinkError {
                        operation: operation(),
                        source,
                    });
                }
            }
        }
        let source = io::Error::other("it kept changing while it was listed");
        Err(NetlinkError {
            operation: operation(),
            source,
        })
    }

    async fn exchange(
        &self,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> io::Result<(Vec<RouteNetlinkMessage>, Consistency)> {
        let _turn = self.asking.lock().await;
        let mut request = NetlinkMessage::from(message);
        request.header.flags = flags;
        let response = self
            .handle
            .request(request, SocketAddr::new(0, 0))
            .map_err(|error| io::Error::other(error.to_string()))?;
        collect(response).await
    }
}

/// Every message of a response, each within [`ANSWER_LIMIT`] of the one before.
async fn collect(
    mut response: impl Stream<Item = NetlinkMessage<RouteNetlinkMessage>> + Unpin,
) -> io::Result<(Vec<RouteNetlinkMessage>, Consistency)> {
    let mut messages = Vec::new();
    let mut consistency = Consistency::Whole;
    while let Some(reply) = timeout(ANSWER_LIMIT, response.next()).await.map_err(|_| {
        let message = format!("the kernel did not answer within {ANSWER_LIMIT:?}");
        io::Error::new(io::ErrorKind::TimedOut, message)
    })? {
        if reply.header.flags & NLM_F_DUMP_INTR != 0 {
            consistency = Consistency::Interrupted;
        }
        match reply.payload {
            NetlinkPayload::Error(error) if error.code.is_some() => return Err(error.to_io()),
            NetlinkPayload::InnerMessage(inner) => messages.push(inner),
            _ => {}
        }
    }
    Ok((messages, consistency))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Consistency {
    Whole,
    Interrupted,
}

/// What making the kernel equal to a desired set did. What failed does not stop the rest.
#[derive(Debug)]
pub struct Outcome<T> {
    /// Made, or changed in place.
    pub added: Vec<T>,
    /// Taken away.
    pub removed: Vec<T>,
    /// What the kernel refused.
    pub failed: Vec<NetlinkError>,
}

impl<T> Default for Outcome<T> {
    fn default() -> Self {
        Self {
            added: Vec::new(),
            removed: Vec::new(),
            failed: Vec::new(),
        }
    }
}

impl<T> Outcome<T> {
    /// Whether the kernel already was as desired.
    pub fn is_unchanged(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty() && self.failed.is_empty()
    }

    pub(crate) fn record_add(&mut self, item: T, result: Result<(), NetlinkError>) {
        match result {
            Ok(()) => self.added.push(item),
            Err(error) => self.failed.push(error),
        }
    }

    pub(crate) fn record_remove(&mut self, item: T, result: Result<(), NetlinkError>) {
        match result {
            Ok(()) => self.removed.push(item),
            // Somebody else was faster.
            Err(error) if error.is_not_found() => self.removed.push(item),
            Err(error) => self.failed.push(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_lost_answer_is_an_error_and_no_hang() {
        let error = collect(futures::stream::pending()).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{error}");
    }
}
