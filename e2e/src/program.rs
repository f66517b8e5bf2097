//! What a switch was made to hold, as text that two looks can be compared by.

use anyhow::{Context as _, Result, ensure};

use crate::bed::Bed;

/// The OpenFlow socket of br-int on a node.
const TARGET: &str = "unix:/run/carrick/openvswitch/br-int.mgmt";
/// Parts of a line that move while nothing is written.
const MOVING: [&str; 5] = [
    "duration=",
    "n_packets=",
    "n_bytes=",
    "idle_age=",
    "hard_age=",
];

/// Flows, groups and meters of a node without what counts or ages, sorted.
pub fn program(bed: &Bed, node: &str) -> Result<Vec<String>> {
    let mut all = Vec::new();
    for verb in ["dump-flows", "dump-groups", "meter-stats"] {
        let out = bed.node(node, &format!("ovs-ofctl -O OpenFlow15 {verb} {TARGET}"))?;
        let lines = out
            .lines()
            .filter(|line| line.contains('=') && !line.contains("reply"));
        all.extend(lines.map(still));
    }
    all.sort();
    ensure!(all.len() > 20, "only {} flows on {node}", all.len());
    Ok(all)
}

/// A line without what moves.
fn still(line: &str) -> String {
    let moves = |part: &&str| {
        let part = part.trim_start();
        !MOVING.iter().any(|counter| part.starts_with(counter))
    };
    let kept: Vec<&str> = line.split(", ").filter(moves).collect();
    kept.join(", ")
}

/// The youngest flow's age in seconds: one that was deleted and added again is young.
pub fn youngest(bed: &Bed, node: &str) -> Result<f64> {
    let script = format!(
        "ovs-ofctl -O OpenFlow15 dump-flows {TARGET} | grep -o 'duration=[0-9.]*' | cut -d= -f2 | sort -n | head -1"
    );
    let out = bed.node(node, &script)?;
    out.trim()
        .parse()
        .with_context(|| format!("no duration in {out:?}"))
}

/// What is in one of two programs only.
pub fn difference(before: &[String], after: &[String]) -> String {
    let gone = before
        .iter()
        .filter(|line| !after.contains(line))
        .map(|line| format!("- {line}"));
    let new = after
        .iter()
        .filter(|line| !before.contains(line))
        .map(|line| format!("+ {line}"));
    gone.chain(new).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_counts_or_ages_is_left_out() {
        let line = " cookie=0x1, duration=3.5s, table=0, n_packets=9, n_bytes=1, priority=1,ip actions=drop";
        assert_eq!(
            still(line),
            " cookie=0x1, table=0, priority=1,ip actions=drop"
        );
    }

    #[test]
    fn a_difference_says_which_side_a_line_is_of() {
        let lines = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(difference(&lines("a b"), &lines("b c")), "- a\n+ c");
        assert_eq!(difference(&lines("a"), &lines("a")), "");
    }
}
