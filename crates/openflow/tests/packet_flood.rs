//! A switch that sends packets faster than anybody takes them: memory stays bounded, each packet is
//! received or counted as dropped, their order stays, and requests go on.
//!
//! A file of its own, as it looks at the memory of its process.

#![expect(clippy::unwrap_used, reason = "tests say what they expect")]

use std::path::Path;
use std::time::Duration;

use carrick_openflow::connection::{Config, Connection};
use carrick_openflow::message::{Features, Header, Hello, PacketIn2};
use carrick_openflow::{Message, Xid};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;

const LONG: Duration = Duration::from_mins(2);
/// Two seconds' worth at 10,000 a second; 30 MB in all, more than may be kept.
const SENT: u32 = 20_000;
const QUEUE: usize = 256;
/// What the queue, both sockets' buffers and the test itself may take.
const MEMORY: u64 = 12 << 20;

fn encode(xid: Xid, message: &Message) -> Vec<u8> {
    let mut bytes = Vec::new();
    message.encode(xid, &mut bytes).unwrap();
    bytes
}

async fn read(stream: &mut UnixStream) -> (Xid, Message) {
    let mut bytes = vec![0; 8];
    stream.read_exact(&mut bytes).await.unwrap();
    bytes.resize(usize::from(Header::decode(&bytes).unwrap().length), 0);
    stream.read_exact(&mut bytes[8..]).await.unwrap();
    Message::decode(&bytes).unwrap()
}

/// Shakes hands, sends the packets, then answers one more barrier.
async fn switch(listener: UnixListener) {
    let (mut stream, _) = listener.accept().await.unwrap();
    let hello = encode(Xid(1), &Message::Hello(Hello::only_1_5()));
    stream.write_all(&hello).await.unwrap();
    let mut barriers = 0;
    while barriers < 2 {
        let answer = match read(&mut stream).await {
            (xid, Message::FeaturesRequest) => {
                let features = Features {
                    datapath: 1,
                    buffers: 0,
                    tables: 9,
                    auxiliary: 0,
                    capabilities: 0,
                };
                encode(xid, &Message::FeaturesReply(features))
            }
            (xid, Message::BarrierRequest) => {
                barriers += 1;
                encode(xid, &Message::BarrierReply)
            }
            _ => continue,
        };
        if barriers == 2 {
            flood(&mut stream).await;
        }
        stream.write_all(&answer).await.unwrap();
    }
    // Open until the other side has read all.
    stream.read_to_end(&mut Vec::new()).await.ok();
}

async fn flood(stream: &mut UnixStream) {
    for number in 0..SENT {
        let packet = PacketIn2 {
            packet: vec![0xab; 1400],
            full_len: Some(1400),
            userdata: number.to_be_bytes().to_vec(),
            ..PacketIn2::default()
        };
        let bytes = encode(Xid(0), &Message::PacketIn2(packet));
        stream.write_all(&bytes).await.unwrap();
    }
}

fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    let kibibytes: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kibibytes << 10
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_packets_a_second_and_a_slow_reader_cost_bounded_memory() {
    let path = std::env::temp_dir().join(format!("carrick-flood-{}.sock", std::process::id()));
    std::fs::remove_file(&path).ok();
    let listener = UnixListener::bind(&path).unwrap();
    let peer = tokio::spawn(switch(listener));
    let config = Config {
        packet_in_queue: QUEUE,
        request_timeout: LONG,
        ..Config::new(AsRef::<Path>::as_ref(&path))
    };
    let (connection, mut packets, _notices, driver) = Connection::new(config);
    let driver = tokio::spawn(driver.run());
    timeout(LONG, connection.connected())
        .await
        .unwrap()
        .unwrap();
    let before = resident();
    let barrier = {
        let connection = connection.clone();
        tokio::spawn(async move { connection.barrier().await })
    };
    // The slowest reader there is takes none before all have come.
    let mut received = Vec::new();
    let (mut most, mut turns) = (before, 0_u32);
    while !barrier.is_finished() {
        turns += 1;
        if turns % 1000 == 0 {
            most = most.max(resident());
        }
        tokio::task::yield_now().await;
    }
    // The request behind the packets was answered.
    timeout(LONG, barrier).await.unwrap().unwrap().unwrap();
    drop(connection);
    driver.await.unwrap();
    while let Some(packet) = packets.recv().await {
        received.push(u32::from_be_bytes(packet.userdata.try_into().unwrap()));
    }
    let (taken, dropped) = (received.len() as u64, packets.dropped());
    assert_eq!(taken + dropped, u64::from(SENT));
    assert_eq!(taken, QUEUE as u64, "the queue's worth is kept, no more");
    assert!(received.is_sorted(), "packets overtook one another");
    assert!(most - before < MEMORY, "{} MiB more", (most - before) >> 20);
    peer.await.unwrap();
    std::fs::remove_file(&path).unwrap();
}
