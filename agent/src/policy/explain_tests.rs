use std::sync::Arc;

use carrick_datapath::policy::Connected;
use carrick_datapath::{Addresses, IdLedger, Kind, MAX_OBJECTS, Port};
use carrick_policy::{
    Event, GroupUpdate, Index, Namespace, NodeState, NodeUpdate, Pod, parse_network_policy_json,
};
use serde_json::{Value, json};

use super::*;

const SERVER: &str = "10.0.0.1";
const CLIENT: &str = "10.0.0.2";
const GATEWAY: &str = "10.0.0.254";

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// `n/server` and `n/client` on one node, and the policies.
fn node(specs: &[(&str, Value)], ids: &mut IdLedger) -> Enforcer {
    let mut index = Index::default();
    index.apply(Event::Namespace(Namespace {
        name: "n".into(),
        labels: BTreeMap::new(),
    }));
    for (name, ip) in [("server", SERVER), ("client", CLIENT)] {
        index.apply(Event::Pod(Pod {
            uid: name.into(),
            namespace: "n".into(),
            name: name.into(),
            node: "here".into(),
            labels: BTreeMap::from([("app".to_owned(), name.to_owned())]),
            addresses: vec![address(ip)],
            ports: Arc::default(),
        }));
    }
    for (name, spec) in specs {
        let object = json!({
            "metadata": {"namespace": "n", "name": name, "uid": name}, "spec": spec,
        });
        let parsed = parse_network_policy_json(&object).unwrap();
        index.apply(Event::Policy(parsed.policy));
    }
    let here = index.node("here").unwrap();
    let NodeState {
        pods,
        policies,
        groups,
    } = index.node_state(here);
    let mut enforcer = Enforcer::default();
    for (port, uid) in (10..).zip(pods.keys()) {
        let addresses = Addresses::default();
        let port = Port(port);
        enforcer.connect(uid, Connected { port, addresses });
    }
    let update = NodeUpdate {
        pods: pods
            .into_iter()
            .map(|(uid, pod)| (uid, Some(pod)))
            .collect(),
        policies: policies
            .into_iter()
            .map(|(name, policy)| (name, Some(policy)))
            .collect(),
        groups: groups
            .into_iter()
            .map(|(key, members)| (key, GroupUpdate::Whole(members)))
            .collect(),
    };
    // Without ids it waits, which is what one test wants.
    let _ = enforcer.apply(update, ids);
    enforcer
}

/// The server takes TCP port 80 from the client only.
fn closed_but_80() -> [(&'static str, Value); 2] {
    let server = json!({"matchLabels": {"app": "server"}});
    let closed = json!({"podSelector": server, "policyTypes": ["Ingress"]});
    let web = json!({"podSelector": server, "ingress": [{
        "from": [{"podSelector": {"matchLabels": {"app": "client"}}}],
        "ports": [{"port": 80}],
    }]});
    [("closed", closed), ("web", web)]
}

fn asked(pod: &str, direction: &str, peer: &str, port: Option<u16>) -> Asked {
    Asked {
        pod: pod.to_owned(),
        direction: direction.to_owned(),
        peer: address(peer),
        port,
        protocol: None,
    }
}

fn pods() -> [(IpAddr, String); 2] {
    [
        (address(SERVER), "n/server".to_owned()),
        (address(CLIENT), "n/client".to_owned()),
    ]
}

fn answer(enforcer: &Enforcer, asked: Asked) -> Answer {
    let question = asked.question(pods(), vec![address(GATEWAY)]);
    explain(enforcer, &question.unwrap())
}

fn full_ledger() -> IdLedger {
    let mut ids = IdLedger::default();
    for id in 1..=u32::try_from(MAX_OBJECTS).unwrap() {
        ids.reserve(Kind::PolicyRule, id);
    }
    ids
}

#[test]
fn the_rule_that_decides_is_named_with_its_flow() {
    let mut enforcer = node(&closed_but_80(), &mut IdLedger::default());
    let told = answer(&enforcer, asked("n/server", "ingress", CLIENT, Some(80)));
    assert!(told.accepted);
    assert_eq!(
        (told.reason, &*told.message),
        (
            "Rule",
            "ingress is accepted by ingress[0] of NetworkPolicy n/web"
        )
    );
    let flows = enforcer.lines().unwrap().collect::<Vec<_>>().join("\n");
    assert_eq!(told.cookies.len(), 1);
    for cookie in &told.cookies {
        let number = u64::from_str_radix(cookie.trim_start_matches("0x"), 16).unwrap();
        assert!(
            flows.contains(&format!("cookie={number:#x},")),
            "{cookie} in\n{flows}"
        );
    }

    let told = answer(&enforcer, asked("n/server", "ingress", CLIENT, Some(81)));
    assert!(!told.accepted);
    assert_eq!(told.reason, "Isolated");
    assert_eq!(told.policies, ["n/closed", "n/web"]);
    let told = answer(
        &enforcer,
        asked("n/server", "ingress", "192.0.2.1", Some(80)),
    );
    assert!(!told.accepted);
}

#[test]
fn what_no_policy_decides_is_told_as_well() {
    let enforcer = node(&closed_but_80(), &mut IdLedger::default());
    for (pod, direction, peer, reason) in [
        ("n/server", "egress", CLIENT, "Default"),
        ("n/server", "ingress", SERVER, "Itself"),
        ("n/server", "ingress", GATEWAY, "OwnNode"),
        ("n/client", "ingress", SERVER, "Default"),
    ] {
        let told = answer(&enforcer, asked(pod, direction, peer, None));
        assert_eq!(
            (told.accepted, told.reason),
            (true, reason),
            "{pod} {direction} {peer}"
        );
    }
}

#[test]
fn a_pod_without_a_record_or_with_a_policy_that_waits_is_closed() {
    let told = answer(
        &Enforcer::default(),
        asked("n/server", "ingress", CLIENT, Some(80)),
    );
    assert_eq!((told.accepted, told.reason), (false, "NoRecord"));

    let enforcer = node(&closed_but_80(), &mut full_ledger());
    let told = answer(&enforcer, asked("n/server", "ingress", CLIENT, Some(80)));
    assert_eq!((told.accepted, told.reason), (false, "NotEnforced"));
    assert!(told.message.contains("n/web"), "{}", told.message);
}

#[test]
fn questions_about_nothing_here_are_refused() {
    let refusal = |asked: Asked| asked.question(pods(), Vec::new()).unwrap_err();
    let unknown = refusal(asked("n/other", "ingress", CLIENT, None));
    assert_eq!(unknown, Refusal::NoPod("n/other".to_owned()));
    let family = refusal(asked("n/server", "ingress", "fd00::1", None));
    assert!(matches!(family, Refusal::Family { .. }));
    let word = refusal(asked("n/server", "sideways", CLIENT, None));
    assert_eq!(word.to_string(), "direction is egress or ingress");
    let mut protocol = asked("n/server", "ingress", CLIENT, Some(1));
    protocol.protocol = Some("icmp".to_owned());
    assert_eq!(
        refusal(protocol).to_string(),
        "protocol is tcp, udp or sctp"
    );
}
