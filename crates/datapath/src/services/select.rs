//! Which endpoints take traffic: readiness, termination, locality and topology.
//!
//! Sources: the API documents of `EndpointConditions` and `EndpointHints` (discovery.k8s.io/v1) and of
//! `Service.spec.{internal,external}TrafficPolicy`; KEP-1669 (terminating endpoints), KEP-2086 (internal
//! traffic policy), KEP-2433 (zone hints), KEP-3015 (node hints).

use std::net::IpAddr;

use super::input::Conditions;

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
pub fn select(mut candidates: Vec<Candidate>) -> Selection {
    candidates.sort_by(|a, b| {
        let key = |candidate: &Candidate| (candidate.address, candidate.port);
        (key(a), std::cmp::Reverse(a.worth())).cmp(&(key(b), std::cmp::Reverse(b.worth())))
    });
    candidates.dedup_by_key(|candidate| (candidate.address, candidate.port));
    let hints = Hints::of(&candidates);
    let pick = |wanted: &dyn Fn(&Candidate) -> bool| -> Vec<Backend> {
        let wanted = candidates.iter().filter(|candidate| wanted(candidate));
        wanted.map(Candidate::backend).collect()
    };
    let or_draining = |ready: Vec<Backend>, draining: &dyn Fn(&Candidate) -> bool| {
        if ready.is_empty() {
            pick(draining)
        } else {
            ready
        }
    };
    let ready = pick(&|candidate| candidate.conditions.ready && hints.allow(candidate));
    let local_ready = pick(&|candidate| candidate.conditions.ready && candidate.local);
    Selection {
        local_ready: local_ready.len(),
        cluster: or_draining(ready, &Candidate::draining),
        local: or_draining(local_ready, &|candidate| {
            candidate.draining() && candidate.local
        }),
        serving: pick(&|candidate| candidate.conditions.ready || candidate.conditions.serving),
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

    const fn allow(self, candidate: &Candidate) -> bool {
        match self {
            Self::Node => matches!(candidate.for_node, Some(true)),
            Self::Zone => matches!(candidate.for_zone, Some(true)),
            Self::Ignored => true,
        }
    }
}

#[cfg(test)]
mod tests;
