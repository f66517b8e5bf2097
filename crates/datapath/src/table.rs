//! The tables of the integration bridge: constants, the same in every configuration and version.
//!
//! Numbers are sparse, so that a later feature takes a free one in between; none is ever given
//! another meaning. A feature that is off leaves its table with only the miss flow.

/// A table of the pipeline. The discriminant is the OpenFlow table id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Table {
    /// Where the packet came from, by port: tunnel, gateway or pod (`reg0[0..3]`).
    Classifier = 0,
    /// Packets whose source (MAC, IP, ARP, ND) is not the port's own are dropped here.
    SpoofGuard = 10,
    /// ARP is answered, neighbour discovery handed to its one legitimate partner.
    ArpNd = 12,
    /// Everything routed goes through connection tracking once.
    Conntrack = 20,
    /// Established connections go on to routing past all policy tables.
    CtState = 22,
    /// Policy of the sending pod.
    EgressPolicy = 30,
    /// What applies to a sending pod that no rule of [`Table::EgressPolicy`] decided.
    EgressDefault = 34,
    /// The output port and both MAC addresses, by destination address.
    Routing = 50,
    /// Hop limit of packets that a pod sent.
    Ttl = 54,
    /// Established connections go past the policy of the receiving pod.
    IngressEstablished = 60,
    /// Policy of the receiving pod.
    IngressPolicy = 64,
    /// New connections are committed with the mark that lets them pass next time.
    Commit = 70,
    /// The packet leaves by the port in `reg1`.
    Output = 80,
}

impl Table {
    /// Every table, in the order of its number.
    pub const ALL: [Self; 13] = [
        Self::Classifier,
        Self::SpoofGuard,
        Self::ArpNd,
        Self::Conntrack,
        Self::CtState,
        Self::EgressPolicy,
        Self::EgressDefault,
        Self::Routing,
        Self::Ttl,
        Self::IngressEstablished,
        Self::IngressPolicy,
        Self::Commit,
        Self::Output,
    ];

    /// The OpenFlow table id.
    pub const fn id(self) -> u8 {
        self as u8
    }

    /// The table of an id, if it is one of ours.
    pub fn from_id(id: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|table| table.id() == id)
    }

    /// A short name for people: API, CLI, metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Classifier => "classifier",
            Self::SpoofGuard => "spoof-guard",
            Self::ArpNd => "arp-nd",
            Self::Conntrack => "conntrack",
            Self::CtState => "ct-state",
            Self::EgressPolicy => "egress-policy",
            Self::EgressDefault => "egress-default",
            Self::Routing => "routing",
            Self::Ttl => "ttl",
            Self::IngressEstablished => "ingress-established",
            Self::IngressPolicy => "ingress-policy",
            Self::Commit => "commit",
            Self::Output => "output",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_never_change() {
        let numbers: Vec<u8> = Table::ALL.iter().map(|table| table.id()).collect();
        assert_eq!(numbers, [0, 10, 12, 20, 22, 30, 34, 50, 54, 60, 64, 70, 80]);
    }

    #[test]
    fn names_and_numbers_are_one_to_one() {
        for table in Table::ALL {
            assert_eq!(Table::from_id(table.id()), Some(table));
        }
        let mut names: Vec<_> = Table::ALL.iter().map(|table| table.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Table::ALL.len());
    }
}
