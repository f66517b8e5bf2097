//! A pass's part in the host: what it must be made, and whether it is due.

use std::collections::BTreeMap;
use std::time::Duration;

use carrick_api::agentinfo::condition;
use carrick_api::names::link;
use carrick_datapath::{DatapathKind, HostDesired, HostInput, NftTable, NodeState, render_host};
use carrick_node::Look;
use carrick_ovsdb::handover::StartId;
use tokio::time::Instant;
use tracing::info;

use super::PassError;
use crate::host::{Host, HostErrors};
use crate::plan::{HostLink, HostLinks, NodePlan};
use crate::programmer::Programmer;
use crate::status::Fact;

/// How often the host's stack is compared when nothing changed: somebody may have changed it.
const HOST_CHECK: Duration = Duration::from_secs(30);

/// What the host was last made to be, and when it was last looked at.
#[derive(Debug, Default)]
pub struct HostState {
    /// Without the tables.
    pub(super) stack: Option<Done>,
    pub(super) tables: Option<(Vec<NftTable>, Instant)>,
    pub(super) start: Option<StartId>,
}

/// The host as it was when it was last made equal.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) desired: HostDesired,
    /// The gateway, and the links that carry traffic between nodes. The kernel drops routes with a link
    /// or its address, and does not bring them back.
    pub(super) links: Vec<HostLink>,
    pub(super) when: Instant,
}

impl HostState {
    /// Whether our tables are due to be looked at; rather not while a pod waits.
    pub(super) fn look_at_tables(&self, waits: bool) -> Look {
        let patience = if waits { HOST_CHECK * 2 } else { HOST_CHECK };
        match &self.tables {
            Some((_, looked)) if looked.elapsed() <= patience => Look::Remember,
            _ => Look::Again,
        }
    }

    /// Makes our tables what they must be: those that changed, and from time to time all of them.
    pub(super) async fn sync_tables(
        &mut self,
        host: &mut Host,
        tables: Vec<NftTable>,
        look: Look,
        errors: &mut HostErrors,
    ) {
        let known = self.tables.take().filter(|_| look == Look::Remember);
        let (done, looked) = known.unwrap_or_else(|| (Vec::new(), Instant::now()));
        let before = errors.0.len();
        for table in tables.iter().filter(|table| !done.contains(table)) {
            host.sync_table(table, look, errors).await;
        }
        if errors.0.len() == before {
            self.tables = Some((tables, looked));
        }
    }
}

/// What is wrong with our tables, in words: on the userspace datapath no port may be made then.
pub(super) fn tables_hold(
    plan: &NodePlan,
    errors: &HostErrors,
) -> Result<Option<String>, PassError> {
    match errors.0.first() {
        Some(reason) if plan.datapath == DatapathKind::Netdev => Err(PassError::Port {
            reason: reason.clone(),
        }),
        found => Ok(found.cloned()),
    }
}

impl Programmer {
    pub(super) fn host_desired(
        &self,
        plan: &NodePlan,
        state: &NodeState,
        links: &HostLinks,
    ) -> HostDesired {
        let mut hidden = BTreeMap::new();
        if plan.datapath == DatapathKind::Netdev {
            // Every pod's link that there is: also one whose ADD has only begun, and one whose DEL has
            // not removed it yet.
            let transport = &plan.transport;
            let ours =
                |name: &str| (transport.bridged && name == transport.link) || link::is_pod(name);
            hidden.extend(
                links
                    .values()
                    .filter(|link| ours(&link.name))
                    .map(|link| (link.name.clone(), link.index)),
            );
        }
        let all = self.node.attachments.attachments();
        let more_chains = crate::portmap::render(&all, link::GATEWAY, &plan.pod_cidrs);
        let input = HostInput {
            gateway_link: link::GATEWAY,
            snat: plan.snat,
            tunnel: plan.tunnel,
            hidden_links: hidden,
            more_chains: &more_chains,
        };
        render_host(state, &input)
    }

    /// Whether the stack is not what is wanted, or was not looked at for long.
    pub(super) fn stack_due(&self, desired: &HostDesired, links: &[HostLink]) -> bool {
        self.host_state.stack.as_ref().is_none_or(|done| {
            // Links that are not there now come back with the switch, and are others then.
            let changed = links.len() == LINKS_OF_NOTE && done.links != links;
            done.desired != *desired || changed || done.when.elapsed() > HOST_CHECK
        })
    }

    /// Remembers the transport interface before it goes into its bridge.
    pub(super) async fn prepare_transport(
        &mut self,
        plan: &NodePlan,
    ) -> Result<Option<carrick_node::LinkFacts>, PassError> {
        if !plan.transport.bridged {
            // The bridge of an earlier configuration or release goes with the next transaction.
            let mut errors = HostErrors::default();
            self.host.give_back_transport(&mut errors).await;
            return match errors.0.pop() {
                Some(reason) => Err(PassError::Transport { reason }),
                None => Ok(None),
            };
        }
        let saved = self.host.remember_transport(&plan.transport.link).await;
        saved
            .map(Some)
            .map_err(|reason| PassError::Transport { reason })
    }

    pub(super) fn report_firewalls(&self, fact: Fact) {
        let board = &self.node.board;
        let known = board.report();
        if known.conditions.get(condition::HOST_FIREWALL_OPEN) != Some(&fact) {
            let (status, message) = (fact.status.as_str(), &fact.message);
            info!(status, message, "firewalls of the host");
        }
        board.set(condition::HOST_FIREWALL_OPEN, fact);
    }
}

/// How many links the host's routes and addresses hang on; two may be the same one.
const LINKS_OF_NOTE: usize = 3;

/// Those of them that are there.
pub(super) fn links_of_note(plan: &NodePlan, links: &HostLinks) -> Vec<HostLink> {
    let names: [&str; LINKS_OF_NOTE] =
        [link::GATEWAY, &plan.transport.link, &plan.transport.holder];
    let links = names.into_iter().filter_map(|name| links.get(name));
    links.cloned().collect()
}
