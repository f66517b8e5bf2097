//! What a pod may not pretend to be. The frames are made with the pod's own tools; the pipeline's
//! own tests (crates/datapath/tests) forge what these cannot.

use anyhow::{Result, ensure};
use carrick_e2e::bed::Bed;
use carrick_e2e::pod::{self, Pod};

use crate::Test;

pub fn tests() -> Vec<Test> {
    vec![
        ("another_mac_is_dropped", mac),
        ("another_address_is_dropped", address),
        ("the_gateways_address_is_dropped", gateway_address),
        ("gratuitous_arp_for_the_gateway_is_dropped", arp),
        (
            "neighbour_discovery_from_another_address_is_dropped",
            neighbour_discovery,
        ),
    ]
}

/// The liar and its victim, on one node and on two.
fn pair(bed: &Bed) -> Result<(Pod, Pod, Pod)> {
    let namespace = bed.namespace("spoof")?;
    Ok((
        Pod::create(bed, &namespace, "liar", bed.node_name(0))?,
        Pod::create(bed, &namespace, "near", bed.node_name(0))?,
        Pod::create(bed, &namespace, "far", bed.node_name(1))?,
    ))
}

/// Runs `lie`, checks that no ping passes, runs `repent`, checks that pings pass again.
fn lie(bed: &Bed, lie: &str, repent: &str, source: impl Fn(&Pod) -> String) -> Result<()> {
    let (liar, near, far) = pair(bed)?;
    for victim in [&near, &far] {
        for to in &victim.addresses {
            liar.run(bed, &pod::ping(*to))?;
        }
    }
    liar.run(bed, lie)?;
    let mut passed = Vec::new();
    for victim in [&near, &far] {
        for to in &victim.addresses {
            let script = format!("ping -n -c 2 -i 0.2 -W 1 {} {to}", source(&liar));
            if liar.run(bed, &script).is_ok() {
                passed.push(*to);
            }
        }
    }
    liar.run(bed, repent)?;
    ensure!(
        passed.is_empty(),
        "after {lie:?} pings still passed to {passed:?}"
    );
    for to in &far.addresses {
        liar.run(bed, &pod::ping(*to))?;
    }
    Ok(())
}

fn mac(bed: &Bed) -> Result<()> {
    let (liar, ..) = pair(bed)?;
    let own = liar
        .run(bed, "cat /sys/class/net/eth0/address")?
        .trim()
        .to_owned();
    // A MAC can be changed while the link is up (IFF_LIVE_ADDR_CHANGE of veth), so routes stay.
    lie(
        bed,
        "ip link set eth0 address 02:00:00:00:00:99",
        &format!("ip link set eth0 address {own}"),
        |_| String::new(),
    )
}

fn address(bed: &Bed) -> Result<()> {
    let (liar, near, _) = pair(bed)?;
    for (own, other) in liar.addresses.iter().zip(&near.addresses) {
        ensure!(own != other, "two pods hold {own}");
    }
    let add =
        "ip -4 addr add 203.0.113.7/32 dev eth0; ip -6 addr add 2001:db8::7/128 dev eth0 nodad";
    let del = "ip -4 addr del 203.0.113.7/32 dev eth0; ip -6 addr del 2001:db8::7/128 dev eth0";
    lie_from(bed, add, del, "203.0.113.7", "2001:db8::7")
}

fn gateway_address(bed: &Bed) -> Result<()> {
    let (liar, near, far) = pair(bed)?;
    let v4 = liar.run(
        bed,
        "ip -4 route show default | sed 's/.*via \\([^ ]*\\).*/\\1/'",
    )?;
    let v6 = liar.run(
        bed,
        "ip -6 route show default | sed 's/.*via \\([^ ]*\\).*/\\1/'",
    )?;
    let (v4, v6) = (v4.trim().to_owned(), v6.trim().to_owned());
    // IP_FREEBIND lets a socket send from an address that is not its own.
    let node = liar.node.clone();
    let before = bed.node(&node, "ip neigh show dev carrick-gw0")?;
    for (to, source) in near
        .addresses
        .iter()
        .chain(&far.addresses)
        .map(|to| (to, if to.is_ipv4() { &v4 } else { &v6 }))
    {
        let family = if to.is_ipv4() { "UDP4" } else { "UDP6" };
        let (to, source) = (pod::bracket(*to), pod::bracket(source.parse()?));
        let script = format!(
            "echo -n 'echo x' | socat -t 1 -T 1 - {family}:{to}:{},bind={source},ip-freebind=1 2>&1 | grep -q x",
            pod::UDP_PORT
        );
        ensure!(
            liar.run(bed, &script).is_err(),
            "an answer came back for {source}"
        );
    }
    let after = bed.node(&node, "ip neigh show dev carrick-gw0")?;
    ensure!(
        before == after,
        "the host's neighbours changed:\n{before}\n{after}"
    );
    Ok(())
}

/// Like `lie`, with a source address per family.
fn lie_from(bed: &Bed, add: &str, del: &str, v4: &str, v6: &str) -> Result<()> {
    let (liar, near, far) = pair(bed)?;
    liar.run(bed, add)?;
    let mut passed = Vec::new();
    for to in near.addresses.iter().chain(&far.addresses) {
        let source = if to.is_ipv4() { v4 } else { v6 };
        if liar
            .run(bed, &format!("ping -n -c 2 -i 0.2 -W 1 -I {source} {to}"))
            .is_ok()
        {
            passed.push(*to);
        }
    }
    liar.run(bed, del)?;
    ensure!(
        passed.is_empty(),
        "pings from {v4} or {v6} passed to {passed:?}"
    );
    Ok(())
}

fn arp(bed: &Bed) -> Result<()> {
    let (liar, near, _) = pair(bed)?;
    let gateway = liar.run(
        bed,
        "ip -4 route show default | sed 's/.*via \\([^ ]*\\).*/\\1/'",
    )?;
    let before = near.run(bed, "ip neigh show")?;
    let _ = liar.run(
        bed,
        &format!("arping -U -c 3 -w 3 -I eth0 -s {0} {0}", gateway.trim()),
    );
    let _ = liar.run(
        bed,
        &format!("arping -A -c 3 -w 3 -I eth0 -s {0} {0}", gateway.trim()),
    );
    let stale = |text: &str| -> Vec<String> {
        // States age by themselves; who is where must not change.
        text.lines()
            .filter_map(|line| {
                line.split_once("lladdr ").map(|(a, b)| {
                    format!(
                        "{} {}",
                        a.trim(),
                        b.split_whitespace().next().unwrap_or_default()
                    )
                })
            })
            .collect()
    };
    let after = near.run(bed, "ip neigh show")?;
    ensure!(
        stale(&before) == stale(&after),
        "the neighbour's table changed:\n{before}\n{after}"
    );
    let mac = liar.run(bed, "cat /sys/class/net/eth0/address")?;
    let own = liar.run(bed, "ip -o address show dev eth0")?;
    let now = bed.node(&liar.node, "ip neigh show")?;
    // Its own addresses, the link-local one among them, are rightly at its MAC.
    let stolen = now.lines().find(|line| {
        let address = line.split_whitespace().next().unwrap_or_default();
        line.contains(mac.trim()) && !own.contains(&format!(" {address}/"))
    });
    ensure!(stolen.is_none(), "the host learned the liar's MAC:\n{now}");
    for to in &near.addresses {
        liar.run(bed, &pod::ping(*to))?;
    }
    Ok(())
}

fn neighbour_discovery(bed: &Bed) -> Result<()> {
    let (liar, near, _) = pair(bed)?;
    let host_before = bed.node(&liar.node, "ip -6 neigh show dev carrick-gw0")?;
    let victim = near.addresses.iter().find(|a| a.is_ipv6());
    let Some(victim) = victim else { return Ok(()) };
    // The liar takes the victim's address and talks to the gateway: its NS carries that source.
    let gateway = liar.run(
        bed,
        "ip -6 route show default | sed 's/.*via \\([^ ]*\\).*/\\1/'",
    )?;
    let gateway = gateway.trim();
    let mac = liar.run(bed, "cat /sys/class/net/eth0/address")?;
    liar.run(bed, &format!("ip -6 addr add {victim}/128 dev eth0 nodad; ip -6 neigh flush dev eth0 nud reachable nud stale"))?;
    let passed = liar
        .run(
            bed,
            &format!("ping -n -c 2 -i 0.2 -W 1 -I {victim} {gateway}"),
        )
        .is_ok();
    liar.run(bed, &format!("ip -6 addr del {victim}/128 dev eth0"))?;
    ensure!(!passed, "the gateway answered {victim} at the liar");
    let host = bed.node(&liar.node, "ip -6 neigh show dev carrick-gw0")?;
    let poisoned = host
        .lines()
        .any(|line| line.starts_with(&format!("{victim} ")) && line.contains(mac.trim()));
    ensure!(
        !poisoned,
        "the host has {victim} at the liar's MAC:\n{host_before}\n---\n{host}"
    );
    near.run(bed, &pod::ping(gateway.parse()?))?;
    Ok(())
}
