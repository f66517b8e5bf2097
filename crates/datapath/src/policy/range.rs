//! Ranges as the values and masks a switch matches.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Ports as value and mask: the fewest that cover exactly `first..=last`.
pub(super) fn port_masks(first: u16, last: u16) -> Vec<(u16, u16)> {
    let mut masks = Vec::new();
    let (mut next, end) = (u32::from(first), u32::from(last) + 1);
    while next < end {
        // The largest block that begins here and ends in the range.
        let aligned = if next == 0 { 16 } else { next.trailing_zeros() };
        let fits = (end - next).ilog2();
        let bits = aligned.min(fits);
        // Both fit: `next` is a port, and a block has at most 2^16 of them.
        if let (Ok(value), Ok(mask)) = (
            u16::try_from(next),
            u16::try_from(0xffff & !((1_u32 << bits) - 1)),
        ) {
            masks.push((value, mask));
        }
        next += 1 << bits;
    }
    masks
}

/// The prefixes that cover exactly `cidr` without `except`, ranges within it.
pub(super) fn without(cidr: IpNet, except: &[IpNet]) -> Vec<IpNet> {
    let mut left = Vec::new();
    cut(cidr, except, &mut left);
    left
}

fn cut(cidr: IpNet, except: &[IpNet], left: &mut Vec<IpNet>) {
    if except.iter().any(|range| range.contains(&cidr)) {
        return;
    }
    let within: Vec<IpNet> = except
        .iter()
        .copied()
        .filter(|range| cidr.contains(range))
        .collect();
    if within.is_empty() {
        left.push(cidr);
        return;
    }
    for half in halves(cidr) {
        cut(half, &within, left);
    }
}

/// The two halves of a range; none of a single address.
fn halves(cidr: IpNet) -> Vec<IpNet> {
    let length = cidr.prefix_len() + 1;
    match cidr {
        IpNet::V4(net) => net
            .subnets(length)
            .map(|halves| halves.map(|half: Ipv4Net| half.into()).collect()),
        IpNet::V6(net) => net
            .subnets(length)
            .map(|halves| halves.map(|half: Ipv6Net| half.into()).collect()),
    }
    .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn masks_cover_a_range_and_nothing_else(a in any::<u16>(), b in any::<u16>()) {
            let (first, last) = (a.min(b), a.max(b));
            let masks = port_masks(first, last);
            prop_assert!(masks.len() <= 30);
            for port in 0..=u16::MAX {
                let covered = masks.iter().filter(|(value, mask)| port & mask == *value).count();
                prop_assert_eq!(covered, usize::from((first..=last).contains(&port)));
            }
        }

        #[test]
        fn prefixes_cover_a_range_without_its_exceptions(
            length in 0_u8..=32, holes in prop::collection::vec((any::<u32>(), 0_u8..=32), 0..4), probes in prop::collection::vec(any::<u32>(), 64)
        ) {
            let cidr: IpNet = Ipv4Net::new(0x0a01_0203.into(), length).unwrap().trunc().into();
            let host = |bits: u32| {
                let IpNet::V4(net) = cidr else { unreachable!() };
                std::net::Ipv4Addr::from(u32::from(net.addr()) | (bits & u32::from(net.hostmask())))
            };
            let except: Vec<IpNet> = holes
                .into_iter()
                .map(|(bits, more)| Ipv4Net::new(host(bits), more.max(length)).unwrap().trunc().into())
                .collect();
            let left = without(cidr, &except);
            for bits in probes {
                let address = std::net::IpAddr::V4(host(bits));
                let expected = !except.iter().any(|range| range.contains(&address));
                let covered = left.iter().filter(|range| range.contains(&address)).count();
                prop_assert_eq!(covered, usize::from(expected));
            }
            let outside = std::net::IpAddr::V4(std::net::Ipv4Addr::BROADCAST);
            prop_assert_eq!(left.iter().any(|range| range.contains(&outside)), cidr.contains(&outside) && !except.iter().any(|range| range.contains(&outside)));
        }
    }

    #[test]
    fn few_prefixes_do() {
        let net = |text: &str| text.parse::<IpNet>().unwrap();
        let left = without(net("::/0"), &[net("fd00::/8")]);
        assert_eq!(left.len(), 8);
        assert_eq!(port_masks(0, u16::MAX), [(0, 0)]);
        assert_eq!(port_masks(80, 80), [(80, 0xffff)]);
    }
}
