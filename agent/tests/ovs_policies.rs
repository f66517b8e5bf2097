//! Network policy on real switches: an agent enforces what a controller tells that the test plays.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::duration_suboptimal_units,
    clippy::default_trait_access,
    reason = "tests say what they expect"
)]

mod lab;

use std::net::{SocketAddr, UdpSocket};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use carrick_node::Namespace;
use carrick_policy::Direction;
use carrick_proto::{Entry, GroupDifference, Number};
use lab::controller::{Controller, node_record, pod_record};
use lab::policies::{
    all, manifold_record, member, peers, peers_record, policy_record, subject_record,
};
use lab::{LabNode, Pod, in_netns, ping, wait, wire};

/// Not a test: the agent's process (see [`lab`]).
#[test]
fn agent_process() {
    lab::agent_main();
}

const CIDRS: [&str; 2] = ["10.10.1.0/24", "fd00:10:1::/64"];

/// A node with its agent; the other one only holds the end of its wire.
async fn node() -> (LabNode, LabNode, Controller) {
    let (mut a, b) = (LabNode::new(1), LabNode::new(2));
    wire(&a, &b);
    let controller = Controller::serve(&[&a]).await;
    controller.send("node1", vec![node_record(1, &CIDRS)], vec![]);
    a.start_agent();
    a.wait_ready();
    (a, b, controller)
}

/// Sends records and waits until the agent says that they are in the switch.
fn realise(controller: &Controller, changed: Vec<Entry>, removed: &[&Entry]) {
    let removed = removed.iter().map(|entry| entry.key()).collect();
    let number = controller.send("node1", changed, removed);
    realised(controller, number);
}

fn realised(controller: &Controller, number: Number) {
    wait("the records to be realised", || {
        controller.acknowledged("node1") >= number
    });
}

/// Whether the first packet of a new connection gets no answer.
fn is_dropped(netns: &str, address: &str) -> bool {
    !in_netns(netns, &format!("ping -c 2 -i 0.2 -W 1 {address}")).0
}

/// Packets that rules of a policy with this action decided on.
fn count(node: &LabNode, policy: &str, action: &str) -> u64 {
    let (_, told) = node.api("/v1/policies").unwrap();
    let told: serde_json::Value = serde_json::from_str(&told).unwrap();
    let rules = told["policies"][policy]["rules"].as_array().expect(policy);
    let rules = rules.iter().filter(|rule| rule["action"] == action);
    rules
        .map(|rule| rule["count"]["packets"].as_u64().expect(policy))
        .sum()
}

fn policy_flows(flows: &[String]) -> Vec<&String> {
    let of_policy =
        |flow: &&String| flow.contains("cookie=0x7000000") || flow.contains("cookie=0x8000000");
    flows.iter().filter(of_policy).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn policies_isolate_and_open_and_outlive_restarts() {
    let (mut a, _b, controller) = node().await;
    let [client, other, server] = ["client", "other", "server"].map(Pod::new);
    let records = [
        pod_record(&client),
        pod_record(&other),
        subject_record(&server),
    ];
    realise(&controller, records.into(), &[]);
    let (client_box, client_ips) = a.add_pod(&client);
    let (other_box, other_ips) = a.add_pod(&other);
    let (_, server_ips) = a.add_pod(&server);
    assert!(ping(&client_box.0, &server_ips[0]) && ping(&other_box.0, &server_ips[1]));

    // What is established when the policy comes goes on, new connections are dropped.
    let begun = Command::new("ip")
        .args([
            "netns",
            "exec",
            &client_box.0,
            "ping",
            "-c",
            "60",
            "-i",
            "0.1",
            &server_ips[0],
        ])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    wait("the connection to be there", || {
        let entries = a.ovs.appctl(&["dpctl/dump-conntrack"]).unwrap_or_default();
        entries
            .lines()
            .any(|line| line.contains(&format!("dst={}", server_ips[0])) && line.contains("icmp"))
    });
    let isolating = policy_record("isolate", Direction::Ingress, false);
    realise(&controller, vec![isolating.clone()], &[]);
    for address in &server_ips {
        assert!(is_dropped(&client_box.0, address), "{address}");
    }
    assert!(
        ping(a.netns(), &server_ips[0]),
        "the node speaks to its pods"
    );
    let said = begun.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(said.contains("icmp_seq=60"), "{said}");

    // A rule opens, for those it names alone.
    let of_client: Vec<_> = client_ips.iter().map(|ip| member(&client, ip)).collect();
    let opening = policy_record("open", Direction::Ingress, true);
    let records = vec![peers_record(&of_client), opening.clone()];
    realise(&controller, records, &[]);
    for address in &server_ips {
        assert!(ping(&client_box.0, address), "{address}");
        assert!(is_dropped(&other_box.0, address), "{address}");
    }

    // One member more is one flow more.
    let before = a.flows();
    let more = member(&other, &other_ips[0]);
    let after = [of_client.clone(), vec![more.clone()]].concat();
    let difference = GroupDifference {
        group: peers(),
        hash: peers_record(&after).hash(),
        removed: vec![],
        added: all(&[more]),
    };
    realised(&controller, controller.send_difference("node1", difference));
    let flows = a.flows();
    assert_eq!(flows.len(), before.len() + 1);
    assert!(before.iter().all(|flow| flows.contains(flow)));
    assert!(ping(&other_box.0, &server_ips[0]) && is_dropped(&other_box.0, &server_ips[1]));

    // A difference that leads elsewhere than is said ends the stream, and the group comes whole.
    let streams = controller.hellos();
    let wrong = GroupDifference {
        group: peers(),
        hash: peers_record(&of_client).hash(),
        removed: vec![],
        added: all(&[member(&server, &server_ips[0])]),
    };
    let number = controller.say_difference("node1", wrong);
    wait("the stream to be opened anew", || {
        controller.hellos() > streams
    });
    realised(&controller, number);
    assert!(!controller.held_last("node1", &format!("group/{}", peers())));
    assert_eq!(a.flows(), flows);
    assert!(a.log().contains("does not fit"), "{}", a.log());

    let manifold = manifold_record();
    realise(&controller, vec![manifold.clone()], &[]);
    let flows = a.flows();

    // An agent that starts changes nothing, and a switch that starts gets its policies back.
    assert!(policy_flows(&flows).len() > 6, "{flows:#?}");
    let (_, saved) = a.api("/v1/flows").unwrap();
    assert!(
        saved.contains("conj_id=") && saved.contains("conjunction("),
        "{saved}"
    );
    a.kill_agent();
    a.start_agent();
    a.wait_ready();
    assert_eq!(a.flows(), flows);
    assert!(!a.log().contains("programmed changes="), "{}", a.log());
    assert_eq!(a.condition("PoliciesEnforced").0, "True");
    a.restart_switch();
    a.wait_programmed_again(&flows);
    a.wait_ready();
    wait("the rule to count again", || {
        ping(&client_box.0, &server_ips[0])
    });
    assert!(is_dropped(&other_box.0, &server_ips[1]));
    let (_, again) = a.api("/v1/flows").unwrap();
    assert_eq!(again, saved, "the saved commit");

    // What the read API tells.
    let (status, told) = a.api("/v1/policies").unwrap();
    let told: serde_json::Value = serde_json::from_str(&told).unwrap();
    assert_eq!((status, &told["complete"]), (200, &true.into()), "{told}");
    let open = &told["policies"]["default/open"];
    assert_eq!(
        open["pods"],
        serde_json::json!(["default/server"]),
        "{told}"
    );
    assert_eq!(open["enforced"], true);
    let rules = open["rules"].as_array().unwrap();
    let accepting = rules
        .iter()
        .find(|rule| rule["action"] == "Accept")
        .unwrap();
    assert_eq!(accepting["table"], "ingress-network-policy");
    let cookie = accepting["cookie"]
        .as_str()
        .unwrap()
        .trim_start_matches("0x0");
    assert!(
        flows.iter().any(|flow| flow.contains(cookie)),
        "{cookie} {flows:#?}"
    );
    let (_, one) = a.api("/v1/policies?policy=default/isolate").unwrap();
    assert!(
        one.contains("isolate") && !one.contains("default/open"),
        "{one}"
    );

    // What rules have decided: packets of the isolation, and first packets of what was opened.
    let denied = || count(&a, "default/isolate", "Deny");
    let before = denied();
    assert!(is_dropped(&other_box.0, &server_ips[1]));
    wait("two packets to be counted", || denied() == before + 2);
    let accepted = || count(&a, "default/open", "Accept");
    let before = accepted();
    assert!(ping(&client_box.0, &server_ips[0]));
    wait("a connection to be counted", || accepted() > before);
    let metrics = a.api("/metrics").unwrap().1;
    let series = "carrick_agent_policy_packets_total{direction=\"Ingress\",tier=\"NetworkPolicy\",action=\"Deny\"}";
    let counted = metrics.lines().find_map(|line| line.strip_prefix(series));
    let counted: u64 = counted.expect(&metrics).trim().parse().unwrap();
    assert!(counted >= denied(), "{metrics}");

    // Of one pod, and who is in groups.
    let (_, of_pod) = a.api("/v1/policies?pod=default/server").unwrap();
    assert!(of_pod.contains("default/open"), "{of_pod}");
    let (_, of_other) = a.api("/v1/policies?pod=default/other").unwrap();
    assert!(!of_other.contains("default/open"), "{of_other}");
    let (status, text) = a.api("/v1/policies?pod=default/nobody").unwrap();
    assert_eq!(status, 404);
    assert!(text.contains("no pod of this node"), "{text}");
    let (_, groups) = a
        .api(&format!("/v1/policies/groups?group={}", peers()))
        .unwrap();
    let groups: serde_json::Value = serde_json::from_str(&groups).unwrap();
    let group = &groups["groups"][peers().to_string()];
    assert_eq!(group["size"], after.len(), "{groups}");
    assert_eq!(group["members"].as_array().unwrap().len(), after.len());
    assert!(
        group["policies"].to_string().contains("default/open"),
        "{groups}"
    );

    // Without policies everybody may again.
    realise(
        &controller,
        vec![],
        &[&isolating, &opening, &manifold, &peers_record(&after)],
    );
    assert!(policy_flows(&a.flows()).is_empty());
    assert!(ping(&other_box.0, &server_ips[1]));
}

/// A pod that sends from the first moment it has a way to: its namespace is there before its interface.
struct Sender {
    ended: Arc<AtomicBool>,
    sent: Arc<AtomicUsize>,
    thread: std::thread::JoinHandle<()>,
}

impl Sender {
    async fn start(netns: &str, to: SocketAddr) -> Self {
        let (ended, sent) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicUsize::new(0)),
        );
        let socket = socket(netns, "0.0.0.0:0").await;
        let (end, count) = (Arc::clone(&ended), Arc::clone(&sent));
        let thread = std::thread::spawn(move || {
            while !end.load(Ordering::Relaxed) {
                match socket.send_to(b"x", to) {
                    Ok(_) => drop(count.fetch_add(1, Ordering::Relaxed)),
                    // There is no way yet.
                    Err(_) => std::thread::yield_now(),
                }
            }
        });
        Self {
            ended,
            sent,
            thread,
        }
    }

    fn wait_sent(&self, more: usize) {
        let before = self.sent.load(Ordering::Relaxed);
        wait("packets to be sent", || {
            self.sent.load(Ordering::Relaxed) >= before + more
        });
    }

    fn end(self) {
        self.ended.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
    }
}

async fn socket(netns: &str, address: &'static str) -> UdpSocket {
    let namespace = Namespace::open(format!("/run/netns/{netns}")).unwrap();
    namespace
        .run(move || {
            let socket = UdpSocket::bind(address).unwrap();
            socket.set_nonblocking(true).unwrap();
            socket
        })
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_never_sends_what_its_policy_forbids() {
    let (mut a, _b, controller) = node().await;
    let sink = Pod::new("sink");
    realise(&controller, vec![pod_record(&sink)], &[]);
    let (sink_box, sink_ips) = a.add_pod(&sink);
    let receiver = socket(&sink_box.0, "0.0.0.0:9000").await;
    let to: SocketAddr = format!("{}:9000", sink_ips[0]).parse().unwrap();
    let received = || receiver.recv(&mut [0; 8]).is_ok();
    let isolating = policy_record("isolate", Direction::Egress, false);

    let pod = Pod::new("sender");
    let sandbox = a.sandbox();
    let sender = Sender::start(&sandbox.0, to).await;
    // The runtime asks before the controller knows the pod.
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| a.cni("ADD", &sandbox, &pod));
        let records = vec![isolating.clone(), subject_record(&pod)];
        controller.send("node1", records, vec![]);
        let answer = asked.join().unwrap();
        assert_eq!(answer.exit, 0, "{}", answer.output);
    });
    sender.wait_sent(1000);
    assert!(!received(), "before and after its port was opened");

    // Nor while the agent or the switch starts again, nor when the pod goes.
    let flows = a.flows();
    a.kill_agent();
    a.start_agent();
    a.wait_ready();
    a.restart_switch();
    a.wait_programmed_again(&flows);
    a.wait_ready();
    sender.wait_sent(1000);
    assert!(!received(), "over restarts");

    // Pod and policy go in one batch.
    realise(&controller, vec![], &[&isolating, &subject_record(&pod)]);
    sender.wait_sent(1000);
    assert!(!received(), "when it went");

    // Without the policy the same sender is heard: nothing else kept it.
    realise(&controller, vec![subject_record(&pod)], &[]);
    wait("a packet", received);
    sender.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_records_take_no_policy_away() {
    let (mut a, _b, controller) = node().await;
    let [client, server] = ["client", "server"].map(Pod::new);
    let isolating = policy_record("isolate", Direction::Ingress, false);
    let records = vec![pod_record(&client), subject_record(&server)];
    realise(&controller, records, &[]);
    let (client_box, _) = a.add_pod(&client);
    let (_, server_ips) = a.add_pod(&server);
    assert!(ping(&client_box.0, &server_ips[0]));
    realise(&controller, vec![isolating], &[]);
    // A journal's last record may be torn, which is no damage.
    realise(&controller, vec![subject_record(&Pod::new("later"))], &[]);
    assert!(is_dropped(&client_box.0, &server_ips[0]));
    let flows = a.flows();
    let expected: Vec<String> = policy_flows(&flows).into_iter().cloned().collect();
    a.kill_agent();
    // The controller is away, and of the batch that had the policy a byte is another.
    controller.set_down(true);
    let mut bytes = std::fs::read(a.paths.records()).unwrap();
    let name = b"uid-isolate";
    let place = bytes.windows(name.len()).position(|window| window == name);
    bytes[place.unwrap()] ^= 0xff;
    std::fs::write(a.paths.records(), bytes).unwrap();
    a.start_agent();
    wait("the agent to say what it does not know", || {
        a.condition("PoliciesEnforced").0 == "Unknown"
    });
    assert_eq!(a.condition("StateIntact").0, "False");
    wait("both that were open to be so again", || {
        a.report()["pods"] == 2
    });
    let held = || -> Vec<String> { policy_flows(&a.flows()).into_iter().cloned().collect() };
    assert_eq!(held(), expected);
    assert!(is_dropped(&client_box.0, &server_ips[0]));
    controller.set_down(false);
    wait("the controller to tell all", || {
        a.condition("PoliciesEnforced").0 == "True"
    });
    a.wait_ready();
    wait("the flows to be as they were", || a.flows() == flows);
}
