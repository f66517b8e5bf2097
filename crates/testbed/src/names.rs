//! Names of what a cluster has on the host, all derived from its own name.

use anyhow::{Result, ensure};

/// Prefix of network namespaces. The dot that follows cannot be part of a cluster's or node's name,
/// so no two clusters' names meet.
pub const PREFIX: &str = "carrick";
/// Parent of every cluster's cgroup.
pub const CGROUP: &str = "carrick-testbed";
/// The control plane's machine.
pub const CONTROL_PLANE: &str = "control-plane";

/// Checks a cluster's name.
///
/// # Errors
/// When it is not 1 to 32 of `a-z`, `0-9`, `-`, beginning and ending with a letter or digit.
pub fn validate(name: &str) -> Result<()> {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    ensure!(
        !name.is_empty()
            && name.len() <= 32
            && name.bytes().all(inner)
            && !name.starts_with('-')
            && !name.ends_with('-'),
        "cluster name {name:?}: 1 to 32 lower-case letters, digits and dashes are allowed, with a letter or digit at both ends"
    );
    Ok(())
}

/// The network namespace of the control plane, which holds the bridges.
#[must_use]
pub fn fabric(cluster: &str) -> String {
    format!("{PREFIX}.{cluster}")
}

/// The network namespace of a machine.
#[must_use]
pub fn netns(cluster: &str, machine: &str) -> String {
    if machine == CONTROL_PLANE {
        fabric(cluster)
    } else {
        format!("{PREFIX}.{cluster}.{machine}")
    }
}

/// Whether a network namespace belongs to the cluster.
#[must_use]
pub fn owns_netns(cluster: &str, netns: &str) -> bool {
    let fabric = fabric(cluster);
    netns == fabric
        || netns
            .strip_prefix(&fabric)
            .is_some_and(|rest| rest.starts_with('.'))
}

/// The cgroup of a cluster, relative to a hierarchy's root.
#[must_use]
pub fn cgroup(cluster: &str) -> String {
    format!("{CGROUP}/{cluster}")
}

/// The host's link to the cluster's management bridge.
#[must_use]
pub fn host_link(index: u8) -> String {
    format!("ckh{index}")
}

/// The name of the `number`th node, counted from 1.
#[must_use]
pub fn node(number: usize) -> String {
    format!("node{number}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clusters_do_not_own_each_others_namespaces() {
        assert!(owns_netns("a", &netns("a", "node1")));
        assert!(owns_netns("a", &netns("a", CONTROL_PLANE)));
        assert!(!owns_netns("a", &netns("a-node1", CONTROL_PLANE)));
        assert!(!owns_netns("a", &netns("ab", "node1")));
        for bad in ["", "A", "a.b", "-a", "a-", "a/b", &"a".repeat(33)] {
            validate(bad).unwrap_err();
        }
        validate("e2e-dual").unwrap();
    }
}
