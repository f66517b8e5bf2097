//! Which endpoints take traffic: readiness, termination, locality and topology.
//!
//! Sources: the API documents of `EndpointConditions` and `EndpointHints` (discovery.k8s.io/v1) and of
//! `Service.spec.{internal,external}TrafficPolicy`; KEP-1669 (terminating endpoints), KEP-2086 (internal
//! traffic policy), KEP-2433 (zone hints), KEP-3015 (node hints).

use std::net::IpAddr;

use super::input::{Conditions, TrafficPolicy};

/// An endpoint of one port, before selection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// Its address.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// Its conditions.
    pub conditions: Conditions,
    /// It runs on this node.
    pub local: bool,
    /// Its hints name this zone; `None` without hints for zones.
    pub for_zone: Option<bool>,
    /// Its hints name this node; `None` without hints for nodes.
    pub for_node: Option<bool>,
}

/// An endpoint that takes traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Backend {
    /// Its address.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
}

/// The endpoints of one port and family, by who asks. All lists are sorted and without duplicates.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// For policy `Cluster`.
    pub cluster: Vec<Backend>,
    /// For policy `Local`.
    pub local: Vec<Backend>,
    /// All that are serving, terminating or not, here or elsewhere: connections to them go on.
    pub serving: Vec<Backend>,
    /// Ready endpoints of this node: what a health check of a load balancer is told.
    pub local_ready: usize,
}

impl Candidate {
    fn backend(&self) -> Backend {
        Backend {
            address: self.address,
            port: self.port,
        }
    }

    /// The last resort of KEP-1669: it would be ready if it were not terminating.
    const fn draining(&self) -> bool {
        self.conditions.serving && self.conditions.terminating
    }

    /// How much it is worth where two slices speak of one endpoint.
    const fn worth(&self) -> (bool, bool, bool) {
        let Conditions { ready, serving, .. } = self.conditions;
        (ready, serving, self.local)
    }
}

/// Selects among the candidates of one port and family.
///
/// Policy `Cluster` takes ready endpoints that the hints allow, and without any ready endpoint those
/// that are terminating and serving. Policy `Local` does the same with the endpoints of this node and
/// knows no hints. Of two candidates with one address and port the more useful one counts.
pub fn select(candidates: Vec<Candidate>) -> Selection {
    let candidates = distinct(candidates);
    let facts = Facts::of(&candidates);
    let pick = |wanted: &dyn Fn(&Candidate) -> bool| -> Vec<Backend> {
        let wanted = candidates.iter().filter(|candidate| wanted(candidate));
        wanted.map(Candidate::backend).collect()
    };
    let of = |policy| pick(&|candidate| facts.judge(policy, candidate).is_ok());
    Selection {
        cluster: of(TrafficPolicy::Cluster),
        local: of(TrafficPolicy::Local),
        serving: pick(&|candidate| candidate.conditions.ready || candidate.conditions.serving),
        local_ready: facts.local_ready,
    }
}

/// Every candidate, sorted and once, with why it takes no traffic of clients that meet `policy`: those
/// without a reason are exactly what [`select`] takes.
pub fn judged(
    candidates: Vec<Candidate>,
    policy: TrafficPolicy,
) -> Vec<(Candidate, Result<(), LeftOut>)> {
    let candidates = distinct(candidates);
    let facts = Facts::of(&candidates);
    let candidates = candidates.into_iter();
    candidates
        .map(|candidate| (candidate, facts.judge(policy, &candidate)))
        .collect()
}

/// Why an endpoint takes no traffic. `Display` is a sentence without its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
pub enum LeftOut {
    /// Neither ready nor a last resort.
    #[error("not ready")]
    NotReady,
    /// A last resort that is not needed.
    #[error("terminating, and ready endpoints exist")]
    Terminating,
    /// Its hints name other nodes.
    #[error("its hints are for clients of other nodes")]
    HintedToOtherNode,
    /// Its hints name other zones.
    #[error("its hints are for clients of other zones")]
    HintedToOtherZone,
    /// Policy `Local`.
    #[error("not on this node, and policy Local counts")]
    NotOnThisNode,
    /// Of the other IP family: it never was a candidate.
    #[error("of the other IP family")]
    OtherFamily,
    /// Its slice has no port of that name and protocol: it never was a candidate.
    #[error("its EndpointSlice has no port of that name and protocol")]
    NoSuchPort,
}

impl LeftOut {
    /// A name for programs.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::NotReady => "NotReady",
            Self::Terminating => "Terminating",
            Self::HintedToOtherNode => "HintedToOtherNode",
            Self::HintedToOtherZone => "HintedToOtherZone",
            Self::NotOnThisNode => "NotOnThisNode",
            Self::OtherFamily => "OtherFamily",
            Self::NoSuchPort => "NoSuchPort",
        }
    }
}

/// Sorted, and of one address and port the most useful one.
fn distinct(mut candidates: Vec<Candidate>) -> Vec<Candidate> {
    candidates.sort_by(|a, b| {
        let key = |candidate: &Candidate| (candidate.address, candidate.port);
        (key(a), std::cmp::Reverse(a.worth())).cmp(&(key(b), std::cmp::Reverse(b.worth())))
    });
    candidates.dedup_by_key(|candidate| (candidate.address, candidate.port));
    candidates
}

/// What of all candidates decides about each.
#[derive(Debug, Clone, Copy)]
struct Facts {
    hints: Hints,
    any_ready: bool,
    local_ready: usize,
}

impl Facts {
    fn of(candidates: &[Candidate]) -> Self {
        let ready = |candidate: &&Candidate| candidate.conditions.ready;
        let local = |candidate: &&Candidate| candidate.local;
        Self {
            hints: Hints::of(candidates),
            any_ready: candidates.iter().any(|candidate| ready(&candidate)),
            local_ready: candidates.iter().filter(ready).filter(local).count(),
        }
    }

    /// Whether a candidate takes traffic of clients that meet `policy`.
    const fn judge(self, policy: TrafficPolicy, candidate: &Candidate) -> Result<(), LeftOut> {
        let others_ready = match policy {
            TrafficPolicy::Cluster => self.any_ready,
            TrafficPolicy::Local if !candidate.local => return Err(LeftOut::NotOnThisNode),
            TrafficPolicy::Local => self.local_ready > 0,
        };
        match (candidate.conditions.ready, candidate.draining()) {
            (true, _) => match policy {
                // Where hints count, one of the ready endpoints is for here.
                TrafficPolicy::Cluster => self.hints.allow(candidate),
                TrafficPolicy::Local => Ok(()),
            },
            (false, true) if others_ready => Err(LeftOut::Terminating),
            (false, true) => Ok(()),
            (false, false) => Err(LeftOut::NotReady),
        }
    }
}

/// Which hints count. All ready endpoints must have hints of a kind and one of them must be for this
/// node or zone; otherwise hints of that kind are ignored, so that nobody is left without endpoints while
/// the slices change (KEP-2433, "kube-proxy"). Hints for nodes beat hints for zones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hints {
    Node,
    Zone,
    Ignored,
}

impl Hints {
    fn of(candidates: &[Candidate]) -> Self {
        let ready = || {
            candidates
                .iter()
                .filter(|candidate| candidate.conditions.ready)
        };
        let count = |hint: fn(&Candidate) -> Option<bool>| {
            ready().all(|candidate| hint(candidate).is_some())
                && ready().any(|candidate| hint(candidate) == Some(true))
        };
        if count(|candidate| candidate.for_node) {
            Self::Node
        } else if count(|candidate| candidate.for_zone) {
            Self::Zone
        } else {
            Self::Ignored
        }
    }

    const fn allow(self, candidate: &Candidate) -> Result<(), LeftOut> {
        match (self, candidate.for_node, candidate.for_zone) {
            (Self::Node, Some(true), _) | (Self::Zone, _, Some(true)) | (Self::Ignored, ..) => {
                Ok(())
            }
            (Self::Node, ..) => Err(LeftOut::HintedToOtherNode),
            (Self::Zone, ..) => Err(LeftOut::HintedToOtherZone),
        }
    }
}

#[cfg(test)]
mod tests;
