//! One pass of the programmer: from what is known to a switch and a host that agree with it.
//!
//! Order: nothing is written before the switch is restored, and flows only by a session of which that
//! was found out after it stood ([`flows`](crate::flows)); tables that hide pods' links come before
//! their ports, or before those are set up; ports before flows, but for pods that come or go; the ledger is
//! on disk before a flow carries a new id; the saved commit is written after the switch has acknowledged.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use carrick_api::agentinfo::condition;
use carrick_datapath::DatapathKind;
use carrick_node::Look;
use carrick_ovsdb::foreign::Foreign;
use carrick_proto::Number;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use crate::cni::network::PodNetworkSettings;
use crate::desired::without_transport;
use crate::flows::FlowError;
use crate::host::HostErrors;
use crate::ipam::{Attachment, AttachmentKey, AttachmentState};
use crate::journal::JournalError;
use crate::laps::{Laps, timed};
use crate::plan::{HostLinks, NodePlan, PlanError, is_open, pod_of};
use crate::podmtu;
use crate::programmer::Programmer;
use crate::records::Committed;
use crate::switchdb::SwitchDbError;

mod host;
mod pipeline;
mod planning;
mod ports;

pub use host::HostState;
use host::{Done, links_of_note, tables_hold};
use pipeline::{OpenPod, OpenPods};
pub use pipeline::{Pipeline, Programmed};
use ports::apply_ports;

/// Why a pass did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum PassError {
    /// The host has an Open vSwitch that is not ours.
    #[error("node {node}: {found}")]
    OtherSwitch {
        /// This node.
        node: String,
        /// What it was found by.
        found: Foreign,
    },
    /// Nobody can tell whether it has.
    #[error("looking for another Open vSwitch on this host")]
    Sockets(#[source] std::io::Error),
    /// It is not known what this node is.
    #[error(transparent)]
    NoPlan(#[from] PlanError),
    /// The kernel does not tell its links.
    #[error("reading the host's links")]
    Links(#[source] carrick_node::NetlinkError),
    /// The transport interface cannot be moved.
    #[error("the transport interface cannot be moved into its bridge: {reason}")]
    Transport {
        /// In words.
        reason: String,
    },
    /// The switch's database.
    #[error(transparent)]
    Switch(#[from] SwitchDbError),
    /// A port without which nothing works is not there.
    #[error("{reason}")]
    Port {
        /// What is wrong and how to mend it.
        reason: String,
    },
    /// The state cannot be rendered.
    #[error("rendering the pipeline: {reason}")]
    Render {
        /// In words.
        reason: String,
    },
    /// The switch did not take the flows.
    #[error(transparent)]
    Flows(#[from] FlowError),
    /// The disk did not take the ledger or the saved commit.
    #[error("saving what was programmed")]
    Save(#[source] JournalError),
}

impl PassError {
    /// One word for a condition.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::NoPlan(PlanError::NoNode { .. } | PlanError::NoLabels { .. }) => {
                "WaitingForController"
            }
            Self::NoPlan(_) => "NotUsable",
            Self::OtherSwitch { .. } => "OtherSwitch",
            Self::Links(_) | Self::Sockets(_) => "HostNotReadable",
            Self::Transport { .. } => "TransportNotMoved",
            Self::Switch(SwitchDbError::Restoring | SwitchDbError::Anew) => "SwitchStarting",
            Self::Switch(_) => "SwitchAway",
            Self::Port { .. } => "PortFailed",
            Self::Render { .. } => "NotRendered",
            Self::Flows(_) => "FlowsRefused",
            Self::Save(_) => "NotSaved",
        }
    }

    /// Whether the node still forwards by what was programmed: only what is *known* is missing.
    pub const fn is_local(&self) -> bool {
        matches!(self, Self::NoPlan(_))
    }
}

/// What a pass has done.
#[derive(Debug, Default)]
pub struct PassReport {
    /// The records it was made from.
    pub number: Number,
    /// What is in the bridge.
    pub programmed: Programmed,
    /// Why connection entries of removed pods could not be flushed.
    pub flush_error: Option<String>,
    /// Why an nftables table is not as it must be.
    pub table_error: Option<String>,
    /// What of the host is not as it must be.
    problems: Vec<String>,
}

impl PassReport {
    /// What is not as it must be.
    pub fn problems(&self) -> impl Iterator<Item = &String> {
        self.programmed.problems.iter().chain(&self.problems)
    }
}

impl Programmer {
    pub(crate) async fn pass(
        &mut self,
        attach: &BTreeMap<AttachmentKey, Arc<Attachment>>,
        detach: &[Arc<Attachment>],
    ) -> Result<PassReport, PassError> {
        // Before anything is changed.
        if let Some(found) = self.other_switch.find().map_err(PassError::Sockets)? {
            let node = self.node.name.clone();
            return Err(PassError::OtherSwitch { node, found });
        }
        let mut laps = Laps::start();
        let committed = self.pipeline.learn(&self.node.records);
        let mut links = self.links(attach, detach).await?;
        laps.lap("links");
        let wanted = self.update_attached(attach, detach, &links);
        let plan = self.plan(&committed, &links)?;
        let Pipeline {
            services, flows, ..
        } = &mut self.pipeline;
        services.set_plan(&self.node.name, &plan, &links, flows);
        let start = self.switch.start().await?;
        self.node
            .board
            .update(|board| board.switch_version.clone_from(&start.version));
        if self.host_state.start != Some(start.id) {
            info!(
                start = %start.id,
                version = start.version,
                "a switch is there and restored"
            );
            self.host_state = HostState {
                start: Some(start.id),
                ..HostState::default()
            };
            self.pipeline.forget();
        }

        laps.lap("plan and switch");
        let mut report = PassReport {
            number: committed.number(),
            ..PassReport::default()
        };
        let mut errors = HostErrors::default();
        let open = open_pods(&wanted, &committed);
        let state = plan.state(
            open.iter()
                .map(|(key, open)| (key.clone(), open.pod))
                .collect(),
        );
        let mut host = self.host_desired(&plan, &state, &links);
        let links_now = links_of_note(&plan, &links);
        let known = self.host.before().get().transport.clone();
        let moved = self.prepare_transport(&plan).await?;
        // Before any port: the host must never hear a pod. Only where the tables of those that are there are
        // known to stand, a pod that waits gets its rules beside its port: its link is down until both are done.
        let waits = !attach.is_empty();
        let look = self.host_state.look_at_tables(waits);
        let mut tables = Some(std::mem::take(&mut host.tables));
        if !(waits && look == Look::Remember)
            && let Some(tables) = tables.take()
        {
            self.host_state
                .sync_tables(&mut self.host, tables, look, &mut errors)
                .await;
            tables_hold(&plan, &errors)?;
        }
        laps.lap("before the ports");
        // Another device, though it has the name of the one in the bridge.
        let same = |old: &carrick_node::LinkFacts, new: &carrick_node::LinkFacts| {
            old.link.name != new.link.name || old.link.index == new.link.index
        };
        if let (Some(old), Some(new)) = (&known, &moved)
            && !same(old, new)
        {
            // It may have come since the links were read, and its MAC address is the bridge's: neighbours
            // must not learn the old one once more.
            links = self.host.links().await.map_err(PassError::Links)?;
            // As with a pod's port (see `apply_ports`): the one that has the old device goes first.
            let config = without_transport(&plan, &wanted, &links);
            self.switch.apply(config).await?;
        }
        let Self {
            host: stack,
            host_state,
            switch,
            pipeline,
            ..
        } = self;
        let tables = async {
            if let Some(tables) = tables {
                host_state
                    .sync_tables(stack, tables, look, &mut errors)
                    .await;
            }
        };
        let ports = async {
            let ahead = async {
                if waits || !detach.is_empty() {
                    pipeline.program_ahead(&plan, &state, &open).await
                } else {
                    None
                }
            };
            let (ahead, flows) = timed(ahead).await;
            let applied = apply_ports(switch, &plan, &wanted, attach, &links).await;
            applied.map(|applied| (ahead, applied, flows))
        };
        let (((), nft), ports) = tokio::join!(timed(tables), ports);
        laps.lap("ports");
        report.table_error = tables_hold(&plan, &errors)?;
        let (ahead, applied, flows) = ports?;
        laps.beside("of these flows ahead", flows);
        laps.beside("beside them nft", nft);
        if let Some(saved) = moved {
            self.host.move_transport(&saved, &mut errors).await;
        }
        if self.stack_due(&host, &links_now) {
            self.host.sync_stack(&host, &plan, &mut errors).await;
            let firewalls = self
                .host
                .sync_firewalls(self.node.config.host_firewall)
                .await;
            self.report_firewalls(firewalls);
            let clean = errors.0.is_empty();
            self.host_state.stack = clean.then(|| Done {
                desired: host,
                links: links_now,
                when: Instant::now(),
            });
        }

        report.programmed = match ahead {
            Some(programmed) if applied.failed.is_empty() => programmed,
            _ => {
                let switch = &mut self.switch;
                let flows = &mut self.pipeline.flows;
                let admit = flows.admit(async || Ok::<_, PassError>(switch.still(start.id).await?));
                admit.await?;
                let failed = &applied.failed;
                self.pipeline.program(&plan, state, &open, failed).await?
            }
        };
        laps.lap("stack and flows");
        self.tell_policy();
        self.sync_services().await;
        laps.lap("Services");
        report.flush_error = self.pipeline.flush(detach).await.err();
        laps.lap("connections");
        debug!(attach = attach.len(), detach = detach.len(), %laps, "pass");
        report.problems.extend(errors.0);
        let larger = podmtu::larger(&wanted, &links, plan.mtu);
        self.node
            .board
            .set(condition::PODS_HAVE_MTU, podmtu::fact(&larger, plan.mtu));
        self.publish(&plan);
        Ok(report)
    }

    /// Says how policies are.
    fn tell_policy(&self) {
        let policy = &self.pipeline.policy;
        let board = &self.node.board;
        board.set(condition::POLICIES_ENFORCED, policy.fact());
        board.update(|report| report.policies = policy.len());
    }

    /// Gives the switch a batch of changes of Services, and says how they are.
    pub(crate) async fn sync_services(&mut self) {
        self.pipeline.sync_services().await;
        let services = &self.pipeline.services;
        let board = &self.node.board;
        match services.fact() {
            Some(fact) => board.set(condition::SERVICES_SERVED, fact),
            None => board.unset(condition::SERVICES_SERVED),
        }
        match services.kube_proxy() {
            Some(fact) => board.set(condition::KUBE_PROXY_REPLACED, fact),
            None => board.unset(condition::KUBE_PROXY_REPLACED),
        }
        let known = services.len();
        board.update(|report| report.services = known);
    }

    /// The host's links; while pods come or go, rather those that are known.
    async fn links(
        &mut self,
        attach: &BTreeMap<AttachmentKey, Arc<Attachment>>,
        detach: &[Arc<Attachment>],
    ) -> Result<HostLinks, PassError> {
        let links = if attach.is_empty() && detach.is_empty() {
            self.host.links().await
        } else {
            let all = self.node.attachments.attachments();
            // What has left the store has no link any more.
            let held: BTreeSet<&str> = all.values().map(|held| held.host_link.as_str()).collect();
            let new: Vec<&str> = attach.values().map(|new| new.host_link.as_str()).collect();
            self.host.links_with(&new, |name| held.contains(name)).await
        };
        links.map_err(PassError::Links)
    }

    /// Keeps the set of wanted ports and returns their attachments.
    fn update_attached(
        &mut self,
        attach: &BTreeMap<AttachmentKey, Arc<Attachment>>,
        detach: &[Arc<Attachment>],
        links: &HostLinks,
    ) -> Vec<Arc<Attachment>> {
        let all = self.node.attachments.attachments();
        // Also those that were adopted after the start, when their journal was lost.
        let ready = all
            .iter()
            .filter(|(_, attachment)| attachment.state == AttachmentState::Ready)
            .map(|(key, _)| key.clone());
        self.attached.extend(ready);
        self.attached.extend(attach.keys().cloned());
        for attachment in detach {
            if !attach.contains_key(&attachment.key) {
                self.attached.remove(&attachment.key);
            }
        }
        self.attached.retain(|key| {
            all.get(key)
                .is_some_and(|attachment| attachment.state != AttachmentState::Removing)
        });
        // A port whose link is gone would only be an error: garbage collection removes the rest.
        self.attached
            .iter()
            .filter_map(|key| all.get(key))
            .filter(|attachment| links.contains_key(&attachment.host_link))
            .cloned()
            .collect()
    }

    /// Publishes what pods are built by.
    fn publish(&self, plan: &NodePlan) {
        let small = self.node.attachments.set_pools(&plan.pod_cidrs);
        for cidr in small {
            warn!(%cidr, "a pod CIDR is too small to hold a pod");
        }
        let settings = PodNetworkSettings {
            pod_cidrs: plan.pod_cidrs.clone(),
            gateways: plan.gateway.addresses.iter().collect(),
            gateway_mac: carrick_node::MacAddr(plan.gateway.mac.0),
            mtu: u32::from(plan.mtu),
            datapath: match plan.datapath {
                DatapathKind::System => crate::cni::network::DatapathKind::Kernel,
                DatapathKind::Netdev => crate::cni::network::DatapathKind::Userspace,
            },
            node_uid: plan.node_uid.clone(),
        };
        // A plan that is only the last one must not make pods.
        let committed = self.node.committed();
        let usable = committed.node().is_some_and(|node| settings.are_of(node));
        let settings = usable.then(|| Arc::new(settings));
        self.node.settings.send_if_modified(|held| {
            let changed = *held != settings;
            *held = settings;
            changed
        });
    }
}

/// Pods whose ports are open, by the key the pipeline knows them by.
fn open_pods(wanted: &[Arc<Attachment>], committed: &Committed) -> OpenPods {
    wanted
        .iter()
        .filter(|attachment| is_open(attachment, committed))
        .filter_map(|attachment| {
            let open = OpenPod {
                attachment: Arc::clone(attachment),
                pod: pod_of(attachment)?,
                uid: committed.pod(&attachment.pod)?.uid.as_str().into(),
            };
            Some((attachment.key.to_string(), open))
        })
        .collect()
}
