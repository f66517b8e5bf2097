//! One look at the Networking: facts, verdict, plan, apply, report.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use carrick_api::Networking;
use carrick_api::effective::Endpoint;
use carrick_api::names::{NETWORKING_NAME, object};
use carrick_api::networking::Management;
use carrick_api::status::Plan;
use carrick_k8s::client::{CallError, REQUEST_TIMEOUT, timely};
use carrick_k8s::event::{Events, Severity};
use jiff::Timestamp;
use kube::core::DynamicObject;
use kube::discovery::ApiResource;
use kube::{Api, ResourceExt};
use sha2::{Digest, Sha256};
use tracing::{info, warn};

use crate::certificates::{self, CertificatesError};
use crate::cluster::{Cluster, ClusterError};
use crate::facts::Installation;
use crate::metrics::Metrics;
use crate::object::{Kind, Object, ObjectError};
use crate::plan::{self, Sizes};
use crate::probe::Prober;
use crate::progress::{Progress, progress};
use crate::render::{Input, Purpose, render};
use crate::report::{Outcome, Report};
use crate::rollout::Record;
use crate::sight::Sight;
use crate::skew;
use crate::watch::Stores;
use carrick_k8s::telemetry::chain;

/// Operands are looked over this often even when nothing told of a change.
const RESYNC: Duration = Duration::from_mins(5);
/// How soon to look again while something is on its way.
pub(crate) const SOON: Duration = Duration::from_secs(10);
/// A look failed.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// A request about the cluster failed.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// Certificates failed.
    #[error(transparent)]
    Certificates(#[from] CertificatesError),
    /// An operand could not be rendered.
    #[error(transparent)]
    Render(#[from] ObjectError),
    /// The Networking could not be read or written.
    #[error("cannot {verb} the Networking {NETWORKING_NAME}")]
    Networking {
        /// What was attempted.
        verb: &'static str,
        /// Why it failed.
        #[source]
        source: CallError,
    },
    /// The record of rollouts cannot be written as JSON.
    #[error("the record of rollouts cannot be written")]
    Record(#[source] serde_json::Error),
    /// The record of what was applied cannot be written as JSON.
    #[error("the record of what was applied cannot be written")]
    LastApplied(#[source] serde_json::Error),
}

/// Why somebody looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// Something moved: bring the status up to date, apply only what is new.
    Glance,
    /// Operands may have drifted: compare and apply everything.
    Full,
}

/// Reconciles the one Networking. Lives as long as this replica leads.
pub struct Reconciler {
    pub(crate) cluster: Cluster,
    pub(crate) installation: Installation,
    pub(crate) stores: Stores,
    pub(crate) events: Events,
    pub(crate) metrics: Metrics,
    pub(crate) prober: Prober,
    pub(crate) reached: Endpoint,
    /// Hash of the operands that were applied, and when.
    pub(crate) applied: Option<(String, Instant)>,
    /// The generation whose plan is in the status.
    pub(crate) planned: Option<(i64, String)>,
    /// The last event's reason and note: each is told once.
    pub(crate) told: Option<(String, String)>,
    /// Since when nodes are being cleaned, as far as this process knows.
    pub(crate) cleaning_since: Option<Timestamp>,
    /// What outlives the operator about rollouts; read once, written by this replica alone.
    pub(crate) record: Option<Record>,
    /// Pods whose deletion was asked for and is not seen yet, by UID.
    pub(crate) deleted: BTreeSet<String>,
    /// When the rollout was looked at last.
    pub(crate) looked: Option<Instant>,
    /// Why the last applied spec could not be read; told once.
    pub(crate) unread: String,
    /// How often kube-proxy was disabled since it was last left to others.
    pub(crate) kube_proxy_times: u32,
}

/// What the spec says, and what of it is applied at this look.
#[derive(Clone, Copy)]
struct Wanted<'a> {
    target: &'a [Object],
    now: &'a [Object],
}

impl Reconciler {
    pub(crate) fn networkings(&self) -> Api<Networking> {
        Api::all(self.cluster.client().clone())
    }

    /// Looks once. Returns when to look again although nothing changed.
    pub async fn look(&mut self, look: Look) -> Result<Duration, ReconcileError> {
        let start = Instant::now();
        let resource = ApiResource::erase::<Networking>(&());
        let networkings: Api<DynamicObject> =
            Api::all_with(self.cluster.client().clone(), &resource);
        let found = timely("get", REQUEST_TIMEOUT, networkings.get_opt(NETWORKING_NAME))
            .await
            .map_err(|source| ReconcileError::Networking {
                verb: "read",
                source,
            })?;
        let Some(found) = found else {
            self.applied = None;
            self.planned = None;
            self.record = None;
            return Ok(RESYNC);
        };
        let networking = match skew::networking(found) {
            Ok(networking) => networking,
            Err(unknown) => {
                self.refuse_unknown(*unknown).await?;
                return Ok(RESYNC);
            }
        };
        let result = Box::pin(self.look_at(&networking, look)).await;
        self.metrics.duration.observe(start.elapsed().as_secs_f64());
        if let Err(error) = &result {
            self.count("failed");
            let outcome = Outcome::Failed {
                error: chain(error),
            };
            let report = Report {
                generation: networking.metadata.generation.unwrap_or(0),
                outcome: &outcome,
                progress: None,
                detection: None,
                effective: None,
                plan: None,
                rollout: None,
                kube_proxy: None,
                version: &self.installation.version,
            };
            // The error itself is returned and told by the loop; this one only adds to it.
            if let Err(error) = self.report(&networking, &report).await {
                warn!(
                    error = chain(&error),
                    "the failure cannot be shown in the status"
                );
            }
        }
        result
    }

    async fn look_at(
        &mut self,
        networking: &Networking,
        look: Look,
    ) -> Result<Duration, ReconcileError> {
        let deleting = networking.metadata.deletion_timestamp.is_some();
        let unmanaged = networking.spec.management == Some(Management::Unmanaged);
        if unmanaged && !deleting {
            self.count("unmanaged");
            self.report(networking, &self.bare(networking, &Outcome::Unmanaged))
                .await?;
            return Ok(RESYNC);
        }
        let mut sight = self.sight(networking).await?;
        if deleting {
            return self.remove(&mut sight).await;
        }
        match sight.management() {
            Management::Paused => self.paused(&sight, look).await,
            Management::Managed | Management::Unmanaged => self.managed(&mut sight, look).await,
        }
    }

    pub(crate) fn bare<'a>(&'a self, networking: &Networking, outcome: &'a Outcome) -> Report<'a> {
        Report {
            generation: networking.metadata.generation.unwrap_or(0),
            outcome,
            progress: None,
            detection: None,
            effective: None,
            plan: None,
            rollout: None,
            kube_proxy: None,
            version: &self.installation.version,
        }
    }

    async fn paused(&mut self, sight: &Sight, look: Look) -> Result<Duration, ReconcileError> {
        self.count("paused");
        // What waits is told by dry runs: when the spec or an operand changed, not at each glance.
        let generation = sight.networking.metadata.generation.unwrap_or(0);
        let objects = self.render(sight, Purpose::Network, "").await?;
        let hash = hash(&objects);
        let key = Some((generation, hash));
        let plan = if self.planned == key && look == Look::Glance {
            sight
                .networking
                .status
                .as_ref()
                .and_then(|status| status.plan.clone())
        } else {
            let actions = self.cluster.plan(&objects).await?;
            self.planned = key;
            Some(Self::plan_of(&actions, sight))
        };
        let waiting = plan.as_ref().map_or(0, |plan| plan.steps.len());
        let outcome = if sight.refusals.is_empty() {
            Outcome::Paused { waiting }
        } else {
            Self::refused(sight)
        };
        let progress = self.progress(sight);
        self.tell(sight, &outcome).await;
        self.show(sight, &outcome, Some(&progress), plan).await?;
        Ok(RESYNC)
    }

    async fn managed(&mut self, sight: &mut Sight, look: Look) -> Result<Duration, ReconcileError> {
        let refused = !sight.refusals.is_empty();
        let mut plan = None;
        let mut until = RESYNC;
        self.give_kube_proxy_back(sight).await?;
        if !sight.is_frozen() || sight.last.is_some() {
            self.hold(&sight.networking).await?;
            let now = Timestamp::now();
            let mut certificates = certificates::ensure(&self.cluster, now).await?;
            let again = certificates.until.duration_since(now);
            until = until.min(again.unsigned_abs().max(SOON));
            let objects = self
                .render(sight, Purpose::Network, &certificates.bundle)
                .await?;
            let act = self.decide(sight, &objects).await?;
            if !sight.is_frozen() && sight.last.as_ref() != Some(sight.governing()) {
                self.put_last_applied(sight.governing()).await?;
            }
            let now = self.compose(sight, &objects, &act)?;
            let wanted = Wanted {
                target: &objects,
                now: &now,
            };
            plan = self.apply(sight, &wanted, &mut certificates, look).await?;
            self.delete_pods(&act.delete).await?;
            until = until.min(Self::look_again(&act));
            until = until.min(self.replace_kube_proxy(sight, &act.status).await?);
        }
        self.forget_lost_nodes(sight).await?;
        let outcome = match sight.held() {
            _ if refused => Self::refused(sight),
            Some(message) => Outcome::Returning {
                message: message.clone(),
            },
            None => Outcome::Applied,
        };
        self.count(if refused { "refused" } else { "applied" });
        let progress = self.progress(sight);
        self.tell(sight, &outcome).await;
        self.show(sight, &outcome, Some(&progress), plan).await?;
        Ok(if progress.complete && !refused {
            until
        } else {
            until.min(SOON)
        })
    }

    /// Applies the operands when they are new, may have drifted, or were not looked over for long.
    async fn apply(
        &mut self,
        sight: &Sight,
        wanted: &Wanted<'_>,
        certificates: &mut certificates::Certificates,
        look: Look,
    ) -> Result<Option<Plan>, ReconcileError> {
        let Wanted {
            target,
            now: objects,
        } = *wanted;
        let hash = hash(objects);
        let known = self
            .applied
            .as_ref()
            .is_some_and(|(applied, at)| *applied == hash && at.elapsed() < RESYNC);
        if known && look == Look::Glance {
            certificates::publish(&self.cluster, certificates).await?;
            return Ok(None);
        }
        let generation = sight.networking.metadata.generation.unwrap_or(0);
        let key = Some((generation, self::hash(target)));
        let mut plan = None;
        if self.planned != key {
            let actions = self.cluster.plan(target).await?;
            let fresh = Self::plan_of(&actions, sight);
            // Said before it is done.
            self.show_plan(sight, fresh.clone()).await?;
            if !actions.is_empty() {
                info!(summary = fresh.summary, "applying");
                self.event(sight, Severity::Normal, "Applying", "Apply", &fresh.summary)
                    .await;
            }
            plan = Some(fresh);
            self.planned = key;
        }
        // The bundle before the leaf, the leaf before those who mount it.
        let (first, rest): (Vec<Object>, Vec<Object>) = objects
            .iter()
            .cloned()
            .partition(|object| object.id.kind < Kind::Service);
        let mut applied = self.cluster.apply(&first).await?;
        certificates::publish(&self.cluster, certificates).await?;
        let more = self.cluster.apply(&rest).await?;
        applied.changed.extend(more.changed);
        applied.removed.extend(more.removed);
        for id in &applied.changed {
            info!(operand = %id, "applied");
        }
        self.metrics
            .applied
            .inc_by(u64::try_from(applied.changed.len()).unwrap_or(0));
        for (id, field) in &applied.removed {
            self.metrics.drift_removed.inc();
            let note = format!(
                "removed from {id} what {} had added: {}",
                field.manager, field.pointer
            );
            warn!(operand = %id, manager = field.manager, field = field.pointer, "removed drift");
            self.event(sight, Severity::Warning, "DriftRemoved", "Apply", &note)
                .await;
        }
        // A workload whose turn has not come is wanted all the same.
        let all = [objects, target].concat();
        for id in self.cluster.orphans(&all).await? {
            info!(operand = %id, "deleting what is no longer wanted");
            // What cannot be deleted (a permission is missing) must not hold up the network.
            if let Err(error) = self.cluster.delete(&id).await {
                let note = chain(&error);
                warn!(operand = %id, error = note, "an orphan stays");
                self.event(sight, Severity::Warning, "OrphanStays", "Prune", &note)
                    .await;
            }
        }
        self.applied = Some((hash, Instant::now()));
        Ok(plan)
    }

    pub(crate) async fn render(
        &self,
        sight: &Sight,
        purpose: Purpose,
        bundle: &str,
    ) -> Result<Vec<Object>, ReconcileError> {
        let bundle = if bundle.is_empty() {
            // Paused and removal change no certificate: render what is there.
            let ca = self.cluster.secret(object::CA).await?;
            let (pki, _) = carrick_k8s::pki::Pki::load(&ca, &std::collections::BTreeMap::new());
            pki.bundle()
        } else {
            bundle.to_owned()
        };
        Ok(render(&Input {
            effective: sight.governing(),
            facts: &sight.facts,
            installation: &self.installation,
            ca_bundle: &bundle,
            purpose,
        })?)
    }

    pub(crate) fn progress(&self, sight: &Sight) -> Progress {
        let progress = progress(
            sight.governing(),
            &sight.facts,
            &sight.running,
            Timestamp::now(),
        );
        self.metrics.nodes.set(i64::from(progress.nodes.total));
        self.metrics
            .nodes_ready
            .set(i64::from(progress.nodes.ready));
        progress
    }

    fn refused(sight: &Sight) -> Outcome {
        Outcome::Refused {
            reason: sight.refusal_reason,
            refusals: sight.refusals.clone(),
        }
    }

    fn plan_of(actions: &[plan::Action], sight: &Sight) -> Plan {
        let running = &sight.running;
        let scheduled = |set: Option<&k8s_openapi::api::apps::v1::DaemonSet>| {
            set.and_then(|set| set.status.as_ref())
                .map_or(0, |s| s.desired_number_scheduled)
        };
        let sizes = Sizes {
            controllers: running
                .controller
                .as_ref()
                .and_then(|deployment| deployment.status.as_ref()?.replicas)
                .unwrap_or(0),
            agents: scheduled(running.agent.as_ref()),
            switches: scheduled(running.switch.as_ref()),
        };
        plan::plan(actions, &sight.doubts, &sight.acknowledged(), sizes)
    }

    /// AgentInfos of nodes that are gone.
    async fn forget_lost_nodes(&self, sight: &Sight) -> Result<(), ReconcileError> {
        for agent in &sight.running.agents {
            let name = agent.name_any();
            if !sight.facts.nodes.iter().any(|node| node.name == name) {
                info!(node = name, "forgetting the agent of a node that is gone");
                self.cluster
                    .delete_info::<carrick_api::AgentInfo>(&name, agent.uid())
                    .await?;
            }
        }
        Ok(())
    }
}

impl std::fmt::Debug for Reconciler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reconciler")
            .field("cluster", &self.cluster)
            .finish_non_exhaustive()
    }
}

fn hash(objects: &[Object]) -> String {
    let mut digest = Sha256::new();
    for object in objects {
        digest.update(object.body.to_string().as_bytes());
    }
    hex::encode(digest.finalize())
}
