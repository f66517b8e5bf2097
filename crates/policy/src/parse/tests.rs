//! What is enforced of objects that are not as they should be, and what is said of them.

use k8s_openapi::api::networking::v1::NetworkPolicy;
use serde_json::{Value, json};

use super::{
    Parsed, Refused, parse_cluster_network_policy_json as parse_cluster, parse_network_policy,
};
use crate::policy::{Action, Direction, Isolation, Rule};

fn namespaced(spec: &Value) -> Result<Parsed, Refused> {
    let object = json!({
        "metadata": {"namespace": "shop", "name": "web", "uid": "u-1"},
        "spec": spec,
    });
    parse_network_policy(&serde_json::from_value(object).unwrap())
}

fn cluster(tier: &str, subject: &Value, rules: &Value) -> Result<Parsed, Refused> {
    let mut spec = json!({"tier": tier, "priority": 10, "subject": subject});
    for (key, value) in rules.as_object().unwrap() {
        spec[key] = value.clone();
    }
    parse_cluster(&json!({"metadata": {"name": "guard", "uid": "u-2"}, "spec": spec}))
}

/// Problems as sentences.
fn said(parsed: &Parsed) -> Vec<String> {
    let problems = parsed.problems.first().iter();
    problems.map(ToString::to_string).collect()
}

/// A rule in short: direction, position, action, peers, ports.
fn short(rule: &Rule) -> String {
    let mut peers = Vec::new();
    peers.extend(rule.peers.any.then(|| "any".to_owned()));
    peers.extend(rule.peers.groups.iter().map(ToString::to_string));
    peers.extend(rule.peers.networks.iter().map(ToString::to_string));
    peers.extend(rule.peers.domains.iter().map(ToString::to_string));
    let ports = match &rule.ports {
        None => "all".to_owned(),
        Some(ports) => {
            let ports: Vec<String> = ports.iter().map(ToString::to_string).collect();
            ports.join(" ")
        }
    };
    format!(
        "{} {} {:?}: {}: {ports}",
        rule.direction,
        rule.position,
        rule.action,
        peers.join(" + ")
    )
}

fn rules(parsed: &Parsed) -> Vec<String> {
    parsed.policy.rules.iter().map(short).collect()
}

#[test]
fn a_network_policy_is_read_whole() {
    let parsed = namespaced(&json!({
        "podSelector": {"matchLabels": {"app": "web"}},
        "policyTypes": ["Egress", "Ingress"],
        "ingress": [
            {"from": [
                {"podSelector": {"matchLabels": {"app": "shop"}}},
                {"namespaceSelector": {}},
                {"namespaceSelector": {"matchLabels": {"team": "a"}},
                 "podSelector": {"matchExpressions": [{"key": "app", "operator": "Exists"}]}},
                {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}},
             ],
             "ports": [{"port": 80}, {"port": "http"}, {"protocol": "UDP"},
                       {"protocol": "SCTP", "port": 7000, "endPort": 7010}]},
            {},
        ],
        "egress": [{"ports": [{"port": "dns", "protocol": "UDP"}]}],
    }))
    .unwrap();
    assert_eq!(said(&parsed), [] as [&str; 0]);
    let policy = &parsed.policy;
    assert_eq!(policy.name.to_string(), "NetworkPolicy shop/web");
    assert_eq!(
        policy.applied_to.to_string(),
        "pods app=web of namespace shop"
    );
    assert_eq!(
        policy.isolation,
        Isolation {
            ingress: true,
            egress: true
        }
    );
    assert_eq!(
        rules(&parsed),
        [
            "ingress 0 Accept: pods app=shop of namespace shop + pods all of namespaces all + pods \
             app of namespaces team=a + 10.0.0.0/8 except 10.1.0.0/16: UDP TCP/80 SCTP/7000-7010 \
             TCP/http",
            "ingress 1 Accept: any: all",
            "egress 0 Accept: any + pods all of namespaces all: UDP/dns",
        ]
    );
}

#[test]
fn policy_types_default_as_the_api_says() {
    let isolation = |spec| {
        let Isolation { ingress, egress } = namespaced(&spec).unwrap().policy.isolation;
        (ingress, egress)
    };
    assert_eq!(isolation(json!({"podSelector": {}})), (true, false));
    let rules = json!({"podSelector": {}, "egress": [{}], "ingress": []});
    assert_eq!(isolation(rules), (true, true));
    assert_eq!(
        isolation(json!({"podSelector": {}, "egress": []})),
        (true, false)
    );
    assert_eq!(
        isolation(json!({"podSelector": {}, "policyTypes": []})),
        (true, false)
    );
    // Rules of a direction that is not named count for nothing.
    let only = namespaced(&json!({
        "podSelector": {}, "policyTypes": ["Egress"], "ingress": [{}],
    }));
    assert_eq!(only.unwrap().policy.rules.len(), 0);
}

#[test]
fn what_a_network_policy_gets_wrong_is_left_out_and_named() {
    let parsed = namespaced(&json!({
        "podSelector": {},
        "ingress": [
            {"from": [{"ipBlock": {"cidr": "10.0.0.0/33"}}]},
            {"from": [
                {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["11.0.0.0/8"]}},
                {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.0.0.0/8"]}},
                {"ipBlock": {"cidr": "::ffff:10.0.0.0/104"}},
                {"ipBlock": {"cidr": "0.0.0.0/0"}, "podSelector": {}},
                {},
                {"ipBlock": {"cidr": "0.0.0.0/0"}},
            ]},
            {"ports": [
                {"port": 0}, {"port": 65536}, {"port": -1}, {"port": 90, "endPort": 80},
                {"endPort": 80}, {"port": "http", "endPort": 80}, {"port": "Not A Name"},
                {"protocol": "ICMP"},
            ]},
        ],
    }))
    .unwrap();
    insta::assert_snapshot!(said(&parsed).join("\n"));
    // A rule whose peers or ports are all unreadable accepts nothing, never everything.
    assert_eq!(rules(&parsed), ["ingress 1 Accept: 0.0.0.0/0: all"]);
    assert!(parsed.policy.isolation.ingress, "its pods stay isolated");
}

#[test]
fn five_thousand_peers_are_enforced() {
    let peers: Vec<Value> = (0..5000)
        .map(|n| json!({"ipBlock": {"cidr": format!("10.{}.{}.0/24", n / 256, n % 256)}}))
        .collect();
    let parsed = namespaced(&json!({"podSelector": {}, "ingress": [{"from": peers}]})).unwrap();
    assert!(parsed.problems.is_empty());
    assert_eq!(parsed.policy.rules[0].peers.networks.len(), 5000);

    let peers = vec![json!({"ipBlock": {"cidr": "nonsense"}}); 5000];
    let parsed = namespaced(&json!({"podSelector": {}, "ingress": [{"from": peers}]})).unwrap();
    assert_eq!(parsed.problems.len(), 5000);
    assert_eq!(parsed.problems.first().len(), crate::MAX_PROBLEMS);
}

#[test]
fn a_policy_for_nobody_knows_whom_is_refused() {
    let expression = json!({"matchExpressions": [{"key": "a", "operator": "Near"}]});
    let refused = [
        namespaced(&json!({"podSelector": expression})).unwrap_err(),
        parse_network_policy(&NetworkPolicy::default()).unwrap_err(),
        cluster("Admin", &json!({}), &json!({})).unwrap_err(),
        cluster(
            "Admin",
            &json!({"namespaces": {}, "pods": {"podSelector": {}}}),
            &json!({}),
        )
        .unwrap_err(),
        cluster("Admin", &json!({"namespaces": expression}), &json!({})).unwrap_err(),
        cluster("Platform", &json!({"namespaces": {}}), &json!({})).unwrap_err(),
        cluster(
            "Admin",
            &json!({"namespaces": {}}),
            &json!({"priority": 1001}),
        )
        .unwrap_err(),
        cluster(
            "Admin",
            &json!({"namespaces": {}}),
            &json!({"priority": "high"}),
        )
        .unwrap_err(),
        parse_cluster(
            &json!({"metadata": {"name": "Upper Case", "uid": "u"}, "spec": {
            "tier": "Admin", "priority": 0, "subject": {"namespaces": {}}}}),
        )
        .unwrap_err(),
        parse_cluster(&json!(null)).unwrap_err(),
    ];
    let lines: Vec<String> = refused.iter().map(ToString::to_string).collect();
    insta::assert_snapshot!(lines.join("\n"));
}

#[test]
fn a_cluster_network_policy_is_read_whole() {
    let parsed = cluster(
        "Baseline",
        &json!({"pods": {"podSelector": {"matchLabels": {"app": "web"}}}}),
        &json!({
            "ingress": [{"name": "from-a", "action": "Pass",
                "from": [{"namespaces": {"matchLabels": {"team": "a"}}}],
                "protocols": [{"destinationNamedPort": "http"},
                              {"udp": {"destinationPort": {"range": {"start": 1, "end": 9}}}}]}],
            "egress": [
                {"action": "Accept", "to": [
                    {"domainNames": ["Example.org.", "*.example.org"]},
                    {"networks": ["10.0.0.0/8", "fd00::/8", "0.0.0.0/0"]},
                    {"nodes": {}},
                    {"pods": {"namespaceSelector": {}, "podSelector": {}}}],
                 "protocols": [{"tcp": {"destinationPort": {"number": 443}}}, {"sctp": {}}]},
                {"action": "Deny", "to": [{"namespaces": {}}]},
            ],
        }),
    )
    .unwrap();
    assert_eq!(said(&parsed), [] as [&str; 0]);
    assert_eq!(parsed.policy.priority, 10);
    assert_eq!(
        parsed.policy.applied_to.to_string(),
        "pods app=web of namespaces all"
    );
    assert_eq!(parsed.policy.rules[0].name.as_deref(), Some("from-a"));
    insta::assert_snapshot!(rules(&parsed).join("\n"));
}

#[test]
fn what_a_cluster_network_policy_gets_wrong_closes_its_rule() {
    let fine = json!([{"namespaces": {}}]);
    let wrong = [
        json!({"to": []}),
        json!({"to": [{}]}),
        json!({"to": [{"namespaces": {}, "nodes": {}}]}),
        json!({"to": [{"networks": ["::ffff:10.0.0.0/104"]}]}),
        json!({"to": [{"networks": []}]}),
        json!({"to": [{"domainNames": ["org"]}]}),
        json!({"to": [{"networks": ["10.0.0.0/8"]}],
               "protocols": [{"destinationNamedPort": "http"}]}),
        json!({"to": fine, "protocols": [{}]}),
        json!({"to": fine, "protocols": [{"tcp": {}, "udp": {}}]}),
        json!({"to": fine, "protocols": [{"destinationNamedPort": "80"}]}),
        json!({"to": fine, "protocols": [{"tcp": {"destinationPort": {}}}]}),
        json!({"to": fine, "protocols": [{"tcp": {"destinationPort": {"number": 65536}}}]}),
        json!({"to": fine, "protocols": [
            {"tcp": {"destinationPort": {"range": {"start": 9, "end": 9}}}}]}),
    ];
    let mut lines = Vec::new();
    for rule in wrong {
        let mut closed = Vec::new();
        for action in ["Accept", "Deny", "Pass"] {
            let mut rule = rule.clone();
            rule["action"] = json!(action);
            let rules = json!({"egress": [{"action": "Accept", "to": fine}, rule]});
            let parsed = cluster("Admin", &json!({"namespaces": {}}), &rules).unwrap();
            if closed.is_empty() {
                lines.extend(said(&parsed));
            }
            assert_eq!(parsed.problems.len(), 1);
            closed.push(self::rules(&parsed).split_off(1));
        }
        let everything = vec!["egress 1 Deny: any: all".to_owned()];
        assert_eq!(closed, [vec![], everything.clone(), everything]);
    }
    insta::assert_snapshot!(lines.join("\n"));
}

#[test]
fn an_unknown_action_and_names_that_are_denied_close() {
    let of = |rule: Value| {
        let rules = json!({"egress": [rule]});
        cluster("Admin", &json!({"namespaces": {}}), &rules).unwrap()
    };
    let unknown = of(json!({"action": "Reject", "to": [{"namespaces": {}}]}));
    let denied = of(json!({"action": "Deny", "to": [{"domainNames": ["example.org"]}]}));
    for parsed in [&unknown, &denied] {
        assert_eq!(rules(parsed), ["egress 0 Deny: any: all"]);
    }
    let lines = [said(&unknown), said(&denied)].concat();
    insta::assert_snapshot!(lines.join("\n"));
}

#[test]
fn rules_keep_their_place() {
    let parsed = cluster(
        "Admin",
        &json!({"namespaces": {}}),
        &json!({"ingress": [
            {"action": "Accept", "from": []},
            {"action": "Deny", "from": [{"namespaces": {}}]},
        ]}),
    )
    .unwrap();
    let rule = &parsed.policy.rules[0];
    assert_eq!(
        (rule.direction, rule.position, rule.action),
        (Direction::Ingress, 1, Action::Deny)
    );
}
