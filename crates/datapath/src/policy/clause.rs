//! What one flow of a rule matches: one value of one dimension (who is at this end, who at the other, which
//! port), or what stands for all of them together.

use std::net::IpAddr;

use carrick_openflow::{Field, Match, MatchBuilder, MatchError};
use carrick_policy::Protocol;
use ipnet::IpNet;

use crate::state::Port;
use crate::tunnel::IpFamily;

/// A match. Two rules that match alike in one table and priority share the flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Clause {
    /// The sender has one of these addresses.
    Sender(IpNet),
    /// The receiver has one of these addresses.
    Receiver(IpNet),
    /// The packet leaves by this port of the switch.
    Output(Port),
    /// Ports of a protocol.
    Ports(IpFamily, Ports),
    /// Ports of the pod behind a port of the switch.
    OutputPorts(Port, IpFamily, Ports),
    /// Ports of one receiver.
    ReceiverPorts(IpAddr, Ports),
    /// What an address sends to itself.
    Itself(IpAddr),
    /// All dimensions of this conjunction matched.
    Conjunction(u32),
}

/// Destination ports of a protocol: those whose bits under the mask are these. No bits: every port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Ports {
    pub(super) protocol: Protocol,
    pub(super) value: u16,
    pub(super) mask: u16,
}

impl Clause {
    pub(super) fn to_match(self) -> Result<Match, MatchError> {
        let any = Match::builder();
        match self {
            Self::Sender(net) => {
                let net = net.trunc();
                family(any, net.addr().into()).nw_src(net.addr(), net.prefix_len())
            }
            Self::Receiver(net) => {
                let net = net.trunc();
                family(any, net.addr().into()).nw_dst(net.addr(), net.prefix_len())
            }
            Self::Output(port) => output(any, port),
            Self::Ports(of, ports) => ports.on(family(any, of)),
            Self::OutputPorts(port, of, ports) => ports.on(output(family(any, of), port)),
            Self::ReceiverPorts(address, ports) => {
                ports.on(family(any, address.into()).nw_dst(address, length(address)))
            }
            Self::Itself(address) => family(any, address.into())
                .nw_src(address, length(address))
                .nw_dst(address, length(address)),
            Self::Conjunction(id) => any.field(Field::ConjId, id),
        }
        .build()
    }
}

impl Ports {
    fn on(self, builder: MatchBuilder) -> MatchBuilder {
        let builder = builder.ip_proto(self.protocol.number());
        if self.mask == 0 {
            return builder;
        }
        let field = match self.protocol {
            Protocol::Tcp => Field::TcpDst,
            Protocol::Udp => Field::UdpDst,
            Protocol::Sctp => Field::SctpDst,
        };
        builder.field_masked(field, self.value, self.mask)
    }
}

fn family(builder: MatchBuilder, family: IpFamily) -> MatchBuilder {
    match family {
        IpFamily::V4 => builder.ipv4(),
        IpFamily::V6 => builder.ipv6(),
    }
}

fn output(builder: MatchBuilder, port: Port) -> MatchBuilder {
    builder.reg(1, port.0.into(), u32::MAX)
}

const fn length(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

/// The one address.
pub(super) fn single(address: IpAddr) -> IpNet {
    IpNet::from(address)
}
