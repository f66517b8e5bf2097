use std::net::IpAddr;

use super::plan::{End, Kind, Limits, Path, Role, Test, plan};
use super::report::{NotTested, Report, Tested, Why, judge, report};
use crate::probe::{Failure, Outcome};

const NODES: usize = 3;

fn tests() -> Vec<Test> {
    let mut ends = Vec::new();
    for n in 0..NODES {
        for (i, role) in [Role::Pod, Role::Second, Role::Host]
            .into_iter()
            .enumerate()
        {
            let v4 = if role == Role::Host {
                format!("172.18.0.{n}")
            } else {
                format!("10.0.{n}.{i}")
            };
            let v6 = if role == Role::Host {
                format!("fd18::{n}")
            } else {
                format!("fd00::{n}:{i}")
            };
            ends.push(End {
                name: format!("{}-{n}", role.prefix()),
                node: format!("node-{n}"),
                role,
                addresses: vec![v4.parse().unwrap(), v6.parse().unwrap()],
            });
        }
    }
    let mtu = (0..NODES).map(|n| (format!("node-{n}"), 1450)).collect();
    let limits = Limits {
        peers: 8,
        port: 11290,
        mtu,
    };
    plan(&ends, &limits)
        .unwrap()
        .into_values()
        .flatten()
        .collect()
}

fn passed(test: &Test) -> Outcome {
    Outcome {
        target: test.target,
        failure: None,
        message: String::new(),
        answered_by: Some(test.to.clone()),
        seen_as: test
            .from_addresses
            .iter()
            .copied()
            .find(|a| a.is_ipv4() == test.target.address().is_ipv4()),
        micros: 420,
    }
}

/// A report where `fails` says which tests fail.
fn where_fails(fails: impl Fn(&Test) -> Option<Failure>) -> Report {
    let tested: Vec<Tested> = tests()
        .iter()
        .map(|test| {
            let mut outcome = passed(test);
            if let Some(failure) = fails(test) {
                outcome.failure = Some(failure);
                outcome.message = "no answer in time".into();
            }
            judge(test, Some(&outcome), "")
        })
        .collect();
    let nodes = (0..NODES).map(|n| format!("node-{n}")).collect();
    report(nodes, "carrick:0.1.0".into(), tested, Vec::new())
}

fn timeout(yes: bool) -> Option<Failure> {
    yes.then_some(Failure::Timeout)
}

#[track_caller]
fn check(fails: impl Fn(&Test) -> Option<Failure>, hint: &str) {
    let report = where_fails(fails);
    assert!(!report.passed);
    assert!(report.hints[0].contains(hint), "{:#?}", report.hints);
}

#[test]
fn all_passed() {
    let report = where_fails(|_| None);
    assert!(report.passed && report.hints.is_empty());
    insta::assert_snapshot!("passed", report.text());
}

#[test]
fn a_closed_tunnel_is_told() {
    let report = where_fails(|t| {
        timeout(matches!(
            t.path,
            Path::PodToPodOtherNode | Path::HostToPodOtherNode
        ))
    });
    insta::assert_snapshot!("tunnel", report.text());
}

#[test]
fn failures_are_explained_by_their_pattern() {
    let other = |t: &Test| matches!(t.path, Path::PodToPodOtherNode | Path::HostToPodOtherNode);
    check(
        |t| timeout(other(t) || t.path == Path::HostToHost || t.path == Path::PodToHostOtherNode),
        "network below Carrick",
    );
    check(
        |t| timeout(other(t) && (t.from_node == "node-1" || t.to_node == "node-1")),
        "only node node-1",
    );
    check(
        |t| timeout(other(t) && t.target.address().is_ipv6()),
        "only IPv6 fails",
    );
    check(|t| timeout(other(t) && t.kind == Kind::Mtu), "carries less");
    check(
        |t| (t.kind == Kind::Mtu).then_some(Failure::TooBig),
        "another MTU",
    );
    check(
        |t| timeout(t.path == Path::PodToPodSameNode && t.from_node == "node-2"),
        "carrickctl flows node-2",
    );
    check(
        |t| {
            timeout(matches!(
                t.path,
                Path::PodToHostSameNode | Path::PodToHostOtherNode
            ))
        },
        "a firewall on the hosts",
    );
    check(
        |t| {
            timeout(matches!(
                t.path,
                Path::HostToHost | Path::PodToHostOtherNode
            ))
        },
        "--port",
    );
    check(
        |t| {
            timeout(matches!(
                t.path,
                Path::HostToPodSameNode | Path::HostToPodOtherNode
            ))
        },
        "carrick-gw0",
    );
}

#[test]
fn the_wrong_pod_and_a_changed_source_are_failures() {
    let all = tests();
    let test = all
        .iter()
        .find(|t| t.path == Path::PodToPodOtherNode)
        .unwrap();
    let mut outcome = passed(test);
    outcome.answered_by = Some("second-0".into());
    assert_eq!(judge(test, Some(&outcome), "").failure, Some(Why::WrongPod));
    let mut outcome = passed(test);
    outcome.seen_as = Some(IpAddr::from([172, 18, 0, 1]));
    assert_eq!(
        judge(test, Some(&outcome), "").failure,
        Some(Why::SourceChanged)
    );
    // Out of the cluster's pods addresses may change.
    let test = all
        .iter()
        .find(|t| t.path == Path::PodToHostOtherNode)
        .unwrap();
    let mut outcome = passed(test);
    outcome.seen_as = Some(IpAddr::from([172, 18, 0, 1]));
    assert_eq!(judge(test, Some(&outcome), "").failure, None);
    assert_eq!(judge(test, None, "exec failed").message, "exec failed");
}

#[test]
fn what_was_not_tested_is_not_passed() {
    let missing = NotTested {
        node: "node-1".into(),
        pod: "pod-1".into(),
        reason: "FailedCreatePodSandBox: code 11".into(),
    };
    let report = report(
        vec!["node-1".into()],
        "carrick:0.1.0".into(),
        Vec::new(),
        vec![missing],
    );
    assert!(!report.passed);
    insta::assert_snapshot!("not_tested", report.text());
}
