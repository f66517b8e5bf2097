//! What a node looks like, as text to compare before and after.

use anyhow::Result;

use crate::bed::Bed;

/// Everything on a node that Carrick may touch. Neighbour entries, counters and what the kernel
/// makes by itself (link-local and multicast routes) live their own life and are left out.
const SCRIPT: &str = r"
echo '# links'; ip -o link show | sed 's/^[0-9]*: //' | awk '{print $1}' | sort
echo '# addresses'; ip -o addr show scope global | awk '{print $2,$4}' | sort
echo '# routes'; ip -4 route show | sort; ip -6 route show | grep -v '^fe80' | sed 's/ expires [0-9]*sec//' | sort
echo '# rules'; ip rule show; ip -6 rule show
echo '# nftables'; nft --stateless list ruleset
echo '# sysctls'; cat /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv6/conf/all/forwarding
echo '# cni'; find /etc/cni/net.d /opt/cni/bin -type f -o -type l | sort
echo '# state'; find /var/lib/carrick /run/carrick -mindepth 1 2>/dev/null
true";

/// The portrait of a node.
pub fn take(bed: &Bed, node: &str) -> Result<String> {
    bed.node(node, SCRIPT)
}
