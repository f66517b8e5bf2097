//! `carrickctl uninstall`: deletes the Networking and shows how the nodes get clean.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::time::Duration;

use carrick_api::status::condition;
use carrick_api::{AgentInfo, Networking, agentinfo, names};
use carrick_k8s::client::CallError;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde::Serialize;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::time::{Instant, interval_at};

use crate::connect::Cluster;
use crate::exit::Exit;
use crate::output::{self, Format, say};
use crate::table::Table;

/// How often progress is looked at.
const INTERVAL: Duration = Duration::from_secs(2);
/// Our name on the fields we write.
const FIELD_MANAGER: &str = "carrickctl";

/// Arguments of `carrickctl uninstall`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Do not ask.
    #[arg(long, short)]
    pub yes: bool,
    /// Accept something the removal would wait for, by the name the message gives (may be
    /// repeated): added to spec.acknowledge.
    #[arg(long, value_name = "NAME")]
    pub acknowledge: Vec<String>,
    /// The most time to wait. The removal itself goes on.
    #[arg(long, value_name = "DURATION", default_value = "15m", value_parser = crate::time::parse)]
    pub timeout: Duration,
    /// How to print the result.
    #[arg(long, short, value_enum, default_value_t)]
    pub output: Format,
}

/// How far a node is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeRemoval {
    /// The node.
    pub node: String,
    /// Nothing of Carrick's is left on it.
    pub clean: bool,
    /// What its agent says.
    pub message: String,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Removal {
    /// The Networking is gone.
    pub removed: bool,
    /// What the operator said last; empty when it is done.
    pub message: String,
    /// The nodes as they reported last.
    pub nodes: Vec<NodeRemoval>,
}

/// Runs it.
///
/// # Errors
/// What cannot be read, deleted or printed. To be late is no error but [`Exit::Unhealthy`].
pub async fn run(cluster: &Cluster, args: &Args) -> anyhow::Result<Exit> {
    let api: Api<Networking> = Api::all(cluster.client.clone());
    let name = names::NETWORKING_NAME;
    let Some(found) = cluster
        .ask("reading the Networking", api.get_opt(name))
        .await?
    else {
        say("there is no Networking: nothing to remove");
        return Ok(Exit::Well);
    };
    let going = found.metadata.deletion_timestamp.is_some();
    if !going && !args.yes && !confirmed(cluster).await? {
        say("nothing was changed");
        return Ok(Exit::Failed);
    }
    acknowledge(cluster, &api, &found, &args.acknowledge).await?;
    if !going {
        let params = DeleteParams::default();
        let deleted = cluster
            .ask("deleting the Networking", api.delete(name, &params))
            .await;
        match deleted {
            Ok(_) => {}
            Err(error) if error.status() == Some(404) => {}
            Err(error) => return Err(error.into()),
        }
        say("the Networking is being deleted; Ctrl-C stops the watching, not the removal");
    }
    tokio::select! {
        removal = watch(cluster, &api, args.timeout) => {
            let removal = removal?;
            output::print(args.output, &removal, || text(&removal))?;
            if removal.removed {
                say("removed; `helm uninstall carrick` removes the operator");
            } else {
                say(&format!("not done within {:?}; it goes on. `carrickctl uninstall` again shows it", args.timeout));
            }
            Ok(Exit::healthy(removal.removed))
        }
        _ = tokio::signal::ctrl_c() => {
            say("the removal goes on; `carrickctl uninstall` again shows it");
            Ok(Exit::Interrupted)
        }
    }
}

async fn confirmed(cluster: &Cluster) -> anyhow::Result<bool> {
    anyhow::ensure!(
        std::io::stdin().is_terminal(),
        "this takes the network away from every pod: say --yes"
    );
    say(&format!(
        "This removes the network of the cluster at {}: pods lose it. Type yes to go on.",
        cluster.endpoint
    ));
    let mut line = String::new();
    BufReader::new(tokio::io::stdin())
        .read_line(&mut line)
        .await?;
    Ok(line.trim() == "yes")
}

async fn acknowledge(
    cluster: &Cluster,
    api: &Api<Networking>,
    networking: &Networking,
    more: &[String],
) -> Result<(), CallError> {
    let mut names = networking.spec.acknowledge.clone().unwrap_or_default();
    let before = names.len();
    for name in more {
        if !names.contains(name) {
            names.push(name.clone());
        }
    }
    if names.len() == before {
        return Ok(());
    }
    let patch = Patch::Merge(serde_json::json!({
        // Against a list that changed meanwhile.
        "metadata": {"resourceVersion": networking.resource_version()},
        "spec": {"acknowledge": names},
    }));
    let params = PatchParams {
        field_manager: Some(FIELD_MANAGER.into()),
        ..PatchParams::default()
    };
    let name = names::NETWORKING_NAME;
    cluster
        .ask("acknowledging", api.patch(name, &params, &patch))
        .await?;
    Ok(())
}

async fn watch(
    cluster: &Cluster,
    api: &Api<Networking>,
    limit: Duration,
) -> Result<Removal, CallError> {
    let agents: Api<AgentInfo> = Api::all(cluster.client.clone());
    let deadline = Instant::now() + limit;
    let mut ticks = interval_at(Instant::now(), INTERVAL);
    let mut nodes: BTreeMap<String, NodeRemoval> = BTreeMap::new();
    let mut said = String::new();
    loop {
        ticks.tick().await;
        let over = Instant::now() >= deadline;
        let found = match cluster
            .ask(
                "reading the Networking",
                api.get_opt(names::NETWORKING_NAME),
            )
            .await
        {
            Ok(found) => found,
            Err(error) if over => return Err(error),
            // The removal does not need us; look again.
            Err(error) => {
                tell(&mut said, format!("cannot read now, trying again: {error}"));
                continue;
            }
        };
        let all = cluster
            .list("listing AgentInfos", &agents, ListParams::default())
            .await;
        for agent in all.iter().flatten() {
            let node = node(agent);
            if node.clean && nodes.get(&node.node).is_none_or(|known| !known.clean) {
                say(&format!("node {} is clean", node.node));
            }
            nodes.insert(node.node.clone(), node);
        }
        let Some(networking) = found else {
            return Ok(Removal {
                removed: true,
                message: String::new(),
                nodes: nodes.into_values().collect(),
            });
        };
        let message = message(&networking);
        if over {
            return Ok(Removal {
                removed: false,
                message,
                nodes: nodes.into_values().collect(),
            });
        }
        if !message.is_empty() {
            tell(&mut said, message);
        }
    }
}

fn tell(said: &mut String, now: String) {
    if *said != now {
        say(&now);
        *said = now;
    }
}

fn node(agent: &AgentInfo) -> NodeRemoval {
    let cleaned = agent
        .status
        .iter()
        .flat_map(|status| &status.conditions)
        .find(|condition| condition.type_ == agentinfo::condition::CLEANED);
    NodeRemoval {
        node: agent.name_any(),
        clean: cleaned.is_some_and(|condition| condition.status == "True"),
        message: cleaned
            .map(|condition| condition.message.clone())
            .unwrap_or_default(),
    }
}

/// What the operator says about the removal: Ready's message names what it waits for.
fn message(networking: &Networking) -> String {
    networking
        .status
        .iter()
        .flat_map(|status| &status.conditions)
        .find(|c| c.type_ == condition::READY && c.status != "True")
        .map(|condition| condition.message.clone())
        .unwrap_or_default()
}

fn text(removal: &Removal) -> String {
    if removal.nodes.is_empty() {
        return String::new();
    }
    let mut table = Table::new(["NODE", "CLEAN", "MESSAGE"]);
    for node in &removal.nodes {
        let clean = if node.clean { "yes" } else { "no" };
        table.row([node.node.clone(), clean.into(), node.message.clone()]);
    }
    table.render()
}
