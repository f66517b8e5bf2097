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
    /// Answers to a hairpin connection, whose client has its own address back, go through it again.
    HairpinReply = 21,
    /// Established connections go on to routing past all policy tables.
    CtState = 22,
    /// New connections to a Service find its endpoints.
    Service = 24,
    /// Learned flows: which endpoint a client stays with.
    ServiceAffinity = 25,
    /// Services with affinity: the endpoint that was chosen before, or a new one.
    ServiceSelect = 26,
    /// Services of many endpoints: one of their groups, by bits of the hash.
    ServiceShard = 27,
    /// Makes the flows of [`Table::ServiceAffinity`].
    ServiceLearn = 28,
    /// Services with affinity: translation to the chosen endpoint.
    ServiceEndpoint = 29,
    /// Policy of the sending pod that nothing overrides.
    EgressPolicy = 30,
    /// NetworkPolicies of the sending pod.
    EgressNetworkPolicy = 32,
    /// What applies to a sending pod that no rule before decided.
    EgressDefault = 34,
    /// The output port and both MAC addresses, by destination address.
    Routing = 50,
    /// Hop limit of packets that a pod sent.
    Ttl = 54,
    /// Established connections go past the policy of the receiving pod.
    IngressEstablished = 60,
    /// Policy of the receiving pod that nothing overrides.
    IngressPolicy = 64,
    /// NetworkPolicies of the receiving pod.
    IngressNetworkPolicy = 66,
    /// What applies to a receiving pod that no rule before decided.
    IngressDefault = 68,
    /// New connections are committed with the mark that lets them pass next time.
    Commit = 70,
    /// What goes back to where it came from, as an endpoint's own connection to its Service, gets
    /// another source.
    Hairpin = 76,
    /// The packet leaves by the port in `reg1`.
    Output = 80,
}

impl Table {
    /// Every table, in the order of its number.
    pub const ALL: [Self; 24] = [
        Self::Classifier,
        Self::SpoofGuard,
        Self::ArpNd,
        Self::Conntrack,
        Self::HairpinReply,
        Self::CtState,
        Self::Service,
        Self::ServiceAffinity,
        Self::ServiceSelect,
        Self::ServiceShard,
        Self::ServiceLearn,
        Self::ServiceEndpoint,
        Self::EgressPolicy,
        Self::EgressNetworkPolicy,
        Self::EgressDefault,
        Self::Routing,
        Self::Ttl,
        Self::IngressEstablished,
        Self::IngressPolicy,
        Self::IngressNetworkPolicy,
        Self::IngressDefault,
        Self::Commit,
        Self::Hairpin,
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
            Self::HairpinReply => "hairpin-reply",
            Self::CtState => "ct-state",
            Self::Service => "service",
            Self::ServiceAffinity => "service-affinity",
            Self::ServiceSelect => "service-select",
            Self::ServiceShard => "service-shard",
            Self::ServiceLearn => "service-learn",
            Self::ServiceEndpoint => "service-endpoint",
            Self::EgressPolicy => "egress-policy",
            Self::EgressNetworkPolicy => "egress-network-policy",
            Self::EgressDefault => "egress-default",
            Self::Routing => "routing",
            Self::Ttl => "ttl",
            Self::IngressEstablished => "ingress-established",
            Self::IngressPolicy => "ingress-policy",
            Self::IngressNetworkPolicy => "ingress-network-policy",
            Self::IngressDefault => "ingress-default",
            Self::Commit => "commit",
            Self::Hairpin => "hairpin",
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
        assert_eq!(
            numbers,
            [
                0, 10, 12, 20, 21, 22, 24, 25, 26, 27, 28, 29, 30, 32, 34, 50, 54, 60, 64, 66, 68,
                70, 76, 80
            ]
        );
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
