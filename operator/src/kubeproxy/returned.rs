//! Whether a kube-proxy that was enabled serves again. Pure.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::Pod;

/// kubeadm's pods have no probe: they are ready when the process runs, which then has its rules to write.
pub const SETTLED: SignedDuration = SignedDuration::from_secs(10);

/// A pod of kube-proxy's DaemonSet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Where it is.
    pub node: String,
    /// Since when it is ready; none while it is not.
    pub ready: Option<Timestamp>,
}

/// The labels of its pods, as a selector.
pub fn selector(set: &DaemonSet) -> String {
    let spec = set.spec.as_ref();
    let labels = spec.and_then(|spec| spec.selector.match_labels.clone());
    let labels = labels.unwrap_or_default();
    let terms: Vec<String> = labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
    terms.join(",")
}

/// Those of these pods that are the DaemonSet's and stay.
pub fn members(set: &DaemonSet, pods: &[Pod]) -> Vec<Member> {
    let is_member = |pod: &&Pod| {
        let mut owners = pod.metadata.owner_references.iter().flatten();
        pod.metadata.deletion_timestamp.is_none()
            && owners.any(|owner| Some(&owner.uid) == set.metadata.uid.as_ref())
    };
    let members = pods.iter().filter(is_member).filter_map(|pod| {
        let conditions = pod.status.as_ref().and_then(|s| s.conditions.as_ref());
        let mut conditions = conditions.into_iter().flatten();
        let ready = conditions.find(|c| c.type_ == "Ready" && c.status == "True");
        Some(Member {
            node: pod.spec.as_ref()?.node_name.clone()?,
            ready: ready.and_then(|c| Some(c.last_transition_time.as_ref()?.0)),
        })
    });
    members.collect()
}

/// How many pods serve, and how many must: one for each node that the DaemonSet wants and that reports.
pub fn serving(
    members: &[Member],
    desired: i32,
    unreachable: &BTreeSet<String>,
    now: Timestamp,
) -> (usize, usize) {
    let by_node: BTreeMap<&String, &Member> = { members.iter() }.map(|m| (&m.node, m)).collect();
    let (away, here): (Vec<_>, Vec<_>) =
        { by_node.values() }.partition(|m| unreachable.contains(&m.node));
    let settled = |member: &&&&Member| {
        let ready = member.ready;
        ready.is_some_and(|since| now.duration_since(since) >= SETTLED)
    };
    let wanted = usize::try_from(desired).unwrap_or(0);
    let serving = here.iter().filter(settled).count();
    (serving, wanted.saturating_sub(away.len()))
}
