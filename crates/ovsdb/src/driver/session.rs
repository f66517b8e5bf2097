//! One connection of the driver: what is sent, what waits for an answer, what came.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::BytesMut;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until};
use tracing::{debug, info, trace};
use uuid::Uuid;

use super::{Command, Driver, End, Ended, LockState};
use crate::cache::UpdateFormat;
use crate::client::{Connection, RequestError, SessionError};
use crate::frame::Framer;
use crate::lock::Taking;
use crate::message::{self, Message, words};
use crate::monitor::{MonitorState, Scope};
use crate::pending::{MonitorMethod, Pending};
use crate::schema::Schema;
use crate::value::clip;

/// Bytes waiting to be sent above which no more requests are taken.
const OUTGOING: usize = 1 << 20;
/// Bytes waiting to be sent above which the server counts as dead: it never read for that long.
const STUCK: usize = 4 << 20;
/// Requests without an answer above which no more are taken.
const IN_FLIGHT: usize = 256;
/// How much is read at once.
const CHUNK: usize = 64 << 10;

/// One connection.
pub(super) struct Session<'a> {
    driver: &'a mut Driver,
    stream: UnixStream,
    framer: Framer,
    outgoing: BytesMut,
    pending: HashMap<u64, Pending>,
    next_id: u64,
    schema: Option<Arc<Schema>>,
    method: MonitorMethod,
    probing: bool,
}

impl<'a> Session<'a> {
    pub(super) fn new(driver: &'a mut Driver, stream: UnixStream) -> Self {
        let framer = Framer::new(driver.options.max_message);
        Self {
            driver,
            stream,
            framer,
            outgoing: BytesMut::new(),
            pending: HashMap::new(),
            next_id: 1,
            schema: None,
            method: MonitorMethod::CondSince,
            probing: false,
        }
    }

    pub(super) async fn run(mut self) -> End {
        let end = match self.serve().await {
            Ok(()) => End::Done,
            Err(error) => End::Lost(error),
        };
        // Answers that will never come. A monitor whose first content never came is set up again on
        // the next connection and its caller waits for that.
        for (_, pending) in self.pending.drain() {
            match pending {
                Pending::Call { reply, .. } => {
                    reply.send(Err(RequestError::Disconnected)).ok();
                }
                Pending::Lock {
                    name,
                    reply: Some(reply),
                } => {
                    self.driver.locks.remove(&name);
                    reply.send(Err(RequestError::Disconnected)).ok();
                }
                Pending::Monitor {
                    state,
                    reply: Some(reply),
                    ..
                } => {
                    self.driver.monitors.remove(&state.id);
                    reply.send(Err(RequestError::Disconnected)).ok();
                }
                Pending::Monitor { .. }
                | Pending::Lock { .. }
                | Pending::Schema
                | Pending::Probe
                | Pending::Ending => {}
            }
        }
        for lock in self.driver.locks.values() {
            lock.held.send_replace(false);
        }
        end
    }

    async fn serve(&mut self) -> Result<(), SessionError> {
        let probe = self.driver.options.probe_interval;
        let database = json!([self.driver.options.database]);
        self.send("get_schema", &database, Pending::Schema);
        let mut heard = Instant::now();
        loop {
            let (mut reader, mut writer) = self.stream.split();
            // A request is taken only when it can be sent: until then it stays with its caller.
            let may_take = self.schema.is_some()
                && self.outgoing.len() < OUTGOING
                && self.pending.len() < IN_FLIGHT;
            if self.framer.buffer().capacity() - self.framer.buffer().len() < CHUNK / 2 {
                self.framer.buffer().reserve(CHUNK);
            }
            tokio::select! {
                read = reader.read_buf(self.framer.buffer()) => {
                    if read.map_err(SessionError::Read)? == 0 {
                        return Err(SessionError::Closed);
                    }
                    heard = Instant::now();
                    while let Some(bytes) = self.framer.next_message()? {
                        trace!(message = %String::from_utf8_lossy(&bytes), "received");
                        self.receive(Message::parse(&bytes)?)?;
                    }
                    if self.outgoing.len() > STUCK {
                        return Err(SessionError::Stuck(self.outgoing.len()));
                    }
                }
                wrote = writer.write_buf(&mut self.outgoing), if !self.outgoing.is_empty() => {
                    wrote.map_err(SessionError::Write)?;
                }
                command = self.driver.commands.recv(), if may_take => match command {
                    Some(command) => self.command(command),
                    None => return Ok(()),
                },
                ended = self.driver.ended.recv() => match ended {
                    Some(ended) => self.end(ended),
                    None => return Ok(()),
                },
                () = sleep_until(heard + probe), if !self.probing => {
                    self.probing = true;
                    self.send("echo", &json!([]), Pending::Probe);
                }
                () = sleep_until(heard + probe * 2), if self.probing => {
                    return Err(SessionError::Silent);
                }
            }
        }
    }

    fn send(&mut self, method: &str, params: &Value, pending: Pending) {
        let id = self.next_id;
        self.next_id += 1;
        let text = message::request(method, params, id);
        trace!(message = %text, "sent");
        self.outgoing.extend_from_slice(text.as_bytes());
        self.pending.insert(id, pending);
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Call {
                number,
                method,
                params,
                reply,
            } => {
                if reply.is_closed() {
                    return;
                }
                let id = self.next_id;
                let text = message::request(method, &params, id);
                let (length, limit) = (text.len(), self.driver.options.max_message);
                if length > limit {
                    reply
                        .send(Err(RequestError::TooLong { length, limit }))
                        .ok();
                    return;
                }
                trace!(message = %text, "sent");
                self.next_id += 1;
                self.outgoing.extend_from_slice(text.as_bytes());
                self.pending.insert(id, Pending::Call { number, reply });
            }
            Command::Monitor { state, reply } => {
                if !reply.is_closed() {
                    self.driver.monitors.insert(state.id, state.clone());
                    self.monitor(state, self.method, Some(reply));
                }
            }
            Command::Lock {
                id,
                name,
                taking,
                held,
                reply,
            } => {
                if reply.is_closed() {
                    return;
                }
                if self.driver.locks.contains_key(&name) {
                    let error = format!("this client has asked for lock {name:?} already");
                    reply.send(Err(RequestError::Refused { error })).ok();
                    return;
                }
                self.driver
                    .locks
                    .insert(name.clone(), LockState { id, held });
                self.lock(name, taking, Some(reply));
            }
        }
    }

    fn lock(
        &mut self,
        name: String,
        taking: Taking,
        reply: Option<oneshot::Sender<Result<(), RequestError>>>,
    ) {
        let params = json!([name]);
        self.send(taking.method(), &params, Pending::Lock { name, reply });
    }

    fn monitor(
        &mut self,
        state: Arc<MonitorState>,
        method: MonitorMethod,
        reply: Option<oneshot::Sender<Result<(), RequestError>>>,
    ) {
        let Some(schema) = self.schema.clone() else {
            return;
        };
        let mut params = vec![
            json!(self.driver.options.database),
            json!(state.id),
            state.request.to_json(&schema),
        ];
        if method == MonitorMethod::CondSince {
            params.push(json!(state.last_txn().to_string()));
        }
        self.send(
            method.name(),
            &Value::Array(params),
            Pending::Monitor {
                state,
                method,
                reply,
            },
        );
    }

    /// Tells the server what is no longer needed.
    fn end(&mut self, ended: Ended) {
        match ended {
            Ended::Monitor(id) => {
                if self.driver.monitors.remove(&id).is_some() {
                    self.send("monitor_cancel", &json!([id]), Pending::Ending);
                }
            }
            Ended::Lock(id) => {
                let mut named = self.driver.locks.iter();
                let Some((name, _)) = named.find(|(_, lock)| lock.id == id) else {
                    return;
                };
                let name = name.clone();
                self.driver.locks.remove(&name);
                self.send("unlock", &json!([name]), Pending::Ending);
            }
            Ended::Call(number) => {
                let given_up = |pending: &Pending| matches!(pending, Pending::Call { number: n, .. } if *n == number);
                let id = self.pending.iter().find(|(_, pending)| given_up(pending));
                if let Some(id) = id.map(|(id, _)| *id) {
                    // Open vSwitch 3.1 never answers a request that it cancelled: its place must
                    // not stay taken. An answer that comes nevertheless is one to no request.
                    self.pending.remove(&id);
                    let text = message::notification("cancel", &json!([id]));
                    self.outgoing.extend_from_slice(text.as_bytes());
                }
            }
        }
    }

    fn receive(&mut self, message: Message) -> Result<(), SessionError> {
        match message {
            Message::Response { id, result } => {
                let Some(pending) = self.pending.remove(&id) else {
                    debug!(id, "an answer to no request");
                    return Ok(());
                };
                self.answer(pending, result)
            }
            Message::Request { method, params, id } if method == "echo" => {
                let text = message::response(&params, &id);
                self.outgoing.extend_from_slice(text.as_bytes());
                Ok(())
            }
            Message::Notification { method, params } => self.notification(&method, params),
            Message::Request { method, .. } => {
                debug!(method, "a request of a kind not known");
                Ok(())
            }
            Message::Stray => Ok(()),
        }
    }

    fn answer(
        &mut self,
        pending: Pending,
        result: Result<Value, Value>,
    ) -> Result<(), SessionError> {
        match pending {
            Pending::Schema => {
                let reply = |text: &Value| clip(&text.to_string());
                let json = result.map_err(|e| SessionError::Reply {
                    method: "get_schema",
                    text: reply(&e),
                })?;
                self.connected(Schema::from_json(&json)?);
            }
            Pending::Probe => self.probing = false,
            Pending::Ending => {}
            Pending::Lock { name, reply } => self.locked(&name, reply, result),
            Pending::Call { reply, .. } => {
                let result = result.map_err(|error| RequestError::Refused {
                    error: words(&error),
                });
                reply.send(result).ok();
            }
            Pending::Monitor {
                state,
                method,
                reply,
            } => match (result, method.older()) {
                (Ok(content), _) => {
                    self.content(&state, method, &content)?;
                    if let Some(reply) = reply {
                        reply.send(Ok(())).ok();
                    }
                }
                (Err(error), Some(older)) if words(&error).contains("unknown method") => {
                    self.method = older;
                    self.monitor(state, older, reply);
                }
                (Err(error), _) => {
                    let error = words(&error);
                    let Some(reply) = reply else {
                        return Err(SessionError::Reply {
                            method: method.name(),
                            text: error,
                        });
                    };
                    self.driver.monitors.remove(&state.id);
                    reply.send(Err(RequestError::Refused { error })).ok();
                }
            },
        }
        Ok(())
    }

    /// The answer to `lock` and `steal`.
    fn locked(
        &mut self,
        name: &str,
        reply: Option<oneshot::Sender<Result<(), RequestError>>>,
        result: Result<Value, Value>,
    ) {
        // It may have been given back meanwhile.
        let Some(lock) = self.driver.locks.get(name) else {
            return;
        };
        let locked = match &result {
            Ok(answer) => answer.get("locked").and_then(Value::as_bool),
            Err(_) => None,
        };
        let answer = if let Some(locked) = locked {
            lock.held.send_replace(locked);
            Ok(())
        } else {
            self.driver.locks.remove(name);
            let (Ok(error) | Err(error)) = result;
            let error = words(&error);
            Err(RequestError::Refused { error })
        };
        if let Some(reply) = reply {
            reply.send(answer).ok();
        }
    }

    fn connected(&mut self, schema: Schema) {
        let schema = Arc::new(schema);
        self.schema = Some(schema.clone());
        // Before any request: a transaction's update then reaches every monitor.
        for state in self.driver.monitors.values().cloned().collect::<Vec<_>>() {
            self.monitor(state, self.method, None);
        }
        for name in self.driver.locks.keys().cloned().collect::<Vec<_>>() {
            self.lock(name, Taking::InTurn, None);
        }
        self.driver.generation += 1;
        let generation = self.driver.generation;
        info!(path = %self.driver.path.display(), generation, schema = %schema.version,
            "connected to ovsdb-server");
        self.driver
            .connection
            .send_replace(Connection::Connected { generation, schema });
    }

    /// The first answer of a monitor.
    fn content(
        &self,
        state: &MonitorState,
        method: MonitorMethod,
        content: &Value,
    ) -> Result<(), SessionError> {
        let Some(schema) = &self.schema else {
            return Ok(());
        };
        let malformed = || SessionError::Reply {
            method: method.name(),
            text: clip(&content.to_string()),
        };
        let updated = match method {
            MonitorMethod::CondSince => {
                let [Value::Bool(found), Value::String(txn), updates] = content
                    .as_array()
                    .map(Vec::as_slice)
                    .ok_or_else(malformed)?
                else {
                    return Err(malformed());
                };
                let scope = if *found { Scope::Delta } else { Scope::Whole };
                let txn = Uuid::parse_str(txn).map_err(|_| malformed())?;
                state.update(schema, UpdateFormat::Update2, scope, Some(txn), updates)
            }
            MonitorMethod::Cond => {
                state.update(schema, UpdateFormat::Update2, Scope::Whole, None, content)
            }
            MonitorMethod::Rfc7047 => {
                state.update(schema, UpdateFormat::Rfc7047, Scope::Whole, None, content)
            }
        };
        updated.map_err(|error| {
            state.forget();
            error.into()
        })
    }

    fn notification(&mut self, method: &str, params: Value) -> Result<(), SessionError> {
        let Value::Array(params) = params else {
            return Ok(());
        };
        let Some(schema) = &self.schema else {
            return Ok(());
        };
        let (id, txn, updates, format) = match (method, params.as_slice()) {
            ("update3", [id, txn, updates]) => {
                let txn = txn.as_str().and_then(|txn| Uuid::parse_str(txn).ok());
                (id, txn, updates, UpdateFormat::Update2)
            }
            ("update2", [id, updates]) => (id, None, updates, UpdateFormat::Update2),
            ("update", [id, updates]) => (id, None, updates, UpdateFormat::Rfc7047),
            // §4.1.11 and §4.1.12: an update of what the server said last.
            ("locked" | "stolen", [name]) => {
                let lock = name.as_str().and_then(|name| self.driver.locks.get(name));
                if let Some(lock) = lock {
                    lock.held.send_replace(method == "locked");
                }
                return Ok(());
            }
            ("monitor_canceled", [id]) => {
                let known = id
                    .as_u64()
                    .is_some_and(|id| self.driver.monitors.contains_key(&id));
                return if known {
                    Err(SessionError::MonitorCancelled)
                } else {
                    Ok(())
                };
            }
            _ => {
                debug!(method, "a notification of a kind not known");
                return Ok(());
            }
        };
        // Updates of a monitor just cancelled may still be on their way.
        let Some(state) = id.as_u64().and_then(|id| self.driver.monitors.get(&id)) else {
            return Ok(());
        };
        state
            .update(schema, format, Scope::Delta, txn, updates)
            .map_err(|error| {
                state.forget();
                error.into()
            })
    }
}
