//! A cluster of namespace nodes. Needs root and what hack/install installs.

mod whole;

use anyhow::ensure;
use carrick_testbed::{Cluster, ClusterSpec, NodeKind, Progress};

#[test]
fn comes_up_mends_and_leaves_nothing() -> anyhow::Result<()> {
    whole::test(NodeKind::Namespace, |_| Ok(()))
}

/// Bug: a killed test left its cluster, the next of that name went on in it, and `helm install` said that the name
/// was in use.
#[test]
fn what_a_killed_test_did_is_gone_for_the_next() -> anyhow::Result<()> {
    let name = format!("test-left-{}", std::process::id());
    let guard = whole::Guard::new(&name);
    let spec = ClusterSpec {
        nodes: 1,
        ..ClusterSpec::new(&name)
    };
    let left = Cluster::up_afresh(&spec, &Progress::stderr())?;
    left.kubectl(&["create", "namespace", "left"])?;
    let next = Cluster::up_afresh(&spec, &Progress::stderr())?;
    let namespaces = next.kubectl(&["get", "namespaces", "-o=name"])?;
    ensure!(!namespaces.contains("namespace/left"), "left: {namespaces}");
    drop(guard);
    Ok(())
}
