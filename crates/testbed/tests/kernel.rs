//! A cluster of kernel nodes. Needs root and what hack/install installs.

mod whole;

use anyhow::{Result, ensure};
use carrick_testbed::{Cluster, Link, NodeKind};

#[test]
fn kernel_nodes_come_up_mend_and_leave_nothing() -> Result<()> {
    whole::test(NodeKind::Kernel, |cluster| {
        a_reboot_is_one(cluster)?;
        the_kernel_has_what_carrick_needs(cluster)?;
        commands_reach_a_node_without_management(cluster)
    })
}

fn a_reboot_is_one(cluster: &Cluster) -> Result<()> {
    let node = cluster.node("node2")?;
    let boot = || node.exec(&["cat", "/proc/sys/kernel/random/boot_id"]);
    let host = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let before = boot()?;
    let address = node.exec(&["cat", "/sys/class/net/eth1/address"])?;
    ensure!(before != host, "the node has the host's boot id");
    cluster.restart_node("node2")?;
    ensure!(before != boot()?, "the boot id survived a reboot");
    ensure!(
        address == node.exec(&["cat", "/sys/class/net/eth1/address"])?,
        "a reboot changed a card's address"
    );
    Ok(())
}

fn the_kernel_has_what_carrick_needs(cluster: &Cluster) -> Result<()> {
    let script = "set -e
        ip link add geneve0 type geneve external; ip link delete geneve0
        nft add table inet probe; nft delete table inet probe
        grep -qw ovs_datapath <(genl ctrl list)
        [ \"$(stat -f -c %T /sys/fs/cgroup)\" = cgroup2fs ]";
    cluster
        .node("node1")?
        .exec(&["bash", "-c", script])
        .map(drop)
}

fn commands_reach_a_node_without_management(cluster: &Cluster) -> Result<()> {
    for link in [Link::Management, Link::Transport] {
        cluster.unplug_link("node1", link)?;
    }
    cluster.node("node1")?.exec(&["true"])?;
    for link in [Link::Management, Link::Transport] {
        cluster.restore_link("node1", link)?;
    }
    Ok(())
}
