//! What is known and decided at one look.

use std::sync::Arc;
use std::time::Instant;

use carrick_api::Networking;
use carrick_api::networking::Management;
use carrick_api::status::RolloutStatus;

use crate::effective::{self, Effective};
use crate::facts::{Facts, Probe};
use crate::progress::Running;
use crate::provider::{self, Detection};
use crate::reconcile::{ReconcileError, Reconciler};
use crate::verdict::{Doubt, Refusal};
use crate::{gather, kubeproxy, safety, validate};

/// Everything that is known and decided at one look.
pub(crate) struct Sight {
    pub(crate) networking: Networking,
    pub(crate) facts: Facts,
    pub(crate) detection: Detection,
    pub(crate) wanted: Effective,
    pub(crate) last: Option<Effective>,
    pub(crate) refusals: Vec<Refusal>,
    pub(crate) refusal_reason: &'static str,
    pub(crate) doubts: Vec<Doubt>,
    pub(crate) running: Running,
    /// After a failed rollout: the spec by which the network runs again.
    pub(crate) gone_back: Option<Effective>,
    /// The rollout under way.
    pub(crate) rollout: Option<RolloutStatus>,
    /// How kube-proxy runs.
    pub(crate) found: kubeproxy::Found,
    /// What is done about it; none before that was decided.
    pub(crate) kube_proxy: Option<kubeproxy::Decision>,
}

impl Sight {
    pub(crate) fn management(&self) -> Management {
        self.networking
            .spec
            .management
            .unwrap_or(Management::Managed)
    }

    pub(crate) fn acknowledged(&self) -> Vec<String> {
        self.networking.spec.acknowledge.clone().unwrap_or_default()
    }

    /// Why the network stays as it was applied last, although the spec is not refused.
    pub(crate) fn held(&self) -> Option<&String> {
        self.kube_proxy.as_ref()?.hold.as_ref()
    }

    /// What was applied last stays.
    pub(crate) fn is_frozen(&self) -> bool {
        !self.refusals.is_empty() || self.held().is_some()
    }

    /// The spec by which the network runs or shall run.
    pub(crate) fn governing(&self) -> &Effective {
        if let Some(good) = &self.gone_back {
            good
        } else if !self.is_frozen() {
            &self.wanted
        } else {
            self.last.as_ref().unwrap_or(&self.wanted)
        }
    }
}

impl Reconciler {
    /// Looks at everything.
    pub(crate) async fn sight(&mut self, networking: &Networking) -> Result<Sight, ReconcileError> {
        let spec = &networking.spec;
        let mut nodes: Vec<_> = self
            .stores
            .nodes
            .state()
            .iter()
            .map(|node| gather::node(node))
            .collect();
        nodes.sort_by(|a, b| a.name.cmp(&b.name));
        let agents: Vec<_> = self
            .stores
            .agents
            .state()
            .iter()
            .map(|agent| Arc::unwrap_or_clone(Arc::clone(agent)))
            .collect();
        let mut facts = Facts {
            nodes,
            service_cidrs: self.cluster.service_cidrs().await?,
            reached: self.reached.clone(),
            kubernetes_service: self.cluster.kubernetes_service().await?,
            kubeadm_config: self.cluster.kubeadm_config().await,
            api_server_probe: Probe::NotTried,
            agents: gather::agents(agents.iter()),
        };
        let detection = provider::detect(&facts);
        let last = self.last_applied().await?;
        let unnamed =
            effective::unnamed_service_proxy_mode(last.as_ref(), networking.status.as_ref());
        let wanted = effective::resolve(spec, &self.installation, &facts, &detection, unnamed);
        if wanted.api_server != facts.reached {
            facts.api_server_probe = self.prober.probe(&wanted.api_server, Instant::now()).await;
        }
        let mut refusals: Vec<Refusal> = provider::check(spec.provider, &detection, &facts)
            .into_iter()
            .collect();
        refusals.extend(validate::refusals(&wanted, &facts));
        let mut refusal_reason = "InvalidSpec";
        let mut doubts = validate::doubts(&wanted, &facts);
        if let Some(last) = &last {
            if refusals.is_empty() {
                refusals = safety::refusals(last, &wanted, &facts);
                refusal_reason = "UnsafeChange";
            }
            doubts.extend(safety::doubts(last, &wanted));
        }
        let replaced = wanted.service_proxy.replaces_kube_proxy();
        let found = self.cluster.kube_proxy(replaced).await?;
        let (controller, agent, switch) = self.cluster.workloads().await?;
        let pods = self
            .stores
            .pods
            .state()
            .iter()
            .map(|pod| Arc::unwrap_or_clone(Arc::clone(pod)))
            .collect();
        Ok(Sight {
            networking: networking.clone(),
            facts,
            detection,
            wanted,
            last,
            refusals,
            refusal_reason,
            doubts,
            running: Running {
                controller,
                agent,
                switch,
                pods,
                agents,
                controllers: self
                    .stores
                    .controllers
                    .state()
                    .iter()
                    .map(|info| Arc::unwrap_or_clone(Arc::clone(info)))
                    .collect(),
            },
            gone_back: None,
            rollout: None,
            found,
            kube_proxy: None,
        })
    }
}
