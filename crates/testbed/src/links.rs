//! Namespaces, bridges and links of a cluster, and what tests do to the links.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};
use ipnet::IpNet;

use crate::addressing::Addressing;
use crate::exec;
use crate::names;

/// A node's link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// `eth0`: API server, kubelet, host.
    Management,
    /// `eth1`: pod traffic between nodes.
    Transport,
}

impl Link {
    fn bridge(self) -> &'static str {
        match self {
            Self::Management => "mgmt",
            Self::Transport => "transport",
        }
    }

    fn interface(self) -> &'static str {
        match self {
            Self::Management => "eth0",
            Self::Transport => "eth1",
        }
    }

    /// The other end, in the fabric.
    fn port(self, node: usize) -> String {
        match self {
            Self::Management => format!("m{node}"),
            Self::Transport => format!("t{node}"),
        }
    }
}

/// What a link lets through towards its node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// So many kbit/s.
    Rate {
        /// Bits per second, in thousands.
        kbit: u32,
    },
    /// So many packets of a hundred are lost, chosen at random.
    Loss {
        /// Percent, 0 to 100.
        percent: u8,
    },
    /// Longer packets are lost, and nobody is told: as a fabric does whose MTU is smaller than it says.
    Size {
        /// The most bytes of an IP packet that gets through.
        bytes: u16,
    },
}

/// Whether a network namespace exists.
pub fn netns_exists(netns: &str) -> bool {
    Path::new("/run/netns").join(netns).exists()
}

/// Makes a namespace with loopback up.
fn add_netns(netns: &str) -> Result<()> {
    exec::output(Command::new("ip").args(["netns", "add", netns]))?;
    exec::ip_batch(Some(netns), &["link set lo up".to_owned()])
}

/// Makes the fabric: its namespace, both bridges and the host's link.
pub fn add_fabric(cluster: &str, index: u8, addressing: Addressing) -> Result<()> {
    let (fabric, host) = (names::fabric(cluster), names::host_link(index));
    add_netns(&fabric)?;
    let mut lines = Vec::new();
    for bridge in [Link::Management.bridge(), Link::Transport.bridge()] {
        lines.push(format!(
            "link add {bridge} type bridge forward_delay 0 mcast_snooping 0"
        ));
        lines.push(format!("link set {bridge} up"));
    }
    for address in addressing.control_plane() {
        lines.push(address_line(address, Link::Management.bridge()));
    }
    exec::ip_batch(Some(&fabric), &lines)?;
    exec::ip_batch(
        None,
        &[format!(
            "link add {host} type veth peer name host netns {fabric}"
        )],
    )?;
    exec::ip_batch(Some(&fabric), &["link set host master mgmt up".to_owned()])?;
    let mut lines: Vec<_> = addressing
        .host()
        .into_iter()
        .map(|a| address_line(a, &host))
        .collect();
    lines.push(format!("link set {host} up"));
    exec::ip_batch(None, &lines).context("give the host an address on the management network")
}

/// Makes a node's namespace and its two links.
pub fn add_node(cluster: &str, node: &str, number: usize, addressing: Addressing) -> Result<()> {
    let (fabric, netns) = (names::fabric(cluster), names::netns(cluster, node));
    add_netns(&netns)?;
    let mut outside = Vec::new();
    for link in [Link::Management, Link::Transport] {
        let (port, interface) = (link.port(number), link.interface());
        // A namespace goes some time after its name and its last process, and its links with it. Absent is fine.
        exec::output(Command::new("ip").args(["-n", &fabric, "link", "delete", &port])).ok();
        outside.push(format!(
            "link add {port} type veth peer name {interface} netns {netns}"
        ));
        outside.push(format!("link set {port} master {} up", link.bridge()));
    }
    exec::ip_batch(Some(&fabric), &outside)?;
    exec::ip_batch(Some(&netns), &inside(number, addressing))
}

/// What `ip -batch` does on a node that has its interfaces.
fn inside(number: usize, addressing: Addressing) -> Vec<String> {
    let mut lines = Vec::new();
    for (link, addresses) in [
        (Link::Management, addressing.node(number)),
        (Link::Transport, addressing.node_transport(number)),
    ] {
        let interface = link.interface();
        lines.push(format!("link set {interface} up"));
        lines.extend(
            addresses
                .into_iter()
                .map(|address| address_line(address, interface)),
        );
    }
    // The way out of the cluster: nothing answers there but the control plane.
    lines.extend(
        addressing
            .control_plane()
            .into_iter()
            .map(|via| format!("route add default via {}", via.addr())),
    );
    lines
}

/// The links of a kernel node.
#[derive(Debug)]
pub struct GuestLinks {
    /// Taps in the fabric, in the order of the node's interfaces; the last is the console's.
    pub taps: Vec<String>,
    /// What `ip -batch` does on the node to the first two.
    pub inside: Vec<String>,
    /// What it does to the console's interface, `vec2`.
    pub console: Vec<String>,
    /// Where the console listens, as the fabric sees it.
    pub console_address: IpAddr,
}

/// Makes a kernel node's taps, which may be there from before its reboot.
///
/// The console is a link of its own that only the fabric's end knows: commands reach the node
/// whatever a test does to the other two.
pub fn add_guest(cluster: &str, number: usize, addressing: Addressing) -> Result<GuestLinks> {
    let fabric = names::fabric(cluster);
    let console = format!("c{number}");
    let net = |host: u8| Ipv4Addr::new(169, 254, u8::try_from(number).unwrap_or(u8::MAX), host);
    let mut taps = vec![Link::Management.port(number), Link::Transport.port(number)];
    taps.push(console.clone());
    // The ends of a node's links go with it, as a veth's do; so do limits on them.
    remove_guest(cluster, number)?;
    let mut outside: Vec<_> = taps
        .iter()
        .map(|tap| format!("tuntap add dev {tap} mode tap"))
        .collect();
    let mut lines = Vec::new();
    for link in [Link::Management, Link::Transport] {
        outside.push(format!(
            "link set {} master {} up",
            link.port(number),
            link.bridge()
        ));
        // The same after a reboot, as a real card's is.
        lines.push(format!(
            "link set {} address 02:ca:00:00:{:02x}:{number:02x}",
            link.interface(),
            link as u8
        ));
    }
    outside.push(format!("address add {}/30 dev {console}", net(1)));
    outside.push(format!("link set {console} up"));
    exec::ip_batch(Some(&fabric), &outside)?;
    lines.extend(inside(number, addressing));
    Ok(GuestLinks {
        taps,
        inside: lines,
        console: vec![
            "link set lo up".to_owned(),
            format!("address add {}/30 dev vec2", net(2)),
            "link set vec2 up".to_owned(),
        ],
        console_address: net(2).into(),
    })
}

/// Removes a kernel node's taps. Absent is fine.
pub fn remove_guest(cluster: &str, number: usize) -> Result<()> {
    let fabric = names::fabric(cluster);
    let listed = exec::output(Command::new("ip").args(["-n", &fabric, "-o", "link", "show"]))?;
    let taps = [
        Link::Management.port(number),
        Link::Transport.port(number),
        format!("c{number}"),
    ];
    let present: Vec<_> = taps
        .iter()
        .filter(|tap| listed.contains(&format!(" {tap}: ")))
        .map(|tap| format!("link delete {tap}"))
        .collect();
    if present.is_empty() {
        return Ok(());
    }
    exec::ip_batch(Some(&fabric), &present)
}

/// Removes a namespace with every link in it. Absent is fine.
pub fn remove_netns(netns: &str) -> Result<()> {
    if netns_exists(netns) {
        exec::output(Command::new("ip").args(["netns", "delete", netns]))?;
    }
    Ok(())
}

/// Removes the host's link. Absent is fine.
pub fn remove_host_link(index: u8) -> Result<()> {
    let link = names::host_link(index);
    if Path::new("/sys/class/net").join(&link).exists() {
        exec::output(Command::new("ip").args(["link", "delete", &link]))?;
    }
    Ok(())
}

/// Takes a node's link off its bridge: frames vanish silently, the interface keeps its carrier, as
/// when a switch further away fails.
pub fn cut(cluster: &str, node: usize, link: Link) -> Result<()> {
    exec::ip_batch(
        Some(&names::fabric(cluster)),
        &[format!("link set {} nomaster", link.port(node))],
    )
}

/// Puts a node's link back and lifts its limits.
pub fn restore(cluster: &str, node: usize, link: Link) -> Result<()> {
    let (fabric, port) = (names::fabric(cluster), link.port(node));
    exec::ip_batch(
        Some(&fabric),
        &[format!("link set {port} master {} up", link.bridge())],
    )?;
    // Absent limits are fine.
    exec::output(exec::in_netns(&fabric, "tc").args(["qdisc", "delete", "dev", &port, "root"]))
        .ok();
    exec::output(exec::in_netns(&fabric, "nft").args(["delete", "table", "bridge", &port])).ok();
    Ok(())
}

/// Takes a node's carrier away, or gives it back: as pulling the cable out of the node.
pub fn set_carrier(cluster: &str, node: usize, link: Link, state: &str) -> Result<()> {
    exec::ip_batch(
        Some(&names::fabric(cluster)),
        &[format!("link set {} {state}", link.port(node))],
    )
}

/// Limits what reaches a node over a link.
pub fn limit(cluster: &str, node: usize, link: Link, limit: Limit) -> Result<()> {
    let (fabric, port) = (names::fabric(cluster), link.port(node));
    match limit {
        Limit::Rate { kbit } => exec::output(exec::in_netns(&fabric, "tc").args([
            "qdisc",
            "replace",
            "dev",
            &port,
            "root",
            "tbf",
            "rate",
            &format!("{kbit}kbit"),
            "burst",
            "32kb",
            "latency",
            "100ms",
        ]))
        .map(drop),
        Limit::Loss { percent } => {
            // nft takes 0 to 99 here; everything is every packet.
            let chosen = if percent < 100 {
                format!(" numgen random mod 100 < {percent}")
            } else {
                String::new()
            };
            drop_towards(&fabric, &port, &chosen)
        }
        Limit::Size { bytes } => drop_towards(&fabric, &port, &format!(" meta length > {bytes}")),
    }
}

/// Drops frames that leave by `port` and match.
fn drop_towards(fabric: &str, port: &str, matching: &str) -> Result<()> {
    let rules = format!(
        "table bridge {port}\ndelete table bridge {port}\ntable bridge {port} {{\n chain towards {{\n  \
         type filter hook postrouting priority 0;\n  \
         oifname \"{port}\"{matching} drop\n }}\n}}\n"
    );
    exec::output_with_input(exec::in_netns(fabric, "nft").args(["-f", "-"]), &rules).map(drop)
}

/// Without duplicate address detection an IPv6 address serves at once.
fn address_line(address: IpNet, interface: &str) -> String {
    let nodad = if matches!(address, IpNet::V6(_)) {
        " nodad"
    } else {
        ""
    };
    format!("address add {address} dev {interface}{nodad}")
}
