use serde_json::{Value, json};

use super::*;

const GATEWAY: &str = "carrick-gw0";

fn iif(name: &str) -> Value {
    json!({"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": name}})
}

fn oif(name: &str) -> Value {
    json!({"match": {"op": "==", "left": {"meta": {"key": "oifname"}}, "right": name}})
}

fn accept() -> Value {
    json!({"accept": null})
}

fn state(states: &[&str]) -> Value {
    json!({"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": states}})
}

fn base(policy: &str) -> Value {
    json!({"chain": {"family": "ip", "table": "filter", "name": "FORWARD", "handle": 1,
        "type": "filter", "hook": "forward", "prio": 0, "policy": policy}})
}

/// A table `ip filter` with these rules in FORWARD and these in a chain `other`.
fn of(policy: &str, rules: &[Vec<Value>], other: &[Vec<Value>]) -> Table {
    let mut objects = vec![base(policy)];
    objects
        .push(json!({"chain": {"family": "ip", "table": "filter", "name": "other", "handle": 2}}));
    let all = rules.iter().map(|rule| ("FORWARD", rule));
    let all = all.chain(other.iter().map(|rule| ("other", rule)));
    for (number, (chain, rule)) in all.enumerate() {
        objects.push(
            json!({"rule": {"family": "ip", "table": "filter", "chain": chain,
            "handle": number + 3, "expr": rule}}),
        );
    }
    ruleset::table("ip", "filter", &json!({"nftables": objects}), "")
}

/// The directions that FORWARD drops.
fn dropped(policy: &str, rules: &[Vec<Value>], other: &[Vec<Value>]) -> Vec<Direction> {
    survey(&[of(policy, rules, other)], GATEWAY)
        .dropping
        .into_iter()
        .map(|finding| finding.direction)
        .collect()
}

const BOTH: [Direction; 2] = [Direction::FromPods, Direction::ToPods];

#[test]
fn a_policy_of_drop_drops_but_for_what_is_accepted() {
    assert_eq!(dropped("drop", &[], &[]), BOTH);
    assert_eq!(dropped("accept", &[], &[]), []);
    assert_eq!(dropped("drop", &[vec![accept()]], &[]), []);
    let from = vec![
        iif(GATEWAY),
        json!({"counter": {"packets": 1, "bytes": 1}}),
        accept(),
    ];
    assert_eq!(dropped("drop", &[from], &[]), [Direction::ToPods]);
    let both = [vec![iif("carrick*"), accept()], vec![oif("c*"), accept()]];
    assert_eq!(dropped("drop", &both, &[]), []);
}

#[test]
fn what_accepts_only_some_of_them_does_not_help() {
    let ssh = json!({"match": {"op": "==", "left": {"payload": {"protocol": "tcp", "field": "dport"}},
        "right": 22}});
    let marked = json!({"match": {"op": "==", "left": {"&": [{"meta": {"key": "mark"}}, 16384]},
        "right": 16384}});
    let by_state = json!({"vmap": {"key": {"ct": {"key": "state"}}, "data": {"set": [
        ["established", {"accept": null}], ["invalid", {"drop": null}]]}}});
    let rules = [
        vec![state(&["established", "related"]), accept()],
        vec![ssh, accept()],
        vec![marked, accept()],
        vec![by_state],
        vec![iif("docker0"), accept()],
        vec![oif("docker0"), accept()],
        vec![iif("br-0123456789ab"), oif("lo"), accept()],
    ];
    assert_eq!(dropped("drop", &rules, &[]), BOTH);
}

#[test]
fn what_may_accept_all_of_them_is_not_spoken_of() {
    let address = json!({"match": {"op": "==", "left": {"payload": {"protocol": "ip", "field": "saddr"}},
        "right": {"prefix": {"addr": "10.0.0.0", "len": 8}}}});
    for unknown in [
        vec![address.clone(), accept()],
        vec![json!({"something": "new"}), accept()],
        vec![json!({"vmap": {"key": {"meta": {"key": "iifname"}}, "data": "@zones"}})],
        vec![state(&["new"]), accept()],
        vec![json!({"xt": {"type": "match", "name": "set"}}), accept()],
        vec![json!({"xt": {"type": "target", "name": "NEW"}})],
        vec![json!({"jump": {"target": "absent"}})],
        vec![json!({"queue": null})],
    ] {
        assert_eq!(
            dropped("drop", std::slice::from_ref(&unknown), &[]),
            [],
            "{unknown:?}"
        );
    }
    // Another link, which may be the way out.
    assert_eq!(
        dropped("drop", &[vec![oif("eth0"), accept()]], &[]),
        [Direction::ToPods]
    );
    // A drop of which it cannot be told whom it meets is none for certain.
    assert_eq!(
        dropped("accept", &[vec![address, json!({"drop": null})]], &[]),
        []
    );
}

#[test]
fn a_drop_or_reject_at_the_end_is_one() {
    let reject = json!({"reject": {"type": "icmpx", "expr": "admin-prohibited"}});
    assert_eq!(dropped("accept", &[vec![reject.clone()]], &[]), BOTH);
    assert_eq!(
        dropped("accept", &[vec![accept()], vec![reject.clone()]], &[]),
        []
    );
    let legacy = json!({"xt": {"type": "target", "name": "REJECT"}});
    assert_eq!(
        dropped("accept", &[vec![iif("docker0"), legacy.clone()]], &[]),
        []
    );
    assert_eq!(dropped("accept", &[vec![legacy]], &[]), BOTH);
    let jump = json!({"jump": {"target": "other"}});
    assert_eq!(
        dropped("accept", &[vec![jump.clone()]], &[vec![reject.clone()]]),
        BOTH
    );
    let back = vec![json!({"return": null})];
    assert_eq!(
        dropped(
            "accept",
            &[vec![jump.clone()]],
            &[back.clone(), vec![reject]]
        ),
        []
    );
    assert_eq!(dropped("drop", &[vec![jump], vec![accept()]], &[back]), []);
    // goto does not come back to the rules behind it.
    let goto = json!({"goto": {"target": "other"}});
    assert_eq!(dropped("drop", &[vec![goto], vec![accept()]], &[]), BOTH);
}

#[test]
fn jumps_that_go_round_end() {
    let round = vec![json!({"jump": {"target": "other"}}), accept()];
    assert_eq!(
        dropped(
            "drop",
            std::slice::from_ref(&round),
            std::slice::from_ref(&round)
        ),
        []
    );
}

fn with_ours(direction: Direction, comment: &str) -> Table {
    let mut table = of("drop", &[], &[]);
    let condition = match direction {
        Direction::FromPods => iif(GATEWAY),
        Direction::ToPods => oif(GATEWAY),
    };
    let rule = ruleset::Rule {
        handle: 9,
        comment: comment.into(),
        statements: vec![condition, accept()],
        text: String::new(),
    };
    table
        .chains
        .get_mut("FORWARD")
        .unwrap()
        .rules
        .insert(0, rule);
    table
}

#[test]
fn our_rules_are_put_in_where_they_are_wanted_and_taken_out_where_not() {
    let scripts = |table: &Table, wanted| -> Vec<String> {
        changes(
            &survey(std::slice::from_ref(table), GATEWAY),
            wanted,
            GATEWAY,
        )
        .into_iter()
        .map(|change| change.script)
        .collect()
    };
    let none: [&str; 0] = [];
    let bare = of("drop", &[], &[]);
    assert_eq!(scripts(&bare, HostFirewall::Report), none);
    let from = "insert rule ip filter FORWARD iifname \"carrick-gw0\" accept comment \"carrick\"\n";
    let to = "insert rule ip filter FORWARD oifname \"carrick-gw0\" accept comment \"carrick\"\n";
    assert_eq!(
        scripts(&bare, HostFirewall::InsertRule),
        [format!("{from}{to}")]
    );
    let half = with_ours(Direction::FromPods, MARK);
    assert_eq!(scripts(&half, HostFirewall::InsertRule), [to]);
    assert_eq!(
        scripts(&half, HostFirewall::Report),
        ["delete rule ip filter FORWARD handle 9\n"]
    );
    // Where it drops no more, ours goes as well.
    let mut open = half;
    open.chains
        .get_mut("FORWARD")
        .unwrap()
        .base
        .as_mut()
        .unwrap()
        .policy = ruleset::Policy::Accept;
    assert_eq!(
        scripts(&open, HostFirewall::InsertRule),
        ["delete rule ip filter FORWARD handle 9\n"]
    );
    // Somebody else's rule, although it says the same.
    let theirs = with_ours(Direction::FromPods, "mine");
    assert_eq!(scripts(&theirs, HostFirewall::Report), none);
    assert_eq!(scripts(&theirs, HostFirewall::InsertRule), [to]);
}

#[test]
fn the_condition_names_the_chain_and_the_mend() {
    let survey = survey(&[of("drop", &[], &[])], GATEWAY);
    let fact = fact(&survey, HostFirewall::Report, &[], GATEWAY);
    assert_eq!(fact.reason, "DropsPodTraffic");
    for part in [
        "chain FORWARD of table filter ip drops packets from pods",
        "nft insert rule ip filter FORWARD iifname carrick-gw0 accept",
        "hostFirewall: InsertRule",
    ] {
        assert!(fact.message.contains(part), "{}", fact.message);
    }
    let failed = ["no permission".to_owned()];
    let fact = super::fact(&survey, HostFirewall::InsertRule, &failed, GATEWAY);
    assert!(
        fact.message.contains("No rule could be inserted"),
        "{}",
        fact.message
    );
    assert!(
        fact.message.ends_with("; no permission"),
        "{}",
        fact.message
    );
    let fact = super::fact(&Survey::default(), HostFirewall::InsertRule, &[], GATEWAY);
    assert_eq!(fact.reason, "NothingDrops");
}

#[test]
fn what_is_no_ruleset_is_an_empty_one() {
    for odd in [
        json!(null),
        json!([]),
        json!({"nftables": 3}),
        json!({"nftables": [{"rule": 1}]}),
    ] {
        assert!(ruleset::tables_with_hooks(&odd).is_empty());
        assert!(
            ruleset::table("ip", "x", &odd, "# handle x")
                .chains
                .is_empty()
        );
    }
}
