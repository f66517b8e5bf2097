//! A pass's plan: made anew each time, refused where it would tear down what runs, and reported.

use std::sync::Arc;

use carrick_api::agentinfo::condition;
use carrick_datapath::{Commit, DatapathKind};
use tracing::warn;

use super::PassError;
use crate::plan::{HostLinks, NodePlan, PlanError, datapath_of, plan};
use crate::programmer::Programmer;
use crate::records::Committed;
use crate::status::Fact;

impl Programmer {
    /// Plans anew. While a plan cannot be made, the last one stays in force for the switch; what
    /// pods are built by is withdrawn.
    pub(super) fn plan(
        &mut self,
        committed: &Committed,
        links: &HostLinks,
    ) -> Result<NodePlan, PassError> {
        let planned = self
            .keeps_datapath(committed)
            .and_then(|()| plan(&self.node.config, &self.node.name, committed, links));
        match planned {
            Ok(new) => {
                self.report_plan(&new);
                self.plan = Some(new.clone());
                self.node.plan.send_if_modified(|held| {
                    let changed = held.as_deref() != Some(&new);
                    if changed {
                        *held = Some(Arc::new(new.clone()));
                    }
                    changed
                });
                Ok(new)
            }
            Err(error) => {
                self.node
                    .settings
                    .send_if_modified(|settings| settings.take().is_some());
                let fact = Fact::fails("NotUsable", error.to_string());
                if !matches!(error, PlanError::NoNode { .. } | PlanError::NoLabels { .. }) {
                    self.node.board.set(condition::POD_CIDRS_USABLE, fact);
                }
                self.plan.clone().ok_or(PassError::NoPlan(error))
            }
        }
    }

    /// Refuses another datapath than the one that was programmed since the host's start: its bridges
    /// and every pod's port would be made again.
    fn keeps_datapath(&self, committed: &Committed) -> Result<(), PlanError> {
        let Some(node) = committed.node() else {
            return Ok(());
        };
        let (config, entry) = self.node.config.on_node(&node.labels);
        let wanted = datapath_of(&config);
        let running = match (self.pipeline.is_rendered(), &self.plan) {
            (true, Some(plan)) => Some(plan.datapath),
            _ => self.saved_datapath(),
        };
        match running.filter(|running| *running != wanted) {
            None => Ok(()),
            Some(running) => Err(PlanError::DatapathRuns {
                node: self.node.name.clone(),
                running,
                config: match entry {
                    None => "datapath.type".to_owned(),
                    Some(name) => format!("nodeConfigs entry {name}"),
                },
                wanted,
            }),
        }
    }

    /// The datapath of the saved commit, which is of this boot; none before the first one.
    fn saved_datapath(&self) -> Option<DatapathKind> {
        let bytes = std::fs::read(self.node.paths.commit()).ok()?;
        Some(Commit::from_bytes(&bytes).ok()?.datapath)
    }

    fn report_plan(&self, plan: &NodePlan) {
        let fact = if plan.refused.is_empty() {
            Fact::holds("NoOverlap", "no pod CIDR overlaps another range")
        } else {
            let list: Vec<String> = plan.refused.iter().map(ToString::to_string).collect();
            Fact::fails("Overlap", list.join("; "))
        };
        if self
            .plan
            .as_ref()
            .is_none_or(|old| old.refused != plan.refused)
        {
            for refused in &plan.refused {
                warn!(%refused, "a range is not routed");
            }
        }
        self.node.board.set(condition::POD_CIDRS_USABLE, fact);
        self.node.board.update(|board| {
            board.datapath = Some(plan.datapath);
            board.pod_cidrs.clone_from(&plan.pod_cidrs);
            board.tunnel_endpoints = plan.transport.endpoints.iter().collect();
            board.gateway_addresses = plan.gateway.addresses.iter().collect();
            board.transport_interface.clone_from(&plan.transport.link);
            board.node_config.clone_from(&plan.node_config);
            board.mtu = Some(plan.mtu);
            board.peers = plan
                .peers
                .values()
                .filter(|peer| !peer.pod_cidrs.is_empty())
                .count();
        });
    }
}
