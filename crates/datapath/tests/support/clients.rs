//! Servers and clients of Services: they say who they are and whom they see.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader};
use std::net::IpAddr;
use std::process::{Child, Command, Stdio};

use carrick_datapath::services::Protocol;

use super::lab::in_netns;

/// A server in a namespace, until it is dropped.
pub struct Server(Child);

impl Server {
    /// Tells every client `name` and what source it sees, over UDP in as many bytes as the client sent.
    pub fn start(netns: &str, name: &str, protocol: Protocol, port: u16) -> Self {
        let serve = match protocol {
            Protocol::Tcp => {
                "s=socket.socket(f,socket.SOCK_STREAM); s.setsockopt(1,2,1); s.bind(('::',port)); s.listen(50)\n\
                 print('up',flush=True)\n\
                 while True:\n\
                 \x20c,a=s.accept(); c.sendall(f'{name} {a[0]}'.encode()); c.close()"
            }
            _ => {
                "s=socket.socket(f,socket.SOCK_DGRAM); s.bind(('::',port))\n\
                 print('up',flush=True)\n\
                 while True:\n\
                 \x20d,a=s.recvfrom(65536); s.sendto(f'{name} {a[0]}'.encode().ljust(len(d)),a)"
            }
        };
        Self::run(
            netns,
            &format!("import socket\nf=socket.AF_INET6; name={name:?}; port={port}\n{serve}"),
        )
    }

    /// A program in Python that prints `up` as soon as it serves.
    pub fn run(netns: &str, program: &str) -> Self {
        let mut child = Command::new("ip")
            .args(["netns", "exec", netns, "python3", "-c", program])
            .stdout(Stdio::piped())
            .spawn()
            .expect("iproute2 is installed");
        let stdout = child.stdout.take().unwrap();
        // From here on it ends with its owner, whatever it prints.
        let server = Self(child);
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line).unwrap();
        assert_eq!(line.trim(), "up", "{program}");
        server
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Who answered how often, and the sources they saw; for `error`, the names of the errors.
#[derive(Debug, Default)]
pub struct Answers {
    pub by: BTreeMap<String, u32>,
    pub sources: BTreeSet<String>,
}

impl Answers {
    pub fn names(&self) -> Vec<&str> {
        self.by.keys().map(String::as_str).collect()
    }

    pub fn failed(&self) -> bool {
        self.by.contains_key("error")
    }
}

/// The family of Python's sockets.
const fn family(address: IpAddr) -> &'static str {
    if address.is_ipv4() {
        "AF_INET"
    } else {
        "AF_INET6"
    }
}

/// Connects `times` times: patiently, as machines may be busy, or once and with little patience.
pub fn ask(netns: &str, protocol: Protocol, address: IpAddr, port: u16, times: u32) -> Answers {
    let kind = if protocol == Protocol::Tcp {
        "SOCK_STREAM"
    } else {
        "SOCK_DGRAM"
    };
    let family = family(address);
    let program = format!(
        "import socket\n\
         wait=3 if {times}==1 else 15\n\
         for _ in range({times}):\n\
         \x20s=socket.socket(socket.{family},socket.{kind}); s.settimeout(wait)\n\
         \x20try:\n\
         \x20\x20s.connect(('{address}',{port})); s.send(b'x'); print(s.recv(100).decode())\n\
         \x20except OSError as e: print('error',type(e).__name__)\n\
         \x20s.close()"
    );
    let (_, text) = in_netns(netns, &format!("python3 -c \"{program}\""));
    let mut answers = Answers::default();
    for line in text.lines() {
        let (name, source) = line.split_once(' ').unwrap_or((line, ""));
        *answers.by.entry(name.to_owned()).or_default() += 1;
        answers
            .sources
            .insert(source.trim_start_matches("::ffff:").to_owned());
    }
    answers
}

/// Asks with one datagram of so many bytes, patiently; the length of the answer, or the error.
pub fn ask_at_length(netns: &str, address: IpAddr, port: u16, bytes: usize) -> String {
    let family = family(address);
    let program = format!(
        "import socket\n\
         s=socket.socket(socket.{family},socket.SOCK_DGRAM); s.settimeout(15)\n\
         try:\n\
         \x20s.connect(('{address}',{port})); s.send(b'x'*{bytes}); print(len(s.recv(65536)))\n\
         except OSError as e: print(type(e).__name__)"
    );
    let (_, text) = in_netns(netns, &format!("python3 -c \"{program}\""));
    text.trim().to_owned()
}

/// An address that a test wrote down.
pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}
