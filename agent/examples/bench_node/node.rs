//! A node under measurement, and the pods that come to it.

use std::path::PathBuf;

use carrick_testkit::netns::Scratch;

use crate::lab::controller::{Controller, node_record, pod_record};
use crate::lab::{LabNode, Pod, must};

/// Pod CIDR of the node: room for 250 pods and as many addresses that rest.
pub const CIDR: &str = "10.20.0.0/20";

/// The programs that are measured.
#[derive(Debug)]
pub struct Programs {
    pub carrick: PathBuf,
    pub plugin: PathBuf,
}

/// A node with its controller. What outlives a reboot in production lies on a disk, whatever
/// `TMPDIR` says.
pub struct Measured {
    pub lab: LabNode,
    pub controller: Controller,
    _state: tempfile::TempDir,
}

impl Measured {
    /// Starts switch and agent; ready.
    pub async fn start(programs: &Programs) -> Self {
        let mut lab = LabNode::new(1);
        let state = tempfile::tempdir_in("/var/tmp").unwrap();
        std::fs::remove_dir(&lab.paths.state).unwrap();
        std::os::unix::fs::symlink(state.path(), &lab.paths.state).unwrap();
        must(
            lab.netns(),
            "ip link add eth1 type veth peer name wire1 && ethtool -K eth1 tx off >/dev/null && \
             ip addr add 172.31.0.1/24 dev eth1 && ip link set eth1 up && ip link set wire1 up && \
             ip route add 192.0.2.0/24 via 172.31.0.254 dev eth1 onlink",
        );
        lab.configure("logLevel", "info".into());
        lab.run_program(&programs.carrick);
        let controller = Controller::serve(&[&lab]).await;
        controller.send("node1", vec![node_record(1, &[CIDR])], vec![]);
        lab.start_agent();
        lab.wait_ready();
        Self {
            lab,
            controller,
            _state: state,
        }
    }

    /// Sandboxes of `count` pods whose records the node has: what is there when a runtime calls ADD.
    pub fn sandboxes(&self, name: &str, count: usize) -> Vec<Sandbox> {
        let sandboxes: Vec<_> = (0..count)
            .map(|number| Sandbox::new(&format!("{name}-{number}")))
            .collect();
        let records = sandboxes.iter().map(|sandbox| pod_record(&sandbox.pod));
        let number = self
            .controller
            .send(&self.lab.name, records.collect(), vec![]);
        crate::lab::wait("the records", || {
            self.controller.acknowledged(&self.lab.name) >= number
        });
        sandboxes
    }
}

/// A pod's namespace before ADD and after DEL.
pub struct Sandbox {
    pub pod: Pod,
    pub container: String,
    pub netns: Scratch,
}

impl Sandbox {
    fn new(name: &str) -> Self {
        let netns = Scratch::new();
        netns.exec("ip", &["link", "set", "lo", "up"]);
        Self {
            pod: Pod::new(name),
            container: format!("container-{name}"),
            netns,
        }
    }
}
