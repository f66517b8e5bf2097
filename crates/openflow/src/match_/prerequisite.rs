//! Which fields need which others (`mf_are_prereqs_ok` in `lib/meta-flow.c`).

use super::{Match, VLAN_PRESENT, ct_state};
use crate::error::MatchError;
use crate::field::{Field, Prerequisite};

const IPV4: u128 = 0x0800;
const IPV6: u128 = 0x86dd;

impl Match {
    /// Whether packets that match have what `prerequisite` asks for.
    pub fn satisfies(&self, prerequisite: Prerequisite) -> bool {
        let eth = self.exact(Field::EthType);
        let ip = matches!(eth, Some(IPV4 | IPV6));
        let proto = |number: u128| self.exact(Field::IpProto) == Some(number);
        let icmpv6 = eth == Some(IPV6) && proto(58);
        let nd = |kind: u128| {
            icmpv6
                && self.exact(Field::Icmpv6Type) == Some(kind)
                && self.exact(Field::Icmpv6Code).is_none_or(|code| code == 0)
        };
        match prerequisite {
            Prerequisite::None | Prerequisite::Ethernet => true,
            Prerequisite::VlanVid => self
                .get(Field::VlanTci)
                .is_some_and(|(value, mask)| value & mask & VLAN_PRESENT != 0),
            Prerequisite::Mpls => matches!(eth, Some(0x8847 | 0x8848)),
            Prerequisite::Ipv4 => eth == Some(IPV4),
            Prerequisite::Ipv6 => eth == Some(IPV6),
            Prerequisite::Ip => ip,
            Prerequisite::Arp => matches!(eth, Some(0x0806 | 0x8035)),
            Prerequisite::Tcp => ip && proto(6),
            Prerequisite::Udp => ip && proto(17),
            Prerequisite::Sctp => ip && proto(132),
            Prerequisite::Icmpv4 => eth == Some(IPV4) && proto(1),
            Prerequisite::Icmpv6 => icmpv6,
            Prerequisite::Nd => nd(135) || nd(136),
            Prerequisite::NdSolicit => nd(135),
            Prerequisite::NdAdvert => nd(136),
            Prerequisite::Nsh => eth == Some(0x894f),
            Prerequisite::Ct => self.is_ct_valid(),
        }
    }

    /// Every field's prerequisites.
    ///
    /// # Errors
    /// The first field that lacks one.
    pub fn check_prerequisites(&self) -> Result<(), MatchError> {
        match self
            .fields()
            .iter()
            .find(|entry| !self.satisfies(entry.field().info().prerequisite))
        {
            Some(entry) => Err(MatchError::Prerequisite {
                field: entry.field(),
            }),
            None => Ok(()),
        }
    }

    /// A state that only a valid connection has, or tracked and explicitly not invalid
    /// (`is_ct_valid` in `lib/flow.h`).
    fn is_ct_valid(&self) -> bool {
        let Some((value, mask)) = self.get(Field::CtState) else {
            return false;
        };
        let valid = ct_state::NEW
            | ct_state::EST
            | ct_state::REL
            | ct_state::RPL
            | ct_state::SNAT
            | ct_state::DNAT;
        let has = |bits: u128, flags: u32| bits & u128::from(flags) != 0;
        has(value, valid)
            || has(value, ct_state::TRK) && has(mask, ct_state::INV) && !has(value, ct_state::INV)
    }
}
