//! One session: pairs replies with requests, answers echoes, hands packets on.

use std::io;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use rustc_hash::FxHashMap;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tracing::{debug, trace, warn};

use super::error::RequestError;
use super::queue::{Notice, NoticeSender, PacketInSender};
use crate::id::Xid;
use crate::message::multipart::MultipartBody;
use crate::message::{
    ErrorMessage, Features, HEADER, Header, Message, MultipartRequest, PacketIn2,
};

/// Chunks of requests that wait to be written: 32 × 64 KiB is what a socket takes a few times.
const OUTGOING: usize = 32;
/// Replies to echoes that wait to be written; a switch that asks more often gets fewer.
const ECHOES: usize = 16;
/// Errors about one bundle that are kept.
const BUNDLE_ERRORS: usize = 8;
/// Bytes read at once.
const READ: usize = 256 << 10;

type Answer = Result<Message, RequestError>;
type Parts = Result<Vec<MultipartBody>, RequestError>;

/// Who waits for what.
#[derive(Debug)]
enum Waiting {
    One(oneshot::Sender<Answer>),
    Many {
        parts: Vec<MultipartBody>,
        bytes: usize,
        limit: usize,
        sender: oneshot::Sender<Parts>,
    },
}

/// Errors about the messages of a bundle.
#[derive(Debug)]
struct BundleErrors {
    first: u32,
    count: u32,
    errors: Vec<(usize, ErrorMessage)>,
}

#[derive(Debug, Default)]
struct Table {
    closed: bool,
    waiting: FxHashMap<u32, Waiting>,
    bundle: Option<BundleErrors>,
}

/// A session as requests see it.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) generation: u64,
    pub(super) features: Features,
    outgoing: mpsc::Sender<Vec<u8>>,
    table: Mutex<Table>,
    next_xid: AtomicU32,
    /// Replies that nobody waited for: late ones.
    unclaimed: AtomicU64,
}

/// The other end of a session's queues.
pub(super) struct Ends {
    outgoing: mpsc::Receiver<Vec<u8>>,
}

/// Removes a request's entry when its caller gives up.
struct Guard<'a> {
    session: &'a Session,
    xid: u32,
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        self.session.lock().waiting.remove(&self.xid);
    }
}

impl Session {
    pub(super) fn new(generation: u64, features: Features) -> (Arc<Self>, Ends) {
        let (sender, outgoing) = mpsc::channel(OUTGOING);
        let session = Self {
            generation,
            features,
            outgoing: sender,
            table: Mutex::default(),
            // The handshake used the first few.
            next_xid: AtomicU32::new(16),
            unclaimed: AtomicU64::new(0),
        };
        (Arc::new(session), Ends { outgoing })
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        // Nothing panics while it is held; if something did, the table is still whole.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `count` transaction ids in a row; the first.
    pub(super) fn xids(&self, count: u32) -> u32 {
        let step = |next: u32| match next.checked_add(count) {
            Some(after) => Some(after),
            // Around the end: start anew, behind the handshake's.
            None => 16_u32.checked_add(count),
        };
        let previous = self
            .next_xid
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, step);
        match previous {
            Ok(first) if first.checked_add(count).is_some() => first,
            _ => 16,
        }
    }

    /// Queues bytes of whole messages; waits for room.
    pub(super) async fn send(&self, bytes: Vec<u8>) -> Result<(), RequestError> {
        self.outgoing
            .send(bytes)
            .await
            .map_err(|_| RequestError::Disconnected)
    }

    /// A request with one reply.
    pub(super) async fn request(
        &self,
        message: &Message,
        what: &'static str,
        limit: Duration,
    ) -> Answer {
        let xid = self.xids(1);
        let bytes = encode(message, xid, what)?;
        let (sender, receiver) = oneshot::channel();
        self.wait_for(xid, Waiting::One(sender))?;
        let _guard = Guard { session: self, xid };
        let exchange = async {
            self.send(bytes).await?;
            receiver.await.map_err(|_| RequestError::Disconnected)?
        };
        match timeout(limit, exchange).await {
            Ok(answer) => named(answer, what),
            Err(_) => Err(RequestError::Timeout { what, after: limit }),
        }
    }

    /// A message without a reply but an error, and a barrier behind it.
    pub(super) async fn order(
        &self,
        message: &Message,
        what: &'static str,
        limit: Duration,
    ) -> Result<(), RequestError> {
        let xid = self.xids(2);
        let barrier = xid + 1;
        let mut bytes = encode(message, xid, what)?;
        bytes.extend(encode(&Message::BarrierRequest, barrier, what)?);
        let (sender, mut refused) = oneshot::channel();
        self.wait_for(xid, Waiting::One(sender))?;
        let _guard = Guard { session: self, xid };
        let (sender, done) = oneshot::channel();
        self.wait_for(barrier, Waiting::One(sender))?;
        let _second = Guard {
            session: self,
            xid: barrier,
        };
        let exchange = async {
            self.send(bytes).await?;
            done.await.map_err(|_| RequestError::Disconnected)?
        };
        match timeout(limit, exchange).await {
            Ok(answer) => named(answer, what)?,
            Err(_) => return Err(RequestError::Timeout { what, after: limit }),
        };
        // The switch answers in order: an error is there before the barrier's reply.
        match refused.try_recv() {
            Ok(answer) => named(answer, what).map(|_| ()),
            Err(_) => Ok(()),
        }
    }

    /// A request with an answer in parts. The timeout is for each 64 KiB of silence.
    pub(super) async fn multipart(
        &self,
        request: &MultipartRequest,
        limit: usize,
        patience: Duration,
    ) -> Parts {
        let what = "multipart";
        let xid = self.xids(1);
        let bytes = encode(&Message::MultipartRequest(request.clone()), xid, what)?;
        let (sender, mut receiver) = oneshot::channel();
        self.wait_for(
            xid,
            Waiting::Many {
                parts: Vec::new(),
                bytes: 0,
                limit,
                sender,
            },
        )?;
        let _guard = Guard { session: self, xid };
        match timeout(patience, self.send(bytes)).await {
            Ok(sent) => sent?,
            Err(_) => {
                return Err(RequestError::Timeout {
                    what,
                    after: patience,
                });
            }
        }
        let mut seen = 0;
        loop {
            if let Ok(answer) = timeout(patience, &mut receiver).await {
                return answer.map_err(|_| RequestError::Disconnected)?;
            }
            // A large answer may take longer as long as it goes on.
            let now = self.received(xid);
            if now == seen {
                return Err(RequestError::Timeout {
                    what,
                    after: patience,
                });
            }
            seen = now;
        }
    }

    fn received(&self, xid: u32) -> usize {
        match self.lock().waiting.get(&xid) {
            Some(Waiting::Many { bytes, .. }) => *bytes,
            _ => 0,
        }
    }

    fn wait_for(&self, xid: u32, waiting: Waiting) -> Result<(), RequestError> {
        let mut table = self.lock();
        if table.closed {
            return Err(RequestError::Disconnected);
        }
        table.waiting.insert(xid, waiting);
        Ok(())
    }

    /// From now on errors about these transaction ids are kept for [`Self::end_bundle`].
    pub(super) fn begin_bundle(&self, first: u32, count: u32) {
        self.lock().bundle = Some(BundleErrors {
            first,
            count,
            errors: Vec::new(),
        });
    }

    /// The errors about messages of the bundle, by their place in it.
    pub(super) fn end_bundle(&self) -> Vec<(usize, ErrorMessage)> {
        self.lock()
            .bundle
            .take()
            .map(|bundle| bundle.errors)
            .unwrap_or_default()
    }

    /// Whether it has ended: it takes no more requests.
    pub(super) fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// Ends all requests.
    pub(super) fn close(&self) {
        let mut table = self.lock();
        table.closed = true;
        table.waiting.clear();
    }

    fn dispatch(&self, xid: u32, length: usize, message: Answer) {
        let mut table = self.lock();
        if let Ok(Message::Error(error)) = &message
            && let Some(bundle) = &mut table.bundle
            && let Some(index) = xid.checked_sub(bundle.first)
            && index < bundle.count
        {
            if bundle.errors.len() < BUNDLE_ERRORS
                && let Ok(index) = usize::try_from(index)
            {
                bundle.errors.push((index, error.clone()));
            }
            return;
        }
        let Some(waiting) = table.waiting.remove(&xid) else {
            drop(table);
            self.unclaimed.fetch_add(1, Ordering::Relaxed);
            if let Ok(Message::Error(error)) = message {
                warn!(xid, error = %error.name, "an error nobody waits for");
            } else {
                debug!(xid, "a reply nobody waits for");
            }
            return;
        };
        // A receiver that is gone has given up.
        match (waiting, message) {
            (Waiting::One(sender), answer) => drop(sender.send(answer)),
            (
                Waiting::Many {
                    mut parts,
                    bytes,
                    limit,
                    sender,
                },
                answer,
            ) => match answer {
                Ok(Message::MultipartReply(reply)) => {
                    let bytes = bytes + length;
                    if bytes > limit {
                        drop(sender.send(Err(RequestError::TooMuch { limit })));
                        return;
                    }
                    parts.push(reply.body);
                    if reply.more {
                        table.waiting.insert(
                            xid,
                            Waiting::Many {
                                parts,
                                bytes,
                                limit,
                                sender,
                            },
                        );
                    } else {
                        drop(sender.send(Ok(parts)));
                    }
                }
                Ok(Message::Error(error)) => {
                    drop(sender.send(Err(RequestError::Refused {
                        what: "multipart",
                        error,
                    })));
                }
                Ok(_) => drop(sender.send(Err(RequestError::Unexpected { what: "multipart" }))),
                Err(error) => drop(sender.send(Err(error))),
            },
        }
    }
}

/// Turns an error message into an error.
fn named(answer: Answer, what: &'static str) -> Answer {
    match answer {
        Ok(Message::Error(error)) => Err(RequestError::Refused { what, error }),
        other => other,
    }
}

fn encode(message: &Message, xid: u32, what: &'static str) -> Result<Vec<u8>, RequestError> {
    let mut bytes = Vec::with_capacity(64);
    match message.encode(Xid(xid), &mut bytes) {
        Ok(()) => Ok(bytes),
        Err(source) => Err(RequestError::Encode { what, source }),
    }
}

/// Runs a session until the socket ends or the switch is silent too long.
pub(super) async fn run(
    session: &Session,
    ends: Ends,
    (mut reader, buffer): (OwnedReadHalf, BytesMut),
    mut writer: OwnedWriteHalf,
    (packet_ins, notices): (&PacketInSender, &NoticeSender),
    echo_interval: Duration,
) -> io::Error {
    let (echoes, echo_receiver) = mpsc::channel(ECHOES);
    let heard = Mutex::new(Instant::now());
    let hear = || *heard.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    let reading = read(
        session,
        &mut reader,
        buffer,
        packet_ins,
        notices,
        &echoes,
        &hear,
    );
    let writing = write(&mut writer, ends.outgoing, echo_receiver);
    let watching = async {
        let mut ticks = interval(echo_interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let silent = heard
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .elapsed();
            if silent >= echo_interval * 3 {
                return io::Error::new(io::ErrorKind::TimedOut, "the switch is silent");
            }
            if silent >= echo_interval {
                let xid = Xid(session.xids(1));
                let mut bytes = Vec::new();
                // Eight bytes always fit.
                if Message::EchoRequest(Vec::new())
                    .encode(xid, &mut bytes)
                    .is_ok()
                {
                    // No room: something else is being written, which is as good.
                    echoes.try_send(bytes).ok();
                }
            }
        }
    };
    let end = tokio::select! {
        end = reading => end,
        end = writing => end,
        end = watching => end,
    };
    session.close();
    end
}

async fn write(
    writer: &mut OwnedWriteHalf,
    mut outgoing: mpsc::Receiver<Vec<u8>>,
    mut echoes: mpsc::Receiver<Vec<u8>>,
) -> io::Error {
    loop {
        let bytes = tokio::select! {
            biased;
            Some(bytes) = echoes.recv() => bytes,
            Some(bytes) = outgoing.recv() => bytes,
            else => return io::ErrorKind::BrokenPipe.into(),
        };
        if let Err(error) = writer.write_all(&bytes).await {
            return error;
        }
    }
}

async fn read(
    session: &Session,
    reader: &mut OwnedReadHalf,
    mut buffer: BytesMut,
    packet_ins: &PacketInSender,
    notices: &NoticeSender,
    echoes: &mpsc::Sender<Vec<u8>>,
    hear: &impl Fn(),
) -> io::Error {
    loop {
        while let Some(header) = next(&buffer) {
            let header = match header {
                Ok(header) => header,
                Err(error) => return error,
            };
            let length = usize::from(header.length);
            if buffer.len() < length {
                break;
            }
            let frame = buffer.get(..length).unwrap_or_default();
            take(session, header, frame, packet_ins, notices, echoes);
            buffer.advance(length);
        }
        buffer.reserve(READ);
        match reader.read_buf(&mut buffer).await {
            Ok(0) => return io::ErrorKind::UnexpectedEof.into(),
            Ok(count) => trace!(count, "read"),
            Err(error) => return error,
        }
        hear();
    }
}

/// The header of the next message, once it is there.
pub(super) fn next(buffer: &[u8]) -> Option<Result<Header, io::Error>> {
    let head = buffer.get(..HEADER)?;
    // A wrong length leaves no way to find the next message.
    Some(Header::decode(head).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error)))
}

fn take(
    session: &Session,
    header: Header,
    frame: &[u8],
    packet_ins: &PacketInSender,
    notices: &NoticeSender,
    echoes: &mpsc::Sender<Vec<u8>>,
) {
    let xid = header.xid.0;
    let message = match Message::decode(frame) {
        Ok((_, message)) => message,
        Err(error) => {
            debug!(xid, %error, "a message cannot be read");
            session.dispatch(xid, frame.len(), Err(RequestError::Decode(error)));
            return;
        }
    };
    match message {
        Message::EchoRequest(data) => {
            let mut bytes = Vec::new();
            if Message::EchoReply(data)
                .encode(header.xid, &mut bytes)
                .is_ok()
            {
                echoes.try_send(bytes).ok();
            }
        }
        Message::EchoReply(_) | Message::Hello(_) => {}
        Message::PacketIn2(packet) => packet_ins.offer(packet),
        Message::PacketIn(packet) => packet_ins.offer(PacketIn2 {
            packet: packet.data,
            full_len: Some(packet.total_len.into()),
            table: packet.table,
            cookie: packet.cookie,
            reason: packet.reason,
            metadata: packet.metadata,
            ..PacketIn2::default()
        }),
        Message::FlowRemoved(removed) => notices.offer(Notice::FlowRemoved(removed)),
        Message::PortStatus(status) => notices.offer(Notice::PortStatus(status)),
        other => session.dispatch(xid, frame.len(), Ok(other)),
    }
}
