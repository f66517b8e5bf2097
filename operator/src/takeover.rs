//! Does what `kubeproxy` says: disables kube-proxy, and gives it back.

use std::collections::BTreeMap;
use std::time::Duration;

use carrick_api::names::object;
use carrick_api::status::{RolloutPhase, RolloutStatus};
use carrick_k8s::condition::Status;
use carrick_k8s::event::Severity;
use carrick_k8s::telemetry::chain;
use jiff::Timestamp;
use kube::ResourceExt;
use tracing::{info, warn};

use crate::facts::Reach;
use crate::kubeproxy::{
    self, ACK_NOT_READY, Action, Agents, Decision, Found, NAME, NAMESPACE, TIMES_MAX,
};
use crate::reconcile::{ReconcileError, Reconciler, SOON};
use crate::render;
use crate::sight::Sight;

/// How soon to look again at a DaemonSet that others may change: it is not watched.
const CHECK: Duration = Duration::from_secs(30);

impl Reconciler {
    /// Before anything else changes: where kube-proxy shall run, it does.
    pub(crate) async fn give_kube_proxy_back(
        &mut self,
        sight: &mut Sight,
    ) -> Result<(), ReconcileError> {
        let agents = Agents::Wait("the rollout".to_owned());
        let proxy = sight.governing().service_proxy.clone();
        let decision = self.decide_kube_proxy(sight, Some(&proxy), &agents);
        let is_done = decision.action.is_none() && decision.hold.is_none();
        if is_done && !proxy.replaces_kube_proxy() {
            // It is left to others, whoever took our annotations off: the next time begins anew.
            self.kube_proxy_times = 0;
        }
        self.act_on_kube_proxy(sight, decision).await
    }

    /// After everything else: once every agent serves Services, kube-proxy goes.
    pub(crate) async fn replace_kube_proxy(
        &mut self,
        sight: &mut Sight,
        rollout: &RolloutStatus,
    ) -> Result<Duration, ReconcileError> {
        if sight.held().is_some() {
            return Ok(SOON);
        }
        let effective = sight.governing();
        if !effective.service_proxy.replaces_kube_proxy() {
            return Ok(Duration::MAX);
        }
        let pods = agent_pods(sight);
        let agents = kubeproxy::agents(
            effective,
            &sight.facts,
            &sight.running.agents,
            &pods,
            rollout.phase == RolloutPhase::Complete,
        );
        let proxy = effective.service_proxy.clone();
        let decision = self.decide_kube_proxy(sight, Some(&proxy), &agents);
        let settled = decision
            .said
            .as_ref()
            .is_some_and(|said| said.status == Status::True);
        self.act_on_kube_proxy(sight, decision).await?;
        Ok(if settled { CHECK } else { SOON })
    }

    /// During a removal; why the agents must stay as they are.
    pub(crate) async fn return_kube_proxy(
        &mut self,
        sight: &mut Sight,
    ) -> Result<Option<String>, ReconcileError> {
        let agents = Agents::Wait("the removal".to_owned());
        let decision = self.decide_kube_proxy(sight, None, &agents);
        self.act_on_kube_proxy(sight, decision).await?;
        Ok(sight.held().cloned())
    }

    fn decide_kube_proxy(
        &self,
        sight: &Sight,
        proxy: Option<&carrick_api::effective::ServiceProxy>,
        agents: &Agents,
    ) -> Decision {
        let nodes = sight.facts.nodes.iter();
        let unreachable = nodes.filter(|node| node.reach == Reach::Unreachable);
        kubeproxy::decide(&kubeproxy::View {
            proxy,
            found: &sight.found,
            agents,
            times: self.kube_proxy_times,
            unreachable: unreachable.map(|node| node.name.clone()).collect(),
            now: Timestamp::now(),
            acknowledged: sight
                .acknowledged()
                .iter()
                .any(|name| name == ACK_NOT_READY),
        })
    }

    async fn act_on_kube_proxy(
        &mut self,
        sight: &mut Sight,
        mut decision: Decision,
    ) -> Result<(), ReconcileError> {
        if let (Some(action), Found::Set(set)) = (decision.action, &sight.found) {
            match self.cluster.change_kube_proxy(action, set).await {
                Ok(changed) => {
                    if changed {
                        self.tell_of_kube_proxy(sight, action).await;
                    }
                    self.kube_proxy_times = match action {
                        Action::Disable(times) if changed => times,
                        Action::Forget if changed => 0,
                        _ => self.kube_proxy_times,
                    };
                }
                // The chart grants it only where somebody asked for it.
                Err(error) if matches!(error.status(), Some(403 | 422)) => {
                    warn!(error = chain(&error), "kube-proxy cannot be changed");
                    decision = decision.not_allowed(&chain(&error));
                }
                Err(error) => return Err(error.into()),
            }
        }
        sight.kube_proxy = Some(decision);
        Ok(())
    }

    async fn tell_of_kube_proxy(&self, sight: &Sight, action: Action) {
        let (severity, reason, note) = match action {
            Action::Disable(1) => (
                Severity::Normal,
                "KubeProxyDisabled",
                format!("disabled DaemonSet {NAMESPACE}/{NAME}: every agent serves Services"),
            ),
            Action::Disable(times) => (
                Severity::Warning,
                "KubeProxyDisabledAgain",
                format!(
                    "disabled DaemonSet {NAMESPACE}/{NAME} again ({times} of {TIMES_MAX} times): somebody else had \
                     enabled it"
                ),
            ),
            Action::Enable => (
                Severity::Normal,
                "KubeProxyEnabled",
                format!("enabled DaemonSet {NAMESPACE}/{NAME} again"),
            ),
            Action::Forget => return,
        };
        info!(reason, note, "kube-proxy");
        self.event(sight, severity, reason, "ReplaceKubeProxy", &note)
            .await;
    }
}

/// The name of the agent's pod by node.
fn agent_pods(sight: &Sight) -> BTreeMap<String, String> {
    let agents = sight.running.pods.iter().filter(|pod| {
        let part = pod.labels().get(render::NAME);
        part.is_some_and(|part| part == object::AGENT)
    });
    let placed = agents.filter_map(|pod| {
        let node = pod.spec.as_ref()?.node_name.clone()?;
        Some((node, pod.name_any()))
    });
    placed.collect()
}
