//! The switch itself as the judge of policy: what `ofproto/trace` says of every connection in random clusters is what
//! the API documents say.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests say what they expect"
)]

mod support {
    pub mod policy;
    pub mod policy_world;
}

use std::fmt::Write as _;
use std::io::{BufReader, Write as _};
use std::net::IpAddr;
use std::os::unix::net::UnixStream;

use carrick_datapath::policy::Enforcer;
use carrick_datapath::{IdLedger, Port};
use carrick_policy::Direction;
use carrick_testkit::ovs::{Datapath, Ovs};
use proptest::strategy::{Strategy as _, ValueTree as _};
use proptest::test_runner::TestRunner;
use serde_json::{Deserializer, Value, json};
use support::policy::{connected, judged, whole};
use support::policy_world::generate::{PODS, probes, world};
use support::policy_world::reference::{Names, Probe, may_enter, may_leave};
use support::policy_world::world::World;

/// What stands around policy's tables: register 2 says where a packet begins, and the local port takes what passes.
const AROUND: &str = "\
    table=0,reg2=1 actions=goto_table:30\n\
    table=0,reg2=2 actions=goto_table:64\n\
    table=30,priority=0 actions=goto_table:32\n\
    table=32,priority=0 actions=goto_table:34\n\
    table=34,priority=0 actions=goto_table:50\n\
    table=50,priority=0 actions=LOCAL\n\
    table=64,priority=65100,reg0=2 actions=goto_table:70\n\
    table=64,priority=0 actions=goto_table:66\n\
    table=66,priority=0 actions=goto_table:68\n\
    table=68,priority=0 actions=goto_table:70\n\
    table=70,priority=0 actions=LOCAL\n";

/// One connection to `ovs-vswitchd` for many commands (unixctl: JSON-RPC 1.0 without a frame).
struct Control {
    to: UnixStream,
    from: serde_json::StreamDeserializer<
        'static,
        serde_json::de::IoRead<BufReader<UnixStream>>,
        Value,
    >,
    number: u64,
}

impl Control {
    fn open(ovs: &Ovs) -> Self {
        let to = UnixStream::connect(ovs.run_dir().join("ovs-vswitchd.ctl")).unwrap();
        let from = Deserializer::from_reader(BufReader::new(to.try_clone().unwrap())).into_iter();
        Self {
            to,
            from,
            number: 0,
        }
    }

    fn trace(&mut self, packet: &str) -> String {
        self.number += 1;
        let request = json!({
            "id": self.number, "method": "ofproto/trace", "params": ["br-int", packet],
        });
        self.to.write_all(request.to_string().as_bytes()).unwrap();
        let answer = self.from.next().unwrap().unwrap();
        assert_eq!(answer["error"], Value::Null, "{packet}");
        answer["result"].as_str().unwrap().to_owned()
    }

    /// Whether the first packet of a connection passes policy's tables of a direction.
    fn passes(&mut self, direction: Direction, own: bool, probe: Probe, output: Port) -> bool {
        let (six, source, destination) = match probe.source {
            IpAddr::V4(_) => ("", "nw_src", "nw_dst"),
            IpAddr::V6(_) => ("6", "ipv6_src", "ipv6_dst"),
        };
        // What a field needs stands before it.
        let (protocol, to_port) = match probe.port {
            None => (
                if six.is_empty() { "icmp" } else { "icmp6" }.to_owned(),
                String::new(),
            ),
            Some((protocol, port)) => {
                let protocol = protocol.to_lowercase();
                (
                    format!("{protocol}{six}"),
                    format!(",{protocol}_dst={port}"),
                )
            }
        };
        let packet = format!(
            "{protocol},in_port=1,reg0={},reg1={},reg2={},{source}={},{destination}={}{to_port}",
            if own { 2 } else { 3 },
            output.0,
            match direction {
                Direction::Egress => 1,
                Direction::Ingress => 2,
            },
            probe.source,
            probe.destination
        );
        let trace = self.trace(&packet);
        let (_, actions) = trace.rsplit_once("Datapath actions: ").unwrap();
        actions.trim() != "drop"
    }
}

/// Every connection of random clusters, at the nodes of both ends. How many verdicts.
fn traced(clusters: usize) -> usize {
    let ovs = Ovs::start().unwrap();
    ovs.add_bridge("br-int", Datapath::under_test()).unwrap();
    ovs.vsctl(&[
        "add-port",
        "br-int",
        "one",
        "--",
        "set",
        "interface",
        "one",
        "type=internal",
        "ofport_request=1",
    ])
    .unwrap();
    let mut control = Control::open(&ovs);
    let mut runner = TestRunner::deterministic();
    let mut verdicts = 0;
    for _ in 0..clusters {
        let world: World = world(PODS).new_tree(&mut runner).unwrap().current();
        let index = world.index();
        for id in index.nodes() {
            let name = index.node_name(id).to_string();
            let pods = connected(&world, &name);
            if pods.is_empty() {
                continue;
            }
            let mut enforcer = Enforcer::default();
            for (uid, pod) in &pods {
                enforcer.connect(uid, *pod);
            }
            let update = whole(&index.node_state(id));
            enforcer.apply(update, &mut IdLedger::default()).unwrap();
            let mut flows = AROUND.to_owned();
            for flow in enforcer.flows().unwrap() {
                writeln!(flows, "{flow}").unwrap();
            }
            let file = ovs.run_dir().join("flows");
            std::fs::write(&file, &flows).unwrap();
            let words = [
                "--bundle",
                "replace-flows",
                &ovs.target("br-int"),
                file.to_str().unwrap(),
            ];
            ovs.ofctl(&words).unwrap();
            for probe in probes(&world) {
                let own = world.nodes.get(&name);
                let own = own.is_some_and(|node| node.addresses.contains(&probe.source));
                for (direction, at) in [
                    (Direction::Egress, probe.source),
                    (Direction::Ingress, probe.destination),
                ] {
                    let here = pods
                        .iter()
                        .find(|(_, pod)| pod.addresses.iter().any(|ip| ip == at));
                    let Some((uid, pod)) = here else { continue };
                    // The flows know of no names yet.
                    let expected = match direction {
                        Direction::Egress => may_leave(&world, &Names::new(), probe),
                        Direction::Ingress => may_enter(&world, probe),
                    };
                    let passes = control.passes(direction, own, probe, pod.port);
                    assert_eq!(
                        passes, expected,
                        "{direction} of {probe:?} in {world:#?}\n{flows}"
                    );
                    // What a person is told comes from the same state.
                    let explained = judged(&world, &name, enforcer.state(), uid, direction, probe);
                    assert_eq!(passes, explained.accepted, "{explained:?}\n{flows}");
                    verdicts += 1;
                }
            }
        }
    }
    verdicts
}

#[test]
fn traces_say_what_the_documents_say() {
    let verdicts = traced(12);
    assert!(verdicts > 10_000, "{verdicts}");
}

#[test]
#[ignore = "takes long: cargo test -p carrick-datapath --test ovs_policy -- --ignored"]
fn traces_of_two_thousand_clusters_say_what_the_documents_say() {
    let verdicts = traced(2000);
    assert!(verdicts > 1_000_000, "{verdicts}");
}
