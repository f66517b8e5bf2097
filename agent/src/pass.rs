//! One pass of the programmer: from what is known to a switch and a host that agree with it.
//!
//! Order: nothing is written before the switch is restored, and flows only by a session of which that
//! was found out after it stood ([`flows`](crate::flows)); tables that hide pods' links come before
//! their ports; ports before flows; the ledger is on disk before a flow carries a new id; the saved
//! commit is written after the switch has acknowledged.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use carrick_api::agentinfo::condition;
use carrick_api::names::link;
use carrick_datapath::{
    Commit, DatapathKind, Desired, HostDesired, HostInput, IdLedger, Kind, NodeState, Pod,
    recover_ids, render, render_host,
};
use carrick_openflow::State;
use carrick_ovsdb::desired::Applied;
use carrick_ovsdb::foreign::Foreign;
use carrick_ovsdb::handover::StartId;
use carrick_proto::Number;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use crate::cni::network::PodNetworkSettings;
use crate::desired::switch_config;
use crate::flows::FlowError;
use crate::host::HostErrors;
use crate::ipam::{Attachment, AttachmentKey, AttachmentState};
use crate::journal::{JournalError, write_atomically};
use crate::plan::{HostLinks, NodePlan, PlanError, is_open, pod_of};
use crate::programmer::Programmer;
use crate::records::Committed;
use crate::status::Fact;
use crate::switchdb::SwitchDbError;
use carrick_k8s::telemetry::chain;

mod planning;

/// How often the host's stack is compared when nothing changed: somebody may have changed it.
const HOST_CHECK: Duration = Duration::from_secs(30);

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
    /// Modifications sent to the switch.
    pub changed: usize,
    /// Flows in the switch.
    pub flows: usize,
    /// Groups in the switch.
    pub groups: usize,
    /// Pods whose ports are open.
    pub pods: usize,
    /// Each wanted attachment that has a record: its port carries packets, or why not.
    pub ports: BTreeMap<AttachmentKey, Result<(), String>>,
    /// Why connection entries of removed pods could not be flushed.
    pub flush_error: Option<String>,
    /// Why an nftables table is not as it must be.
    pub table_error: Option<String>,
    /// What else is not as it must be.
    pub problems: Vec<String>,
}

/// What was rendered last, and from what. Most passes find nothing changed: they come because time
/// has passed, or by an attachment that has no record yet.
#[derive(Debug)]
pub struct Rendered {
    state: NodeState,
    ledger: IdLedger,
    desired: Desired,
    /// The same in the switch's own types.
    target: State,
    /// The saved commit is on disk.
    saved: bool,
}

/// What the host was last made to be.
#[derive(Debug, Default)]
pub struct HostState {
    done: Option<(HostDesired, Instant)>,
    start: Option<StartId>,
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
        let committed = self.node.committed();
        let links = self.host.links().await.map_err(PassError::Links)?;
        let wanted = self.update_attached(attach, detach, &links);
        let plan = self.plan(&committed, &links)?;
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
            self.flows.forget();
            // `carrick switch` may have set the saved commit aside.
            self.rendered = None;
        }

        let mut report = PassReport {
            number: committed.number(),
            ..PassReport::default()
        };
        let mut errors = HostErrors::default();
        let open = open_pods(&wanted, &committed);
        let state = plan.state(
            open.iter()
                .map(|(key, (_, pod))| (key.clone(), *pod))
                .collect(),
        );
        let host = self.host_desired(&plan, &state, &wanted);
        let host_due = self.host_due(&host);
        // Before any port: the host must never hear a pod.
        if host_due || !attach.is_empty() {
            self.host.sync_tables(&host.tables, &mut errors).await;
            report.table_error = errors.0.first().cloned();
            if plan.datapath == DatapathKind::Netdev
                && let Some(reason) = report.table_error.clone()
            {
                return Err(PassError::Port { reason });
            }
        }
        let moved = self.prepare_transport(&plan).await?;
        let applied = self.apply_ports(&plan, &wanted, attach, &links).await?;
        if let Some(saved) = moved {
            self.host.move_transport(&saved, &mut errors).await;
        }
        if host_due {
            self.host.sync_stack(&host, &plan, &mut errors).await;
            let firewalls = self
                .host
                .sync_firewalls(self.node.config.host_firewall)
                .await;
            self.report_firewalls(firewalls);
            let clean = errors.0.is_empty();
            self.host_state.done = clean.then(|| (host, Instant::now()));
        }

        let switch = &mut self.switch;
        let admit = self
            .flows
            .admit(async || Ok::<_, PassError>(switch.still(start.id).await?));
        admit.await?;
        self.program(&plan, state, &open, &applied, &mut report)
            .await?;
        report.flush_error = self.flush(detach).await.err();
        report.problems.extend(errors.0);
        self.publish(&plan);
        Ok(report)
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

    fn report_firewalls(&self, fact: Fact) {
        let board = &self.node.board;
        let known = board.report();
        if known.conditions.get(condition::HOST_FIREWALL_OPEN) != Some(&fact) {
            let (status, message) = (fact.status.as_str(), &fact.message);
            info!(status, message, "firewalls of the host");
        }
        board.set(condition::HOST_FIREWALL_OPEN, fact);
    }

    fn host_desired(
        &self,
        plan: &NodePlan,
        state: &NodeState,
        wanted: &[Arc<Attachment>],
    ) -> HostDesired {
        let mut hidden = BTreeSet::new();
        if plan.datapath == DatapathKind::Netdev {
            hidden.insert(plan.transport.link.clone());
            hidden.extend(wanted.iter().map(|attachment| attachment.host_link.clone()));
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

    fn host_due(&self, desired: &HostDesired) -> bool {
        self.host_state
            .done
            .as_ref()
            .is_none_or(|(done, when)| done != desired || when.elapsed() > HOST_CHECK)
    }

    /// Remembers the transport interface before it goes into its bridge.
    async fn prepare_transport(
        &mut self,
        plan: &NodePlan,
    ) -> Result<Option<carrick_node::LinkFacts>, PassError> {
        if plan.datapath != DatapathKind::Netdev {
            // The bridge of an earlier configuration goes with the next transaction.
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

    async fn apply_ports(
        &mut self,
        plan: &NodePlan,
        wanted: &[Arc<Attachment>],
        attach: &BTreeMap<AttachmentKey, Arc<Attachment>>,
        links: &HostLinks,
    ) -> Result<Applied, PassError> {
        // A device made anew under the name of a port that is there is not opened again by the
        // userspace datapath: the old port goes in a transaction of its own.
        if plan.datapath == DatapathKind::Netdev && !attach.is_empty() {
            let there: BTreeSet<String> = self
                .switch
                .interfaces()
                .await?
                .into_iter()
                .map(|port| port.name)
                .collect();
            let stale = |attachment: &&Arc<Attachment>| {
                attach.contains_key(&attachment.key) && there.contains(&attachment.host_link)
            };
            if wanted.iter().any(|attachment| stale(&attachment)) {
                let kept = wanted.iter().filter(|attachment| !stale(attachment));
                let config = switch_config(plan, kept.map(Arc::as_ref), links);
                self.switch.apply(config).await?;
            }
        }
        let config = switch_config(plan, wanted.iter().map(Arc::as_ref), links);
        let applied = self.switch.apply(config).await?;
        for name in [link::GATEWAY, link::TUNNEL] {
            if let Some(error) = applied.failed.get(name) {
                let mend = match plan.datapath {
                    DatapathKind::System => {
                        "; if the kernel has no openvswitch module with Geneve, load it or set \
                         datapath.type: Userspace"
                    }
                    DatapathKind::Netdev => "",
                };
                return Err(PassError::Port {
                    reason: format!("{error}{mend}"),
                });
            }
        }
        Ok(applied)
    }

    /// Renders and programs the integration bridge.
    async fn program(
        &mut self,
        plan: &NodePlan,
        mut state: NodeState,
        open: &BTreeMap<String, (Arc<Attachment>, Pod)>,
        applied: &Applied,
        report: &mut PassReport,
    ) -> Result<(), PassError> {
        for (key, (attachment, _)) in open {
            let outcome = match applied.failed.get(&attachment.host_link) {
                Some(error) => {
                    state.pods.remove(key);
                    Err(error.to_string())
                }
                None => Ok(()),
            };
            report.ports.insert(attachment.key.clone(), outcome);
        }
        let rendering = |reason: String| PassError::Render { reason };
        let mut ledger = self.ledger.clone();
        let mut looked = false;
        if let Some(dumped) = self.flows.fresh_dump().await? {
            looked = true;
            let recovered = recover_ids(&state, &mut ledger, dumped)
                .map_err(|error| rendering(chain(&error)))?;
            if recovered > 0 {
                warn!(recovered, "ids were recovered from the switch");
            }
        }
        let pods = state.pods.len();
        let mut rendered = match self.rendered.take() {
            Some(last) if last.state == state && last.ledger == ledger => last,
            _ => {
                let desired =
                    render(&state, &mut ledger).map_err(|error| rendering(chain(&error)))?;
                let target = desired
                    .to_switch()
                    .map_err(|error| rendering(chain(&error)))?;
                Rendered {
                    state,
                    ledger,
                    desired,
                    target,
                    saved: false,
                }
            }
        };
        let desired = &rendered.desired;
        for left_out in &desired.left_out {
            let owner = open.get(&left_out.pod).map(|(attachment, _)| attachment);
            if let Some(attachment) = owner {
                report
                    .ports
                    .insert(attachment.key.clone(), Err(left_out.reason.clone()));
            }
            report
                .problems
                .push(format!("{}: {}", left_out.pod, left_out.reason));
        }
        // An id must be on disk before a flow carries it.
        let ledger = &rendered.ledger;
        self.ledger_file.write(ledger).map_err(PassError::Save)?;
        self.ledger.clone_from(ledger);
        report.flows = rendered.target.flows.len();
        report.groups = rendered.target.groups.len();
        report.pods = pods - desired.left_out.len();
        report.changed = self.flows.sync(&rendered.target).await?;
        // Somebody may have removed it, as they may have removed flows.
        if looked || !rendered.saved {
            let bridge = link::INTEGRATION_BRIDGE;
            let commit = desired.to_commit(&self.node.boot_id, plan.datapath, bridge);
            self.save(&commit).map_err(PassError::Save)?;
            rendered.saved = true;
        }
        // What is gone has left the switch: its id may be forgotten.
        let state = &rendered.state;
        self.ledger
            .retain(Kind::Pod, |key| state.pods.contains_key(key));
        self.ledger
            .retain(Kind::Peer, |key| state.peers.contains_key(key));
        // By what the ledger keeps, the next pass compares.
        rendered.ledger.clone_from(&self.ledger);
        self.rendered = Some(rendered);
        Ok(())
    }

    /// Writes the saved commit, unless the file has it. It is small next to a bundle.
    fn save(&mut self, commit: &Commit) -> Result<(), JournalError> {
        let path = self.node.paths.commit();
        let encode = |source| JournalError::Encode {
            path: path.clone(),
            source,
        };
        let bytes = commit.to_bytes().map_err(encode)?;
        if std::fs::read(&path).is_ok_and(|held| held == bytes) {
            return Ok(());
        }
        debug!(bytes = bytes.len(), "saving the commit");
        write_atomically(&path, &bytes)
    }

    /// Removes the connection entries of pods that are gone, so that their addresses can be used
    /// again.
    async fn flush(&mut self, detach: &[Arc<Attachment>]) -> Result<(), String> {
        let addresses: BTreeSet<std::net::IpAddr> = detach
            .iter()
            .flat_map(|attachment| attachment.addresses.iter().copied())
            .collect();
        if addresses.is_empty() {
            return Ok(());
        }
        self.flows
            .flush_connections(&addresses)
            .await
            .map_err(|error| chain(&error))
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
        let usable = self
            .node
            .committed()
            .node()
            .is_some_and(|node| node.uid == settings.node_uid && node.problem.is_none());
        let settings = usable.then(|| Arc::new(settings));
        self.node.settings.send_if_modified(|held| {
            let changed = *held != settings;
            *held = settings;
            changed
        });
    }
}

/// Pods whose ports are open, by the key the pipeline knows them by.
fn open_pods(
    wanted: &[Arc<Attachment>],
    committed: &Committed,
) -> BTreeMap<String, (Arc<Attachment>, Pod)> {
    wanted
        .iter()
        .filter(|attachment| is_open(attachment, committed))
        .filter_map(|attachment| {
            let pod = pod_of(attachment)?;
            Some((attachment.key.to_string(), (Arc::clone(attachment), pod)))
        })
        .collect()
}
