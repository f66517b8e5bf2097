//! A CNI plugin as a runtime runs it: a process in the host's namespace, per command.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use serde_json::{Value, json};

use crate::lab::LabNode;
use crate::node::{Programs, Sandbox};

/// Where Debian's containernetworking-plugins are.
const PLUGINS: &str = "/usr/lib/cni";

/// Which command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    Add,
    Del,
}

/// A plugin, its configuration and the host's namespace it works in.
#[derive(Debug)]
pub struct Plugin {
    program: PathBuf,
    config: Value,
    host: PathBuf,
}

impl Plugin {
    /// `carrick-cni` on this node.
    pub fn ours(programs: &Programs, node: &LabNode) -> Self {
        Self {
            program: programs.plugin.clone(),
            config: json!({"cniVersion": "1.0.0", "name": "carrick", "type": "carrick-cni",
                "socket": node.paths.cni_socket()}),
            host: format!("/run/netns/{}", node.netns()).into(),
        }
    }

    /// Debian's `bridge` with `host-local`, in a host's namespace of its own.
    pub fn peer(host: &str, subnet: &str, data: &std::path::Path) -> Self {
        Self {
            program: format!("{PLUGINS}/bridge").into(),
            config: json!({"cniVersion": "1.0.0", "name": "peer", "type": "bridge",
                "bridge": "cni0", "isGateway": true, "mtu": 1450,
                "ipam": {"type": "host-local", "ranges": [[{"subnet": subnet}]],
                    "routes": [{"dst": "0.0.0.0/0"}], "dataDir": data}}),
            host: host.into(),
        }
    }

    /// Runs one command after the other for each of `sandboxes`; how long each took.
    pub fn each<'a>(
        &self,
        verb: Verb,
        sandboxes: impl IntoIterator<Item = &'a Sandbox> + Send,
    ) -> Vec<Duration> {
        thread::scope(|scope| {
            scope
                .spawn(|| {
                    self.enter();
                    sandboxes
                        .into_iter()
                        .map(|sandbox| self.run(verb, sandbox))
                        .collect()
                })
                .join()
                .unwrap()
        })
    }

    /// Runs the command for all of `sandboxes` at once; how long each took.
    pub fn all(&self, verb: Verb, sandboxes: &[Sandbox]) -> Vec<Duration> {
        let barrier = Barrier::new(sandboxes.len());
        thread::scope(|scope| {
            let threads: Vec<_> = sandboxes
                .iter()
                .map(|sandbox| {
                    let barrier = &barrier;
                    scope.spawn(move || {
                        self.enter();
                        barrier.wait();
                        self.run(verb, sandbox)
                    })
                })
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .collect()
        })
    }

    /// Moves this thread, and what it starts, into the host's namespace.
    fn enter(&self) {
        let host = std::fs::File::open(&self.host).unwrap();
        setns(host, CloneFlags::CLONE_NEWNET).unwrap();
    }

    fn run(&self, verb: Verb, sandbox: &Sandbox) -> Duration {
        let command = match verb {
            Verb::Add => "ADD",
            Verb::Del => "DEL",
        };
        let start = Instant::now();
        let mut child = Command::new(&self.program)
            .env("CNI_COMMAND", command)
            .env("CNI_CONTAINERID", &sandbox.container)
            .env("CNI_NETNS", sandbox.netns.path())
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", PLUGINS)
            .env("CNI_ARGS", sandbox.pod.cni_args(&sandbox.container))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}", self.program.display()));
        let mut input = child.stdin.take().unwrap();
        input.write_all(self.config.to_string().as_bytes()).unwrap();
        drop(input);
        let output = child.wait_with_output().unwrap();
        let took = start.elapsed();
        assert!(
            output.status.success(),
            "{command} for {}: {}{}",
            sandbox.pod.name,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        took
    }
}
