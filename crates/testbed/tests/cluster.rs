//! A cluster of namespace nodes. Needs root and what hack/install installs.

mod whole;

use carrick_testbed::NodeKind;

#[test]
fn comes_up_mends_and_leaves_nothing() -> anyhow::Result<()> {
    whole::test(NodeKind::Namespace, |_| Ok(()))
}
