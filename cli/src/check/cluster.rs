//! The test run's side of Kubernetes: make, wait, exec, remove.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use carrick_api::names::object::AGENT;
use carrick_k8s::client::{CallError, status_code};
use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Event, Namespace, Pod, ServiceAccount};
use kube::api::{AttachParams, DeleteParams, ListParams, PostParams};
use kube::{Api, ResourceExt};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};
use tokio::time::{Instant, interval_at, timeout, timeout_at};

use super::manifest::{self, CONTAINER, Recipe};
use super::plan::{End, Role, Test};
use super::report::{NotTested, Tested, judge};
use crate::connect::Cluster;
use crate::output::say;
use crate::pods;
use crate::probe::{self, Outcome};

/// How often pods and the namespace are looked at.
const INTERVAL: Duration = Duration::from_secs(1);
/// Requests at a time.
const AT_A_TIME: usize = 8;
/// Targets of one exec: its URL holds them all.
const TARGETS: usize = 60;
/// Bytes taken from a probe's output: 60 lines are 20 KiB.
const OUTPUT_MAX: u64 = 1 << 20;
/// How long the probes' server may take to start (its address may be tentative).
const START: Duration = Duration::from_secs(10);

/// The test run cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A request failed.
    #[error(transparent)]
    Call(#[from] CallError),
    /// There is no agent to take the image from.
    #[error(
        "there is no DaemonSet {AGENT} in namespace {namespace} to take the image from; name the namespace with -n, or an image with --image"
    )]
    NoAgent {
        /// Where it was looked for.
        namespace: String,
    },
}

/// The image the agents run by.
pub async fn agents_image(cluster: &Cluster) -> Result<String, RunError> {
    let namespace = cluster.namespace().await?;
    let api: Api<DaemonSet> = Api::namespaced(cluster.client.clone(), &namespace);
    let found = cluster
        .ask("reading the agent's DaemonSet", api.get_opt(AGENT))
        .await?;
    found
        .and_then(|set| {
            set.spec?
                .template
                .spec?
                .containers
                .into_iter()
                .find_map(|c| c.image)
        })
        .ok_or(RunError::NoAgent { namespace })
}

/// Removes what runs before us left and nobody needs any more.
pub async fn sweep(cluster: &Cluster) -> Result<(), CallError> {
    let api: Api<Namespace> = Api::all(cluster.client.clone());
    let params = ListParams::default().labels(manifest::LABEL);
    let found = match cluster.list("listing namespaces", &api, params).await {
        Ok(found) => found,
        // Not to see them is not to leave them.
        Err(error) if error.status() == Some(403) => return Ok(()),
        Err(error) => return Err(error),
    };
    let now = Timestamp::now();
    for old in found
        .iter()
        .filter(|namespace| manifest::expired(namespace, now))
    {
        let name = old.name_any();
        if old.metadata.deletion_timestamp.is_none() {
            say(&format!("removing {name}, which an earlier run left"));
            start_removal(cluster, &name).await?;
        }
    }
    Ok(())
}

/// Makes the namespace and its account.
pub async fn make(cluster: &Cluster, recipe: &Recipe) -> Result<(), CallError> {
    let params = PostParams::default();
    let namespaces: Api<Namespace> = Api::all(cluster.client.clone());
    let namespace = manifest::namespace(&recipe.namespace, Timestamp::now());
    cluster
        .ask(
            "creating a namespace",
            namespaces.create(&params, &namespace),
        )
        .await?;
    let accounts: Api<ServiceAccount> = Api::namespaced(cluster.client.clone(), &recipe.namespace);
    cluster
        .ask(
            "creating a ServiceAccount",
            accounts.create(&params, &manifest::account(recipe)),
        )
        .await?;
    Ok(())
}

/// Makes the pods, a few at a time.
pub async fn make_pods(
    cluster: &Cluster,
    recipe: &Recipe,
    nodes: &[String],
    roles: &[Role],
) -> Result<(), CallError> {
    let api: Api<Pod> = Api::namespaced(cluster.client.clone(), &recipe.namespace);
    let wanted: Vec<Pod> = nodes
        .iter()
        .enumerate()
        .flat_map(|(i, node)| {
            roles
                .iter()
                .map(move |role| manifest::pod(recipe, *role, i, node))
        })
        .collect();
    let params = PostParams::default();
    let mut made = futures::stream::iter(&wanted)
        .map(|pod| cluster.ask("creating a pod", api.create(&params, pod)))
        .buffer_unordered(AT_A_TIME);
    while let Some(result) = made.next().await {
        result?;
    }
    Ok(())
}

/// Waits until the pods run or the time is over. What runs, and what does not with its reason.
pub async fn started(
    cluster: &Cluster,
    recipe: &Recipe,
    wanted: usize,
    limit: Duration,
) -> Result<(Vec<End>, Vec<NotTested>), CallError> {
    let api: Api<Pod> = Api::namespaced(cluster.client.clone(), &recipe.namespace);
    let deadline = Instant::now() + limit;
    let mut ticks = interval_at(Instant::now(), INTERVAL);
    let mut said = usize::MAX;
    loop {
        ticks.tick().await;
        let pods = cluster
            .list("listing the test pods", &api, ListParams::default())
            .await?;
        let running = pods.iter().filter(|pod| end(pod).is_some()).count();
        if running != said {
            say(&format!("{running} of {wanted} test pods run"));
            said = running;
        }
        if running == wanted || Instant::now() >= deadline {
            let events = if running == wanted {
                Vec::new()
            } else {
                events(cluster, recipe).await
            };
            let missing = pods
                .iter()
                .filter(|pod| end(pod).is_none())
                .map(|pod| NotTested {
                    node: pods::node(pod).unwrap_or_default().to_owned(),
                    pod: pod.name_any(),
                    reason: reason(pod, &events),
                })
                .collect();
            return Ok((pods.iter().filter_map(end).collect(), missing));
        }
    }
}

/// A pod that runs and has an address.
fn end(pod: &Pod) -> Option<End> {
    let role = match pod.labels().get(manifest::ROLE_LABEL)?.as_str() {
        word if word == Role::Pod.prefix() => Role::Pod,
        word if word == Role::Second.prefix() => Role::Second,
        word if word == Role::Host.prefix() => Role::Host,
        _ => return None,
    };
    let status = pod.status.as_ref().filter(|_| pods::ready(pod))?;
    let mut addresses: Vec<IpAddr> = status
        .pod_ips
        .iter()
        .flatten()
        .filter_map(|ip| ip.ip.parse().ok())
        .collect();
    addresses.sort_unstable();
    let node = pods::node(pod)?.to_owned();
    (!addresses.is_empty()).then(|| End {
        name: pod.name_any(),
        node,
        role,
        addresses,
    })
}

/// Why a pod does not run: its own status, or what the kubelet said last.
fn reason(pod: &Pod, events: &[Event]) -> String {
    if let Some(trouble) = pods::trouble(pod) {
        return trouble;
    }
    let name = pod.name_any();
    events
        .iter()
        .filter(|event| {
            event.involved_object.name.as_deref() == Some(&name)
                && event.type_.as_deref() == Some("Warning")
        })
        .max_by_key(|event| event.last_timestamp.as_ref().map(|time| time.0))
        .map_or_else(
            || "it did not start in time, and the kubelet says nothing about it".to_owned(),
            |event| {
                let reason = event.reason.as_deref().unwrap_or("warning");
                format!("{reason}: {}", event.message.as_deref().unwrap_or_default())
            },
        )
}

async fn events(cluster: &Cluster, recipe: &Recipe) -> Vec<Event> {
    let api: Api<Event> = Api::namespaced(cluster.client.clone(), &recipe.namespace);
    // They only explain; without them the answer is shorter.
    cluster
        .list("listing events", &api, ListParams::default())
        .await
        .unwrap_or_default()
}

/// Runs all tests, the asking pods side by side.
pub async fn test(
    cluster: &Cluster,
    recipe: &Recipe,
    tests: BTreeMap<String, Vec<Test>>,
    limit: Duration,
) -> Vec<Tested> {
    let api: Api<Pod> = Api::namespaced(cluster.client.clone(), &recipe.namespace);
    let jobs = tests.into_iter().flat_map(|(from, tests)| {
        let mut jobs = Vec::new();
        for chunk in tests.chunks(TARGETS) {
            jobs.push((from.clone(), chunk.to_vec()));
        }
        jobs
    });
    let mut running = futures::stream::iter(jobs)
        .map(|(from, tests)| {
            let api = api.clone();
            async move {
                let (outcomes, silence) = ask(&api, &from, &tests, limit).await;
                tests
                    .iter()
                    .map(|test| {
                        let outcome = outcomes.iter().find(|o| o.target == test.target);
                        judge(test, outcome, &silence)
                    })
                    .collect::<Vec<_>>()
            }
        })
        .buffer_unordered(AT_A_TIME);
    let mut all = Vec::new();
    while let Some(tested) = running.next().await {
        if let Some(first) = tested.first() {
            let failed = tested.iter().filter(|test| test.failure.is_some()).count();
            let verdict = if failed == 0 {
                "passed".to_owned()
            } else {
                format!("{failed} failed")
            };
            say(&format!(
                "{} on {}: {} tests, {verdict}",
                first.from,
                first.from_node,
                tested.len()
            ));
        }
        all.extend(tested);
    }
    all.sort_by(|a, b| {
        (a.path, a.family, &a.from_node, &a.to_node, a.kind).cmp(&(
            b.path,
            b.family,
            &b.from_node,
            &b.to_node,
            b.kind,
        ))
    });
    all
}

/// What one pod found, and what to say about targets it did not tell of.
async fn ask(
    api: &Api<Pod>,
    from: &str,
    tests: &[Test],
    limit: Duration,
) -> (Vec<Outcome>, String) {
    let mut command: Vec<String> = ["/usr/bin/carrick", "probe", "connect", "--timeout-ms"]
        .map(str::to_owned)
        .to_vec();
    command.push(limit.as_millis().to_string());
    command.extend(tests.iter().map(|test| test.target.to_string()));
    let params = AttachParams::default().container(CONTAINER).stdin(false);
    // The probe's own limits end it long before; this one is for a connection that hangs.
    let rounds = u32::try_from(tests.len().div_ceil(probe::AT_A_TIME)).unwrap_or(u32::MAX);
    let deadline = Instant::now() + START + limit.saturating_mul(rounds) * 2;
    let mut process = match timeout_at(deadline, api.exec(from, command, &params)).await {
        Ok(Ok(process)) => process,
        Ok(Err(error)) => {
            let forbidden = status_code(&error) == Some(403);
            let hint = if forbidden {
                " (create on pods/exec is needed)"
            } else {
                ""
            };
            return (Vec::new(), format!("exec in {from} failed{hint}: {error}"));
        }
        Err(_) => return (Vec::new(), format!("exec in {from} did not start in time")),
    };
    let (stdout, stderr) = (process.stdout(), process.stderr());
    let read = async {
        let (lines, words) = tokio::join!(outcomes(stdout), words(stderr));
        (lines, words)
    };
    let (outcomes, words) = match timeout_at(deadline, read).await {
        Ok(done) => done,
        Err(_) => (Vec::new(), "it did not end in time".to_owned()),
    };
    process.abort();
    (
        outcomes,
        format!("the probe in {from} did not tell: {words}"),
    )
}

async fn outcomes(stream: Option<impl AsyncRead + Unpin>) -> Vec<Outcome> {
    let Some(stream) = stream else {
        return Vec::new();
    };
    let mut lines = BufReader::new(stream.take(OUTPUT_MAX)).lines();
    let mut found = Vec::new();
    while let Ok(Some(line)) = lines.next_line().await {
        // Other lines are warnings of the runtime's.
        if let Ok(outcome) = serde_json::from_str(&line) {
            found.push(outcome);
        }
    }
    found
}

async fn words(stream: Option<impl AsyncRead + Unpin>) -> String {
    let Some(stream) = stream else {
        return String::new();
    };
    let mut text = Vec::new();
    // What could not be read is not worth a second error.
    let _ = stream.take(OUTPUT_MAX).read_to_end(&mut text).await;
    String::from_utf8_lossy(&text).trim().to_owned()
}

/// Asks for the namespace's removal. The cluster finishes it even when we do not wait.
pub async fn start_removal(cluster: &Cluster, namespace: &str) -> Result<(), CallError> {
    let api: Api<Namespace> = Api::all(cluster.client.clone());
    let params = DeleteParams::default();
    match cluster
        .ask("deleting the namespace", api.delete(namespace, &params))
        .await
    {
        Ok(_) => Ok(()),
        Err(error) if error.status() == Some(404) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Waits until the namespace is gone. Whether it is.
pub async fn gone(cluster: &Cluster, namespace: &str, limit: Duration) -> bool {
    let api: Api<Namespace> = Api::all(cluster.client.clone());
    let wait = async {
        let mut ticks = interval_at(Instant::now(), INTERVAL);
        loop {
            ticks.tick().await;
            if let Ok(None) = cluster
                .ask("looking at the namespace", api.get_opt(namespace))
                .await
            {
                return;
            }
        }
    };
    timeout(limit, wait).await.is_ok()
}
