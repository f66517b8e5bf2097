//! `carrickctl inspect` and `carrickctl flows`: what one node's agent holds, asked of itself.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::connect::Cluster;
use crate::exit::Exit;
use crate::nodeapi;
use crate::output::{self, Format};
use crate::table::{Table, clean};

/// Arguments of `carrickctl inspect`.
#[derive(Debug, Clone, clap::Args)]
pub struct InspectArgs {
    /// The node.
    pub node: String,
    /// What of it.
    #[arg(value_enum, default_value_t)]
    pub what: What,
    /// How to print. Only attachments have a table; the rest is YAML for people too.
    #[arg(long, short, value_enum, default_value_t)]
    pub output: Format,
}

/// What an agent tells of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum What {
    /// Conditions, datapath, addresses, what is realized.
    #[default]
    State,
    /// Pods on the switch: addresses, links, OpenFlow ports.
    Attachments,
    /// The address pool: in use, in quarantine, free.
    Addresses,
    /// What the controller sent, and the routes to other nodes.
    Records,
    /// The configuration the agent runs by.
    Config,
}

impl What {
    const fn path(self) -> &'static str {
        match self {
            Self::State => "/v1/state",
            Self::Attachments => "/v1/attachments",
            Self::Addresses => "/v1/addresses",
            Self::Records => "/v1/records",
            Self::Config => "/v1/config",
        }
    }
}

/// Arguments of `carrickctl flows`.
#[derive(Debug, Clone, clap::Args)]
pub struct FlowsArgs {
    /// The node.
    pub node: String,
    /// Only this table, by its number.
    #[arg(long, short)]
    pub table: Option<u8>,
    /// Only flows that contain this text (may be repeated), e.g. an address.
    #[arg(long, value_name = "TEXT")]
    pub grep: Vec<String>,
    /// How to print: table is one flow on a line, in the syntax of ovs-ofctl.
    #[arg(long, short, value_enum, default_value_t)]
    pub output: Format,
}

/// Runs `inspect`.
///
/// # Errors
/// The agent cannot be asked, or the answer not printed.
pub async fn inspect(cluster: &Cluster, args: &InspectArgs) -> anyhow::Result<Exit> {
    let value = nodeapi::get(cluster, &args.node, args.what.path()).await?;
    let text = match (args.what, args.output) {
        (What::Attachments, Format::Table) => attachments(&value),
        (_, Format::Table | Format::Yaml) => output::render(Format::Yaml, &value, String::new)?,
        (_, Format::Json) => output::render(Format::Json, &value, String::new)?,
    };
    output::out(&text)?;
    Ok(Exit::Well)
}

/// Runs `flows`.
///
/// # Errors
/// The agent cannot be asked, its answer is not understood or cannot be printed.
pub async fn flows(cluster: &Cluster, args: &FlowsArgs) -> anyhow::Result<Exit> {
    let value = nodeapi::get(cluster, &args.node, "/v1/flows").await?;
    let commit: Commit = serde_json::from_value(value).map_err(|error| {
        anyhow::anyhow!("the agent is of another version than this carrickctl: {error}")
    })?;
    let commit = commit.only(args.table, &args.grep);
    output::print(args.output, &commit, || commit.text())?;
    Ok(Exit::Well)
}

/// What the switch was last made to hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Commit {
    #[serde(default)]
    bridge: String,
    flows: Vec<String>,
    #[serde(default)]
    groups: Vec<String>,
    #[serde(default)]
    meters: Vec<String>,
}

impl Commit {
    fn only(mut self, table: Option<u8>, texts: &[String]) -> Self {
        let wanted = |line: &String| texts.iter().all(|text| line.contains(text.as_str()));
        self.flows
            .retain(|flow| table.is_none_or(|table| table_of(flow) == Some(table)) && wanted(flow));
        if table.is_some() {
            self.groups.clear();
            self.meters.clear();
        }
        self.groups.retain(wanted);
        self.meters.retain(wanted);
        self
    }

    fn text(&self) -> String {
        let mut text = String::new();
        for line in self.flows.iter().chain(&self.groups).chain(&self.meters) {
            text.push_str(&clean(line));
            text.push('\n');
        }
        text
    }
}

/// `table=N` of a flow in the syntax of ovs-ofctl; no table is table 0 (ovs-ofctl(8)).
fn table_of(flow: &str) -> Option<u8> {
    let head = flow.split("actions=").next().unwrap_or_default();
    head.split([',', ' '])
        .find_map(|word| word.trim().strip_prefix("table="))
        .map_or(Some(0), |number| number.parse().ok())
}

fn attachments(value: &Value) -> String {
    let mut table = Table::new([
        "NAMESPACE",
        "POD",
        "ADDRESSES",
        "LINK",
        "OFPORT",
        "MAC",
        "STATE",
    ]);
    let text = |value: &Value| {
        value
            .as_str()
            .map_or_else(|| value.to_string(), str::to_owned)
    };
    for entry in value
        .get("attachments")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        let addresses: Vec<String> = entry["addresses"]
            .as_array()
            .into_iter()
            .flatten()
            .map(text)
            .collect();
        table.row([
            text(&entry["pod"]["namespace"]),
            text(&entry["pod"]["name"]),
            addresses.join(","),
            text(&entry["hostLink"]),
            text(&entry["ofport"]),
            text(&entry["mac"]),
            text(&entry["state"]),
        ]);
    }
    table.render()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commit() -> Commit {
        Commit {
            bridge: "br-int".into(),
            flows: vec![
                "table=0,priority=200,in_port=1 actions=resubmit(,20)".into(),
                "table=50,priority=200,ip,nw_dst=10.0.0.5 actions=output:100".into(),
                "priority=0 actions=drop".into(),
            ],
            groups: vec!["group_id=1,type=all".into()],
            meters: vec![],
        }
    }

    #[test]
    fn flows_are_chosen_by_table_and_text() {
        let of = |table, texts: &[&str]| {
            let texts: Vec<String> = texts.iter().map(ToString::to_string).collect();
            commit().only(table, &texts).flows.len()
        };
        assert_eq!(
            (of(None, &[]), of(Some(0), &[]), of(Some(50), &[])),
            (3, 2, 1)
        );
        assert_eq!(
            (of(None, &["10.0.0.5"]), of(Some(0), &["10.0.0.5"])),
            (1, 0)
        );
    }

    #[test]
    fn attachments_have_a_table() {
        let value = serde_json::json!({"attachments": [{
            "pod": {"namespace": "default", "name": "web"}, "addresses": ["10.0.0.5", "fd00::5"],
            "hostLink": "car0123456789ab", "ofport": 100, "mac": "02:00:00:00:00:05", "state": "Ready",
        }]});
        insta::assert_snapshot!(attachments(&value));
    }
}
