//! What becomes of a connection to or from a pod of this node, and which rule of which policy says so
//! (`/v1/policies/explain`). Judged by `carrick_policy` from what the enforcer holds, which is what it made the
//! switch's flows of.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use carrick_datapath::policy::Enforcer;
use carrick_policy::{
    Connection, Direction, Judgement, PolicyName, Protocol, Reason, RuleName, Surroundings,
    Transport,
};
use serde::{Deserialize, Serialize};

use super::view::{cookie, shown_name};

/// What is asked, as it comes in the request.
#[derive(Debug, Clone, Deserialize)]
pub struct Asked {
    /// `NAMESPACE/NAME` of a pod of this node.
    pod: String,
    /// `egress` or `ingress`: whether the pod begins the connection.
    direction: String,
    /// The other end's address, as this node sees it.
    peer: IpAddr,
    /// The port it goes to; none for protocols without ports.
    port: Option<u16>,
    /// `tcp`, `udp` or `sctp`.
    protocol: Option<String>,
}

/// A question that was understood.
#[derive(Debug)]
pub struct Question {
    pod: String,
    direction: Direction,
    /// The pod's own address.
    own: IpAddr,
    peer: IpAddr,
    transport: Transport,
    /// Addresses of this node.
    host: Vec<IpAddr>,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Not a word of the protocol.
    #[error("{name} is {expected}")]
    Word {
        /// The parameter.
        name: &'static str,
        /// What it may be.
        expected: &'static str,
    },
    /// The pod has no port on this node's switch.
    #[error("no pod {0} is connected to this node")]
    NoPod(String),
    /// The pod has no address of the other end's family.
    #[error("pod {pod} has no address of the family of {peer}")]
    Family {
        /// The pod.
        pod: String,
        /// The other end.
        peer: IpAddr,
    },
}

/// What becomes of the connection at this end.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    /// The pod.
    pub pod: String,
    /// Its address.
    pub address: IpAddr,
    /// `Egress` or `Ingress`.
    pub direction: &'static str,
    /// Whether its first packet passes.
    pub accepted: bool,
    /// For programs.
    pub reason: &'static str,
    /// For people.
    pub message: String,
    /// The rule that decides.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<RuleView>,
    /// Policies that isolate the pod, or that could not be enforced.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<String>,
    /// Rules that passed it on before that.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub passed: Vec<RuleView>,
    /// Cookies of the flows that decide.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub cookies: BTreeSet<String>,
}

/// A rule.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct RuleView {
    /// Its policy.
    pub policy: String,
    /// Its place among the object's rules of the direction, from 0.
    pub position: u32,
    /// Its name, where it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

impl Asked {
    /// Holds the question to what may be asked. `pods` are the addresses of this node's pods by
    /// `NAMESPACE/NAME`.
    ///
    /// # Errors
    /// It is not understood, or about no pod of this node.
    pub fn question(
        self,
        pods: impl IntoIterator<Item = (IpAddr, String)>,
        host: Vec<IpAddr>,
    ) -> Result<Question, Refusal> {
        let direction = match self.direction.as_str() {
            "egress" => Direction::Egress,
            "ingress" => Direction::Ingress,
            _ => {
                return Err(Refusal::Word {
                    name: "direction",
                    expected: "egress or ingress",
                });
            }
        };
        let transport = match self.port {
            None => Transport::Other,
            Some(port) => Transport::Port(protocol(self.protocol.as_deref())?, port),
        };
        let mut there = false;
        let own = pods.into_iter().find(|(address, pod)| {
            there |= *pod == self.pod;
            *pod == self.pod && address.is_ipv4() == self.peer.is_ipv4()
        });
        let Some((own, pod)) = own else {
            return Err(if there {
                Refusal::Family {
                    pod: self.pod,
                    peer: self.peer,
                }
            } else {
                Refusal::NoPod(self.pod)
            });
        };
        Ok(Question {
            pod,
            direction,
            own,
            peer: self.peer,
            transport,
            host,
        })
    }
}

fn protocol(text: Option<&str>) -> Result<Protocol, Refusal> {
    match text {
        None | Some("tcp") => Ok(Protocol::Tcp),
        Some("udp") => Ok(Protocol::Udp),
        Some("sctp") => Ok(Protocol::Sctp),
        Some(_) => Err(Refusal::Word {
            name: "protocol",
            expected: "tcp, udp or sctp",
        }),
    }
}

/// Answers from what the switch has.
pub(super) fn explain(enforcer: &Enforcer, question: &Question) -> Answer {
    let state = enforcer.state();
    let answer = Answer {
        pod: question.pod.clone(),
        address: question.own,
        direction: direction_name(question.direction),
        accepted: false,
        reason: "NoRecord",
        message: "the controller has not told this node what is for the pod: its port is closed"
            .to_owned(),
        rule: None,
        policies: Vec::new(),
        passed: Vec::new(),
        cookies: BTreeSet::new(),
    };
    // A pod of this name may have gone and come again: the newer one has no record yet, or both do.
    let mut pods = state.pods.values().filter(|pod| {
        let (namespace, name) = (&pod.namespace, &pod.name);
        question.pod.split_once('/') == Some((&**namespace, &**name))
    });
    let Some(pod) = pods.next() else {
        return answer;
    };
    let for_pod = |name: &&PolicyName| {
        let policy = state.policies.get(*name);
        policy.is_some_and(|policy| pod.groups.binary_search(&policy.applied_to).is_ok())
    };
    let waiting = enforcer.waiting().filter(for_pod).map(shown_name);
    let waiting: Vec<String> = waiting.collect();
    if !waiting.is_empty() {
        return Answer {
            reason: "NotEnforced",
            message: format!(
                "the pod's port is closed: {} cannot be enforced (condition PoliciesEnforced says why)",
                waiting.join(", ")
            ),
            policies: waiting,
            ..answer
        };
    }
    let connection = match question.direction {
        Direction::Egress => Connection {
            source: question.own,
            destination: question.peer,
            transport: question.transport,
        },
        Direction::Ingress => Connection {
            source: question.peer,
            destination: question.own,
            transport: question.transport,
        },
    };
    // The flows know of no names of domains.
    let around = Surroundings {
        host: &question.host,
        names: &BTreeMap::new(),
    };
    match state.judge(&pod.uid, question.direction, &connection, around) {
        Some(judgement) => judged(enforcer, judgement, answer),
        None => answer,
    }
}

fn judged(enforcer: &Enforcer, judgement: Judgement, answer: Answer) -> Answer {
    let message = judgement.to_string();
    let Judgement {
        direction,
        accepted,
        reason,
        passed,
    } = judgement;
    let cookies = |name: &PolicyName, position: Option<u32>| {
        let parts = enforcer.parts(name);
        let parts = parts.filter(move |part| {
            part.direction == direction
                && part.id != 0
                && part.rule.map(|rule| rule.position) == position
        });
        parts.map(|part| cookie(part.id)).collect::<Vec<_>>()
    };
    let answer = Answer {
        accepted,
        message,
        passed: passed.iter().map(rule_view).collect(),
        ..answer
    };
    match reason {
        Reason::Rule(rule) => Answer {
            reason: "Rule",
            cookies: cookies(&rule.policy, Some(rule.position))
                .into_iter()
                .collect(),
            rule: Some(rule_view(&rule)),
            ..answer
        },
        Reason::Isolated(names) => {
            let policies: Vec<String> = names.iter().map(shown_name).collect();
            Answer {
                reason: "Isolated",
                cookies: names.iter().flat_map(|name| cookies(name, None)).collect(),
                policies,
                ..answer
            }
        }
        Reason::Default => Answer {
            reason: "Default",
            ..answer
        },
        Reason::Itself => Answer {
            reason: "Itself",
            ..answer
        },
        Reason::OwnNode => Answer {
            reason: "OwnNode",
            ..answer
        },
    }
}

fn rule_view(rule: &RuleName) -> RuleView {
    RuleView {
        policy: shown_name(&rule.policy),
        position: rule.position,
        name: rule.name.as_deref().map(str::to_owned),
    }
}

const fn direction_name(direction: Direction) -> &'static str {
    match direction {
        Direction::Ingress => "Ingress",
        Direction::Egress => "Egress",
    }
}

#[cfg(test)]
#[path = "explain_tests.rs"]
mod tests;
