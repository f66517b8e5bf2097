//! What status, metrics and the read API say of the hub.

use std::collections::BTreeMap;

use carrick_proto::{NodeName, Number};

use super::{Agent, Hub};

/// Numbers for status and metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Figures {
    /// The log's number.
    pub number: Number,
    /// Records over all nodes.
    pub records: usize,
    /// Nodes known.
    pub nodes: usize,
    /// Pods known.
    pub pods: usize,
    /// Pods that wait for the policies of their namespaces to be known.
    pub withheld: usize,
    /// Policies that are enforced.
    pub policies: usize,
    /// Agents with a stream.
    pub connected: usize,
    /// Agents that stored a batch but could not program it.
    pub failing: usize,
    /// Agents that have not acknowledged the log's number.
    pub behind: usize,
    /// Addresses pods hold, as agents report them.
    pub addresses: usize,
    /// Addresses in quarantine that wait for other nodes.
    pub quarantined: usize,
}

/// One connected agent, for the read API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentFigures {
    /// Its node.
    pub node: NodeName,
    /// Its version.
    pub version: String,
    /// It says that the node can carry pods.
    pub ready: bool,
    /// What it has acknowledged.
    pub realized: Number,
    /// Why the last batch could not be programmed.
    pub error: Option<String>,
    /// Addresses its pods hold.
    pub addresses: usize,
}

impl Hub {
    /// Numbers for status and metrics.
    pub fn figures(&self) -> Figures {
        let state = self.state.read();
        let number = state.log.number();
        let (nodes, pods) = state.index.sizes();
        let agents = state.agents.values();
        let held = |name| state.index.addresses_held(name);
        Figures {
            number,
            records: state.log.len(),
            nodes,
            pods,
            withheld: state.index.withheld_pods(),
            policies: state.index.policies(),
            connected: state.agents.len(),
            failing: agents.clone().filter(|agent| agent.error.is_some()).count(),
            behind: agents
                .clone()
                .filter(|agent| agent.realized < number)
                .count(),
            addresses: state.agents.keys().map(held).sum(),
            quarantined: state.quarantine.len(),
        }
    }

    /// What the first agent that could not program its last batch says, for a person.
    pub fn trouble(&self) -> Option<String> {
        let state = self.state.read();
        let failing = state
            .agents
            .iter()
            .filter_map(|(node, agent)| Some((node, agent.error.as_ref()?)));
        let (node, error) = failing.min_by_key(|(node, _)| *node)?;
        Some(format!(
            "node {node} could not program what it was sent: {error}"
        ))
    }

    /// The connected agents by name.
    pub fn agents(&self) -> Vec<AgentFigures> {
        let state = self.state.read();
        let sorted: BTreeMap<&NodeName, &Agent> = state.agents.iter().collect();
        sorted
            .into_iter()
            .map(|(node, agent)| AgentFigures {
                node: node.clone(),
                version: agent.version.clone(),
                ready: agent.ready,
                realized: agent.realized,
                error: agent.error.clone(),
                addresses: state.index.addresses_held(node),
            })
            .collect()
    }
}
