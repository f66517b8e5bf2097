//! `carrickctl check`: do packets pass between all nodes, and if not, why?
//!
//! ```text
//! plan      pods that run -> tests          manifest   the run's objects
//! report    outcomes -> counts and text     explain    failures -> likely cause, next step
//! cluster   make, wait, exec, remove        (the only one that does IO)
//! ```
//!
//! Whatever happens after the namespace is made, it is removed again: also on Ctrl-C, and should
//! we be killed, by the next run (pods end by themselves).

mod cluster;
pub mod explain;
pub mod manifest;
pub mod plan;
pub mod report;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::Context;
use carrick_api::AgentInfo;
use k8s_openapi::api::core::v1::Node;
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::connect::Cluster;
use crate::exit::Exit;
use crate::output::{self, Format, say};
use crate::probe::DEFAULT_PORT;
use manifest::Recipe;
use plan::{Limits, Role};
use report::{NotTested, Report};

/// How long the namespace's removal is waited for.
const REMOVAL: Duration = Duration::from_mins(2);

/// Arguments of `carrickctl check`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// How to print.
    #[arg(long, short, value_enum, default_value_t)]
    pub output: Format,
    /// Test these nodes only (may be repeated) [default: all nodes with an agent].
    #[arg(long = "node", value_name = "NAME")]
    pub nodes: Vec<String>,
    /// Image of the test pods; it must hold /usr/bin/carrick [default: the agents' own].
    #[arg(long)]
    pub image: Option<String>,
    /// TCP and UDP port of the test pods, on the host network too.
    #[arg(long, default_value_t = DEFAULT_PORT, value_parser = clap::value_parser!(u16).range(1..))]
    pub port: u16,
    /// Leave out everything from and to hosts: no pods on the host network.
    #[arg(long)]
    pub skip_host: bool,
    /// How many other nodes each node is tested with. The default tests every pair of up to nine
    /// nodes.
    #[arg(long, default_value_t = 8)]
    pub peers: usize,
    /// Time for the test pods to start.
    #[arg(long, value_name = "DURATION", default_value = "2m", value_parser = crate::time::parse)]
    pub start_timeout: Duration,
    /// Time for each test.
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = limit)]
    pub probe_timeout: Duration,
    /// Leave the test pods, to look at them. They end after half an hour.
    #[arg(long)]
    pub keep: bool,
}

fn limit(text: &str) -> Result<Duration, String> {
    let limit = crate::time::parse(text)?;
    if (Duration::from_millis(100)..=Duration::from_mins(1)).contains(&limit) {
        Ok(limit)
    } else {
        Err("from 100ms to 1m".into())
    }
}

/// Nodes to test, nodes that cannot be tested, and the pods' MTU on each.
struct Nodes {
    tested: Vec<String>,
    left: Vec<NotTested>,
    mtu: BTreeMap<String, u32>,
}

/// Ctrl-C, SIGTERM and the terminal's end. One for the whole run: between two listeners a signal
/// would get lost.
struct Interrupt([Signal; 3]);

impl Interrupt {
    fn new() -> std::io::Result<Self> {
        Ok(Self([
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
            signal(SignalKind::hangup())?,
        ]))
    }

    async fn next(&mut self) {
        let [int, term, hup] = &mut self.0;
        tokio::select! {
            _ = int.recv() => {}
            _ = term.recv() => {}
            _ = hup.recv() => {}
        }
    }
}

/// Runs it.
///
/// # Errors
/// What cannot be read, made or printed. Failed tests are no error but [`Exit::Unhealthy`].
pub async fn run(cluster: &Cluster, args: &Args) -> anyhow::Result<Exit> {
    let nodes = nodes(cluster, args).await?;
    let image = match &args.image {
        Some(image) => image.clone(),
        None => cluster::agents_image(cluster).await?,
    };
    let recipe = Recipe {
        namespace: format!("carrick-check-{:08x}", rand::random::<u32>()),
        image,
        port: args.port,
    };
    if nodes.tested.is_empty() {
        let report = report::report(Vec::new(), recipe.image, Vec::new(), nodes.left);
        output::print(args.output, &report, || report.text())?;
        return Ok(Exit::Unhealthy);
    }
    cluster::sweep(cluster).await?;
    say(&format!(
        "testing {} in namespace {} with image {}",
        nodes.tested.join(", "),
        recipe.namespace,
        recipe.image
    ));
    let mut interrupt = Interrupt::new().context("listening for signals")?;
    let outcome = tokio::select! {
        result = tests(cluster, args, &recipe, nodes) => Some(result),
        () = interrupt.next() => None,
    };
    // From here on everything must reach the removal.
    let removed = remove(cluster, args, &recipe.namespace, &mut interrupt).await;
    let Some(result) = outcome else {
        say("interrupted");
        return Ok(Exit::Interrupted);
    };
    let report = result?;
    output::print(args.output, &report, || report.text())?;
    removed?;
    Ok(Exit::healthy(report.passed))
}

async fn tests(
    cluster: &Cluster,
    args: &Args,
    recipe: &Recipe,
    nodes: Nodes,
) -> anyhow::Result<Report> {
    let roles: &[Role] = if args.skip_host {
        &[Role::Pod, Role::Second]
    } else {
        &[Role::Pod, Role::Second, Role::Host]
    };
    cluster::make(cluster, recipe).await?;
    cluster::make_pods(cluster, recipe, &nodes.tested, roles).await?;
    let wanted = nodes.tested.len() * roles.len();
    let (ends, missing) = cluster::started(cluster, recipe, wanted, args.start_timeout).await?;
    let limits = Limits {
        peers: args.peers,
        port: args.port,
        mtu: nodes.mtu,
    };
    let tests = plan::plan(&ends, &limits).context("an agent reports an impossible MTU")?;
    let tested = cluster::test(cluster, recipe, tests, args.probe_timeout).await;
    let mut left = nodes.left;
    left.extend(missing);
    Ok(report::report(
        nodes.tested,
        recipe.image.clone(),
        tested,
        left,
    ))
}

/// Which nodes there are to test: those with an agent, unless some are named.
async fn nodes(cluster: &Cluster, args: &Args) -> anyhow::Result<Nodes> {
    let agents: Api<AgentInfo> = Api::all(cluster.client.clone());
    let agents = cluster
        .list("listing AgentInfos", &agents, ListParams::default())
        .await?;
    let nodes: Api<Node> = Api::all(cluster.client.clone());
    let nodes = cluster
        .list("listing nodes", &nodes, ListParams::default())
        .await?;
    let known: BTreeSet<String> = nodes.iter().map(ResourceExt::name_any).collect();
    let with_agent: BTreeSet<String> = agents.iter().map(ResourceExt::name_any).collect();
    if let Some(unknown) = args.nodes.iter().find(|name| !known.contains(*name)) {
        anyhow::bail!("there is no node {unknown}; kubectl get nodes lists them");
    }
    let ready = |name: &str| {
        nodes
            .iter()
            .filter(|node| node.name_any() == name)
            .any(|node| {
                let conditions = node
                    .status
                    .iter()
                    .flat_map(|status| status.conditions.iter().flatten());
                { conditions }.any(|c| c.type_ == "Ready" && c.status == "True")
            })
    };
    let mut left = Vec::new();
    let mut tested = Vec::new();
    let wanted: BTreeSet<&String> = if args.nodes.is_empty() {
        with_agent.intersection(&known).collect()
    } else {
        args.nodes.iter().collect()
    };
    for name in wanted {
        let reason = if !with_agent.contains(name) {
            "no agent has reported from this node"
        } else if !ready(name) {
            "Kubernetes says that the node is not Ready"
        } else {
            tested.push(name.clone());
            continue;
        };
        left.push(NotTested {
            node: name.clone(),
            pod: String::new(),
            reason: reason.into(),
        });
    }
    if tested.is_empty() && left.is_empty() {
        anyhow::bail!(
            "no agent has reported from any node: there is nothing to test; carrickctl status tells why"
        );
    }
    let mtu = agents
        .iter()
        .filter_map(|agent| {
            let mtu = u32::try_from(agent.status.as_ref()?.mtu?).ok()?;
            Some((agent.name_any(), mtu))
        })
        .collect();
    Ok(Nodes { tested, left, mtu })
}

/// Removes the namespace and waits; a second Ctrl-C ends the wait, not the removal.
async fn remove(
    cluster: &Cluster,
    args: &Args,
    namespace: &str,
    interrupt: &mut Interrupt,
) -> anyhow::Result<()> {
    if args.keep {
        say(&format!(
            "kept: kubectl delete namespace {namespace} removes it"
        ));
        return Ok(());
    }
    let by_hand = format!("kubectl delete namespace {namespace}");
    cluster::start_removal(cluster, namespace)
        .await
        .with_context(|| format!("the test pods are left; remove them with: {by_hand}"))?;
    say("removing the test pods");
    tokio::select! {
        gone = cluster::gone(cluster, namespace, REMOVAL) => {
            if !gone {
                say(&format!("namespace {namespace} is still being removed; kubectl get namespace {namespace} -o yaml tells what holds it"));
            }
        }
        () = interrupt.next() => {
            say(&format!("not waiting; the cluster removes namespace {namespace}"));
        }
    }
    Ok(())
}
