//! Does the steps of a removal; `removal` says which.

use std::time::Duration;

use carrick_api::names::object;
use carrick_api::{AgentInfo, ControllerInfo};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::DaemonSet;
use kube::ResourceExt;
use tracing::info;

use crate::object::{Id, Kind};
use crate::reconcile::{ReconcileError, Reconciler};
use crate::removal::{self, Step, View, Workload};
use crate::render::Purpose;
use crate::report::Outcome;
use crate::sight::Sight;

/// How soon to look again during a removal.
const SOON: Duration = Duration::from_secs(5);

/// How far a DaemonSet is, pods included.
fn workload(set: Option<&DaemonSet>) -> Workload {
    let Some(set) = set else {
        return Workload::Gone;
    };
    if set.metadata.deletion_timestamp.is_some() {
        return Workload::Leaving;
    }
    let args = set
        .spec
        .as_ref()
        .and_then(|spec| {
            spec.template
                .spec
                .as_ref()?
                .containers
                .first()?
                .args
                .clone()
        })
        .unwrap_or_default();
    if args.iter().any(|arg| arg == "cleanup") {
        Workload::Cleaning
    } else {
        Workload::Working
    }
}

impl Reconciler {
    /// One step of the removal.
    pub(crate) async fn remove(&mut self, sight: &mut Sight) -> Result<Duration, ReconcileError> {
        if workload(sight.running.agent.as_ref()) == Workload::Cleaning {
            self.cleaning_since.get_or_insert_with(Timestamp::now);
        } else {
            self.cleaning_since = None;
        }
        let view = self.view(sight).await?;
        let step = removal::next(&view, Timestamp::now());
        let leaves = !matches!(step, Step::Leave | Step::Paused | Step::PodsUseNetwork(_));
        let view = View {
            kube_proxy: if leaves {
                self.return_kube_proxy(sight).await?
            } else {
                None
            },
            ..view
        };
        let step = removal::next(&view, Timestamp::now());
        self.count("removing");
        let outcome = match step {
            Step::Leave => {
                info!("the Networking goes and leaves its network behind: it is Unmanaged");
                self.release(&sight.networking).await?;
                return Ok(SOON);
            }
            Step::Release => {
                for secret in [
                    object::ROLLOUT,
                    object::LAST_APPLIED,
                    object::CONTROLLER_TLS,
                    object::CA,
                ] {
                    self.cluster.delete_secret(secret).await?;
                }
                self.cluster.delete_controller_leases().await?;
                self.event(sight, carrick_k8s::event::Severity::Normal, "Removed", "Remove", "every node is as it was")
                    .await;
                self.release(&sight.networking).await?;
                self.applied = None;
                self.planned = None;
                self.record = None;
                info!("the network is removed");
                return Ok(SOON);
            }
            Step::Paused => Outcome::Held {
                message: "The Networking is being deleted and is Paused: nothing is removed. To mend it: set \
                          spec.management to Managed."
                    .to_owned(),
            },
            Step::PodsUseNetwork(message) => Outcome::Held { message },
            Step::WaitForKubeProxy(message) => Outcome::Removing { message },
            Step::StartCleanup => {
                self.start_cleanup(sight).await?;
                Outcome::Removing { message: "The nodes are being cleaned.".to_owned() }
            }
            Step::WaitForNodes(waiting) => Outcome::Cleaning(waiting),
            Step::DeleteSwitches => self.delete(Kind::DaemonSet, object::SWITCH, "switches").await?,
            Step::DeleteAgents => self.delete(Kind::DaemonSet, object::AGENT, "agents").await?,
            Step::WaitForPods => {
                Outcome::Removing { message: "Waiting for pods to end.".to_owned() }
            }
            Step::DeleteRest => {
                self.delete_rest(sight).await?;
                Outcome::Removing { message: "Deleting what is left.".to_owned() }
            }
        };
        let progress = self.progress(sight);
        self.tell(sight, &outcome).await;
        self.show(sight, &outcome, Some(&progress), None).await?;
        Ok(SOON)
    }

    async fn view(&self, sight: &Sight) -> Result<View, ReconcileError> {
        let agents = workload(sight.running.agent.as_ref());
        let users = if agents == Workload::Working {
            self.cluster.all_pods(removal::users).await?
        } else {
            Vec::new()
        };
        let operands = self.cluster.orphans(&[]).await?;
        Ok(View {
            management: sight.management(),
            acknowledged: sight.acknowledged(),
            since: self.cleaning_since.unwrap_or_else(Timestamp::now),
            users,
            agents,
            switches: workload(sight.running.switch.as_ref()),
            nodes: removal::nodes(sight.governing(), &sight.facts, &sight.running.agents),
            operands: operands.len() + sight.running.agents.len(),
            kube_proxy: None,
        })
    }

    /// Makes the agents' DaemonSet `agent cleanup`. The CA bundle and the configuration stay as
    /// they are; nothing else is touched.
    async fn start_cleanup(&mut self, sight: &Sight) -> Result<(), ReconcileError> {
        let objects = self.render(sight, Purpose::Cleanup, "").await?;
        let agents: Vec<_> = objects
            .into_iter()
            .filter(|o| o.id.kind == Kind::DaemonSet && o.id.name == object::AGENT)
            .collect();
        self.cluster.apply(&agents).await?;
        self.applied = None;
        info!("the agents clean their nodes");
        Ok(())
    }

    async fn delete(
        &mut self,
        kind: Kind,
        name: &str,
        what: &str,
    ) -> Result<Outcome, ReconcileError> {
        self.cluster
            .delete(&Id {
                kind,
                name: name.to_owned(),
            })
            .await?;
        info!(operand = name, "deleting");
        Ok(Outcome::Removing {
            message: format!("Deleting the {what}."),
        })
    }

    async fn delete_rest(&mut self, sight: &Sight) -> Result<(), ReconcileError> {
        let key = &sight.governing().taint_key;
        for node in &sight.facts.nodes {
            if node.taints.contains(key) {
                self.cluster.untaint(&node.name, key).await?;
            }
        }
        let mut operands = self.cluster.orphans(&[]).await?;
        // Last made, first gone: permissions outlive those who use them.
        operands.reverse();
        for id in operands {
            self.cluster.delete(&id).await?;
        }
        for agent in &sight.running.agents {
            self.cluster
                .delete_info::<AgentInfo>(&agent.name_any(), agent.uid())
                .await?;
        }
        for controller in self.stores.controllers.state() {
            self.cluster
                .delete_info::<ControllerInfo>(&controller.name_any(), controller.uid())
                .await?;
        }
        Ok(())
    }
}
