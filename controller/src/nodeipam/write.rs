//! Writes a claimed CIDR to its Node.

use std::time::Duration;

use carrick_api::names::object;
use carrick_k8s::client::{CallError, timely};
use carrick_proto::NodeName;
use k8s_openapi::api::core::v1::Node as NodeObject;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use super::allocator::{Assignment, Node};
use crate::watch::{NodeInterest, node_object};

/// How long one request may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often a Node that others write at the same time is read again and tried anew at once.
const ATTEMPTS: usize = 5;

/// What became of a write that did not fail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Written {
    /// The Node has what it was to get.
    Done(Node),
    /// Somebody else gave it other CIDRs first.
    Forestalled(Node),
    /// This registration of the Node is gone.
    Gone,
}

/// A Node did not get its CIDRs.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// This replica no longer leads.
    #[error("this replica no longer leads")]
    TermOver,
    /// A request failed.
    #[error("cannot {verb} node {node} to give it its pod CIDRs")]
    Request {
        /// What was attempted.
        verb: &'static str,
        /// The node.
        node: NodeName,
        /// The cause.
        #[source]
        source: CallError,
    },
    /// Others wrote the Node each time.
    #[error("node {node} was written by others {ATTEMPTS} times while it was to get its pod CIDRs")]
    Contended {
        /// The node.
        node: NodeName,
    },
}

/// A Node as the allocator sees it.
#[must_use]
pub fn facts(node: &NodeObject) -> Option<Node> {
    let facts = node_object(node, &NodeInterest::default())?;
    Some(Node {
        name: facts.name,
        uid: facts.uid,
        created: facts.created,
        cidrs: facts.pod_cidrs,
        malformed: facts.bad_cidr,
        version: node.metadata.resource_version.clone().unwrap_or_default(),
    })
}

/// The merge patch (RFC 7386). It names the registration and the version it was made for, so it
/// fails when the Node is another or has changed since; and the API server lets nobody change CIDRs
/// that a Node has.
fn patch(assignment: &Assignment, version: &str) -> Value {
    let cidrs: Vec<String> = assignment.cidrs.iter().map(ToString::to_string).collect();
    json!({
        "metadata": {"uid": assignment.uid, "resourceVersion": version},
        "spec": {"podCIDR": cidrs.first(), "podCIDRs": cidrs},
    })
}

/// Writes `spec.podCIDR` and `spec.podCIDRs` in one patch; on a conflict from a fresh read. Asks
/// `leading` before each.
pub async fn write(
    api: &Api<NodeObject>,
    assignment: &Assignment,
    leading: impl Fn() -> bool,
) -> Result<Written, WriteError> {
    let name = assignment.node.as_str();
    let failed = |verb| {
        move |source| WriteError::Request {
            verb,
            node: assignment.node.clone(),
            source,
        }
    };
    let params = PatchParams {
        field_manager: Some(object::CONTROLLER.to_owned()),
        ..PatchParams::default()
    };
    let mut version = assignment.version.clone();
    for _ in 0..ATTEMPTS {
        if !leading() {
            return Err(WriteError::TermOver);
        }
        let patch = Patch::Merge(patch(assignment, &version));
        let request = api.patch(name, &params, &patch);
        match timely("a patch of a Node", PATIENCE, request).await {
            Ok(node) => return Ok(facts(&node).map_or(Written::Gone, Written::Done)),
            Err(error) if matches!(error.status(), Some(404 | 409)) => {}
            Err(source) => return Err(failed("patch")(source)),
        }
        let request = api.get_opt(name);
        let read = timely("a Node", PATIENCE, request)
            .await
            .map_err(failed("read"))?;
        let Some(node) = read.as_ref().and_then(facts) else {
            return Ok(Written::Gone);
        };
        if node.uid != assignment.uid {
            return Ok(Written::Gone);
        }
        if node.cidrs == assignment.cidrs {
            return Ok(Written::Done(node));
        }
        if !node.cidrs.is_empty() || node.malformed.is_some() {
            return Ok(Written::Forestalled(node));
        }
        version = node.version;
    }
    Err(WriteError::Contended {
        node: assignment.node.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_patch_names_the_registration_the_version_and_both_fields() {
        let assignment = Assignment {
            node: NodeName::new("a").unwrap(),
            uid: "u".into(),
            version: "3".into(),
            cidrs: vec!["fd00::/64".parse().unwrap(), "10.0.0.0/24".parse().unwrap()],
        };
        assert_eq!(
            patch(&assignment, "7"),
            json!({
                "metadata": {"uid": "u", "resourceVersion": "7"},
                "spec": {"podCIDR": "fd00::/64", "podCIDRs": ["fd00::/64", "10.0.0.0/24"]},
            })
        );
    }
}
