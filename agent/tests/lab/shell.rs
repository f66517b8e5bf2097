//! Waiting, and shell lines in a namespace.

use std::process::Command;
use std::time::{Duration, Instant};

use super::LIMIT;

/// Waits until `condition` holds.
pub fn wait(what: &str, condition: impl FnMut() -> bool) {
    wait_within(LIMIT, what, condition);
}

/// The same with a limit of its own.
pub fn wait_within(limit: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(
            start.elapsed() < limit,
            "waited {limit:?} in vain for {what}"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Runs a shell line in a namespace; its output and whether it succeeded.
pub fn in_netns(netns: &str, line: &str) -> (bool, String) {
    let output = Command::new("ip")
        .args(["netns", "exec", netns, "sh", "-c", line])
        .output()
        .expect("iproute2 is installed");
    let text = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    (output.status.success(), text)
}

pub fn must(netns: &str, line: &str) -> String {
    let (ok, text) = in_netns(netns, line);
    assert!(ok, "{line}: {text}");
    text
}

pub fn ping(netns: &str, address: &str) -> bool {
    in_netns(
        netns,
        &format!("ping -c 10 -i 0.2 -W 1 -w 10 {address} | grep -q 'bytes from'"),
    )
    .0
}

/// Everything of a node's stack that a cleanup must give back: links, addresses, routes, rules,
/// sysctls.
pub fn fingerprint(netns: &str) -> String {
    let mut text = String::new();
    for line in [
        // It complains of a peer whose namespace has no name here.
        "ip -o link show 2>/dev/null | sed 's/^[0-9]*: //' | awk '{print $1}' | sed 's/@.*//' | sort",
        "ip -o addr show | awk '{print $2,$3,$4}' | grep -v fe80 | sort",
        "ip route show | sort",
        "ip -6 route show | grep -v fe80 | grep -v multicast | sed 's/ pref.*//' | sort",
        "nft list ruleset",
        "sysctl -n net.ipv4.ip_forward net.ipv6.conf.all.forwarding",
    ] {
        text += &must(netns, line);
        text += "--\n";
    }
    text
}
