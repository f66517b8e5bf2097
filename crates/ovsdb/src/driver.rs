//! The task that owns the connection: connects, sets monitors up, matches answers to requests,
//! answers and sends echoes, and starts over when the connection is lost.
//!
//! Inputs: commands (bounded), ended monitors, the socket. Outputs: answers, caches, the state of the
//! connection. It ends when the last [`Client`](crate::client::Client) is dropped.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::sleep;
use tracing::{debug, warn};

use crate::client::{Connection, Options, RequestError, SessionError};
use crate::lock::Taking;
use crate::monitor::MonitorState;

mod session;

use session::Session;

/// What a client asks of the task.
#[derive(Debug)]
pub(crate) enum Command {
    Call {
        /// By which [`Ended::Call`] names it.
        number: u64,
        method: &'static str,
        params: Value,
        reply: oneshot::Sender<Result<Value, RequestError>>,
    },
    Monitor {
        state: Arc<MonitorState>,
        reply: oneshot::Sender<Result<(), RequestError>>,
    },
    Lock {
        id: u64,
        name: String,
        taking: Taking,
        held: watch::Sender<bool>,
        reply: oneshot::Sender<Result<(), RequestError>>,
    },
}

/// What its caller has no more use for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Ended {
    Monitor(u64),
    Lock(u64),
    Call(u64),
}

#[derive(Debug)]
pub(crate) struct Driver {
    path: PathBuf,
    options: Options,
    commands: mpsc::Receiver<Command>,
    ended: mpsc::UnboundedReceiver<Ended>,
    connection: watch::Sender<Connection>,
    monitors: BTreeMap<u64, Arc<MonitorState>>,
    /// Locks asked for, by name.
    locks: BTreeMap<String, LockState>,
    generation: u64,
}

#[derive(Debug)]
struct LockState {
    id: u64,
    held: watch::Sender<bool>,
}

/// How a connection ended.
enum End {
    /// Nobody needs it any more.
    Done,
    /// It was lost.
    Lost(SessionError),
}

impl Driver {
    pub(crate) fn new(
        path: PathBuf,
        options: Options,
        commands: mpsc::Receiver<Command>,
        ended: mpsc::UnboundedReceiver<Ended>,
        connection: watch::Sender<Connection>,
    ) -> Self {
        Self {
            path,
            options,
            commands,
            ended,
            connection,
            monitors: BTreeMap::new(),
            locks: BTreeMap::new(),
            generation: 0,
        }
    }

    pub(crate) async fn run(mut self) {
        let (first, longest) = self.options.backoff;
        let mut pause = first;
        loop {
            let before = self.generation;
            let error = match UnixStream::connect(&self.path).await {
                Ok(stream) => match Session::new(&mut self, stream).run().await {
                    End::Done => return,
                    End::Lost(error) => error,
                },
                Err(error) => SessionError::Connect(error),
            };
            let reason = reason(&error);
            if self.generation > before {
                warn!(path = %self.path.display(), %reason, "lost the connection to ovsdb-server");
                pause = first;
            } else {
                debug!(path = %self.path.display(), %reason, "no connection to ovsdb-server");
            }
            self.connection.send_replace(Connection::Disconnected {
                reason: reason.into(),
            });
            if self.pause(pause).await.is_break() {
                return;
            }
            pause = (pause * 2).min(longest);
        }
    }

    /// Waits before the next attempt; breaks when nobody is left. Requests wait in their channel.
    async fn pause(&mut self, pause: Duration) -> std::ops::ControlFlow<()> {
        let mut pause = pin!(sleep(pause));
        loop {
            tokio::select! {
                () = &mut pause => return std::ops::ControlFlow::Continue(()),
                ended = self.ended.recv() => match ended {
                    Some(Ended::Monitor(id)) => { self.monitors.remove(&id); }
                    Some(Ended::Lock(id)) => self.locks.retain(|_, lock| lock.id != id),
                    // It was never sent, or failed with its connection.
                    Some(Ended::Call(_)) => {}
                    None => return std::ops::ControlFlow::Break(()),
                },
            }
        }
    }
}

/// The chain of an error's causes in one line.
fn reason(error: &SessionError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
