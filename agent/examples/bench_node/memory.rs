//! What agent and switch hold in memory.

use carrick_testkit::figure::{Goal, figure};
use serde_json::Value;

use crate::lab::wait;
use crate::node::{Measured, Programs};
use crate::plugin::{Plugin, Verb};
use crate::process::resident;

/// Pods of a node that is in use.
const PODS: usize = 100;

/// Measures both.
pub async fn figures(programs: &Programs) -> Vec<Value> {
    let node = Measured::start(programs).await;
    let plugin = Plugin::ours(programs, &node.lab);
    tokio::task::spawn_blocking(move || measure(&node, &plugin))
        .await
        .unwrap()
}

fn measure(node: &Measured, plugin: &Plugin) -> Vec<Value> {
    let agent = || resident(node.lab.agent_pid());
    let switch = || resident(node.lab.ovs.vswitchd_pid().expect("vswitchd runs"));
    let idle = (agent(), switch());
    let pods = node.sandboxes("pod", PODS);
    plugin.all(Verb::Add, &pods);
    wait("the agent to tell of its pods", || {
        node.lab.report()["pods"] == PODS
    });
    let full = (agent(), switch());
    let name = |of: &str, state: &str| format!("resident memory of {of}, {state}");
    let with = format!("with {PODS} pods that came at once");
    vec![
        figure(
            &name("the agent", "idle"),
            "MB",
            idle.0,
            None,
            Goal::OursAtMost(25.0),
        ),
        figure(
            &name("the agent", &with),
            "MB",
            full.0,
            None,
            Goal::OursAtMost(40.0),
        ),
        figure(
            &name("ovs-vswitchd", "idle"),
            "MB",
            idle.1,
            None,
            Goal::None,
        ),
        figure(&name("ovs-vswitchd", &with), "MB", full.1, None, Goal::None),
    ]
}
