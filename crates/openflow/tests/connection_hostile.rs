//! The connection against switches that misbehave: a socket of our own that answers as told.

#![expect(clippy::unwrap_used, reason = "tests say what they expect")]

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use carrick_openflow::connection::{BundleError, Config, Connection, RequestError, SyncError};
use carrick_openflow::message::multipart::MultipartBody;
use carrick_openflow::message::{
    BundleControl, ControlType, Features, Header, Hello, MultipartReply, MultipartRequest,
};
use carrick_openflow::{
    Flow, FlowFilter, FlowMod, FlowStats, Learned, Message, Mod, State, TableId, Xid,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;

const LONG: Duration = Duration::from_mins(1);
static NUMBER: AtomicU32 = AtomicU32::new(0);

struct Socket(PathBuf);

impl Drop for Socket {
    fn drop(&mut self) {
        std::fs::remove_file(&self.0).ok();
    }
}

fn socket() -> (Socket, UnixListener) {
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let name = format!("carrick-hostile-{}-{number}.sock", std::process::id());
    let path = std::env::temp_dir().join(name);
    std::fs::remove_file(&path).ok();
    let listener = UnixListener::bind(&path).unwrap();
    (Socket(path), listener)
}

fn config(socket: &Socket) -> Config {
    Config {
        request_timeout: Duration::from_millis(300),
        commit_timeout: Duration::from_millis(300),
        backoff: Duration::from_millis(10),
        ..Config::new(&socket.0)
    }
}

async fn read(stream: &mut UnixStream) -> Option<(Xid, Message)> {
    let mut bytes = vec![0; 8];
    stream.read_exact(&mut bytes).await.ok()?;
    let length = usize::from(Header::decode(&bytes).unwrap().length);
    bytes.resize(length, 0);
    stream.read_exact(&mut bytes[8..]).await.ok()?;
    Some(Message::decode(&bytes).unwrap())
}

async fn write(stream: &mut UnixStream, xid: Xid, message: &Message) {
    let mut bytes = Vec::new();
    message.encode(xid, &mut bytes).unwrap();
    stream.write_all(&bytes).await.ok();
}

/// Accepts one connection and shakes hands.
async fn accept(listener: &UnixListener) -> UnixStream {
    let (mut stream, _) = listener.accept().await.unwrap();
    write(&mut stream, Xid(1), &Message::Hello(Hello::only_1_5())).await;
    while let Some((xid, message)) = read(&mut stream).await {
        match message {
            Message::FeaturesRequest => {
                let features = Features {
                    datapath: 1,
                    buffers: 0,
                    tables: 9,
                    auxiliary: 0,
                    capabilities: 0,
                };
                write(&mut stream, xid, &Message::FeaturesReply(features)).await;
            }
            Message::BarrierRequest => {
                write(&mut stream, xid, &Message::BarrierReply).await;
                break;
            }
            _ => {}
        }
    }
    stream
}

fn start(config: Config) -> Connection {
    let (connection, _packets, _notices, driver) = Connection::new(config);
    tokio::spawn(driver.run());
    connection
}

fn mods(count: u16) -> Vec<Mod> {
    (0..count)
        .map(|priority| {
            FlowMod::add(Flow {
                priority,
                ..Flow::default()
            })
            .into()
        })
        .collect()
}

#[tokio::test]
async fn another_version_is_refused_and_tried_again() {
    let (socket, listener) = socket();
    let connection = start(config(&socket));
    let (mut old, _) = listener.accept().await.unwrap();
    // OpenFlow 1.3, which says nothing of others.
    old.write_all(&[4, 0, 0, 8, 0, 0, 0, 1]).await.unwrap();
    assert!(matches!(read(&mut old).await, Some((_, Message::Hello(_)))));
    match read(&mut old).await {
        Some((_, Message::Error(error))) => {
            assert_eq!(error.name.to_string(), "OFPHFC_INCOMPATIBLE");
        }
        other => unreachable!("{other:?}"),
    }
    assert_eq!(connection.generation(), None);
    let _stream = timeout(LONG, accept(&listener)).await.unwrap();
    timeout(LONG, connection.connected())
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn a_commit_without_an_answer_is_unknown_and_read_back() {
    let (socket, listener) = socket();
    let connection = start(config(&socket));
    let switch = tokio::spawn(async move {
        let mut stream = accept(&listener).await;
        let (mut held, mut commits, mut opened) = (Vec::new(), 0, Vec::new());
        while let Some((xid, message)) = read(&mut stream).await {
            match message {
                Message::BundleControl(BundleControl {
                    control,
                    bundle,
                    flags,
                }) => {
                    if control == ControlType::OPEN_REQUEST {
                        opened.clear();
                    }
                    if control == ControlType::COMMIT_REQUEST {
                        // Applied, and never said.
                        commits += 1;
                        held.append(&mut opened);
                        continue;
                    }
                    let control = ControlType(control.0 + 1);
                    let reply = Message::BundleControl(BundleControl {
                        control,
                        bundle,
                        flags,
                    });
                    write(&mut stream, xid, &reply).await;
                }
                Message::BundleAdd(add) => {
                    if let (_, Message::FlowMod(change)) = Message::decode(&add.message).unwrap() {
                        opened.push(change.flow);
                    }
                }
                Message::MultipartRequest(request) => {
                    let body = match request {
                        MultipartRequest::Flows(_) => {
                            let stats = |flow: &Flow| FlowStats {
                                flow: flow.clone(),
                                duration: Duration::ZERO,
                                idle: None,
                                packets: 0,
                                bytes: 0,
                            };
                            MultipartBody::Flows(held.iter().map(stats).collect())
                        }
                        MultipartRequest::Groups(_) => MultipartBody::Groups(Vec::new()),
                        _ => MultipartBody::Meters(Vec::new()),
                    };
                    let reply = Message::MultipartReply(MultipartReply { more: false, body });
                    write(&mut stream, xid, &reply).await;
                }
                _ => {}
            }
        }
        commits
    });
    timeout(LONG, connection.connected())
        .await
        .unwrap()
        .unwrap();
    let flows = (0..100)
        .map(|priority| Flow {
            priority,
            ..Flow::default()
        })
        .collect();
    let desired = State {
        flows,
        ..State::default()
    };
    let report = connection
        .synchronize(&desired, &Learned::default())
        .await
        .unwrap();
    // Read back, and found to be there: nothing is sent a second time.
    assert_eq!(report.changes, 0);
    match connection.bundle(&mods(1)).await {
        Err(BundleError::Unknown(RequestError::Timeout { .. })) => {}
        other => unreachable!("{other:?}"),
    }
    drop(connection);
    assert_eq!(timeout(LONG, switch).await.unwrap().unwrap(), 2);
}

#[tokio::test]
async fn a_switch_that_does_not_read_slows_the_caller_only() {
    let (socket, listener) = socket();
    let connection = start(config(&socket));
    let mut stream = timeout(LONG, accept(&listener)).await.unwrap();
    timeout(LONG, connection.connected())
        .await
        .unwrap()
        .unwrap();
    let task = {
        let connection = connection.clone();
        tokio::spawn(async move { connection.bundle(&mods(u16::MAX)).await })
    };
    let Some((xid, Message::BundleControl(open))) = read(&mut stream).await else {
        unreachable!()
    };
    let control = ControlType::OPEN_REPLY;
    write(
        &mut stream,
        xid,
        &Message::BundleControl(BundleControl { control, ..open }),
    )
    .await;
    // Nothing is read from here on: the bundle stops with what fits the queues, and gives up.
    match timeout(LONG, task).await.unwrap().unwrap() {
        Err(BundleError::NotSent(RequestError::Timeout { .. })) => {}
        other => unreachable!("{other:?}"),
    }
}

#[tokio::test]
async fn a_session_that_ends_ends_its_requests_and_a_new_one_begins() {
    let (socket, listener) = socket();
    let connection = start(config(&socket));
    let mut stream = timeout(LONG, accept(&listener)).await.unwrap();
    let first = timeout(LONG, connection.connected())
        .await
        .unwrap()
        .unwrap();
    let request = {
        let connection = connection.clone();
        tokio::spawn(async move { connection.dump_flows(FlowFilter::default()).await })
    };
    assert!(read(&mut stream).await.is_some());
    drop(stream);
    assert!(matches!(
        request.await.unwrap(),
        Err(RequestError::Disconnected)
    ));
    let mut stream = timeout(LONG, accept(&listener)).await.unwrap();
    let second = timeout(LONG, connection.reconnected(first))
        .await
        .unwrap()
        .unwrap();
    assert!(second > first);
    // Bytes that are no message end the session, too.
    stream.write_all(&[6, 0, 0, 3, 0, 0, 0, 0]).await.unwrap();
    let _stream = timeout(LONG, accept(&listener)).await.unwrap();
    timeout(LONG, connection.reconnected(second))
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn a_handle_of_one_session_never_uses_another() {
    let (socket, listener) = socket();
    let connection = start(config(&socket));
    let mut first = timeout(LONG, accept(&listener)).await.unwrap();
    let generation = connection.connected().await.unwrap();
    assert!(matches!(
        connection.only(generation + 1),
        Err(RequestError::Disconnected)
    ));
    let only = connection.only(generation).unwrap();
    assert_eq!(only.connected().await.unwrap(), generation);

    // A bundle is under way when the switch goes: its commit may have been on the way, too.
    let under_way = {
        let only = only.clone();
        tokio::spawn(async move { only.bundle(&mods(3)).await })
    };
    let (_, opened) = read(&mut first).await.unwrap();
    assert!(matches!(opened, Message::BundleControl(_)));
    drop(first);
    assert!(matches!(
        under_way.await.unwrap(),
        Err(BundleError::NotSent(RequestError::Disconnected)
            | BundleError::Unknown(RequestError::Disconnected))
    ));

    let mut second = timeout(LONG, accept(&listener)).await.unwrap();
    let newer = timeout(LONG, connection.reconnected(generation));
    let newer = newer.await.unwrap().unwrap();
    assert!(newer > generation);
    assert_eq!(only.generation(), None);
    assert!(only.features().is_none());
    assert!(matches!(
        only.connected().await,
        Err(RequestError::Disconnected)
    ));
    assert!(connection.only(generation).is_err());
    assert!(only.only(newer).is_err());
    assert!(only.barrier().await.is_err());
    assert!(only.dump_state().await.is_err());
    assert!(only.ct_flush_zone(1).await.is_err());
    assert!(only.bundle(&mods(3)).await.is_err());
    let desired = State::default();
    let synchronized = only.synchronize(&desired, &Learned::default()).await;
    assert!(matches!(
        synchronized,
        Err(SyncError::Dump(RequestError::Disconnected))
    ));

    // None of that was sent: the first that the new switch reads is the barrier of who may.
    let barrier = tokio::spawn(async move { connection.barrier().await });
    let (xid, message) = read(&mut second).await.unwrap();
    assert!(matches!(message, Message::BarrierRequest), "{message:?}");
    write(&mut second, xid, &Message::BarrierReply).await;
    assert!(barrier.await.unwrap().is_ok());
}

#[tokio::test]
async fn echoes_are_answered_and_silence_ends_the_session() {
    let (socket, listener) = socket();
    let connection = start(Config {
        echo_interval: Duration::from_millis(40),
        ..config(&socket)
    });
    let mut stream = timeout(LONG, accept(&listener)).await.unwrap();
    let first = timeout(LONG, connection.connected())
        .await
        .unwrap()
        .unwrap();
    write(&mut stream, Xid(99), &Message::EchoRequest(vec![1, 2, 3])).await;
    let mut asked = false;
    loop {
        match timeout(LONG, read(&mut stream)).await.unwrap() {
            Some((xid, Message::EchoReply(data))) => {
                assert_eq!((xid, data), (Xid(99), vec![1, 2, 3]));
                break;
            }
            Some((_, Message::EchoRequest(_))) => asked = true,
            other => unreachable!("{other:?}"),
        }
    }
    while !asked {
        asked = matches!(
            timeout(LONG, read(&mut stream)).await.unwrap(),
            Some((_, Message::EchoRequest(_)))
        );
    }
    // Never answered: the session ends and a new one begins.
    let _next = timeout(LONG, accept(&listener)).await.unwrap();
    timeout(LONG, connection.reconnected(first))
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn answers_that_never_end_or_are_wrong_fail_their_request_only() {
    let (socket, listener) = socket();
    let connection = start(Config {
        reply_limit: 10_000,
        ..config(&socket)
    });
    let mut stream = timeout(LONG, accept(&listener)).await.unwrap();
    timeout(LONG, connection.connected())
        .await
        .unwrap()
        .unwrap();
    let ask = || {
        let connection = connection.clone();
        tokio::spawn(async move { connection.dump_flows(FlowFilter::default()).await })
    };
    // Too much.
    let request = ask();
    let (xid, _) = read(&mut stream).await.unwrap();
    let flow = Flow {
        table: TableId(1),
        ..Flow::default()
    };
    let stats = FlowStats {
        flow,
        duration: Duration::ZERO,
        idle: None,
        packets: 0,
        bytes: 0,
    };
    for _ in 0..20 {
        let body = MultipartBody::Flows(vec![stats.clone(); 20]);
        write(
            &mut stream,
            xid,
            &Message::MultipartReply(MultipartReply { more: true, body }),
        )
        .await;
    }
    assert!(matches!(
        request.await.unwrap(),
        Err(RequestError::TooMuch { .. })
    ));
    // Of another kind.
    let request = ask();
    let (xid, _) = read(&mut stream).await.unwrap();
    let body = MultipartBody::Tables(Vec::new());
    write(
        &mut stream,
        xid,
        &Message::MultipartReply(MultipartReply { more: false, body }),
    )
    .await;
    assert!(matches!(
        request.await.unwrap(),
        Err(RequestError::Unexpected { .. })
    ));
    // Unreadable: a flow that says it is longer than the message.
    let request = ask();
    let (xid, _) = read(&mut stream).await.unwrap();
    let mut bytes = vec![6, 19, 0, 24];
    bytes.extend(xid.0.to_be_bytes());
    bytes.extend([0, 1, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 0, 0, 0]);
    stream.write_all(&bytes).await.unwrap();
    assert!(matches!(
        request.await.unwrap(),
        Err(RequestError::Decode(_))
    ));
    // No answer at all.
    assert!(matches!(
        connection.barrier().await,
        Err(RequestError::Timeout { .. })
    ));
    assert_eq!(connection.generation(), Some(1));
}
