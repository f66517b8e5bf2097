//! `cargo xtask bench`: figures of the optimised build, peers measured in the same run.
//!
//! The programs that measure are examples of the crates they measure; each prints an array of
//! figures. This verb builds them, runs them one after the other and prints what they found.

mod cluster;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, Result, ensure};
use carrick_testbed::{Cluster, ClusterSpec, NodeKind, Progress, binaries};
use serde::{Deserialize, Serialize};

/// Arguments of `bench`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What is measured.
    suite: Suite,
    /// Print an array of {name, unit, ours, peer, ratio, goal, met}.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Suite {
    /// The codec and the connection, against os-ken and ovs-ofctl.
    Openflow,
    /// Ports and the switch's restart, against ovs-vsctl and the Python client.
    Ovsdb,
    /// CNI ADD and DEL, against the plugins bridge and host-local.
    Cni,
    /// Memory of the agent and of the switch.
    Agent,
    /// Traffic between pods in each mode, on both datapaths, against bridges that do next to nothing.
    Datapath,
    /// From `helm install` to Ready, and what is lost when parts are started again or upgraded.
    Cluster,
    /// Services, against kube-proxy in its modes nftables and iptables, at 1,000 Services with 50,000 endpoints.
    Services,
    /// The same, and at 5,000 Services with 250,000 endpoints.
    ServicesLarge,
    /// Computing network policy: whole clusters, and one change. The peer is what others have published.
    Policy,
}

/// Arguments of `cargo build`, and the programs run then, with theirs.
struct Plan {
    build: &'static [&'static str],
    programs: Vec<(&'static str, Vec<PathBuf>)>,
    /// They run again on a node with a kernel of its own, on the kernel datapath.
    kernel: bool,
}

/// Name of the cluster that measures on the kernel datapath.
const KERNEL_NODE: &str = "bench";

/// What measures a node: the programs as they are shipped, and the one that drives them.
const NODE: &[&str] = &[
    "--package=carrick",
    "--package=carrick-cni",
    "--package=carrick-agent",
    "--bin=carrick",
    "--bin=carrick-cni",
    "--example=bench_node",
];

impl Suite {
    fn plan(self, target: &Path) -> Result<Plan> {
        let release = target.join("release");
        let node = |suite: &str| Plan {
            build: NODE,
            programs: vec![(
                "bench_node",
                vec![
                    suite.into(),
                    release.join("carrick"),
                    release.join("carrick-cni"),
                ],
            )],
            kernel: false,
        };
        let services = |size: &[&str]| -> Result<Plan> {
            let mut plan = node("services");
            let kube_proxy = binaries::kube_proxy(&Progress::stderr())?;
            for (_, arguments) in &mut plan.programs {
                arguments.push(kube_proxy.clone());
                arguments.extend(size.iter().map(PathBuf::from));
            }
            Ok(plan)
        };
        let python = carrick_testkit::python::install;
        Ok(match self {
            Self::Cni => node("cni"),
            Self::Agent => node("agent"),
            Self::Services => services(&[])?,
            Self::ServicesLarge => services(&["large"])?,
            Self::Datapath => Plan {
                kernel: true,
                ..node("datapath")
            },
            // The images are those that end-to-end tests run.
            Self::Cluster => Plan {
                build: &[],
                programs: Vec::new(),
                kernel: false,
            },
            Self::Policy => Plan {
                build: &["--package=carrick-policy", "--example=bench_policy"],
                programs: vec![("bench_policy", Vec::new())],
                kernel: false,
            },
            Self::Openflow => Plan {
                build: &[
                    "--package=carrick-openflow",
                    "--features=connection",
                    "--example=bench",
                    "--example=bench_memory",
                ],
                programs: vec![("bench", vec![python()?]), ("bench_memory", Vec::new())],
                kernel: false,
            },
            Self::Ovsdb => Plan {
                build: &[
                    "--package=carrick-ovsdb",
                    "--package=carrick-switch",
                    "--bin=carrick-switch",
                    "--example=bench_ports",
                    "--example=bench_restart",
                ],
                programs: vec![
                    ("bench_ports", vec![python()?]),
                    ("bench_restart", vec![release.join("carrick-switch")]),
                ],
                kernel: false,
            },
        })
    }
}

/// A figure as a program prints it.
#[derive(Debug, Deserialize)]
struct Measured {
    #[serde(flatten)]
    figure: Figure,
    /// What the goal is for: `ours` or `ratio`.
    goal_of: String,
    /// `>=` or `<=`.
    goal_sense: String,
}

/// A figure as `--json` prints it; `ratio` is our value in that of the peer.
#[derive(Debug, Deserialize, Serialize)]
struct Figure {
    name: String,
    unit: String,
    ours: f64,
    peer: Option<f64>,
    ratio: Option<f64>,
    /// None: the figure is there to be seen.
    goal: Option<f64>,
    met: Option<bool>,
}

/// Measures. Missed goals are no failure: figures of a busy machine say little.
pub fn run(args: &Args) -> Result<ExitCode> {
    let progress = Progress::stderr();
    let root = crate::root();
    let target = crate::target_dir(&root);
    let plan = args.suite.plan(&target)?;
    if !plan.build.is_empty() {
        progress.say("building (optimised)");
        let status = binaries::cargo()
            .args(["build", "--release", "--locked", "--quiet"])
            .args(plan.build)
            .status()
            .context("start cargo")?;
        ensure!(status.success(), "cargo build: {status}");
    }
    let mut figures = Vec::new();
    if args.suite == Suite::Cluster {
        let measured = cluster::figures(&progress)?;
        figures.extend(read(&serde_json::to_vec(&measured)?).context("read the figures")?);
    }
    let mut commands = Vec::new();
    for (program, arguments) in plan.programs {
        progress.say(format!("measuring: {program}"));
        let program = target.join("release/examples").join(program);
        figures.extend(measure(Command::new(&program).args(&arguments))?);
        commands.push([vec![program], arguments].concat());
    }
    if plan.kernel {
        figures.extend(in_kernel(&commands, &progress)?);
    }
    if args.json {
        let figures: Vec<_> = figures
            .into_iter()
            .map(|measured| measured.figure)
            .collect();
        crate::print(serde_json::to_string_pretty(&figures)?)?;
    } else {
        crate::print(table(&figures))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn measure(command: &mut Command) -> Result<Vec<Measured>> {
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("run {command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", output.status);
    read(&output.stdout).with_context(|| format!("read the figures of {command:?}"))
}

fn read(json: &[u8]) -> serde_json::Result<Vec<Measured>> {
    serde_json::from_slice(json)
}

/// The same on a node with a kernel of its own, which sees the machine's files.
fn in_kernel(commands: &[Vec<PathBuf>], progress: &Progress) -> Result<Vec<Measured>> {
    let spec = ClusterSpec {
        nodes: 1,
        kind: NodeKind::Kernel,
        ..ClusterSpec::new(KERNEL_NODE)
    };
    let measured = Cluster::up_afresh(&spec, progress).and_then(|cluster| {
        let node = cluster.node("node1")?;
        let mut figures = Vec::new();
        for words in commands {
            progress.say("measuring: the same on the kernel datapath");
            let mut command = node.command("env")?;
            command.arg("CARRICK_TEST_DATAPATH=system").args(words);
            figures.extend(measure(&mut command)?);
        }
        Ok(figures)
    });
    Cluster::down(KERNEL_NODE, progress)?;
    measured
}

/// A table in Markdown, columns aligned.
fn table(figures: &[Measured]) -> String {
    let head = ["figure", "unit", "ours", "peer", "ratio", "goal", "met"].map(str::to_owned);
    let rows: Vec<[String; 7]> = std::iter::once(head)
        .chain(figures.iter().map(row))
        .collect();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or_default()
    };
    let widths: [usize; 7] = std::array::from_fn(width);
    let line = |row: &[String; 7]| {
        let cells = row.iter().zip(widths);
        let cells: Vec<_> = cells
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        format!("| {} |", cells.join(" | "))
    };
    let mut lines: Vec<String> = rows.iter().map(line).collect();
    let rule: Vec<_> = widths.iter().map(|width| "-".repeat(*width)).collect();
    lines.insert(1, format!("| {} |", rule.join(" | ")));
    lines.join("\n")
}

fn row(measured: &Measured) -> [String; 7] {
    let figure = &measured.figure;
    let sense = if measured.goal_sense == ">=" {
        "≥"
    } else {
        "≤"
    };
    let times = if measured.goal_of == "ratio" {
        "×"
    } else {
        ""
    };
    let none = || "–".to_owned();
    let optional = |value: Option<f64>| value.map_or_else(none, number);
    [
        figure.name.clone(),
        figure.unit.clone(),
        number(figure.ours),
        optional(figure.peer),
        optional(figure.ratio),
        figure
            .goal
            .map_or_else(none, |goal| format!("{sense} {}{times}", number(goal))),
        figure
            .met
            .map_or_else(none, |met| if met { "yes" } else { "no" }.to_owned()),
    ]
}

/// Three digits that matter, and whole numbers whole.
fn number(value: f64) -> String {
    let digits = match value.abs() {
        _ if (value - value.round()).abs() < 1e-9 => 0,
        large if large >= 100.0 => 0,
        large if large >= 10.0 => 1,
        large if large >= 1.0 => 2,
        _ => 3,
    };
    format!("{value:.digits$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_is_a_row_and_its_json_has_seven_members() {
        let text = r#"{"name":"n","unit":"u","ours":1234.5,"peer":2,"ratio":617.25,"goal":0.95,
            "goal_of":"ratio","goal_sense":">=","met":true}"#;
        let measured: Measured = serde_json::from_str(text).unwrap();
        let want = ["n", "u", "1234", "2", "617", "≥ 0.950×", "yes"];
        assert_eq!(row(&measured), want);
        let seen = text.replace("0.95,", "null,").replace("true", "null");
        let seen: Measured = serde_json::from_str(&seen).unwrap();
        assert_eq!(row(&seen)[5..], ["–", "–"]);
        let json = serde_json::to_value(&measured.figure).unwrap();
        let members: Vec<_> = json.as_object().unwrap().keys().cloned().collect();
        assert_eq!(
            members,
            ["name", "unit", "ours", "peer", "ratio", "goal", "met"]
        );
    }
}
