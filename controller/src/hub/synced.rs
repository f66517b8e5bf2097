//! What was listed so far: a replica that does not know everything may not lead.

use crate::index::PolicyKind;
use crate::objects::Event;

/// Which kinds were listed whole at least once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Synced {
    /// Nodes.
    pub nodes: bool,
    /// Pods.
    pub pods: bool,
    /// AgentInfos.
    pub infos: bool,
    /// Namespaces.
    pub namespaces: bool,
    /// NetworkPolicies.
    pub network_policies: bool,
    /// ClusterNetworkPolicies, or that they are not served.
    pub cluster_network_policies: bool,
}

impl Synced {
    /// Every kind was.
    #[must_use]
    pub fn all(self) -> bool {
        self.kinds().into_iter().all(|(_, synced)| synced)
    }

    /// An event that is all there is of a kind says that it was listed.
    pub(super) fn see(&mut self, event: &Event) {
        match event {
            Event::Nodes(_) => self.nodes = true,
            Event::Pods(_) => self.pods = true,
            Event::Infos(_) => self.infos = true,
            Event::Namespaces(_) => self.namespaces = true,
            Event::Policies(PolicyKind::NetworkPolicy, _) => self.network_policies = true,
            Event::Policies(PolicyKind::ClusterNetworkPolicy, _) => {
                self.cluster_network_policies = true;
            }
            _ => {}
        }
    }

    fn kinds(self) -> [(&'static str, bool); 6] {
        [
            ("nodes", self.nodes),
            ("pods", self.pods),
            ("agentinfos", self.infos),
            ("namespaces", self.namespaces),
            ("networkpolicies", self.network_policies),
            ("clusternetworkpolicies", self.cluster_network_policies),
        ]
    }

    /// What is missing, for people.
    #[must_use]
    pub fn missing(self) -> String {
        let kinds = self.kinds().into_iter();
        let missing: Vec<&str> = kinds
            .filter(|(_, synced)| !synced)
            .map(|(kind, _)| kind)
            .collect();
        format!("not listed yet: {}", missing.join(", "))
    }
}
