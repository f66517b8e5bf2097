//! `carrickctl get`: agents and controllers as they describe themselves, and the Services and policies of a node
//! as its agent tells them.

use carrick_api::{AgentInfo, ControllerInfo};
use clap::ValueEnum;
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use serde::Serialize;

use crate::connect::Cluster;
use crate::exit::Exit;
use crate::groups::{self, GroupView, groups_table};
use crate::nodeapi;
use crate::output::{self, Format, say};
use crate::podname::PodName;
use crate::policies::{self, PolicyView, policies_table, rules, rules_table};
use crate::services::{Answer, ServiceView, path, services_table};
use crate::table::Table;
use crate::view::{AgentView, ControllerView, agents_table, controllers_table, sorted};

/// Arguments of `carrickctl get`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// What to list.
    #[arg(value_enum)]
    pub what: What,
    /// Only these. Services are NAMESPACE/NAME, and are shown with their backends. Policies and those whose rules
    /// are listed are NAMESPACE/NAME, of a ClusterNetworkPolicy NAME. Groups are shown with their members.
    pub names: Vec<String>,
    /// The node whose agent is asked for Services, policies, rules or groups.
    #[arg(long, value_name = "NODE", conflicts_with = "pod")]
    pub node: Option<String>,
    /// Policies that are for this pod, their rules or groups: the agent of its node is asked.
    #[arg(long, value_name = "NAMESPACE/POD")]
    pub pod: Option<PodName>,
    /// How to print.
    #[arg(long, short, value_enum, default_value_t)]
    pub output: Format,
}

/// What can be listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum What {
    /// One for each node.
    #[value(alias = "agent", alias = "nodes")]
    Agents,
    /// One for each replica.
    #[value(alias = "controller")]
    Controllers,
    /// What the switch of a node serves, asked of its agent: frontends, backends, and what is not as it
    /// was asked for.
    #[value(alias = "service")]
    Services,
    /// Policies that are for pods of a node, asked of its agent.
    #[value(alias = "policy")]
    Policies,
    /// The rules of these, as the switch has them, with what they have decided.
    #[value(alias = "rule")]
    Rules,
    /// The groups of peers that these name, and who is in them.
    #[value(alias = "group")]
    Groups,
}

/// Runs it.
///
/// # Errors
/// What cannot be read or printed.
pub async fn run(cluster: &Cluster, args: &Args) -> anyhow::Result<Exit> {
    let of_policy = matches!(args.what, What::Policies | What::Rules | What::Groups);
    if args.pod.is_some() && !of_policy {
        anyhow::bail!("--pod is for policies, rules and groups alone");
    }
    let node = match (&args.node, &args.pod) {
        (Some(node), _) => Some(node.clone()),
        (None, Some(pod)) => Some(pod.node(cluster).await?),
        (None, None) => None,
    };
    match (args.what, node) {
        (What::Services, Some(node)) => return services(cluster, args, &node).await,
        (What::Groups, Some(node)) => return groups(cluster, args, &node).await,
        (What::Policies | What::Rules, Some(node)) => return policies(cluster, args, &node).await,
        (_, Some(_)) => anyhow::bail!(
            "--node is for services, policies, rules and groups alone; name agents instead"
        ),
        (_, None) => {}
    }
    match args.what {
        What::Services => anyhow::bail!("services are of a node: add --node NODE"),
        What::Policies | What::Rules | What::Groups => anyhow::bail!(
            "policies, rules and groups are of a node: add --node NODE, or --pod NAMESPACE/POD"
        ),
        What::Agents => {
            let api: Api<AgentInfo> = Api::all(cluster.client.clone());
            let all = cluster
                .list("listing AgentInfos", &api, ListParams::default())
                .await?;
            let views = sorted(all.iter(), |info| info.name_any())
                .into_iter()
                .map(AgentView::from);
            show(args, views.collect(), |view| &view.node, agents_table)
        }
        What::Controllers => {
            let api: Api<ControllerInfo> = Api::all(cluster.client.clone());
            let all = cluster
                .list("listing ControllerInfos", &api, ListParams::default())
                .await?;
            let views = sorted(all.iter(), |info| info.name_any())
                .into_iter()
                .map(ControllerView::from);
            show(args, views.collect(), |view| &view.name, controllers_table)
        }
    }
}

async fn services(cluster: &Cluster, args: &Args, node: &str) -> anyhow::Result<Exit> {
    let asked = match args.names.as_slice() {
        [] => vec![path(None)?],
        names => {
            let paths = names.iter().map(|name| path(Some(name)));
            paths.collect::<Result<Vec<_>, _>>()?
        }
    };
    let mut views = Vec::new();
    let mut incomplete = false;
    for path in asked {
        let value = nodeapi::get(cluster, node, &path).await?;
        let answer: Answer = serde_json::from_value(value).map_err(|error| {
            anyhow::anyhow!("the agent is of another version than this carrickctl: {error}")
        })?;
        incomplete |= !answer.listed;
        views.extend(answer.into_views());
    }
    if incomplete {
        say(
            "the agent has not read all Services from the API server, or spec.serviceProxy.mode is Disabled; \
             carrickctl status tells which",
        );
    }
    show(
        args,
        views,
        |view: &ServiceView| &view.service,
        |views| services_table(views, !args.names.is_empty()),
    )
}

async fn policies(cluster: &Cluster, args: &Args, node: &str) -> anyhow::Result<Exit> {
    let asked = match args.names.as_slice() {
        [] => vec![policies::path(None, args.pod.as_ref())?],
        names => {
            let path = |name: &String| policies::path(Some(name), args.pod.as_ref());
            names.iter().map(path).collect::<Result<Vec<_>, _>>()?
        }
    };
    let mut views: Vec<PolicyView> = Vec::new();
    let mut incomplete = false;
    for path in asked {
        let value = nodeapi::get(cluster, node, &path).await?;
        let answer: policies::Answer = serde_json::from_value(value).map_err(|error| {
            anyhow::anyhow!("the agent is of another version than this carrickctl: {error}")
        })?;
        incomplete |= !answer.complete;
        views.extend(answer.into_views());
    }
    if incomplete {
        say("the controller has not told the agent all policies yet; carrickctl status tells why");
    }
    if args.what == What::Policies {
        return show(args, views, |view| &view.policy, policies_table);
    }
    show(args, rules(views), |view| &view.policy, rules_table)
}

async fn groups(cluster: &Cluster, args: &Args, node: &str) -> anyhow::Result<Exit> {
    let asked = match args.names.as_slice() {
        [] => vec![groups::path(None, args.pod.as_ref())?],
        names => {
            let path = |name: &String| groups::path(Some(name), args.pod.as_ref());
            names.iter().map(path).collect::<Result<Vec<_>, _>>()?
        }
    };
    let mut views: Vec<GroupView> = Vec::new();
    let mut incomplete = false;
    for path in asked {
        let value = nodeapi::get(cluster, node, &path).await?;
        let answer: groups::Answer = serde_json::from_value(value).map_err(|error| {
            anyhow::anyhow!("the agent is of another version than this carrickctl: {error}")
        })?;
        incomplete |= !answer.complete;
        views.extend(answer.into_views());
    }
    if incomplete {
        say("the controller has not told the agent all policies yet; carrickctl status tells why");
    }
    let whole = !args.names.is_empty();
    show(
        args,
        views,
        |view| &view.group,
        |views| groups_table(views, whole),
    )
}

fn show<T: Serialize>(
    args: &Args,
    mut views: Vec<T>,
    name: impl Fn(&T) -> &String,
    table: impl Fn(&[T]) -> Table,
) -> anyhow::Result<Exit> {
    let missing: Vec<&String> = args
        .names
        .iter()
        .filter(|wanted| !views.iter().any(|view| name(view) == *wanted))
        .collect();
    if !missing.is_empty() {
        let missing: Vec<&str> = missing.into_iter().map(String::as_str).collect();
        match args.what {
            What::Agents | What::Controllers => {
                anyhow::bail!("nothing has reported as {}", missing.join(", "))
            }
            What::Services => anyhow::bail!(
                "the agent knows no Service {}; one that another proxy serves it does not know",
                missing.join(", ")
            ),
            What::Policies | What::Rules => anyhow::bail!(
                "the agent knows no policy {} for pods of its node",
                missing.join(", ")
            ),
            What::Groups => anyhow::bail!(
                "no policy for pods of the node names a group {}",
                missing.join(", ")
            ),
        }
    }
    if !args.names.is_empty() {
        views.retain(|view| args.names.contains(name(view)));
    }
    if views.is_empty() && args.output == Format::Table {
        say(match args.what {
            What::Agents | What::Controllers => {
                "nothing has reported yet; carrickctl status tells why"
            }
            What::Services => "no Services",
            What::Policies | What::Rules if args.pod.is_some() => "no policies for this pod",
            What::Policies | What::Rules => "no policies for pods of this node",
            What::Groups => "no policy for these pods names a group",
        });
        return Ok(Exit::Well);
    }
    output::print(args.output, &views, || table(&views).render())?;
    Ok(Exit::Well)
}
