//! A switch that only listens: it plays the few answers `ovs-ofctl` waits for and keeps what
//! `ovs-ofctl` sends.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use carrick_openflow::Xid;
use carrick_openflow::message::{Features, Header, Hello, Message, SwitchConfig, TlvTable};

/// Reads one message; `None` at the end.
fn read(stream: &mut UnixStream) -> Option<Vec<u8>> {
    let mut message = vec![0; 8];
    stream.read_exact(&mut message).ok()?;
    let length = usize::from(Header::decode(&message).unwrap().length);
    message.resize(length, 0);
    stream.read_exact(&mut message[8..]).ok()?;
    Some(message)
}

fn answer(message: &[u8]) -> Option<Message> {
    match message[1] {
        2 => Some(Message::EchoReply(message[8..].to_vec())),
        5 => Some(Message::FeaturesReply(Features {
            datapath: 1,
            buffers: 0,
            tables: 254,
            auxiliary: 0,
            capabilities: 0,
        })),
        7 => Some(Message::GetConfigReply(SwitchConfig {
            flags: 0,
            miss_send_len: 0,
        })),
        // One table without a name, no ports.
        18 => {
            let mut body = [&message[8..10], &[0; 6]].concat();
            if message[9] == 12 {
                body.extend([0, 64]);
                body.extend([0; 62]);
            }
            Some(Message::Unknown { kind: 19, body })
        }
        20 => Some(Message::BarrierReply),
        33 => {
            let mut reply = message.to_vec();
            reply[13] += 1;
            Message::decode(&reply).ok().map(|(_, message)| message)
        }
        4 if message[12..16] == [0, 0, 0, 25] => Some(Message::TlvTableReply(TlvTable::default())),
        _ => None,
    }
}

fn serve(listener: &UnixListener, captured: &mpsc::Sender<Vec<u8>>) {
    while let Ok((mut stream, _)) = listener.accept() {
        let mut hello = Vec::new();
        Message::Hello(Hello::only_1_5())
            .encode(Xid(1), &mut hello)
            .unwrap();
        stream.write_all(&hello).unwrap();
        while let Some(message) = read(&mut stream) {
            if let Some(answer) = answer(&message) {
                let xid = Xid(u32::from_be_bytes(message[4..8].try_into().unwrap()));
                let mut bytes = Vec::new();
                answer.encode(xid, &mut bytes).unwrap();
                if stream.write_all(&bytes).is_err() {
                    break;
                }
            }
            if captured.send(message).is_err() {
                return;
            }
        }
    }
}

/// Runs `ovs-ofctl -O OpenFlow15 COMMAND TARGET ARGS` against a listener; what it sent, and its
/// exit and errors.
pub fn capture(dir: &Path, before: &[&str], args: &[&str]) -> (Vec<Vec<u8>>, Result<(), String>) {
    let socket = dir.join("capture.sock");
    std::fs::remove_file(&socket).ok();
    let listener = UnixListener::bind(&socket).unwrap();
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || serve(&listener, &sender));
    let output = Command::new("ovs-ofctl")
        .args(["-O", "OpenFlow15", "--timeout=20"])
        .args(before)
        .arg(format!("unix:{}", socket.display()))
        .args(args)
        .output()
        .expect("ovs-ofctl is needed: apt-get install openvswitch-common");
    let mut messages = Vec::new();
    while let Ok(message) = receiver.recv_timeout(Duration::from_millis(200)) {
        messages.push(message);
    }
    let result = if output.status.success() {
        Ok(())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    };
    (messages, result)
}

/// `ovs-ofctl ofp-parse` of messages: its output.
pub fn print(dir: &Path, messages: &[Vec<u8>]) -> String {
    let file = dir.join("messages.bin");
    std::fs::write(&file, messages.concat()).unwrap();
    let output = Command::new("ovs-ofctl")
        .arg("ofp-parse")
        .arg(&file)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A directory of this test, removed when dropped.
pub struct Scratch(pub PathBuf);

impl Scratch {
    pub fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("carrick-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).ok();
    }
}
