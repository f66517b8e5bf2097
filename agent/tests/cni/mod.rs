//! A CNI server on real namespaces, with a network that only takes notes.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use carrick_agent::cni::network::{
    DatapathKind, NotYet, PodNetwork, PodNetworkSettings, PortError,
};
use carrick_agent::cni::{Answer, CniServer, Frame, Sandboxes};
use carrick_agent::ipam::{
    Attachment, AttachmentStore, HeldAddresses, PodRef, ReleasedAddresses, gateway,
};
use carrick_node::{MacAddr, Namespace, Netlink, Sysctls};
use carrick_testkit::netns::Scratch;
use ipnet::IpNet;
use serde_json::{Value, json};
use tokio::sync::watch;

/// What the network was told, and what it shall say.
#[derive(Debug, Default)]
pub struct Notes {
    pub attached: BTreeSet<String>,
    pub assigned: Vec<HeldAddresses>,
    pub released: Vec<ReleasedAddresses>,
    pub mapped: u32,
    pub lost: Vec<String>,
    pub trouble: Option<String>,
    pub refuse_attach: bool,
    pub refuse_detach: bool,
    pub refuse_check: bool,
}

#[derive(Debug)]
pub struct Fake {
    pub settings: watch::Sender<Option<Arc<PodNetworkSettings>>>,
    pub known: watch::Sender<bool>,
    pub notes: Mutex<Notes>,
}

impl PodNetwork for Fake {
    fn settings(&self) -> watch::Receiver<Option<Arc<PodNetworkSettings>>> {
        self.settings.subscribe()
    }

    async fn wait_pod(
        &self,
        _: &PodRef,
        limit: Duration,
    ) -> Result<Arc<PodNetworkSettings>, NotYet> {
        let mut known = self.known.subscribe();
        let arrived = known.wait_for(|known| *known);
        let settings = self.settings.borrow().clone();
        match (tokio::time::timeout(limit, arrived).await, settings) {
            (Ok(_), Some(settings)) => Ok(settings),
            _ => Err(NotYet {
                reason: "no record".to_owned(),
            }),
        }
    }

    async fn attach(&self, attachment: &Attachment) -> Result<(), PortError> {
        let mut notes = self.notes.lock().unwrap();
        if notes.refuse_attach {
            return Err(PortError::NotReady {
                reason: "the switch is away".to_owned(),
            });
        }
        notes.attached.insert(attachment.host_link.clone());
        Ok(())
    }

    async fn detach(&self, attachments: &[Arc<Attachment>]) -> Result<(), PortError> {
        let mut notes = self.notes.lock().unwrap();
        if notes.refuse_detach {
            return Err(PortError::NotReady {
                reason: "the switch is away".to_owned(),
            });
        }
        for attachment in attachments {
            assert_eq!(attachment.netns.components().count(), 4);
            notes.attached.remove(&attachment.host_link);
        }
        Ok(())
    }

    async fn check(&self, _: &Attachment) -> Result<(), PortError> {
        if self.notes.lock().unwrap().refuse_check {
            return Err(PortError::NotReady {
                reason: "no flows".to_owned(),
            });
        }
        Ok(())
    }

    fn addresses_changed(&self, assigned: &[HeldAddresses], released: &[ReleasedAddresses]) {
        let mut notes = self.notes.lock().unwrap();
        notes.assigned.extend_from_slice(assigned);
        notes.released.extend_from_slice(released);
    }

    fn trouble(&self) -> Option<String> {
        self.notes.lock().unwrap().trouble.clone()
    }

    fn state_lost(&self, message: String) {
        self.notes.lock().unwrap().lost.push(message);
    }

    async fn apply_port_mappings(&self) -> Result<(), PortError> {
        self.notes.lock().unwrap().mapped += 1;
        Ok(())
    }
}

pub fn settings(cidrs: &[&str], datapath: DatapathKind) -> Arc<PodNetworkSettings> {
    let pod_cidrs: Vec<IpNet> = cidrs.iter().map(|cidr| cidr.parse().unwrap()).collect();
    Arc::new(PodNetworkSettings {
        gateways: pod_cidrs.iter().filter_map(gateway).collect(),
        pod_cidrs,
        gateway_mac: MacAddr([0x0a, 0, 0, 0, 0, 1]),
        mtu: 1450,
        datapath,
        node_uid: "node".to_owned(),
    })
}

/// A node: its own namespace, store, fake network and server.
pub struct Node {
    pub host: Scratch,
    pub dir: tempfile::TempDir,
    pub network: Arc<Fake>,
    pub store: Arc<AttachmentStore>,
    pub server: Arc<CniServer<Fake>>,
}

impl Node {
    pub async fn new(cidrs: &[&str]) -> Self {
        Self::with(cidrs, DatapathKind::Kernel).await
    }

    pub async fn with(cidrs: &[&str], datapath: DatapathKind) -> Self {
        let host = Scratch::new();
        let dir = tempfile::tempdir().unwrap();
        let network = Arc::new(Fake {
            settings: watch::Sender::new(Some(settings(cidrs, datapath))),
            known: watch::Sender::new(true),
            notes: Mutex::default(),
        });
        let (store, server) = start(&host, dir.path(), &network).await;
        Self {
            host,
            dir,
            network,
            store,
            server,
        }
    }

    /// As after kill -9: only what is on disk and in the kernel is left.
    pub async fn restart(&mut self) {
        let (store, server) = start(&self.host, self.dir.path(), &self.network).await;
        self.store = store;
        self.server = server;
    }

    pub async fn ask(&self, frame: &Frame) -> Answer {
        self.server.answer(frame).await
    }

    pub fn notes(&self) -> std::sync::MutexGuard<'_, Notes> {
        self.network.notes.lock().unwrap()
    }

    pub fn pod_links(&self) -> usize {
        let links = self.host.exec("ip", &["-o", "link"]);
        links.lines().filter(|line| line.contains(": car")).count()
    }

    pub fn nothing_left(&self) {
        assert_eq!(self.pod_links(), 0);
        assert!(self.store.attachments().is_empty());
        assert_eq!(self.store.usage().in_use, 0);
        assert!(self.notes().attached.is_empty());
    }
}

pub async fn start(
    host: &Scratch,
    dir: &Path,
    network: &Arc<Fake>,
) -> (Arc<AttachmentStore>, Arc<CniServer<Fake>>) {
    let path = dir.join("attachments.journal");
    let (store, _) = AttachmentStore::open(path, "boot", Duration::ZERO).unwrap();
    let store = Arc::new(store);
    let netlink = Netlink::open_in(&Namespace::open(host.path()).unwrap())
        .await
        .unwrap();
    let sysctls = Sysctls::default();
    let server = CniServer::new(
        Arc::clone(network),
        Arc::clone(&store),
        Sandboxes::new(netlink, sysctls.clone()),
        // Not the machine's own: tests change nothing outside of their namespaces.
        Sysctls::at(dir),
        Instant::now(),
    )
    .with_record_limit(Duration::from_millis(300));
    (store, Arc::new(server))
}

pub fn frame(command: &str, container: &str, netns: &str, more: Value) -> Frame {
    let mut config = json!({"cniVersion": "1.1.0", "name": "carrick", "type": "carrick-cni"});
    if let (Some(config), Value::Object(more)) = (config.as_object_mut(), more) {
        config.extend(more);
    }
    Frame {
        command: command.to_owned(),
        container_id: container.to_owned(),
        netns: netns.to_owned(),
        ifname: "eth0".to_owned(),
        args: format!("K8S_POD_NAMESPACE=ns;K8S_POD_NAME={container};K8S_POD_UID=uid-{container}"),
        config: config.to_string(),
    }
}

pub fn add(container: &str, pod: &Scratch) -> Frame {
    frame("ADD", container, &pod.path(), json!({}))
}

pub fn del(container: &str) -> Frame {
    frame("DEL", container, "", json!({}))
}

pub fn code(answer: &Answer) -> u64 {
    assert_eq!(
        answer.exit,
        u8::from(!answer.output["code"].is_null()),
        "{answer:?}"
    );
    answer.output["code"].as_u64().unwrap_or(0)
}
