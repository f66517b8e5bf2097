//! Single decisions, and what they are made from.

use std::collections::{BTreeMap, BTreeSet};

use carrick_api::networking::{OnFailure, Rollout};
use carrick_api::status::{RolloutDirection, RolloutPhase};
use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use super::observe::{self, Seen};
use super::{
    Act, Attempt, Change, ControllerView, Good, Live, NodeView, Part, Parts, Place, PodView,
    Record, Render, Settings, Step, Told, Turn, View, decide,
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
    check_with(Some(good), target, attempt, live, |_| {})
}

/// The same, a little different.
fn check_with(
    good: Option<&Render>,
    target: &Render,
    attempt: Option<Attempt>,
    live: &Render,
    change: impl FnOnce(&mut View<'_>),
) -> Step {
    let record = Record {
        good: good.map(|render| Good {
            render: render.clone(),
            ..Good::default()
        }),
        attempt,
    };
    let mut view = View {
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
    change(&mut view);
    decide(&view)
}

fn node_of<'a>(view: &'a mut View<'_>, name: &str) -> &'a mut NodeView {
    view.nodes.get_mut(name).unwrap()
}

/// What is waited for has been waited for all this time.
fn long_ago(view: &mut View<'_>, what: &str) {
    view.waited = Some((what.to_owned(), Timestamp::UNIX_EPOCH));
    view.now = Timestamp::UNIX_EPOCH + Settings::STALL_TIMEOUT + SignedDuration::from_secs(1);
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
fn a_node_that_falls_silent_in_its_turn_is_waited_for() {
    let (old, new) = (render("0.1.0", "-old"), render("0.1.0", "-new"));
    let mut attempt = begun(check(&old, &new, None, &old));
    attempt.turn = Some(Turn {
        part: Part::Agent,
        node: "n1".into(),
    });
    let silent = |view: &mut View<'_>| {
        let n1 = node_of(view, "n1");
        n1.reachable = false;
        n1.agent = None;
        node_of(view, "n2").agent.as_mut().unwrap().current = false;
    };
    let step = check_with(Some(&old), &new, Some(attempt.clone()), &new, silent);
    let waits = act(step);
    assert_eq!(waits.status.waiting_for, "n1 to report again");
    assert_eq!(waits.delete, [], "n2 stays as it is");
    let step = check_with(Some(&old), &new, Some(attempt.clone()), &new, |view| {
        silent(view);
        long_ago(view, "n1 to report again");
    });
    let Step::Remember(Change::Fail(failure)) = step else {
        panic!("{step:?}")
    };
    assert_eq!(
        (failure.node.as_str(), failure.reason.as_str()),
        ("n1", "NodeNotReporting")
    );

    // One that has shown that it works may go; and so may one that nobody has any more.
    let well = check(&old, &new, Some(attempt.clone()), &new);
    assert_eq!(well, Step::Remember(Change::Pass));
    let gone = check_with(Some(&old), &new, Some(attempt), &new, |view| {
        view.nodes.remove("n1");
    });
    assert_eq!(gone, Step::Remember(Change::Pass));
}

#[test]
fn what_another_rollout_had_begun_is_part_of_the_next() {
    let (old, new) = (render("0.1.0", "-old"), render("0.1.0", "-new"));
    // The agents run what is wanted no more; the next spec has of them what ran before.
    let mut next = old.clone();
    next.hashes.controller = "c-next".into();
    let attempt = begun(check(&old, &next, None, &new));
    assert_eq!(attempt.parts, [Part::Controller, Part::Agent].into());
    let mut live = new.clone();
    live.hashes.controller.clone_from(&next.hashes.controller);
    let step = act(check(&old, &next, Some(attempt), &live));
    assert_eq!(*step.places.get(Part::Agent), Place::Target);
    assert_eq!(step.status.phase, RolloutPhase::Agents);
}

#[test]
fn images_are_pulled_although_another_rollout_had_begun() {
    let (old, mut new) = (render("0.1.0", "-old"), render("0.1.0", "-new"));
    new.images[1] = "another".into();
    // What was tried before had the same controller and another switch.
    let mut live = old.clone();
    live.hashes.controller.clone_from(&new.hashes.controller);
    let mut attempt = begun(check(&old, &new, None, &live));
    let step = act(check(&old, &new, Some(attempt.clone()), &live));
    assert!(step.pre_pull);
    assert_eq!(step.status.phase, RolloutPhase::PullingImages);
    attempt.pulled = true;
    let step = act(check(&old, &new, Some(attempt), &live));
    assert_eq!(
        (step.pre_pull, step.status.phase),
        (false, RolloutPhase::Agents)
    );
}

#[test]
fn a_broken_switch_that_came_back_late_is_replaced_although_its_agent_waits_for_it() {
    let old = render("0.1.0", "-old");
    let step = check_with(Some(&old), &old, None, &old, |view| {
        let n1 = node_of(view, "n1");
        n1.agent.as_mut().unwrap().ready = false;
        let switch = n1.switch.as_mut().unwrap();
        (switch.ready, switch.current) = (false, false);
    });
    let deleted = act(step).delete;
    assert_eq!(deleted.len(), 1);
    assert_eq!(
        (deleted[0].part, deleted[0].node.as_str()),
        (Part::Switch, "n1")
    );
}

#[test]
fn pings_say_nothing_where_no_other_node_works() {
    let (old, new) = (render("0.1.0", "-old"), render("0.1.0", "-new"));
    let attempt = begun(check(&old, &new, None, &old));
    let unanswered = |alone: bool| {
        check_with(Some(&old), &new, Some(attempt.clone()), &new, |view| {
            node_of(view, "n1").told.peers = Some(false);
            node_of(view, "n2").reachable = !alone;
        })
    };
    let step = act(unanswered(false));
    assert_eq!(step.status.waiting_for, "other nodes to answer n1");
    assert_eq!(unanswered(true), Step::Remember(Change::Succeed));
}

#[test]
fn a_node_that_never_comes_up_does_not_keep_a_network_installing() {
    let new = render("0.1.0", "");
    let install = |change: fn(&mut View<'_>)| {
        check_with(None, &new, None, &new, |view| {
            node_of(view, "n2").agent = None;
            change(view);
        })
    };
    let step = act(install(|_| {}));
    assert_eq!(step.status.phase, RolloutPhase::Installing);
    assert_eq!(step.status.waiting_for, "every node to come up");
    assert!(step.status.message.ends_with(": n2"), "{step:?}");
    let late = install(|view| long_ago(view, "every node to come up"));
    assert_eq!(late, Step::Remember(Change::Succeed));
    // Without one node that works there is nothing to go back to.
    let none = act(install(|view| {
        node_of(view, "n1").agent = None;
        long_ago(view, "every node to come up");
    }));
    assert_eq!(none.status.phase, RolloutPhase::Installing);
}

#[test]
fn without_its_revision_no_pod_is_outdated() {
    let running = Running {
        agent: serde_json::from_value(json!({"metadata": {"uid": "u"}})).unwrap(),
        ..Running::default()
    };
    let observed = |newest: &[(&str, &str)]| {
        let newest = newest
            .iter()
            .map(|(uid, hash)| ((*uid).into(), (*hash).into()));
        observe::live(&running, &newest.collect())
            .agent
            .unwrap()
            .observed
    };
    assert!(observed(&[("u", "r")]));
    assert!(!observed(&[("another", "r")]));
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
fn the_newest_revision_has_the_highest_number() {
    let revision = |name: &str, number: i64| {
        serde_json::from_value(json!({"revision": number, "metadata": {"name": name,
            "labels": {"controller-revision-hash": name},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "d", "uid": "u"}]}}))
        .unwrap()
    };
    // An old template that came back has the highest number.
    let newest = observe::newest(&[revision("a", 3), revision("b", 2)]);
    assert_eq!(newest, BTreeMap::from([("u".to_owned(), "a".to_owned())]));
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
    let newest = BTreeMap::from([("u".to_owned(), "r".to_owned())]);
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
