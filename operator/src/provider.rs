//! What kind of cluster this is, and how that is known.
//!
//! A profile is data, not code paths. Every fact that counted is kept as evidence, so that a
//! person can see why, and a wrong `spec.provider` is refused with it.

use carrick_api::networking::Provider;

use crate::facts::{Facts, Presence};
use crate::verdict::Refusal;

/// What differs between providers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Profile {
    /// Directory of CNI plugin binaries on hosts.
    pub cni_bin_dir: &'static str,
    /// Directory of CNI configurations on hosts.
    pub cni_conf_dir: &'static str,
}

/// The profile of a provider.
pub fn profile(provider: Provider) -> Profile {
    match provider {
        // All of these follow the defaults of containerd and CRI-O.
        Provider::Auto | Provider::Generic | Provider::Kubeadm | Provider::Kind => Profile {
            cni_bin_dir: "/opt/cni/bin",
            cni_conf_dir: "/etc/cni/net.d",
        },
    }
}

/// What the evidence says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Detection {
    /// Never `Auto`.
    pub provider: Provider,
    /// Each fact that counted, strongest first; at most [`EVIDENCE_MAX`].
    pub evidence: Vec<String>,
}

/// The most pieces of evidence that are kept.
pub const EVIDENCE_MAX: usize = 10;

const KIND_SCHEME: &str = "kind://";
const KUBEADM_ANNOTATION: &str = "kubeadm.alpha.kubernetes.io/cri-socket";

/// Tells the provider from what is known of the cluster.
pub fn detect(facts: &Facts) -> Detection {
    let mut kind = Vec::new();
    let mut kubeadm = Vec::new();
    let mut other = Vec::new();
    for node in &facts.nodes {
        if node.provider_id.starts_with(KIND_SCHEME) {
            kind.push(format!(
                "node/{}: providerID {}",
                node.name, node.provider_id
            ));
        } else if !node.provider_id.is_empty() {
            other.push(format!(
                "node/{}: providerID {}",
                node.name, node.provider_id
            ));
        }
        if node
            .annotations
            .iter()
            .any(|annotation| annotation == KUBEADM_ANNOTATION)
        {
            kubeadm.push(format!(
                "node/{}: annotation {KUBEADM_ANNOTATION}",
                node.name
            ));
        }
    }
    if facts.kubeadm_config == Presence::Present {
        kubeadm.insert(0, "configmap/kube-system/kubeadm-config exists".to_owned());
    }
    let (provider, mut evidence) = if !kind.is_empty() {
        kind.extend(kubeadm);
        (Provider::Kind, kind)
    } else if !kubeadm.is_empty() {
        kubeadm.extend(other);
        (Provider::Kubeadm, kubeadm)
    } else {
        if other.is_empty() {
            other.push(match facts.nodes.len() {
                0 => "no node has registered yet".to_owned(),
                nodes => format!("none of {nodes} nodes names a provider"),
            });
        }
        (Provider::Generic, other)
    };
    evidence.truncate(EVIDENCE_MAX);
    Detection { provider, evidence }
}

/// Refuses a `spec.provider` that the evidence contradicts. `Generic` is always allowed: it
/// follows the defaults of Kubernetes. Without any node there is no evidence against anything.
pub fn check(asked: Option<Provider>, detection: &Detection, facts: &Facts) -> Option<Refusal> {
    let asked = asked.unwrap_or(Provider::Auto);
    let contradicted = match (asked, detection.provider) {
        // Of kubeadm nothing need be left to see: its ConfigMap may be gone.
        (Provider::Auto | Provider::Generic, _)
        | (Provider::Kubeadm, Provider::Kubeadm | Provider::Generic)
        | (Provider::Kind, Provider::Kind) => false,
        (Provider::Kind, Provider::Generic) => !facts.nodes.is_empty(),
        (Provider::Kind | Provider::Kubeadm, _) => true,
    };
    contradicted.then(|| Refusal {
        field: "spec.provider".to_owned(),
        reason: format!(
            "{asked:?} contradicts what the cluster shows ({:?}: {})",
            detection.provider,
            detection.evidence.join("; ")
        ),
        mend: format!("set provider to Auto or {:?}", detection.provider),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples;

    fn facts_with(provider_id: &str, annotation: &str) -> Facts {
        let mut facts = samples::facts();
        for node in &mut facts.nodes {
            provider_id.clone_into(&mut node.provider_id);
            if !annotation.is_empty() {
                node.annotations.push(annotation.to_owned());
            }
        }
        facts
    }

    #[test]
    fn kind_is_known_by_its_provider_ids() {
        let facts = facts_with("kind://docker/c/n", KUBEADM_ANNOTATION);
        let detection = detect(&facts);
        assert_eq!(detection.provider, Provider::Kind);
        assert!(
            detection.evidence[0].contains("kind://docker/c/n"),
            "{detection:?}"
        );
    }

    #[test]
    fn kubeadm_is_known_by_its_config_map_or_annotation() {
        assert_eq!(
            detect(&facts_with("", KUBEADM_ANNOTATION)).provider,
            Provider::Kubeadm
        );
        let mut facts = samples::facts();
        facts.kubeadm_config = Presence::Present;
        assert_eq!(detect(&facts).provider, Provider::Kubeadm);
    }

    #[test]
    fn a_cluster_without_nodes_is_generic_and_contradicts_nothing() {
        let mut facts = samples::facts();
        facts.nodes.clear();
        let detection = detect(&facts);
        assert_eq!(detection.provider, Provider::Generic);
        assert_eq!(detection.evidence, ["no node has registered yet"]);
        assert_eq!(check(Some(Provider::Kind), &detection, &facts), None);
    }

    #[test]
    fn a_provider_that_the_evidence_contradicts_is_refused_with_the_evidence() {
        let facts = facts_with("kind://docker/c/n", "");
        let refusal = check(Some(Provider::Kubeadm), &detect(&facts), &facts).unwrap();
        assert_eq!(refusal.field, "spec.provider");
        assert!(refusal.reason.contains("kind://docker/c/n"), "{refusal}");
        assert_eq!(
            check(Some(Provider::Generic), &detect(&facts), &facts),
            None
        );
        let facts = facts_with("aws:///eu-west-1/i-1", "");
        assert!(check(Some(Provider::Kind), &detect(&facts), &facts).is_some());
    }
}
