//! The CNI server on real namespaces, with a network that only takes notes. Needs root and iproute2.

#![expect(clippy::unwrap_used, reason = "tests")]

mod cni;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use carrick_agent::cni::collect::{Suspects, run_deferred};
use carrick_agent::cni::network::DatapathKind;
use carrick_agent::cni::{Answer, socket};
use carrick_agent::ipam::{Attachment, AttachmentKey, AttachmentState, PodRef};
use carrick_testkit::netns::Scratch;
use cni::{Node, add, code, del, frame};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test]
async fn a_pod_is_attached_checked_and_detached() {
    let node = Node::with(&["10.91.0.0/24", "fd91::/64"], DatapathKind::Userspace).await;
    let pod = Scratch::new();
    let result = node.ask(&add("c1", &pod)).await;
    assert_eq!(code(&result), 0, "{result:?}");
    let output = &result.output;
    assert_eq!(output["cniVersion"], "1.1.0");
    assert_eq!(output["ips"][0]["address"], "10.91.0.2/32");
    assert_eq!(output["ips"][0]["gateway"], "10.91.0.1");
    assert_eq!(output["ips"][1]["address"], "fd91::2/128");
    assert_eq!(output["interfaces"][1]["sandbox"], pod.path());
    let host_link = output["interfaces"][0]["name"].as_str().unwrap().to_owned();

    let address = pod.exec("ip", &["-o", "addr", "show", "eth0"]);
    assert!(address.contains("inet 10.91.0.2/32"), "{address}");
    assert!(
        address.contains("inet6 fd91::2/128") && !address.contains("tentative"),
        "{address}"
    );
    let link = pod.exec("ip", &["link", "show", "eth0"]);
    let mac = output["interfaces"][1]["mac"].as_str().unwrap();
    assert!(link.contains("mtu 1450") && link.contains(mac), "{link}");
    assert!(
        pod.exec("ip", &["route"])
            .contains("default via 10.91.0.1 dev eth0")
    );
    assert!(
        pod.exec("ip", &["-6", "route"])
            .contains("default via fd91::1 dev eth0")
    );
    let neighbours = pod.exec("ip", &["neigh"]);
    for gateway in ["10.91.0.1", "fd91::1"] {
        let entry = format!("{gateway} dev eth0 lladdr 0a:00:00:00:00:01 PERMANENT");
        assert!(neighbours.contains(&entry), "{neighbours}");
    }
    assert!(pod.exec("ip", &["link", "show", "lo"]).contains("UP"));
    assert_eq!(
        pod.exec("cat", &["/proc/sys/net/ipv6/conf/eth0/accept_ra"])
            .trim(),
        "0"
    );
    assert!(
        pod.exec("ethtool", &["-k", "eth0"])
            .contains("tx-checksum-ip-generic: off")
    );
    let host = node.host.exec("ip", &["link", "show", &host_link]);
    assert!(
        host.contains("UP") && host.contains("alias ns/c1 uid=uid-c1 id=c1 if=eth0 port=100"),
        "{host}"
    );
    assert_eq!(node.notes().attached, BTreeSet::from([host_link.clone()]));
    assert_eq!(node.notes().assigned.len(), 1);

    let check = frame("CHECK", "c1", &pod.path(), json!({"prevResult": output}));
    assert_eq!(code(&node.ask(&check).await), 0);
    node.notes().refuse_check = true;
    assert_eq!(code(&node.ask(&check).await), 102);
    node.notes().refuse_check = false;
    let other = json!({"prevResult": {"ips": [{"address": "10.91.0.77/32"}]}});
    assert_eq!(
        code(&node.ask(&frame("CHECK", "c1", &pod.path(), other)).await),
        102
    );
    // The same namespace by another path.
    let other = pod.path().replace("/run/", "/run/./");
    let same = frame("CHECK", "c1", &other, json!({"prevResult": output}));
    assert_eq!(code(&node.ask(&same).await), 0);
    // A later plugin may add things.
    pod.exec("ip", &["route", "add", "203.0.113.0/24", "dev", "eth0"]);
    assert_eq!(code(&node.ask(&check).await), 0);
    pod.exec("ip", &["route", "del", "default"]);
    let broken = node.ask(&check).await;
    assert_eq!(code(&broken), 102, "{broken:?}");
    assert!(
        broken.output["details"]
            .as_str()
            .unwrap()
            .contains("no default route for 10.91.0.2")
    );

    for _ in 0..2 {
        let answer = node.ask(&del("c1")).await;
        assert_eq!((code(&answer), &answer.output), (0, &Value::Null));
    }
    node.nothing_left();
    assert!(!pod.exec("ip", &["-o", "link"]).contains("eth0"));
    assert_eq!(node.notes().released[0].addresses.len(), 2);
    assert_eq!(code(&node.ask(&check).await), 102);
}

#[tokio::test]
async fn old_versions_get_results_of_their_form() {
    let node = Node::new(&["10.91.1.0/24"]).await;
    let pod = Scratch::new();
    for version in ["0.4.0", "1.0.0"] {
        let mut frame = add("c1", &pod);
        frame.config = json!({"cniVersion": version, "name": "carrick"}).to_string();
        let result = node.ask(&frame).await;
        assert_eq!(code(&result), 0, "{result:?}");
        assert_eq!(result.output["cniVersion"], version);
        let family = result.output["ips"][0]
            .get("version")
            .and_then(Value::as_str);
        assert_eq!(family, (version == "0.4.0").then_some("4"));
        frame.command = "DEL".to_owned();
        assert_eq!(code(&node.ask(&frame).await), 0);
    }
    node.nothing_left();
}

#[tokio::test]
async fn without_a_record_the_runtime_shall_try_again() {
    let node = Node::new(&["10.91.2.0/24"]).await;
    let pod = Scratch::new();
    node.network.known.send_replace(false);
    let answer = node.ask(&add("c1", &pod)).await;
    assert_eq!(code(&answer), 11, "{answer:?}");
    assert!(
        answer.output["msg"]
            .as_str()
            .unwrap()
            .contains("ns/c1: no record")
    );
    node.nothing_left();
    assert_eq!(node.store.usage().in_quarantine, 0);
    // The record arrives while ADD waits.
    let known = node.network.known.clone();
    let later = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(50)).await;
        known.send_replace(true);
    });
    assert_eq!(code(&node.ask(&add("c1", &pod)).await), 0);
    later.await.unwrap();
    // The switch is away: a new pod would not work, and those that are there may not.
    let status = frame("STATUS", "", "", json!({}));
    assert_eq!(code(&node.ask(&status).await), 0);
    node.notes().trouble = Some("the switch is away".to_owned());
    let answer = node.ask(&status).await;
    assert_eq!(code(&answer), 51);
    assert_eq!(answer.output["details"], "the switch is away");
    node.notes().trouble = None;
    // No settings: the node itself is not ready.
    node.network.settings.send_replace(None);
    assert_eq!(code(&node.ask(&add("c2", &pod)).await), 11);
    assert_eq!(code(&node.ask(&status).await), 50);
}

#[tokio::test]
async fn a_failed_add_leaves_nothing_and_the_address_waits_for_its_pod() {
    let node = Node::new(&["10.91.3.0/24"]).await;
    let pod = Scratch::new();
    node.notes().refuse_attach = true;
    assert_eq!(code(&node.ask(&add("c1", &pod)).await), 11);
    node.nothing_left();
    assert!(!pod.exec("ip", &["-o", "link"]).contains("eth0"));
    node.notes().refuse_attach = false;
    // Another sandbox of the same pod.
    let mut again = add("c2", &pod);
    again.args = add("c1", &pod).args;
    let result = node.ask(&again).await;
    assert_eq!(
        result.output["ips"][0]["address"], "10.91.3.2/32",
        "{result:?}"
    );
    // No namespace, or one that is none.
    let gone = frame("ADD", "c3", "/run/netns/absent-carrick", json!({}));
    assert_eq!(code(&node.ask(&gone).await), 4);
    // The name is taken inside.
    assert_eq!(code(&node.ask(&add("c4", &pod)).await), 100);
    assert_eq!(node.store.attachments().len(), 1);
    // DEL succeeds though the switch is away; the agent's difference removes the port later.
    node.notes().refuse_detach = true;
    assert_eq!(code(&node.ask(&del("c2")).await), 0);
    assert_eq!((node.pod_links(), node.store.attachments().len()), (0, 0));
}

#[tokio::test]
async fn an_exhausted_node_says_try_again() {
    let node = Node::new(&["10.91.4.0/29"]).await;
    node.store.controller_connected(Duration::ZERO);
    let pods: Vec<Scratch> = (0..6).map(|_| Scratch::new()).collect();
    for (index, pod) in pods.iter().enumerate().take(5) {
        assert_eq!(code(&node.ask(&add(&format!("c{index}"), pod)).await), 0);
    }
    let answer = node.ask(&add("c5", &pods[5])).await;
    assert_eq!(code(&answer), 11, "{answer:?}");
    assert!(
        answer.output["details"]
            .as_str()
            .unwrap()
            .contains("no free IPv4 address: 5 in use")
    );
    assert_eq!(code(&node.ask(&del("c0")).await), 0);
    assert_eq!(code(&node.ask(&add("c5", &pods[5])).await), 11);
    let released = node.notes().released[0].clone();
    let freed = [(released.addresses[0], released.release)];
    node.store
        .release_quarantine(&freed, Duration::from_secs(1));
    assert_eq!(code(&node.ask(&add("c5", &pods[5])).await), 0);
}

#[tokio::test]
async fn a_killed_agent_finishes_what_it_finds() {
    let mut node = Node::new(&["10.91.5.0/24"]).await;
    let (first, second) = (Scratch::new(), Scratch::new());
    let before = node.ask(&add("k1", &first)).await;
    assert_eq!(code(&before), 0);
    // The second ADD dies after its reservation.
    node.store.set_pools(&["10.91.5.0/24".parse().unwrap()]);
    let key = AttachmentKey {
        container_id: "k2".to_owned(),
        ifname: "eth0".to_owned(),
    };
    let pod = PodRef {
        namespace: "ns".to_owned(),
        name: "k2".to_owned(),
        uid: "uid-k2".to_owned(),
    };
    let request = carrick_agent::ipam::Request {
        key: key.clone(),
        netns: second.path().into(),
        pod,
        port_mappings: vec![],
    };
    let half = node.store.reserve(request, Duration::ZERO).unwrap();
    node.restart().await;
    assert_eq!(node.store.get(&key).unwrap().state, AttachmentState::Adding);
    // The same question gets the same answer; the half one is made anew, with its address.
    assert_eq!(node.ask(&add("k1", &first)).await, before);
    let result = node.ask(&add("k2", &second)).await;
    assert_eq!(code(&result), 0, "{result:?}");
    assert_eq!(node.store.get(&key).unwrap().addresses, half.addresses);
    // State lost altogether: it is found again in the kernel, so that no address is given twice.
    let known = node.store.attachments();
    let lose = |node: &Node| {
        std::fs::remove_file(node.dir.path().join("attachments.journal")).unwrap();
    };
    lose(&node);
    node.restart().await;
    assert!(node.store.attachments().is_empty());
    let recovered = node.server.recover("/run/netns".as_ref()).await;
    assert_eq!(
        (recovered.adopted.len(), recovered.unknown.len()),
        (2, 0),
        "{recovered:?}"
    );
    let ready = |attachment: &Arc<Attachment>| Attachment {
        state: AttachmentState::Ready,
        ..Attachment::clone(attachment)
    };
    let found = node.store.attachments();
    assert_eq!(
        found.values().map(ready).collect::<Vec<_>>(),
        known.values().map(ready).collect::<Vec<_>>()
    );
    let third = Scratch::new();
    let result = node.ask(&add("k3", &third)).await;
    assert_eq!(
        result.output["ips"][0]["address"], "10.91.5.4/32",
        "{result:?}"
    );
    assert_eq!(code(&node.ask(&del("k3")).await), 0);
    // Without that: DEL still finds the link by its name.
    lose(&node);
    node.restart().await;
    assert_eq!(node.pod_links(), 2);
    assert_eq!(code(&node.ask(&del("k1")).await), 0);
    assert_eq!(node.pod_links(), 1);
}

/// Adopted pods kept their addresses and lost their host ports without a word.
#[tokio::test]
async fn host_ports_of_adopted_pods_come_back_or_are_reported_lost() {
    let mut node = Node::new(&["10.91.10.0/24"]).await;
    let (few, many) = (Scratch::new(), Scratch::new());
    let with_ports = |container: &str, pod: &Scratch, ports: std::ops::Range<u16>| {
        let mappings: Vec<Value> = ports
            .map(|port| json!({"hostPort": port, "containerPort": 80, "protocol": "tcp"}))
            .collect();
        let more = json!({"runtimeConfig": {"portMappings": mappings}});
        frame("ADD", container, &pod.path(), more)
    };
    for ask in [
        with_ports("ports1", &few, 8080..8082),
        with_ports("ports2", &many, 9000..9100),
    ] {
        let answer = node.ask(&ask).await;
        assert_eq!(code(&answer), 0, "{answer:?}");
    }
    std::fs::remove_file(node.dir.path().join("attachments.journal")).unwrap();
    node.restart().await;
    let recovered = node.server.recover("/run/netns".as_ref()).await;
    assert_eq!(recovered.adopted.len(), 2, "{recovered:?}");
    assert_eq!(recovered.without_host_ports, ["ns/ports2"]);
    let found = node.store.attachments();
    let ports: Vec<usize> = found.values().map(|a| a.port_mappings.len()).collect();
    assert_eq!(ports, [2, 0]);
    let lost = node.notes().lost.clone();
    assert_eq!(lost.len(), 1, "{lost:?}");
    assert!(
        lost[0].contains("ns/ports2") && lost[0].contains("delete"),
        "{lost:?}"
    );
    // Their ports are held: nobody else is given them.
    let third = Scratch::new();
    let answer = node.ask(&with_ports("ports3", &third, 8081..8082)).await;
    assert_eq!(code(&answer), 11, "{answer:?}");
}

/// The links could not be listed at the start, nothing was adopted, and the collection took a
/// running pod's link for garbage.
#[tokio::test]
async fn a_living_pods_link_is_adopted_not_collected_when_its_attachment_was_lost() {
    let mut node = Node::new(&["10.91.9.0/24"]).await;
    // Container ids are unique on a node; tests beside this one share the directory of namespaces.
    let pod = Scratch::new();
    assert_eq!(code(&node.ask(&add("lost1", &pod)).await), 0);
    let known: Vec<_> = node
        .store
        .attachments()
        .values()
        .map(|a| a.addresses.clone())
        .collect();
    std::fs::remove_file(node.dir.path().join("attachments.journal")).unwrap();
    node.restart().await;
    assert!(node.store.attachments().is_empty());
    let mut suspects = Suspects::default();
    // A list of links that kept changing costs a round; the link must outlive any number of them.
    for _ in 0..50 {
        node.server.sweep(&mut suspects).await;
        assert_eq!(node.pod_links(), 1);
    }
    let found: Vec<_> = node
        .store
        .attachments()
        .values()
        .map(|a| a.addresses.clone())
        .collect();
    assert_eq!(found, known);
}

#[tokio::test]
async fn garbage_is_collected() {
    let mut node = Node::new(&["10.91.6.0/24"]).await;
    let pods: Vec<Scratch> = (0..5).map(|_| Scratch::new()).collect();
    for (index, pod) in pods.iter().enumerate() {
        assert_eq!(code(&node.ask(&add(&format!("c{index}"), pod)).await), 0);
    }
    let gc = |valid: Value| frame("GC", "", "", json!({"cni.dev/valid-attachments": valid}));
    // Just added: the runtime may not know the result yet.
    assert_eq!(code(&node.ask(&gc(json!([]))).await), 0);
    assert_eq!(node.store.attachments().len(), 5);
    node.restart().await;
    // Without a list only what is gone goes.
    assert_eq!(code(&node.ask(&frame("GC", "", "", json!({}))).await), 0);
    assert_eq!(node.store.attachments().len(), 5);
    let valid: Vec<Value> = (1..5)
        .map(|index| json!({"containerID": format!("c{index}"), "ifname": "eth0"}))
        .collect();
    assert_eq!(code(&node.ask(&gc(json!(valid))).await), 0);
    assert_eq!((node.store.attachments().len(), node.pod_links()), (4, 4));

    // A sandbox is gone without a DEL: two rounds tell it from one at work.
    let mut pods = pods;
    drop(pods.remove(1));
    let mut suspects = Suspects::default();
    let link_gone = async {
        while node.pod_links() > 3 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), link_gone)
        .await
        .unwrap();
    node.server.sweep(&mut suspects).await;
    assert_eq!(node.store.attachments().len(), 4);
    node.server.sweep(&mut suspects).await;
    assert_eq!(node.store.attachments().len(), 3);

    // A link nobody owns.
    node.host.exec(
        "ip",
        &[
            "link",
            "add",
            "car00000000beef",
            "type",
            "veth",
            "peer",
            "x",
        ],
    );
    node.server.sweep(&mut suspects).await;
    assert_eq!(node.pod_links(), 4);
    node.server.sweep(&mut suspects).await;
    assert_eq!(node.pod_links(), 3);

    // DELs that came while the agent was away; a file that is none goes too.
    let deferred = node.dir.path().join("cni-deferred");
    std::fs::create_dir(&deferred).unwrap();
    let file = deferred.join("c2.eth0.json");
    std::fs::write(&file, serde_json::to_vec(&del("c2")).unwrap()).unwrap();
    std::fs::write(deferred.join("junk.json"), "{").unwrap();
    std::fs::write(
        deferred.join("add.json"),
        serde_json::to_vec(&add("c9", &pods[0])).unwrap(),
    )
    .unwrap();
    run_deferred(&node.server, &deferred).await;
    assert_eq!(std::fs::read_dir(&deferred).unwrap().count(), 0);
    assert_eq!((node.store.attachments().len(), node.pod_links()), (2, 2));
}

#[tokio::test]
async fn host_ports_belong_to_one_pod() {
    let node = Node::new(&["10.91.7.0/24"]).await;
    let (first, second) = (Scratch::new(), Scratch::new());
    let with_port = |container: &str, pod: &Scratch, port: u16| {
        let mappings = json!([{"hostPort": port, "containerPort": 80, "protocol": "tcp"}]);
        let more = json!({"runtimeConfig": {"portMappings": mappings}});
        frame("ADD", container, &pod.path(), more)
    };
    assert_eq!(code(&node.ask(&with_port("c1", &first, 8080)).await), 0);
    assert_eq!(node.notes().mapped, 1);
    let answer = node.ask(&with_port("c2", &second, 8080)).await;
    assert_eq!(code(&answer), 11);
    assert!(
        answer.output["msg"]
            .as_str()
            .unwrap()
            .contains("host port 8080 is held by ns/c1")
    );
    assert_eq!(code(&node.ask(&del("c1")).await), 0);
    assert_eq!(node.notes().mapped, 2);
    assert_eq!(code(&node.ask(&with_port("c2", &second, 8080)).await), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_pods_come_and_go_and_leave_nothing() {
    let node = Arc::new(Node::new(&["10.92.0.0/20", "fd92::/64"]).await);
    // No controller: however long this takes, no rest ends by time.
    let mut workers = tokio::task::JoinSet::new();
    for worker in 0..8 {
        let node = Arc::clone(&node);
        workers.spawn(async move {
            let pod = Scratch::new();
            let mut seen = Vec::new();
            for round in 0..25 {
                let container = format!("w{worker}r{round}");
                let result = node.ask(&add(&container, &pod)).await;
                assert_eq!(code(&result), 0, "{result:?}");
                for ip in result.output["ips"].as_array().unwrap() {
                    seen.push(ip["address"].as_str().unwrap().to_owned());
                }
                assert_eq!(code(&node.ask(&del(&container)).await), 0);
            }
            seen
        });
    }
    let mut all = Vec::new();
    while let Some(seen) = workers.join_next().await {
        all.extend(seen.unwrap());
    }
    // Nobody got an address that others may not have forgotten yet.
    assert_eq!(all.len(), 400);
    assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), 400);
    node.nothing_left();
    assert_eq!(node.store.usage().in_quarantine, 400);
    node.store.controller_connected(Duration::ZERO);
    node.store.maintain(Duration::from_hours(1)).unwrap();
    let usage = node.store.usage();
    assert_eq!((usage.in_use, usage.in_quarantine), (0, 0));
    assert_eq!(node.notes().assigned.len(), 200);
    assert_eq!(node.notes().released.len(), 200);
    // Free again is everything: 4096 − 3 and 2^64 − 2.
    assert_eq!(usage.free, 4093 + (1_u128 << 64) - 2);
}

/// All of a node's pods come and go at once: every command is answered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_pods_at_once_are_all_answered() {
    let node = Arc::new(Node::with(&["10.93.0.0/20", "fd93::/64"], DatapathKind::Userspace).await);
    let mut workers = tokio::task::JoinSet::new();
    for worker in 0..100 {
        let node = Arc::clone(&node);
        let pod = Scratch::new();
        workers.spawn(async move {
            for round in 0..6 {
                let container = format!("w{worker}r{round}");
                let limit = Duration::from_mins(1);
                let result = tokio::time::timeout(limit, node.ask(&add(&container, &pod))).await;
                let result = result.expect("ADD was not answered");
                assert_eq!(code(&result), 0, "{result:?}");
                let result = tokio::time::timeout(limit, node.ask(&del(&container))).await;
                assert_eq!(code(&result.expect("DEL was not answered")), 0);
            }
        });
    }
    while let Some(done) = workers.join_next().await {
        done.unwrap();
    }
    node.nothing_left();
}

async fn call(path: &Path, bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = tokio::net::UnixStream::connect(path).await?;
    stream
        .write_u32(u32::try_from(bytes.len()).unwrap())
        .await?;
    stream.write_all(bytes).await?;
    let length = stream.read_u32().await?;
    let mut answer = vec![0; length as usize];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}

#[tokio::test]
async fn the_socket_answers_until_it_is_told_to_end() {
    let node = Node::new(&["10.91.8.0/24"]).await;
    let path: PathBuf = node.dir.path().join("run/cni.sock");
    // A socket that an earlier process left is replaced.
    drop(socket::listen(&path).unwrap());
    let listener = socket::listen(&path).unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = tokio::spawn(socket::serve(Arc::clone(&node.server), listener, async {
        let _ = stopped.await;
    }));
    let status = serde_json::to_vec(&frame("STATUS", "", "", json!({}))).unwrap();
    let answer: Answer = serde_json::from_slice(&call(&path, &status).await.unwrap()).unwrap();
    assert_eq!((answer.exit, answer.output), (0, Value::Null));
    assert!(call(&path, b"not json").await.is_err());
    let mut stream = tokio::net::UnixStream::connect(&path).await.unwrap();
    stream.write_u32(u32::MAX).await.unwrap();
    assert!(stream.read_u32().await.is_err());
    // Still there.
    assert!(call(&path, &status).await.is_ok());
    stop.send(()).unwrap();
    tokio::time::timeout(Duration::from_secs(5), serving)
        .await
        .unwrap()
        .unwrap();
    assert!(call(&path, &status).await.is_err());
}
