//! Label selectors (`metav1.LabelSelector`), in a normal form: two selectors that are written
//! differently and say the same are equal where that can be seen from their requirements.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use crate::problem::{Problem, quoted};

/// Requirements that must all hold of an object's labels. None: every object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Selector {
    requirements: Vec<Requirement>,
}

/// One requirement.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Requirement {
    /// The label's key.
    pub key: String,
    /// What must hold of it.
    pub operator: Operator,
}

/// `LabelSelectorRequirement.operator` with its values, which are sorted and distinct.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operator {
    /// It is there and its value is one of these.
    In(Vec<String>),
    /// It is not there, or its value is none of these.
    NotIn(Vec<String>),
    /// It is there.
    Exists,
    /// It is not there.
    DoesNotExist,
}

impl Selector {
    /// Reads a selector; `field` is its path, for the error.
    pub fn parse(selector: &LabelSelector, field: &dyn fmt::Display) -> Result<Self, Problem> {
        let mut requirements = Vec::new();
        for (key, value) in selector.match_labels.iter().flatten() {
            requirements.push(Requirement {
                key: key.clone(),
                operator: Operator::In(vec![value.clone()]),
            });
        }
        for (n, written) in selector.match_expressions.iter().flatten().enumerate() {
            let mut values = written.values.clone().unwrap_or_default();
            values.sort_unstable();
            values.dedup();
            let operator = match (written.operator.as_str(), values.is_empty()) {
                ("In", false) => Operator::In(values),
                ("NotIn", false) => Operator::NotIn(values),
                ("Exists", true) => Operator::Exists,
                ("DoesNotExist", true) => Operator::DoesNotExist,
                ("In" | "NotIn", true) => {
                    return Err(Problem::new(
                        format_args!("{field}.matchExpressions[{n}].values"),
                        format_args!("is empty with operator {}", written.operator),
                        "list at least one value",
                    ));
                }
                ("Exists" | "DoesNotExist", false) => {
                    return Err(Problem::new(
                        format_args!("{field}.matchExpressions[{n}].values"),
                        format_args!("is not empty with operator {}", written.operator),
                        "leave values out, or use In or NotIn",
                    ));
                }
                (other, _) => {
                    return Err(Problem::new(
                        format_args!("{field}.matchExpressions[{n}].operator"),
                        format_args!("{} is no operator", quoted(other)),
                        "use In, NotIn, Exists or DoesNotExist",
                    ));
                }
            };
            requirements.push(Requirement {
                key: written.key.clone(),
                operator,
            });
        }
        requirements.sort_unstable();
        requirements.dedup();
        Ok(Self { requirements })
    }

    /// Its requirements, sorted.
    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }

    /// Whether an object with these labels is selected.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.requirements.iter().all(|requirement| {
            let value = labels.get(&requirement.key);
            match &requirement.operator {
                Operator::In(values) => value.is_some_and(|value| values.contains(value)),
                Operator::NotIn(values) => value.is_none_or(|value| !values.contains(value)),
                Operator::Exists => value.is_some(),
                Operator::DoesNotExist => value.is_none(),
            }
        })
    }

    /// As bytes, every text with its length before it, so that no two selectors give the same.
    pub(crate) fn encode(&self, bytes: &mut Vec<u8>) {
        encode_count(bytes, self.requirements.len());
        for Requirement { key, operator } in &self.requirements {
            encode_text(bytes, key);
            let (number, values): (u8, &[String]) = match operator {
                Operator::In(values) => (0, values),
                Operator::NotIn(values) => (1, values),
                Operator::Exists => (2, &[]),
                Operator::DoesNotExist => (3, &[]),
            };
            bytes.push(number);
            encode_count(bytes, values.len());
            for value in values {
                encode_text(bytes, value);
            }
        }
    }
}

fn encode_count(bytes: &mut Vec<u8>, count: usize) {
    bytes.extend_from_slice(&(count as u64).to_be_bytes());
}

/// A text with its length before it.
pub(crate) fn encode_text(bytes: &mut Vec<u8>, text: &str) {
    encode_count(bytes, text.len());
    bytes.extend_from_slice(text.as_bytes());
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.requirements.is_empty() {
            return f.write_str("all");
        }
        for (n, Requirement { key, operator }) in self.requirements.iter().enumerate() {
            if n > 0 {
                f.write_str(",")?;
            }
            match operator {
                Operator::In(values) => match values.as_slice() {
                    [value] => write!(f, "{key}={value}")?,
                    values => write!(f, "{key} in ({})", values.join(","))?,
                },
                Operator::NotIn(values) => write!(f, "{key} notin ({})", values.join(","))?,
                Operator::Exists => f.write_str(key)?,
                Operator::DoesNotExist => write!(f, "!{key}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn selector(json: serde_json::Value) -> Result<Selector, Problem> {
        Selector::parse(&serde_json::from_value(json).unwrap(), &"spec.podSelector")
    }

    #[test]
    fn equal_meaning_is_an_equal_selector() {
        let one = selector(json!({"matchLabels": {"a": "1", "b": "2"}})).unwrap();
        let other = selector(json!({"matchExpressions": [
            {"key": "b", "operator": "In", "values": ["2", "2"]},
            {"key": "a", "operator": "In", "values": ["1"]},
        ]}))
        .unwrap();
        assert_eq!(one, other);
        assert_eq!(one.to_string(), "a=1,b=2");
        assert_eq!(Selector::default().to_string(), "all");
    }

    #[test]
    fn operators_mean_what_the_documentation_says() {
        let labels = BTreeMap::from([("a".to_owned(), "1".to_owned())]);
        let expression = |key, operator, values: &[&str]| json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]});
        for (key, operator, values, expected) in [
            ("a", "In", &["1", "2"][..], true),
            ("a", "In", &["2"], false),
            ("b", "In", &["1"], false),
            ("a", "NotIn", &["1"], false),
            ("a", "NotIn", &["2"], true),
            ("b", "NotIn", &["1"], true),
            ("a", "Exists", &[], true),
            ("b", "Exists", &[], false),
            ("a", "DoesNotExist", &[], false),
            ("b", "DoesNotExist", &[], true),
        ] {
            let selector = selector(expression(key, operator, values)).unwrap();
            assert_eq!(selector.matches(&labels), expected, "{selector}");
        }
    }

    #[test]
    fn what_means_nothing_is_refused() {
        for (operator, values, message) in [
            (
                "In",
                &[][..],
                "spec.podSelector.matchExpressions[0].values: is empty with operator In; list at \
                 least one value",
            ),
            (
                "Exists",
                &["1"],
                "spec.podSelector.matchExpressions[0].values: is not empty with operator Exists; \
                 leave values out, or use In or NotIn",
            ),
            (
                "Gt",
                &["1"],
                "spec.podSelector.matchExpressions[0].operator: \"Gt\" is no operator; use In, \
                 NotIn, Exists or DoesNotExist",
            ),
        ] {
            let json =
                json!({"matchExpressions": [{"key": "a", "operator": operator, "values": values}]});
            assert_eq!(selector(json).unwrap_err().to_string(), message);
        }
    }
}
