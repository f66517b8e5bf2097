//! Single decisions, and what they are made from.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use carrick_api::networking::{OnFailure, Rollout};
use carrick_api::status::{RolloutDirection, RolloutPhase};
use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use super::observe::{self, Seen};
use super::{
    Act, Attempt, Change, ControllerView, Good, Live, NodeView, Part, Parts, Place, PodView,
    Record, Render, Settings, Step, Told, View, decide,
};
use crate::progress::Running;
use crate::samples;

fn render(version: &str, name: &str) -> Render {
    Render {
        hashes: Parts {
            controller: format!("c{name}"),
            agent: format!("a{name}"),
            switch: "s".into(),
        },
        images: ["i".into(), "o".into()],
        version: version.into(),
    }
}

fn node() -> NodeView {
    let pod = |name: &str| {
        Some(PodView {
            name: name.into(),
            uid: name.into(),
            current: true,
            ready: true,
            failing: None,
            words: String::new(),
        })
    };
    NodeView {
        reachable: true,
        agent: pod("agent"),
        switch: pod("switch"),
        told: Told {
            peers: Some(true),
            connected: true,
            reconnected: true,
        },
        ..NodeView::default()
    }
}

/// A network of two nodes that runs `good` and shall run `target`.
fn check(good: &Render, target: &Render, attempt: Option<Attempt>, live: &Render) -> Step {
    let record = Record {
        good: Some(Good {
            render: good.clone(),
            ..Good::default()
        }),
        attempt,
    };
    let view = View {
        now: Timestamp::UNIX_EPOCH,
        settings: Settings::default(),
        frozen: false,
        target,
        spec: "spec",
        record: &record,
        live: Parts::of(|part| {
            Some(Live {
                hash: live.hashes.get(part).clone(),
                version: live.version.clone(),
                observed: true,
            })
        }),
        controller: ControllerView {
            rolled_out: true,
            ..ControllerView::default()
        },
        nodes: BTreeMap::from([("n1".to_owned(), node()), ("n2".to_owned(), node())]),
        waited: None,
    };
    decide(&view)
}

fn begun(step: Step) -> Attempt {
    let Step::Remember(Change::Begin(attempt)) = step else {
        panic!("{step:?}")
    };
    attempt
}

fn act(step: Step) -> Act {
    let Step::Act(act) = step else {
        panic!("{step:?}")
    };
    act
}

#[test]
fn an_older_operator_goes_agents_first() {
    let (new, old) = (render("0.2.0", "-new"), render("0.1.0", "-old"));
    let attempt = begun(check(&new, &old, None, &new));
    assert_eq!(attempt.direction, RolloutDirection::Back);
    let first = act(check(&new, &old, Some(attempt), &new));
    assert_eq!(
        first.places,
        Parts {
            controller: Place::Good,
            agent: Place::Target,
            switch: Place::Target
        },
        "the agents are applied, the controller keeps what it has"
    );

    // The same the other way round is an upgrade.
    let attempt = begun(check(&old, &new, None, &old));
    assert_eq!(attempt.direction, RolloutDirection::Forward);
    let first = act(check(&old, &new, Some(attempt), &old));
    assert_eq!(*first.places.get(Part::Controller), Place::Target);
    assert_eq!(*first.places.get(Part::Agent), Place::Good);
}

#[test]
fn an_older_operator_undoes_what_was_half_done() {
    let (new, old) = (render("0.2.0", "-new"), render("0.1.0", "-old"));
    let attempt = begun(check(&old, &new, None, &old));
    let half = Render {
        hashes: Parts {
            agent: "a-old".into(),
            ..new.hashes.clone()
        },
        ..new.clone()
    };
    let next = act(check(&old, &old, Some(attempt), &half));
    assert_eq!(next.status.direction, RolloutDirection::Back);
    assert_eq!(*next.places.get(Part::Controller), Place::Target);
}

#[test]
fn a_failed_render_is_tried_again_when_the_spec_changes() {
    let (old, new) = (render("0.1.0", "-old"), render("0.1.0", "-new"));
    let mut attempt = begun(check(&old, &new, None, &old));
    attempt.failure = Some(carrick_api::status::RolloutFailure::default());
    attempt.settled = true;
    let again = act(check(&old, &new, Some(attempt.clone()), &old));
    assert_eq!(again.status.phase, RolloutPhase::RolledBack);
    // Another number of replicas makes it look different; it is the same.
    let looks = render("0.1.0", "-new-with-three-replicas");
    let again = act(check(&old, &looks, Some(attempt.clone()), &old));
    assert_eq!(again.status.phase, RolloutPhase::RolledBack);
    attempt.spec = "another".into();
    begun(check(&old, &new, Some(attempt), &old));
}

#[test]
fn settings_have_defaults() {
    assert_eq!(observe::settings(None), Settings::default());
    let spec = Rollout {
        paused: Some(true),
        stall_timeout: Some("1h30m".into()),
        on_failure: Some(OnFailure::Pause),
    };
    let settings = observe::settings(Some(&spec));
    assert_eq!(settings.stall_timeout, SignedDuration::from_mins(90));
    assert!(settings.paused && settings.on_failure == OnFailure::Pause);
    let shown = observe::shown(None);
    assert_eq!(shown.stall_timeout.as_deref(), Some("10m"));
}

#[test]
fn a_record_of_a_newer_operator_can_be_read() {
    let text = json!({"good": {"render": {"hashes": {"controller": "c", "agent": "a", "switch": "s"},
        "images": ["i", "o"], "version": "9.0.0", "wave": 3}, "objects": [], "effective": {}, "more": 1}, "waves": []});
    let record: Record = serde_json::from_value(text).unwrap();
    assert_eq!(record.good.unwrap().render.version, "9.0.0");
}

#[test]
fn the_newest_revision_has_the_highest_number() {
    let revision = |name: &str, number: i64| {
        serde_json::from_value(json!({"revision": number, "metadata": {"name": name,
            "labels": {"controller-revision-hash": name},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "d", "uid": "u"}]}}))
        .unwrap()
    };
    // An old template that came back has the highest number.
    let newest = observe::newest(&[revision("a", 3), revision("b", 2)]);
    assert_eq!(newest, HashMap::from([("u".to_owned(), "a".to_owned())]));
}

#[test]
fn what_the_pod_before_said_does_not_count() {
    let pod = |name: &str, deleting: bool| {
        let mut pod = json!({"metadata": {"name": name, "uid": name, "labels":
            {"app.kubernetes.io/name": "carrick-agent", "controller-revision-hash": "r"}},
            "spec": {"nodeName": "node1", "containers": []},
            "status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        if deleting {
            pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        }
        serde_json::from_value(pod).unwrap()
    };
    let info = serde_json::from_value(
        json!({"metadata": {"name": "node1"}, "spec": {}, "status": {"pod": "before",
        "conditions": [{"type": "PeersReachable", "status": "True", "reason": "", "message": "",
            "lastTransitionTime": "2026-01-01T00:00:00Z"}]}}),
    )
    .unwrap();
    let running = |pods| Running {
        pods,
        agents: vec![
            serde_json::from_value(serde_json::to_value::<&carrick_api::AgentInfo>(&info).unwrap())
                .unwrap(),
        ],
        agent: serde_json::from_value(json!({"metadata": {"uid": "u"}})).unwrap(),
        ..Running::default()
    };
    let newest = HashMap::from([("u".to_owned(), "r".to_owned())]);
    let facts = samples::facts();
    let deleted = BTreeSet::new();
    let see = |running: &Running| {
        let seen = Seen {
            facts: &facts,
            running,
            newest: &newest,
            deleted: &deleted,
            now: Timestamp::UNIX_EPOCH,
        };
        let images = [String::new(), String::new()];
        observe::nodes(&seen, &samples::effective(), &images)["node1"].clone()
    };
    let node = see(&running(vec![pod("before", false)]));
    assert_eq!(node.told.peers, Some(true));
    let node = see(&running(vec![pod("before", true), pod("after", false)]));
    assert_eq!(
        node.agent.as_ref().map(|pod| pod.name.as_str()),
        Some("after")
    );
    assert_eq!(node.told.peers, None);
    let node = see(&running(vec![pod("before", true)]));
    assert_eq!(node.agent, None, "a pod that is ending is away");
}
