//! Tells people: status, events, counters.

use carrick_api::Networking;
use carrick_api::names::{NETWORKING_NAME, OPERATOR_FIELD_MANAGER};
use carrick_api::networking::NetworkingSpec;
use carrick_api::status::{NetworkingStatus, Plan};
use carrick_k8s::client::{REQUEST_TIMEOUT, timely};
use carrick_k8s::event::Severity;
use jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::core::{ObjectMeta, PartialObjectMeta};
use kube::{Api, Resource};
use tracing::{debug, warn};

use crate::metrics::{ConditionLabel, OutcomeLabel};
use crate::progress::Progress;
use crate::reconcile::{ReconcileError, Reconciler};
use crate::report::{self, Outcome, Report};
use crate::sight::Sight;
use crate::skew::UnknownSpec;

impl Reconciler {
    pub(crate) async fn show_plan(&self, sight: &Sight, plan: Plan) -> Result<(), ReconcileError> {
        let mut status: NetworkingStatus = sight.networking.status.clone().unwrap_or_default();
        status.plan = Some(plan);
        self.write(&sight.networking, status).await
    }

    pub(crate) async fn show(
        &self,
        sight: &Sight,
        outcome: &Outcome,
        progress: Option<&Progress>,
        plan: Option<Plan>,
    ) -> Result<(), ReconcileError> {
        let spec: &NetworkingSpec = &sight.networking.spec;
        let report = Report {
            generation: sight.networking.metadata.generation.unwrap_or(0),
            outcome,
            progress,
            detection: Some(&sight.detection),
            effective: Some(sight.governing().to_spec(spec)),
            plan,
            rollout: sight.rollout.as_ref(),
            kube_proxy: sight.kube_proxy.as_ref(),
            version: &self.installation.version,
        };
        self.report(&sight.networking, &report).await
    }

    pub(crate) async fn report(
        &self,
        networking: &Networking,
        report: &Report<'_>,
    ) -> Result<(), ReconcileError> {
        let old = networking.status.clone().unwrap_or_default();
        let new = report::status(&old, report, Timestamp::now());
        for condition in &new.conditions {
            let label = ConditionLabel {
                condition: condition.type_.clone(),
            };
            let value = i64::from(condition.status == "True");
            self.metrics.conditions.get_or_create(&label).set(value);
        }
        if new == old {
            return Ok(());
        }
        self.write(networking, new).await
    }

    async fn write(
        &self,
        networking: &Networking,
        status: NetworkingStatus,
    ) -> Result<(), ReconcileError> {
        let mut object = Networking::new(NETWORKING_NAME, NetworkingSpec::default());
        object.metadata = ObjectMeta {
            name: Some(NETWORKING_NAME.to_owned()),
            // Of this object and no later one of the same name.
            uid: networking.metadata.uid.clone(),
            ..ObjectMeta::default()
        };
        object.status = Some(status);
        let params = PatchParams::apply(OPERATOR_FIELD_MANAGER).force();
        // The answer has the whole spec, which may be another version's.
        let api: Api<PartialObjectMeta<Networking>> = Api::all(self.cluster.client().clone());
        let patch = Patch::Apply(&object);
        let request = api.patch_status(NETWORKING_NAME, &params, &patch);
        match timely("patch status", REQUEST_TIMEOUT, request).await {
            Ok(_) => Ok(()),
            Err(error) if error.status() == Some(404) => {
                debug!("the Networking went while its status was written");
                Ok(())
            }
            Err(source) => Err(ReconcileError::Networking {
                verb: "write the status of",
                source,
            }),
        }
    }

    /// Says that the spec has what this version does not know. The network stays as it is.
    pub(crate) async fn refuse_unknown(
        &mut self,
        unknown: UnknownSpec,
    ) -> Result<(), ReconcileError> {
        let UnknownSpec {
            networking,
            refusals,
        } = unknown;
        let reason = "UnknownSpec";
        let text: Vec<String> = refusals.iter().map(ToString::to_string).collect();
        let note = text.join(" ");
        let told = Some((reason.to_owned(), note.clone()));
        if self.told != told {
            warn!(note, "the spec is not understood; nothing is touched");
            let about = networking.object_ref(&());
            self.events
                .publish(&about, Severity::Warning, reason, "Reconcile", &note)
                .await;
            self.told = told;
        }
        self.count("refused");
        let outcome = Outcome::Refused { reason, refusals };
        let report = self.bare(&networking, &outcome);
        self.report(&networking, &report).await
    }

    /// Tells people about an outcome, once.
    pub(crate) async fn tell(&mut self, sight: &Sight, outcome: &Outcome) {
        let (severity, reason, note) = match outcome {
            Outcome::Refused { reason, refusals } => {
                let text: Vec<String> = refusals.iter().map(ToString::to_string).collect();
                (Severity::Warning, (*reason).to_owned(), text.join(" "))
            }
            Outcome::Held { message } => (
                Severity::Warning,
                "PodsUseNetwork".to_owned(),
                message.clone(),
            ),
            Outcome::Cleaning(waiting) if waiting.stuck => (
                Severity::Warning,
                "NodesNotClean".to_owned(),
                waiting.message.clone(),
            ),
            Outcome::Removing { message } => {
                (Severity::Normal, "Removing".to_owned(), message.clone())
            }
            Outcome::Returning { .. } => (
                Severity::Normal,
                "KubeProxyReturning".to_owned(),
                "kube-proxy runs again before the agents change".to_owned(),
            ),
            Outcome::Paused { .. } => (
                Severity::Normal,
                "Paused".to_owned(),
                "changes are planned, not made".to_owned(),
            ),
            Outcome::Applied
            | Outcome::Unmanaged
            | Outcome::Failed { .. }
            | Outcome::Cleaning(_) => {
                self.told = None;
                return;
            }
        };
        let told = Some((reason.clone(), note.clone()));
        if self.told != told {
            self.event(sight, severity, &reason, "Reconcile", &note)
                .await;
            self.told = told;
        }
    }

    pub(crate) async fn event(
        &self,
        sight: &Sight,
        severity: Severity,
        reason: &str,
        action: &str,
        note: &str,
    ) {
        let about = sight.networking.object_ref(&());
        self.events
            .publish(&about, severity, reason, action, note)
            .await;
    }

    pub(crate) fn count(&self, outcome: &'static str) {
        self.metrics
            .reconciliations
            .get_or_create(&OutcomeLabel { outcome })
            .inc();
    }
}
