//! Connects, shakes hands, and connects again.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};

use super::Config;
use super::error::ConnectError;
use super::queue::{NoticeSender, PacketInSender};
use super::session::{self, Session};
use crate::id::Xid;
use crate::message::{
    ErrorMessage, ErrorName, Features, Hello, Message, PacketInFormat, SwitchConfig,
};

/// Owns the socket. Run it in a task and await that after dropping all
/// [`Connection`](super::Connection)s.
#[derive(Debug)]
pub struct Driver {
    config: Arc<Config>,
    session: watch::Sender<Option<Arc<Session>>>,
    packet_ins: PacketInSender,
    notices: NoticeSender,
}

impl Driver {
    pub(super) fn new(
        config: Arc<Config>,
        session: watch::Sender<Option<Arc<Session>>>,
        packet_ins: PacketInSender,
        notices: NoticeSender,
    ) -> Self {
        Self {
            config,
            session,
            packet_ins,
            notices,
        }
    }

    /// Keeps a session until the last [`Connection`](super::Connection) is dropped.
    pub async fn run(self) {
        // A receiver of its own would keep the channel open.
        let closed = self.session.clone();
        tokio::select! {
            () = closed.closed() => {}
            () = self.keep() => {}
        }
        if let Some(session) = self.session.send_replace(None) {
            session.close();
        }
    }

    async fn keep(&self) {
        let mut generation = 0;
        let mut wait = self.config.backoff;
        let mut told = false;
        loop {
            match self.connect().await {
                Ok((stream, buffer, features)) => {
                    generation += 1;
                    wait = self.config.backoff;
                    told = false;
                    info!(path = %self.config.path.display(), generation, "connected to the switch");
                    let end = self.serve(stream, buffer, features, generation).await;
                    warn!(path = %self.config.path.display(), generation, error = %end,
                        "the connection to the switch ended");
                }
                Err(error) => {
                    // A switch that is away is told once, not twice a second.
                    if told {
                        debug!(%error, "no connection to the switch");
                    } else {
                        let cause = std::error::Error::source(&error).map(ToString::to_string);
                        warn!(%error, cause, "no connection to the switch");
                        told = true;
                    }
                }
            }
            sleep(wait).await;
            wait = (wait * 2).min(self.config.backoff_limit);
        }
    }

    async fn serve(
        &self,
        stream: UnixStream,
        buffer: BytesMut,
        features: Features,
        generation: u64,
    ) -> io::Error {
        let (session, ends) = Session::new(generation, features);
        let (reader, writer) = stream.into_split();
        self.session.send_replace(Some(Arc::clone(&session)));
        let queues = (&self.packet_ins, &self.notices);
        let interval = self.config.echo_interval.max(Duration::from_millis(10));
        let end = session::run(&session, ends, (reader, buffer), writer, queues, interval).await;
        self.session.send_replace(None);
        end
    }

    async fn connect(&self) -> Result<(UnixStream, BytesMut, Features), ConnectError> {
        let path = || self.config.path.clone();
        let after = self.config.request_timeout;
        match timeout(after, self.shake_hands()).await {
            Ok(result) => result,
            Err(_) => Err(ConnectError::Timeout {
                path: path(),
                after,
            }),
        }
    }

    async fn shake_hands(&self) -> Result<(UnixStream, BytesMut, Features), ConnectError> {
        let path = || self.config.path.clone();
        let handshake = |source| ConnectError::Handshake {
            path: path(),
            source,
        };
        let mut stream = UnixStream::connect(&self.config.path)
            .await
            .map_err(|source| ConnectError::Open {
                path: path(),
                source,
            })?;
        let mut buffer = BytesMut::with_capacity(4096);
        send(&mut stream, &[Message::Hello(Hello::only_1_5())])
            .await
            .map_err(handshake)?;
        match self.receive(&mut stream, &mut buffer).await? {
            Message::Hello(hello) if hello.speaks_1_5() => {}
            Message::Hello(hello) => {
                // OFPHFC_INCOMPATIBLE, as the specification asks.
                let refusal = ErrorMessage {
                    name: ErrorName::Standard { kind: 0, code: 0 },
                    data: b"OpenFlow 1.5 only".to_vec(),
                };
                send(&mut stream, &[Message::Error(refusal)])
                    .await
                    .map_err(handshake)?;
                return Err(ConnectError::Version {
                    path: path(),
                    version: hello.version,
                });
            }
            Message::Error(error) => {
                return Err(ConnectError::Refused {
                    path: path(),
                    error,
                });
            }
            _ => return Err(handshake(io::ErrorKind::InvalidData.into())),
        }
        // Without a length to send, Open vSwitch sends no packets to service connections at all.
        let setup = [
            Message::FeaturesRequest,
            Message::SetConfig(SwitchConfig {
                flags: 0,
                miss_send_len: u16::MAX,
            }),
            Message::SetPacketInFormat(PacketInFormat::NICIRA2),
            Message::BarrierRequest,
        ];
        send(&mut stream, &setup).await.map_err(handshake)?;
        let mut features = None;
        loop {
            match self.receive(&mut stream, &mut buffer).await? {
                Message::FeaturesReply(reply) => features = Some(reply),
                Message::Error(error) => {
                    return Err(ConnectError::Refused {
                        path: path(),
                        error,
                    });
                }
                Message::EchoRequest(data) => {
                    send(&mut stream, &[Message::EchoReply(data)])
                        .await
                        .map_err(handshake)?;
                }
                Message::BarrierReply => break,
                // Packets may come already; these are early.
                _ => {}
            }
        }
        match features {
            Some(features) => Ok((stream, buffer, features)),
            None => Err(handshake(io::ErrorKind::InvalidData.into())),
        }
    }

    async fn receive(
        &self,
        stream: &mut UnixStream,
        buffer: &mut BytesMut,
    ) -> Result<Message, ConnectError> {
        let path = || self.config.path.clone();
        let handshake = |source| ConnectError::Handshake {
            path: path(),
            source,
        };
        loop {
            if let Some(header) = session::next(buffer) {
                let length = usize::from(header.map_err(handshake)?.length);
                if let Some(frame) = buffer.get(..length) {
                    let message = Message::decode(frame);
                    buffer.advance(length);
                    return match message {
                        Ok((_, message)) => Ok(message),
                        Err(source) => Err(ConnectError::Decode {
                            path: path(),
                            source,
                        }),
                    };
                }
            }
            if stream.read_buf(buffer).await.map_err(handshake)? == 0 {
                return Err(handshake(io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }
}

async fn send(stream: &mut UnixStream, messages: &[Message]) -> Result<(), io::Error> {
    let mut bytes = Vec::new();
    for (xid, message) in (1..).zip(messages) {
        message
            .encode(Xid(xid), &mut bytes)
            .map_err(io::Error::other)?;
    }
    stream.write_all(&bytes).await
}
