//! Whether the agents can do without a kube-proxy.

use super::{AgentInfo, BTreeMap, Effective, Facts, Reach, agentinfo, in_scope, some};

/// How the agents are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Agents {
    /// Not every agent serves Services yet.
    Wait(String),
    /// These nodes have none.
    Elsewhere(Vec<String>),
    /// Every one on a node that reports.
    Serve {
        /// What they say of a kube-proxy.
        left: Vec<String>,
    },
}

/// How the agents are. `complete`: the rollout is over, so that what they say is said of the spec; `pods`: the
/// name of the agent's pod by node.
pub fn agents(
    effective: &Effective,
    facts: &Facts,
    reports: &[AgentInfo],
    pods: &BTreeMap<String, String>,
    complete: bool,
) -> Agents {
    let linux = facts.nodes.iter().filter(|node| node.is_linux());
    let elsewhere: Vec<String> = { linux.filter(|node| !in_scope(effective, node)) }
        .map(|node| node.name.clone())
        .collect();
    if !elsewhere.is_empty() {
        return Agents::Elsewhere(elsewhere);
    }
    if !complete {
        return Agents::Wait("the rollout".to_owned());
    }
    let mut waiting = Vec::new();
    let mut any = false;
    let nodes = facts.nodes.iter().filter(|node| in_scope(effective, node));
    for node in nodes.filter(|node| node.reach == Reach::Reachable) {
        any = true;
        let named = |info: &&AgentInfo| info.metadata.name.as_ref() == Some(&node.name);
        let status = reports
            .iter()
            .find(named)
            .and_then(|info| info.status.as_ref());
        // One that is of another pod may be of another mode.
        let status = status.filter(|status| pods.get(&node.name) == Some(&status.pod));
        let kind = agentinfo::condition::SERVICES_SERVED;
        let said = status.and_then(|status| status.conditions.iter().find(|c| c.type_ == kind));
        match said {
            // Their ports may be kube-proxy's as long as that runs.
            Some(said) if said.status == "True" || said.reason == "HealthCheckNotServed" => {}
            Some(said) => {
                waiting.push(format!("{} ({}: {})", node.name, said.reason, said.message));
            }
            None => waiting.push(node.name.clone()),
        }
    }
    if !any {
        return Agents::Wait("a node that reports".to_owned());
    }
    if !waiting.is_empty() {
        let names: Vec<&str> = waiting.iter().map(String::as_str).collect();
        return Agents::Wait(some(&names));
    }
    Agents::Serve {
        left: leftovers(reports),
    }
}

/// What nodes say of a kube-proxy that is left there, a sentence each.
pub fn leftovers(reports: &[AgentInfo]) -> Vec<String> {
    let mut left = Vec::new();
    for info in reports {
        let conditions = info.status.iter().flat_map(|status| &status.conditions);
        let kind = agentinfo::condition::KUBE_PROXY_REPLACED;
        for said in conditions.filter(|said| said.type_ == kind && said.status == "False") {
            let node = info.metadata.name.as_deref().unwrap_or_default();
            left.push(format!("{node}: {}", said.message));
        }
    }
    left.sort();
    left
}
