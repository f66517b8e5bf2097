//! `nodeConfigs`: what differs on some nodes, chosen by their labels.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::effective::DatapathType;
use crate::networking::Datapath;

/// An entry of `nodeConfigs`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeConfig {
    /// What it is called in messages and in AgentInfos. Unique in the list.
    #[schemars(
        length(min = 1, max = 63),
        regex(pattern = r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$")
    )]
    pub name: String,
    /// Which nodes it is for, by their labels; an empty selector is for all.
    pub node_selector: NodeSelector,
    /// Which datapath Open vSwitch uses on these nodes. Default: the network's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub datapath: Option<Datapath>,
    /// How packets travel from these nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traffic: Option<NodeTraffic>,
}

impl NodeConfig {
    /// The datapath it names.
    #[must_use]
    pub fn datapath_type(&self) -> Option<DatapathType> {
        self.datapath.as_ref()?.type_
    }

    /// The transport interface it names.
    #[must_use]
    pub fn transport_interface(&self) -> Option<&str> {
        let transport = self.traffic.as_ref()?.transport.as_ref()?;
        transport.interface.as_deref()
    }
}

/// `nodeConfigs[].traffic`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NodeTraffic {
    /// What carries traffic between nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transport: Option<NodeTransport>,
}

/// `nodeConfigs[].traffic.transport`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NodeTransport {
    /// Interface on these nodes that carries traffic between nodes. Empty: found by
    /// traffic.transport.cidrs or the node's InternalIP. Default: the network's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 15), regex(pattern = r"^([^/\s:]+)?$"))]
    pub interface: Option<String>,
}

/// Labels a node must have: all of these.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeSelector {
    /// Labels and their values.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend(
        "maxProperties" = 16,
        "additionalProperties" = {"type": "string", "maxLength": 63}
    ))]
    pub match_labels: BTreeMap<String, String>,
    /// Conditions on labels.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), extend("x-kubernetes-list-type" = "atomic"))]
    pub match_expressions: Vec<NodeExpression>,
}

/// A condition on a label.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "(self.operator in ['In', 'NotIn']) == (has(self.values) && size(self.values) > 0)",
    "message": "values go with the operators In and NotIn, which need at least one, and not with Exists and DoesNotExist"
}]))]
pub struct NodeExpression {
    /// The label's key.
    #[schemars(
        length(min = 1, max = 317),
        regex(
            pattern = r"^([a-z0-9]([a-z0-9.-]*[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$"
        )
    )]
    pub key: String,
    /// How it is compared.
    pub operator: NodeOperator,
    /// Its values.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 16),
        inner(length(max = 63)),
        extend("x-kubernetes-list-type" = "atomic")
    )]
    pub values: Vec<String>,
}

/// How a label is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = crate::crd::leave_description_to_fields)]
pub enum NodeOperator {
    /// It has one of the values.
    In,
    /// It has none of the values, or is not there.
    NotIn,
    /// It is there.
    Exists,
    /// It is not there.
    DoesNotExist,
}

impl NodeSelector {
    /// Whether a node with these labels is meant.
    #[must_use]
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        let by_label = self
            .match_labels
            .iter()
            .all(|(key, value)| labels.get(key) == Some(value));
        by_label && self.match_expressions.iter().all(|one| one.holds(labels))
    }
}

impl NodeExpression {
    fn holds(&self, labels: &BTreeMap<String, String>) -> bool {
        let value = labels.get(&self.key);
        let listed = || value.is_some_and(|value| self.values.contains(value));
        match self.operator {
            NodeOperator::In => listed(),
            NodeOperator::NotIn => !listed(),
            NodeOperator::Exists => value.is_some(),
            NodeOperator::DoesNotExist => value.is_none(),
        }
    }
}

/// The first entry that is for a node with these labels.
#[must_use]
pub fn first_match<'a>(
    configs: &'a [NodeConfig],
    labels: &BTreeMap<String, String>,
) -> Option<&'a NodeConfig> {
    configs
        .iter()
        .find(|config| config.node_selector.matches(labels))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selector(json: &str) -> NodeSelector {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn labels_are_matched_as_kubernetes_does() {
        let labels = BTreeMap::from([("pool".to_owned(), "gpu".to_owned())]);
        let matches = |json: &str| selector(json).matches(&labels);
        assert!(matches("{}"));
        assert!(matches(r#"{"matchLabels": {"pool": "gpu"}}"#));
        assert!(!matches(r#"{"matchLabels": {"pool": "gpu", "zone": "a"}}"#));
        let one = |operator: &str, key: &str, values: &str| {
            matches(&format!(
                r#"{{"matchExpressions": [{{"key": "{key}", "operator": "{operator}", "values": [{values}]}}]}}"#
            ))
        };
        assert!(one("In", "pool", r#""cpu", "gpu""#) && !one("In", "pool", r#""cpu""#));
        assert!(!one("NotIn", "pool", r#""gpu""#) && one("NotIn", "zone", r#""a""#));
        assert!(one("Exists", "pool", "") && !one("Exists", "zone", ""));
        assert!(!one("DoesNotExist", "pool", "") && one("DoesNotExist", "zone", ""));
        assert!(!one("In", "zone", r#""a""#));
    }

    #[test]
    fn the_first_match_wins() {
        let config = |name: &str, json: &str| NodeConfig {
            name: name.into(),
            node_selector: selector(json),
            ..NodeConfig::default()
        };
        let configs = [
            config("gpu", r#"{"matchLabels": {"pool": "gpu"}}"#),
            config("rest", "{}"),
        ];
        let of = |labels: &[(&str, &str)]| {
            let labels = labels
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
            first_match(&configs, &labels.collect()).map(|config| config.name.as_str())
        };
        assert_eq!(of(&[("pool", "gpu")]), Some("gpu"));
        assert_eq!(of(&[]), Some("rest"));
        assert_eq!(first_match(&configs[..1], &BTreeMap::new()), None);
    }
}
