//! `carrickctl get`: agents and controllers as they describe themselves.

use carrick_api::{AgentInfo, ControllerInfo};
use clap::ValueEnum;
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use serde::Serialize;

use crate::connect::Cluster;
use crate::exit::Exit;
use crate::output::{self, Format, say};
use crate::table::Table;
use crate::view::{AgentView, ControllerView, agents_table, controllers_table, sorted};

/// Arguments of `carrickctl get`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// What to list.
    #[arg(value_enum)]
    pub what: What,
    /// Only these.
    pub names: Vec<String>,
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
}

/// Runs it.
///
/// # Errors
/// What cannot be read or printed.
pub async fn run(cluster: &Cluster, args: &Args) -> anyhow::Result<Exit> {
    match args.what {
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
        anyhow::bail!("nothing has reported as {}", missing.join(", "));
    }
    if !args.names.is_empty() {
        views.retain(|view| args.names.contains(name(view)));
    }
    if views.is_empty() && args.output == Format::Table {
        say("nothing has reported yet; carrickctl status tells why");
        return Ok(Exit::Well);
    }
    output::print(args.output, &views, || table(&views).render())?;
    Ok(Exit::Well)
}
