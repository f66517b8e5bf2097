//! Drives rollouts: gathers what `rollout` decides by, writes down what it says to remember, and
//! does what it says to do.

use std::time::{Duration, Instant};

use carrick_api::names::object;
use carrick_api::status::{RolloutPhase, RolloutStatus};
use carrick_k8s::event::Severity;
use carrick_k8s::telemetry::chain;
use jiff::Timestamp;
use kube::ResourceExt;
use serde_json::Value;
use sha2::{Digest, Sha256};
use tracing::{info, warn};

use crate::effective::Effective;
use crate::object::{Id, Kind, Object};
use crate::reconcile::{ReconcileError, Reconciler, SOON};
use crate::render::{Input, Purpose, pre_pull};
use crate::rollout::found;
use crate::rollout::observe::{self, Seen};
use crate::rollout::record::Stored;
use crate::rollout::status::sentence;
use crate::rollout::{
    Act, Change, Deletion, Good, Part, Place, Record, Render, Step, View, decide,
};
use crate::sight::Sight;
use crate::skew;

/// Key of the record in its Secret.
const RECORD_KEY: &str = "rollout.json";
/// How often a decision may be followed by another at one look. A few follow each other; more would
/// be a fault of ours, which must not keep the API server busy.
const DECISIONS_MAX: usize = 16;

/// After this long without a look (the API server was away, or we were) a wait begins anew: those
/// who are waited for may have been held up as well.
const AWAY: Duration = Duration::from_mins(1);

impl Reconciler {
    /// What to do now. Everything that has to be remembered is written down when this returns.
    pub(crate) async fn decide(
        &mut self,
        sight: &mut Sight,
        target: &[Object],
    ) -> Result<Act, ReconcileError> {
        let wanted = sight.governing().clone();
        let render = observe::render(target, &wanted, &self.installation.version);
        let mut record = self.record(sight).await?;
        let revisions = self.cluster.revisions().await?;
        let newest = observe::newest(&revisions);
        let pods = &sight.running.pods;
        self.deleted
            .retain(|uid| pods.iter().any(|pod| pod.uid().as_ref() == Some(uid)));
        let deployment = target
            .iter()
            .find(|object| observe::is_workload(object, Part::Controller));
        let spec = spec_hash(sight, &render);
        let looked = self.looked.replace(Instant::now());
        let old = sight.networking.status.as_ref();
        let waited = waited(
            old.and_then(|status| status.rollout.as_ref()),
            looked.map(|looked| looked.elapsed()),
        );
        let mut decisions = 0;
        loop {
            let seen = Seen {
                facts: &sight.facts,
                running: &sight.running,
                newest: &newest,
                deleted: &self.deleted,
                now: Timestamp::now(),
            };
            let good = good_effective(&record);
            let failed = { record.attempt.as_ref() }.is_some_and(|a| a.failure.is_some());
            let scope = good.as_ref().filter(|_| failed).unwrap_or(&wanted);
            let view = View {
                now: seen.now,
                settings: observe::settings(sight.networking.spec.rollout.as_ref()),
                frozen: sight.is_frozen(),
                target: &render,
                spec: &spec,
                record: &record,
                live: observe::live(&sight.running, &newest),
                controller: observe::controller(&seen, &wanted, deployment),
                nodes: observe::nodes(&seen, scope, &render.images),
                waited: waited.clone(),
            };
            let change = match decide(&view) {
                Step::Act(act) => {
                    if act.goal == Place::Good {
                        sight.gone_back = good;
                    }
                    sight.rollout = Some(act.status.clone());
                    self.metrics
                        .rollout_nodes
                        .set(i64::from(act.status.updated));
                    return Ok(act);
                }
                Step::Remember(change) => change,
            };
            record = record.after(&change, || succeeded(&render, target, &wanted));
            self.put_record(&record).await?;
            self.announce(sight, &change, &record, &render).await;
            decisions += 1;
            if decisions > DECISIONS_MAX {
                // The rest is remembered at the next look; until then nothing is touched.
                return Ok(nothing(sight));
            }
        }
    }

    /// What is applied now: the workloads as their turns are, everything else as the spec says.
    pub(crate) fn compose(
        &self,
        sight: &Sight,
        target: &[Object],
        act: &Act,
    ) -> Result<Vec<Object>, ReconcileError> {
        let record = self.record.clone().unwrap_or_default();
        let stored: Vec<Object> = { record.good.iter() }
            .flat_map(|good| good.objects.iter().map(Stored::object))
            .collect();
        let mut now = Vec::new();
        for object in target {
            let part = Part::ALL
                .into_iter()
                .find(|&part| observe::is_workload(object, part));
            let Some(part) = part else {
                let before = stored.iter().find(|stored| stored.id == object.id);
                now.push(both(object, before.filter(|_| is_config(object))));
                continue;
            };
            match act.places.get(part) {
                Place::Target => now.push(object.clone()),
                Place::Good => {
                    now.extend(stored.iter().find(|stored| stored.id == object.id).cloned());
                }
                Place::Hold => {}
            }
        }
        if act.pre_pull {
            now.push(pre_pull::object(&Input {
                effective: &sight.wanted,
                facts: &sight.facts,
                installation: &self.installation,
                ca_bundle: "",
                purpose: Purpose::Network,
            })?);
        }
        Ok(now)
    }

    pub(crate) async fn delete_pods(&mut self, pods: &[Deletion]) -> Result<(), ReconcileError> {
        for pod in pods {
            info!(
                part = pod.part.noun(),
                node = pod.node,
                pod = pod.name,
                "replacing"
            );
            self.cluster.delete_pod(&pod.name, &pod.uid).await?;
            // The watch may tell of it only after the next look.
            self.deleted.insert(pod.uid.clone());
        }
        Ok(())
    }

    /// How soon to look again although nothing tells of a change: time itself may end a wait.
    pub(crate) fn look_again(act: &Act) -> Duration {
        match act.status.phase {
            RolloutPhase::Complete | RolloutPhase::RolledBack | RolloutPhase::Failed => {
                Duration::MAX
            }
            _ if act.status.waiting_for.is_empty() => SOON,
            _ => Duration::from_secs(2),
        }
    }

    /// The record, read once. Where there is none for a network that runs, or none that can be
    /// read, what runs is taken for the last good render.
    async fn record(&mut self, sight: &Sight) -> Result<Record, ReconcileError> {
        if let Some(record) = &self.record {
            return Ok(record.clone());
        }
        let data = self.cluster.secret(object::ROLLOUT).await?;
        let read = { data.get(RECORD_KEY) }.map(|bytes| skew::record(bytes));
        let is_unknown = match &read {
            Some(Ok(_)) => false,
            Some(Err(error)) => {
                let error = chain(error);
                warn!(
                    error,
                    secret = object::ROLLOUT,
                    "the record of rollouts cannot be read"
                );
                true
            }
            // A network that this operator has made and that never ran whole has none either.
            None => !found::is_marked(&sight.running),
        };
        let mut record = read.and_then(Result::ok).unwrap_or_default();
        if is_unknown && self.progress(sight).nodes.ready > 0 {
            let config = Id {
                kind: Kind::ConfigMap,
                name: object::CONFIG.to_owned(),
            };
            let config = self.cluster.live(&config).await?;
            if let Some(good) = found::found(&sight.running, config) {
                info!("what runs is taken for the last good render");
                record.good = Some(good);
                self.put_record(&record).await?;
            }
        }
        self.record = Some(record.clone());
        Ok(record)
    }

    async fn put_record(&mut self, record: &Record) -> Result<(), ReconcileError> {
        let bytes = serde_json::to_vec(record).map_err(ReconcileError::Record)?;
        let data = [(RECORD_KEY.to_owned(), bytes)].into();
        self.cluster
            .put_secret(object::ROLLOUT, "Opaque", data)
            .await?;
        self.record = Some(record.clone());
        Ok(())
    }

    /// Tells people what was just written down.
    async fn announce(&self, sight: &Sight, change: &Change, record: &Record, target: &Render) {
        let (severity, reason, note) = match change {
            Change::Begin(attempt) => {
                if attempt.parts.contains(&Part::Switch) {
                    let note = format!(
                        "rolling out {}; the switches restart as well, one node at a time: each \
                         node has a short outage",
                        attempt.hash
                    );
                    (Severity::Warning, "RolloutRestartsSwitches", note)
                } else {
                    let note = format!("rolling out {}", attempt.hash);
                    (Severity::Normal, "RolloutStarted", note)
                }
            }
            Change::Fail(failure) => (Severity::Warning, "RolloutFailed", sentence(failure)),
            Change::GiveUp(node) => {
                let note = format!("going back, {node} did not become ready in time");
                (Severity::Warning, "RollbackIncomplete", note)
            }
            Change::Settle => {
                let failure = record.attempt.as_ref().and_then(|a| a.failure.as_ref());
                let note = failure.map(sentence).unwrap_or_default();
                (
                    Severity::Warning,
                    "RolledBack",
                    format!("went back after: {note}"),
                )
            }
            Change::Succeed => (
                Severity::Normal,
                "RolloutComplete",
                format!("{} is rolled out", target.hash()),
            ),
            Change::Forget => (
                Severity::Normal,
                "RolloutUndone",
                "every part runs again what it ran before".to_owned(),
            ),
            Change::Pulled | Change::Turn(..) | Change::Pass => return,
        };
        match severity {
            Severity::Normal => info!(reason, note, "rollout"),
            Severity::Warning => warn!(reason, note, "rollout"),
        }
        // Events alike in all but the note are counted as one, with the first one's note.
        let action = format!("Rollout-{}", target.hash());
        self.event(sight, severity, reason, &action, &note).await;
    }
}

/// What is waited for and since when, by the status of the last look, which was so long ago.
fn waited(
    rollout: Option<&RolloutStatus>,
    looked: Option<Duration>,
) -> Option<(String, Timestamp)> {
    let rollout = rollout.filter(|_| looked.is_some_and(|ago| ago < AWAY))?;
    let since = rollout.since.as_ref()?;
    Some((rollout.waiting_for.clone(), since.0))
}

/// Touches nothing, and says what was said before.
fn nothing(sight: &mut Sight) -> Act {
    let status = sight.networking.status.as_ref();
    let status = status.and_then(|status| status.rollout.clone());
    let status = status.unwrap_or_else(crate::rollout::status::unknown);
    sight.rollout = Some(status.clone());
    Act {
        goal: Place::Target,
        places: crate::rollout::Parts::of(|_| Place::Hold),
        pre_pull: false,
        delete: Vec::new(),
        status,
    }
}

fn is_config(object: &Object) -> bool {
    object.id.kind == Kind::ConfigMap && object.id.name == object::CONFIG
}

/// A ConfigMap with the keys of both: pods of both templates read theirs.
fn both(object: &Object, before: Option<&Object>) -> Object {
    let mut object = object.clone();
    let before = before.and_then(|before| before.body.get("data")?.as_object().cloned());
    if let (Some(Value::Object(data)), Some(before)) = (object.body.get_mut("data"), before) {
        for (key, value) in before {
            data.entry(key).or_insert(value);
        }
    }
    object
}

fn succeeded(render: &Render, target: &[Object], effective: &Effective) -> Good {
    let kept = target.iter().filter(|object| {
        is_config(object)
            || Part::ALL
                .into_iter()
                .any(|part| observe::is_workload(object, part))
    });
    Good {
        render: render.clone(),
        objects: kept.filter_map(Stored::new).collect(),
        effective: serde_json::to_value(effective).unwrap_or_default(),
    }
}

/// The effective spec of the last good render, if this operator can read it.
fn good_effective(record: &Record) -> Option<Effective> {
    let good = record.good.as_ref()?;
    serde_json::from_value(good.effective.clone()).ok()
}

/// Hash of the spec without `rollout`, which says how and not what, and of the images.
fn spec_hash(sight: &Sight, render: &Render) -> String {
    let spec = carrick_api::networking::NetworkingSpec {
        rollout: None,
        ..sight.networking.spec.clone()
    };
    let text = serde_json::to_string(&(&spec, &render.images)).unwrap_or_default();
    hex::encode(&Sha256::digest(text.as_bytes())[..8])
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    #[test]
    fn a_wait_begins_anew_after_nobody_looked() {
        let status = RolloutStatus {
            waiting_for: "the agent on n1".to_owned(),
            since: Some(Time(Timestamp::UNIX_EPOCH)),
            ..crate::rollout::status::unknown()
        };
        let goes_on = waited(Some(&status), Some(Duration::from_secs(2)));
        assert_eq!(goes_on.unwrap().1, Timestamp::UNIX_EPOCH);
        assert_eq!(waited(Some(&status), Some(AWAY)), None);
        assert_eq!(waited(Some(&status), None), None, "another operator's");
    }
}
