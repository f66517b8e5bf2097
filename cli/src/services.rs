//! Services of a node as its agent tells them (`/v1/services`).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::table::Table;

/// Longest `namespace/name`: both are DNS labels (RFC 1123), of 63 characters at most.
const NAME_MAX: usize = 127;
/// Backends that a row names; `-o json` has all of them.
const NAMED: usize = 3;

/// What the agent answers.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    /// Whether it has read all Services from the API server.
    pub listed: bool,
    /// By `namespace/name`.
    services: BTreeMap<String, Told>,
}

#[derive(Debug, Default, Deserialize)]
struct Told {
    frontends: Vec<Frontend>,
    #[serde(default)]
    findings: Vec<String>,
}

/// One Service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ServiceView {
    /// `namespace/name`.
    pub service: String,
    /// Where clients reach it; none where it is not served.
    pub frontends: Vec<Frontend>,
    /// What is not as it was asked for, a sentence each.
    pub findings: Vec<String>,
}

/// One address and port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Frontend {
    /// `ClusterIP`, `NodePort`, `LoadBalancer` or `ExternalIP`.
    pub kind: String,
    /// The address; `IPv4` or `IPv6` for every address of the node.
    pub address: String,
    /// `tcp`, `udp` or `sctp`.
    pub protocol: String,
    /// The port.
    pub port: u16,
    /// The traffic policy that holds here: `Cluster` or `Local`.
    pub policy: String,
    /// How many endpoints answer.
    pub backend_count: usize,
    /// Those, as `address:port`, where the Service was asked for by its name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub backends: Vec<String>,
    /// The Service that has the address instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claimed_by: Option<String>,
}

/// A name that is none of a Service.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name:?} is not the name of a Service: write NAMESPACE/NAME, e.g. kube-system/kube-dns")]
pub struct NotAName {
    name: String,
}

impl Answer {
    /// The Services in the order of their names.
    pub fn into_views(self) -> impl Iterator<Item = ServiceView> {
        let services = self.services.into_iter();
        services.map(|(service, told)| ServiceView {
            service,
            frontends: told.frontends,
            findings: told.findings,
        })
    }
}

/// What to ask the agent for.
///
/// # Errors
/// Not a Service's name: nothing else is written into a request.
pub fn path(service: Option<&str>) -> Result<String, NotAName> {
    let Some(name) = service else {
        return Ok("/v1/services".to_owned());
    };
    let label = |text: &str| {
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        !text.is_empty() && text.chars().all(fits)
    };
    let parts = name.split_once('/');
    if name.len() > NAME_MAX
        || !parts.is_some_and(|(namespace, name)| label(namespace) && label(name))
    {
        let name = name.chars().take(NAME_MAX).collect();
        return Err(NotAName { name });
    }
    Ok(format!("/v1/services?service={name}"))
}

/// A row for each frontend; with `backends` these by name, else how many.
pub fn services_table(views: &[ServiceView], backends: bool) -> Table {
    let mut table = Table::new(["SERVICE", "KIND", "FRONTEND", "POLICY", "BACKENDS", "STATE"]);
    for view in views {
        if view.frontends.is_empty() {
            let state = match view.findings.as_slice() {
                [] => "not served".to_owned(),
                findings => findings.join("; "),
            };
            let none = String::new;
            table.row([view.service.clone(), none(), none(), none(), none(), state]);
        }
        for (place, frontend) in view.frontends.iter().enumerate() {
            let findings = if place == 0 {
                view.findings.as_slice()
            } else {
                &[]
            };
            table.row([
                view.service.clone(),
                frontend.kind.clone(),
                frontend.place(),
                frontend.policy.clone(),
                if backends {
                    frontend.named()
                } else {
                    frontend.backend_count.to_string()
                },
                frontend.state(findings),
            ]);
        }
    }
    table
}

impl Frontend {
    fn place(&self) -> String {
        let (address, port, protocol) = (&self.address, self.port, &self.protocol);
        if address.contains(':') {
            format!("[{address}]:{port}/{protocol}")
        } else {
            format!("{address}:{port}/{protocol}")
        }
    }

    fn named(&self) -> String {
        let mut named: Vec<String> = self.backends.iter().take(NAMED).cloned().collect();
        let more = self.backends.len().saturating_sub(NAMED);
        if more > 0 {
            named.push(format!("and {more} more"));
        }
        named.join(",")
    }

    /// The findings are the Service's, and stand beside its first frontend.
    fn state(&self, findings: &[String]) -> String {
        let own = match (&self.claimed_by, self.backend_count) {
            (Some(other), _) => format!("{other} has the address"),
            (None, 0) => "no endpoints".to_owned(),
            (None, _) => "served".to_owned(),
        };
        let all: Vec<&str> = std::iter::once(own.as_str())
            .chain(findings.iter().map(String::as_str))
            .collect();
        all.join("; ")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn views() -> Vec<ServiceView> {
        let frontend = |kind: &str, address: &str, count: usize| {
            json!({
                "kind": kind, "address": address, "protocol": "tcp", "port": 80, "policy": "Cluster",
                "backendCount": count,
            })
        };
        let mut claimed = frontend("ExternalIP", "192.0.2.9", 1);
        claimed["claimedBy"] = json!("shop/other");
        let mut many = frontend("ClusterIP", "fd00:96::7", 8);
        many["backends"] = (0..8).map(|last| format!("10.1.0.{last}:8080")).collect();
        let answer = json!({
            "listed": true, "pending": 0,
            "services": {
                "shop/web": {"frontends": [
                    frontend("ClusterIP", "10.96.0.7", 2), frontend("NodePort", "IPv4", 0), claimed,
                ], "findings": ["affinity ends after 65535 s"]},
                "shop/many": {"frontends": [many], "findings": []},
                "shop/none": {"frontends": [], "findings": []},
            },
        });
        let answer: Answer = serde_json::from_value(answer).unwrap();
        assert!(answer.listed);
        answer.into_views().collect()
    }

    #[test]
    fn services_have_a_table() {
        let views = views();
        insta::assert_snapshot!("services", services_table(&views, false).render());
        insta::assert_snapshot!(
            "services_with_backends",
            services_table(&views, true).render()
        );
    }

    #[test]
    fn only_a_services_name_is_asked_for() {
        assert_eq!(path(None).unwrap(), "/v1/services");
        assert_eq!(
            path(Some("kube-system/kube-dns")).unwrap(),
            "/v1/services?service=kube-system/kube-dns"
        );
        let long = format!("a/{}", "b".repeat(200));
        for name in [
            "web",
            "a/",
            "/b",
            "a/b/c",
            "a/b c",
            "a/b&service=c",
            "A/b",
            long.as_str(),
        ] {
            let error = path(Some(name)).unwrap_err();
            assert!(error.to_string().contains("NAMESPACE/NAME"), "{error}");
        }
    }
}
