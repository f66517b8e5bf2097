//! What must hold after every event.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use super::event::{Event, Lasting, Part, Strike, Way};
use super::expect::Allowance;
use crate::bed::{Bed, NAMESPACE};
use crate::program::{difference, program, youngest};
use crate::traffic::{FlowKey, Loss, Status};
use crate::wait;

/// How long the agents may take to end at what was before.
const SETTLE: Duration = Duration::from_mins(1);
/// Descriptors that may come beside those of the beginning: connections that are being made anew.
const MORE_DESCRIPTORS: usize = 32;
/// Processes that may come: shims of pods that go.
const MORE_PROCESSES: usize = 20;

/// A node's flows, groups and meters, and how old the youngest flow is.
#[derive(Debug)]
struct Program {
    lines: Vec<String>,
    youngest: f64,
}

/// The programs of all nodes.
#[derive(Debug)]
pub struct Programs(BTreeMap<String, Program>);

impl Programs {
    /// Reads them.
    pub fn read(bed: &Bed) -> Result<Self> {
        let mut all = BTreeMap::new();
        for node in bed.node_names() {
            let program = Program {
                lines: program(bed, &node)?,
                youngest: youngest(bed, &node)?,
            };
            all.insert(node, program);
        }
        Ok(Self(all))
    }

    /// Invariant 3: after an event that started a switch anew the programs are the same lines, after every
    /// other one the same flows. Where nodes came or went nothing is compared.
    pub fn kept(&self, bed: &Bed, event: Event) -> Result<()> {
        let Some(fresh) = remade(event) else {
            return Ok(());
        };
        for (place, (node, before)) in self.0.iter().enumerate() {
            wait::until(&format!("{node} to hold the flows it held"), SETTLE, || {
                let now = program(bed, node)?;
                ensure!(before.lines == now, "{}", difference(&before.lines, &now));
                Ok(true)
            })?;
            if fresh.contains(&place) {
                continue;
            }
            let now = youngest(bed, node)?;
            ensure!(
                now >= before.youngest,
                "{node}: the youngest flow was {} s old and is {now} s old now: flows were written again",
                before.youngest
            );
        }
        Ok(())
    }
}

/// On which nodes an event writes all flows anew; `None` when the flows themselves may change.
fn remade(event: Event) -> Option<BTreeSet<usize>> {
    let switch = |part: Part| match part {
        Part::Vswitchd(node) | Part::Database(node) => Some(node),
        _ => None,
    };
    match event {
        Event::Strike(Strike::PowerOff(_) | Strike::RegisterAgain(_)) => None,
        Event::Strike(Strike::Kill(part)) => Some(switch(part).into_iter().collect()),
        Event::Strike(Strike::KillTwo(one, two)) => {
            Some([one, two].into_iter().filter_map(switch).collect())
        }
        _ => Some(BTreeSet::new()),
    }
}

/// What every node had when the run began.
#[derive(Debug)]
pub struct Baseline {
    nodes: BTreeMap<String, Holdings>,
}

/// What a node holds that must not grow, or must not be other than ours.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Holdings {
    /// nftables tables and bridges of Open vSwitch.
    tables: String,
    /// Open files of each of our programs.
    descriptors: BTreeMap<String, usize>,
    /// Processes on the node.
    processes: usize,
}

impl Holdings {
    fn read(bed: &Bed, node: &str) -> Result<Self> {
        let tables = bed.node(
            node,
            "nft list tables | sort; ovs-vsctl --db=unix:/run/carrick/openvswitch/db.sock list-br | sort",
        )?;
        // One program may run twice on a node: the larger one counts.
        let script = "for name in '[c]arrick agent' '[c]arrick controller' '[c]arrick operator' '[o]vs-vswitchd' '[o]vsdb-server'; do \
            most=0; for p in $(pgrep -f \"$name\"); do n=$(ls /proc/$p/fd 2>/dev/null | wc -l); [ $n -gt $most ] && most=$n; done; \
            echo \"${name//[\\[\\]]/}=$most\"; done; echo \"processes=$(ls -d /proc/[0-9]* | wc -l)\"";
        let out = bed.node(node, script)?;
        let mut descriptors = BTreeMap::new();
        let mut processes = 0;
        for line in out.lines() {
            let (name, count) = line.split_once('=').context("a line without =")?;
            let count: usize = count.trim().parse().with_context(|| line.to_owned())?;
            if name == "processes" {
                processes = count;
            } else {
                descriptors.insert(name.to_owned(), count);
            }
        }
        Ok(Self {
            tables,
            descriptors,
            processes,
        })
    }

    /// What is wrong with these, compared with those of the beginning.
    fn grown_from(&self, before: &Self) -> Vec<String> {
        let mut wrong = Vec::new();
        if self.tables != before.tables {
            wrong.push(format!(
                "tables and bridges were\n{}and are\n{}",
                before.tables, self.tables
            ));
        }
        for (name, count) in &self.descriptors {
            let was = before.descriptors.get(name).copied().unwrap_or_default();
            // A leader may have moved here: what did not run then has nothing to be compared with.
            if was > 0 && *count > was + MORE_DESCRIPTORS {
                wrong.push(format!("{name} had {was} files open and has {count}"));
            }
        }
        if self.processes > before.processes + MORE_PROCESSES {
            wrong.push(format!(
                "there were {} processes and are {}",
                before.processes, self.processes
            ));
        }
        wrong
    }
}

impl Baseline {
    /// Reads it.
    pub fn read(bed: &Bed) -> Result<Self> {
        let nodes = bed.node_names().into_iter();
        let nodes = nodes
            .map(|node| Holdings::read(bed, &node).map(|holdings| (node, holdings)))
            .collect::<Result<_>>()?;
        Ok(Self { nodes })
    }

    /// Nothing piles up and nobody left a table behind.
    pub fn holds(&self, bed: &Bed) -> Result<()> {
        for (node, before) in &self.nodes {
            wait::until(&format!("{node} to hold what it held"), SETTLE, || {
                let wrong = Holdings::read(bed, node)?.grown_from(before);
                ensure!(wrong.is_empty(), "{}", wrong.join("; "));
                Ok(true)
            })?;
        }
        Ok(())
    }
}

/// Invariant 4 on the nodes: the switch holds what its agent last committed and nothing else.
pub fn only_our_flows(bed: &Bed) -> Result<()> {
    for node in bed.node_names() {
        wait::until(
            &format!("the switch of {node} to hold the commit"),
            SETTLE,
            || {
                let commit = bed.agent_json(&node, "/v1/flows")?;
                let committed = commit["flows"].as_array().map_or(0, Vec::len);
                let out = bed.node(
                    &node,
                    "ovs-ofctl -O OpenFlow15 dump-flows unix:/run/carrick/openvswitch/br-int.mgmt | grep -c actions=",
                )?;
                let held: usize = out.trim().parse().with_context(|| out.clone())?;
                ensure!(
                    held == committed,
                    "it holds {held} flows, {committed} were committed"
                );
                Ok(true)
            },
        )?;
    }
    Ok(())
}

/// Invariant 4 in Kubernetes: what the operator made has no other writer of its spec.
pub fn one_writer(bed: &Bed) -> Result<()> {
    let items = bed.list(&[
        "daemonsets,configmaps,services,serviceaccounts",
        "-n",
        NAMESPACE,
        "-l",
        "app.kubernetes.io/managed-by=carrick-operator",
        "--show-managed-fields",
    ])?;
    ensure!(!items.is_empty(), "the operator manages nothing");
    for item in items {
        for entry in item["metadata"]["managedFields"]
            .as_array()
            .into_iter()
            .flatten()
        {
            let manager = entry["manager"].as_str().unwrap_or_default();
            ensure!(
                !entry["subresource"].is_null()
                    || manager == "carrick-operator"
                    || manager == "kube-controller-manager",
                "{} {} has the writer {manager:?}",
                item["kind"],
                item["metadata"]["name"]
            );
        }
    }
    Ok(())
}

/// Addresses, attachments, ports, links and pods are as many as each other on every node.
pub fn nothing_leaks(bed: &Bed) -> Result<()> {
    for node in bed.node_names() {
        wait::until(&format!("{node} to hold its pods only"), SETTLE * 2, || {
            let held = held(bed, &node)?;
            let pods = pods_on(bed, &node)?;
            ensure!(
                held.values().all(|count| *count == pods),
                "{pods} pods, but {held:?}"
            );
            Ok(true)
        })?;
    }
    Ok(())
}

/// How many there are of each thing that a pod has one of.
fn held(bed: &Bed, node: &str) -> Result<BTreeMap<&'static str, usize>> {
    let count = |script: &str| -> Result<usize> {
        let out = bed.node(node, script)?;
        out.trim()
            .parse()
            .with_context(|| format!("{script}: {out:?}"))
    };
    let attachments = bed.agent_json(node, "/v1/attachments")?;
    let addresses = bed.agent_json(node, "/v1/addresses")?;
    Ok(BTreeMap::from([
        (
            "attachments",
            attachments["attachments"].as_array().map_or(0, Vec::len),
        ),
        (
            "addresses held",
            addresses["held"].as_array().map_or(0, Vec::len),
        ),
        (
            "ports",
            count(
                "ovs-vsctl --db=unix:/run/carrick/openvswitch/db.sock list-ports br-int | grep -c '^car[0-9a-f]\\{12\\}' | cat",
            )?,
        ),
        (
            "links",
            count("ip -o link show | grep -c ' car[0-9a-f]\\{12\\}' | cat")?,
        ),
    ]))
}

/// Pods on a node that are in the pod network.
fn pods_on(bed: &Bed, node: &str) -> Result<usize> {
    let field = format!("spec.nodeName={node}");
    let pods = bed.list(&["pods", "-A", "--field-selector", &field])?;
    Ok(pods
        .iter()
        .filter(|pod| {
            pod["spec"]["hostNetwork"] != true
                && !["Succeeded", "Failed"]
                    .iter()
                    .any(|phase| pod["status"]["phase"] == *phase)
        })
        .count())
}

/// Invariant 1: no way lost more than it may, and at most `refusals` connections were not made.
pub fn allowed(loss: &Loss, way: Way, allowance: Allowance, refusals: u64) -> Result<()> {
    let (most, may_break) = match allowance {
        Allowance::Gap(most) => (most, false),
        Allowance::Break(most) => (most, true),
        Allowance::Ends => return Ok(()),
    };
    if loss.gap > most {
        bail!(
            "{way}: no ping was answered for {} ms ({} lost), {} ms are allowed",
            loss.gap.as_millis(),
            loss.pings,
            most.as_millis()
        );
    }
    if loss.streams > 0 && !may_break {
        bail!("{way}: {} streams broke: {}", loss.streams, loss.reason);
    }
    if loss.connections > refusals {
        bail!("{way}: {} connections were not made", loss.connections);
    }
    Ok(())
}

/// Invariant 2 (that nothing passed was looked at when these were read): those whom no rule accepts have tried.
///
/// # Errors
/// One of them has sent nothing meanwhile, so that its silence proves nothing.
pub fn tried(before: &BTreeMap<FlowKey, Status>, after: &BTreeMap<FlowKey, Status>) -> Result<()> {
    for ((way, address), status) in after {
        let sent = status.pings.judged;
        let known = before.get(&(*way, *address));
        let known = known.map_or(0, |before| before.pings.judged);
        // One that was started since counts from the beginning.
        ensure!(
            sent > 0 && sent != known,
            "{way} to {address}, which no rule accepts, was not tried"
        );
    }
    Ok(())
}

/// Whether the API server answers while it lasts, so that everything can be checked.
pub fn can_ask(open: Option<Lasting>) -> bool {
    !open.is_some_and(Lasting::stops_kubernetes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loss(gap_ms: u64, streams: u64) -> Loss {
        Loss {
            pings: gap_ms / 10,
            gap: Duration::from_millis(gap_ms),
            streams,
            reason: "reset".to_owned(),
            connections: 0,
        }
    }

    #[test]
    fn a_way_is_held_to_its_allowance() {
        let second = Duration::from_secs(1);
        let is = |loss: &Loss, allowance| allowed(loss, Way::Within(0), allowance, 0).is_ok();
        assert!(is(&loss(1000, 0), Allowance::Gap(second)));
        assert!(!is(&loss(1010, 0), Allowance::Gap(second)));
        assert!(!is(&loss(0, 1), Allowance::Gap(second)));
        assert!(is(&loss(0, 1), Allowance::Break(second)));
        assert!(!is(&loss(10, 0), Allowance::Gap(Duration::ZERO)));
        assert!(is(&loss(99_999, 9), Allowance::Ends));
        let mut refused = loss(0, 0);
        refused.connections = 1;
        assert!(allowed(&refused, Way::Within(0), Allowance::Gap(second), 1).is_ok());
        assert!(allowed(&refused, Way::Within(0), Allowance::Gap(second), 0).is_err());
    }

    #[test]
    fn who_did_not_try_proves_nothing() {
        let key = (Way::Within(0), [10, 0, 0, 1].into());
        let judged = |count| {
            let mut status = Status::default();
            status.pings.judged = count;
            BTreeMap::from([(key, status)])
        };
        assert!(tried(&judged(5), &judged(9)).is_ok());
        assert!(tried(&judged(900), &judged(9)).is_ok());
        assert!(tried(&judged(9), &judged(9)).is_err());
        assert!(tried(&BTreeMap::new(), &judged(0)).is_err());
        assert!(tried(&BTreeMap::new(), &BTreeMap::new()).is_ok());
    }

    #[test]
    fn what_grew_is_told_by_its_name() {
        let before = Holdings {
            tables: "table inet carrick\n".to_owned(),
            descriptors: BTreeMap::from([("agent".to_owned(), 40), ("operator".to_owned(), 0)]),
            processes: 100,
        };
        assert_eq!(before.grown_from(&before), Vec::<String>::new());
        let mut after = before.clone();
        after
            .descriptors
            .insert("agent".to_owned(), 40 + MORE_DESCRIPTORS);
        after.descriptors.insert("operator".to_owned(), 500);
        assert_eq!(after.grown_from(&before), Vec::<String>::new());
        after
            .descriptors
            .insert("agent".to_owned(), 41 + MORE_DESCRIPTORS);
        after.tables.push_str("table ip left\n");
        after.processes = 101 + MORE_PROCESSES;
        let wrong = after.grown_from(&before).join(" ");
        for word in ["agent had 40", "table ip left", "100 processes"] {
            assert!(wrong.contains(word), "{wrong}");
        }
    }

    #[test]
    fn only_a_switch_that_starts_writes_its_flows_anew() {
        let kill = |part| remade(Event::Strike(Strike::Kill(part)));
        assert_eq!(kill(Part::Agent(0)), Some(BTreeSet::new()));
        assert_eq!(kill(Part::Vswitchd(1)), Some(BTreeSet::from([1])));
        assert_eq!(remade(Event::Strike(Strike::PowerOff(0))), None);
    }
}
