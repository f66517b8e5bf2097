//! From a Service with its endpoints selected to what the switch and the host hold for it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use super::claim::{Claims, FrontendKind, Place, Wanted, wanted};
use super::finding::{Finding, MAX_AFFINITY_SECONDS};
use super::group::{
    Choice, GroupSpec, group_number, hash_group, remembered, shard_bits, shards, translate,
};
use super::health::{HealthCheck, health_check};
use super::host::{HostPart, elements};
use super::index::{Resolved, ResolvedPort};
use super::input::{NodeView, Options, Protocol, Service, ServicePort, TrafficPolicy};
use super::select::Backend;
use super::stale::UdpPort;
use super::tables::{TO_ENDPOINT, Virtual, virtual_address};
use crate::cookie::{CookieParts, Kind};
use crate::flow::{FlowBuilder, FlowLine, Proto, goto};
use crate::ledger::{IdLedger, LedgerError};
use crate::pipeline::Source;
use crate::table::Table;
use crate::tunnel::IpFamily;

/// What everything is rendered by, beside the Service itself.
#[derive(Clone, Copy)]
pub(super) struct Context<'a> {
    pub(super) node: &'a NodeView,
    pub(super) options: &'a Options,
    pub(super) claims: &'a Claims,
}

/// What the switch and the host hold for one Service.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Rendered {
    /// Key of the Service in the ledger.
    pub(super) key: String,
    /// Its id there, which its cookies carry.
    pub(super) object: u32,
    /// Keys of its groups in the ledger.
    pub(super) group_keys: Vec<Box<str>>,
    pub(super) groups: Vec<GroupSpec>,
    /// Sorted by their keys. Those of the members of affinity groups are not kept: see
    /// [`Rendered::member_flows`].
    pub(super) flows: Vec<FlowLine>,
    /// Affinity groups: which members have a flow each, and by which protocol.
    pub(super) remembering: Vec<Remembering>,
    pub(super) host: HostPart,
    pub(super) udp: BTreeMap<(u16, IpFamily), UdpPort>,
    pub(super) findings: Vec<Finding>,
    pub(super) health: Option<HealthCheck>,
}

/// The endpoints that affinity may lead to, each of which has a flow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Remembering {
    group: u32,
    protocol: Protocol,
    family: IpFamily,
    members: Box<[Backend]>,
}

/// How a frontend reaches one set of endpoints.
#[derive(Debug, Clone)]
enum Target {
    /// Actions of the flow that leads there.
    Endpoints(String),
    /// Nobody answers: the packet goes to the host, which rejects it.
    Nobody,
}

/// Renders a Service that is served.
///
/// # Errors
/// The ledger is full.
pub(super) fn render_service(
    resolved: &Resolved,
    context: Context<'_>,
    ledger: &mut IdLedger,
) -> Result<Rendered, LedgerError> {
    let service = &*resolved.service;
    let key = service_key(service);
    let object = ledger.id(Kind::Service, &key)?;
    let mut to = Renderer {
        service,
        context,
        ledger,
        out: Rendered {
            key,
            object,
            ..Rendered::default()
        },
    };
    let local_ready = resolved.ports.iter().map(|port| port.selection.local_ready);
    to.out.health = health_check(service, local_ready.max().unwrap_or_default());
    if let Some(seconds) = service.affinity_seconds
        && seconds > u32::from(MAX_AFFINITY_SECONDS)
    {
        to.out.findings.push(Finding::AffinityCapped { seconds });
    }
    let wanted = wanted(service, context.node, context.options.mode);
    for (index, port) in service.ports.iter().enumerate() {
        let mine: Vec<&Wanted> = wanted
            .iter()
            .filter(|wanted| wanted.port == index)
            .collect();
        to.port(port, resolved, &mine)?;
    }
    let Rendered {
        flows, findings, ..
    } = &mut to.out;
    flows.sort_by(|a, b| a.key().cmp(&b.key()));
    // Several addresses of the node are one to the switch.
    flows.dedup_by(|a, b| a.key() == b.key());
    // Two families of one port find the same.
    findings.sort();
    findings.dedup();
    Ok(to.out)
}

/// The ledger's key of a Service: made again under its name it is another.
pub(super) fn service_key(service: &Service) -> String {
    format!("{}/{}", service.name, service.uid)
}

struct Renderer<'a> {
    service: &'a Service,
    context: Context<'a>,
    ledger: &'a mut IdLedger,
    out: Rendered,
}

impl Renderer<'_> {
    fn port(
        &mut self,
        port: &ServicePort,
        resolved: &Resolved,
        wanted: &[&Wanted],
    ) -> Result<(), LedgerError> {
        if port.protocol == Protocol::Sctp && !self.context.options.sctp {
            self.out.findings.push(Finding::NoSctp { port: port.port });
            return Ok(());
        }
        for resolved in resolved.ports.iter().filter(|other| other.port == *port) {
            let mut mine = Vec::new();
            for wanted in wanted {
                if family_of(wanted.claim.place) != resolved.family {
                    continue;
                }
                match self.context.claims.winner(&wanted.claim) {
                    Some(winner) if *winner != self.service.name => {
                        self.out.findings.push(Finding::Claimed {
                            claim: wanted.claim,
                            kind: wanted.kind,
                            by: winner.clone(),
                        });
                    }
                    _ => mine.push(**wanted),
                }
            }
            self.family(resolved, &mine)?;
        }
        Ok(())
    }

    /// One port in one family: its groups, then its frontends.
    fn family(&mut self, port: &ResolvedPort, wanted: &[Wanted]) -> Result<(), LedgerError> {
        let outside = |wanted: &Wanted| wanted.kind != FrontendKind::ClusterIp;
        let local_wanted = wanted
            .iter()
            .any(|wanted| self.policy(wanted) == TrafficPolicy::Local);
        // Clients within the cluster meet policy Cluster at outside addresses, whatever theirs is.
        let cluster_wanted = wanted
            .iter()
            .any(|wanted| outside(wanted) || self.policy(wanted) == TrafficPolicy::Cluster);
        let (mut cluster, mut local) = (Target::Nobody, Target::Nobody);
        if cluster_wanted {
            cluster = self.target(port, "cluster", &port.selection.cluster)?;
        }
        if local_wanted {
            local = self.target(port, "local", &port.selection.local)?;
        }
        let nobody = port.selection.cluster.is_empty() && port.selection.local.is_empty();
        for wanted in wanted {
            self.frontend(port, wanted, &cluster, &local);
            let policy = self.policy(wanted);
            let (host, context) = (&mut self.out.host, self.context);
            elements(host, self.service, context, wanted, policy, nobody);
        }
        let hosts = |backend: &Backend| self.context.node.addresses.contains(&backend.address);
        let local = &port.selection.local;
        if wanted.iter().any(outside)
            && self.service.external_policy == TrafficPolicy::Local
            && !local.is_empty()
            && local.iter().all(hosts)
        {
            let port = port.port.port;
            self.out.findings.push(Finding::SourceNotKept { port });
        }
        if port.port.protocol == Protocol::Udp {
            let frontends = wanted
                .iter()
                .map(|wanted| switch_address(wanted, self.policy(wanted)))
                .collect();
            let serving = port.selection.serving.clone();
            let udp = UdpPort { frontends, serving };
            self.out.udp.insert((port.port.port, port.family), udp);
        }
        Ok(())
    }

    fn policy(&self, wanted: &Wanted) -> TrafficPolicy {
        policy_at(self.service, wanted.kind)
    }

    fn cookie(&self, kind: Kind) -> CookieParts {
        CookieParts {
            kind,
            object: self.out.object,
        }
    }

    fn flow(&self, table: Table, priority: u16, port: &ResolvedPort) -> FlowBuilder {
        let proto = Proto::Transport {
            protocol: port.port.protocol,
            family: port.family,
        };
        FlowBuilder::new(table, priority, self.cookie(Kind::Service), proto)
    }

    fn add(&mut self, line: FlowLine) {
        self.out.flows.push(line);
    }

    fn group(
        &mut self,
        key: &str,
        choice: Choice,
        members: &[Backend],
    ) -> Result<u32, LedgerError> {
        let number = group_number(self.ledger.id(Kind::ServiceGroup, key)?);
        self.out.group_keys.push(key.into());
        self.out.groups.push(GroupSpec {
            number,
            choice,
            members: members.into(),
        });
        Ok(number)
    }

    /// The groups of one set of endpoints, and how a flow leads there.
    fn target(
        &mut self,
        port: &ResolvedPort,
        policy: &str,
        members: &[Backend],
    ) -> Result<Target, LedgerError> {
        if members.is_empty() {
            return Ok(Target::Nobody);
        }
        let family = match port.family {
            IpFamily::V4 => "v4",
            IpFamily::V6 => "v6",
        };
        let (protocol, number) = (port.port.protocol.name(), port.port.port);
        let key = format!("{}/{protocol}/{number}/{family}/{policy}", self.out.key);
        let affinity = affinity_seconds(self.service);
        let choice = match affinity {
            Some(_) => Choice::Remember,
            None => Choice::Translate,
        };
        let bits = shard_bits(members.len(), choice);
        let (id, to_group) = if bits == 0 {
            let id = self.group(&key, choice, members)?;
            (id, format!("group:{id}"))
        } else {
            // The whole has a number, but no group: it stands in reg7.
            let id = group_number(self.ledger.id(Kind::ServiceGroup, &key)?);
            self.out.group_keys.push(key.as_str().into());
            let mask = (1_u32 << bits) - 1;
            for (index, shard) in shards(members, bits).into_iter().enumerate() {
                let group = self.group(&format!("{key}/{index}"), choice, shard)?;
                let flow = FlowBuilder::new(
                    Table::ServiceShard,
                    200,
                    self.cookie(Kind::Service),
                    Proto::Any,
                );
                let flow = flow
                    .on("reg7", format!("{id:#x}"))
                    .on("reg6", format!("{index:#x}/{mask:#x}"));
                self.add(flow.actions(format!("group:{group}")));
            }
            (id, format!("group:{}", hash_group(bits)))
        };
        let whole = format!("set_field:{id:#x}->reg7");
        let has_endpoint = format!("set_field:{TO_ENDPOINT}->reg0");
        Ok(Target::Endpoints(match affinity {
            None if bits == 0 => format!("{has_endpoint},{to_group}"),
            None => format!("{has_endpoint},{whole},{to_group}"),
            Some(seconds) => {
                self.affinity(port, id, to_group, seconds, members);
                let (affinity, next) = (Table::ServiceAffinity.id(), Table::ServiceSelect);
                format!(
                    "{has_endpoint},{whole},resubmit(,{affinity}),{}",
                    goto(next)
                )
            }
        }))
    }

    /// The learned flow says who a client's endpoint is and goes when the client stays away for the
    /// timeout: only first packets of connections meet it.
    fn affinity(
        &mut self,
        port: &ResolvedPort,
        group: u32,
        to_group: String,
        seconds: u16,
        members: &[Backend],
    ) {
        let register = format!("{group:#x}");
        let select = FlowBuilder::new(
            Table::ServiceSelect,
            100,
            self.cookie(Kind::Service),
            Proto::Any,
        );
        self.add(select.on("reg7", &register).actions(to_group));
        let (proto, ether, source, address) = match port.family {
            IpFamily::V4 => (Proto::Ip, "0x800", "NXM_OF_IP_SRC[]", "NXM_NX_REG3[]"),
            IpFamily::V6 => (
                Proto::Ipv6,
                "0x86dd",
                "NXM_NX_IPV6_SRC[]",
                "NXM_NX_XXREG3[]",
            ),
        };
        let learn = FlowBuilder::new(Table::ServiceLearn, 200, self.cookie(Kind::Service), proto);
        self.add(learn.on("reg7", &register).actions(format!(
            "learn(table={},idle_timeout={seconds},priority=200,delete_learned,cookie={:#x},\
             eth_type={ether},NXM_NX_REG7[],{source},load:{address}->{address},\
             load:NXM_NX_REG4[0..15]->NXM_NX_REG4[0..15],load:0x1->NXM_NX_REG4[16]),{}",
            Table::ServiceAffinity.id(),
            self.cookie(Kind::Affinity).to_bits(),
            goto(Table::ServiceEndpoint)
        )));
        self.out.remembering.push(Remembering {
            group,
            protocol: port.port.protocol,
            family: port.family,
            members: members.into(),
        });
    }

    /// The flows of one address and port.
    fn frontend(&mut self, port: &ResolvedPort, wanted: &Wanted, cluster: &Target, local: &Target) {
        let (address, number) = switch_address(wanted, self.policy(wanted));
        let base = |to: &Self, priority, from: Option<Source>| {
            let mut flow = to.flow(Table::Service, priority, port);
            // Node ports come from the host, whose rules know which of its addresses have them.
            let from =
                from.or(matches!(wanted.claim.place, Place::Node(_)).then_some(Source::Gateway));
            if let Some(from) = from {
                flow = flow.on("reg0", format!("{:#x}/0xf", from as u8));
            }
            flow
        };
        let to_port = |flow: FlowBuilder| flow.dst(address).on("tp_dst", number);
        let outside = wanted.kind != FrontendKind::ClusterIp;
        let local_policy = self.policy(wanted) == TrafficPolicy::Local;
        let own = if local_policy { local } else { cluster };
        match (own, cluster) {
            (Target::Endpoints(actions), _) => {
                let flow = to_port(base(self, 200, None)).actions(actions.clone());
                self.add(flow);
            }
            // Endpoints elsewhere: silence, so that a load balancer's own check finds another node.
            (Target::Nobody, _) if local_policy && !port.selection.cluster.is_empty() => {
                let flow = to_port(base(self, 200, None)).drop();
                self.add(flow);
            }
            (Target::Nobody, _) => {}
        }
        // Pods and this host are clients within the cluster.
        let within = match cluster {
            Target::Endpoints(actions) => Some(actions.as_str()),
            Target::Nobody => None,
        };
        if outside
            && local_policy
            && let Some(actions) = within
        {
            if !matches!(wanted.claim.place, Place::Node(_)) {
                let flow = to_port(base(self, 210, Some(Source::Pod)));
                self.add(flow.actions(actions));
            }
            let host = self.context.node.gateway.iter();
            for own in host.filter(|own| own.is_ipv4() == address.is_ipv4()) {
                let flow = to_port(base(self, 210, Some(Source::Gateway)).src(own));
                self.add(flow.actions(actions));
            }
        }
        if wanted.kind == FrontendKind::LoadBalancer
            && !self.service.source_ranges.is_empty()
            && !matches!(wanted.claim.place, Place::Node(_))
        {
            // What comes from outside the host has filtered: it may have another source here.
            let flow = to_port(base(self, 215, Some(Source::Pod))).drop();
            self.add(flow);
            for range in ranges(self.service, address) {
                let Some(actions) = within else { break };
                let flow = base(self, 220, Some(Source::Pod)).src_net(range);
                self.add(to_port(flow).actions(actions));
            }
        }
    }
}

/// The policy that a Service asks for at one kind of address.
pub(super) const fn policy_at(service: &Service, kind: FrontendKind) -> TrafficPolicy {
    match kind {
        FrontendKind::ClusterIp => service.internal_policy,
        FrontendKind::NodePort | FrontendKind::LoadBalancer | FrontendKind::ExternalIp => {
            service.external_policy
        }
    }
}

/// How long a client stays with its endpoint, as the switch can.
pub(super) fn affinity_seconds(service: &Service) -> Option<u16> {
    let seconds = service.affinity_seconds?;
    // 0 would mean for ever; the API allows 1 and more.
    let seconds = u16::try_from(seconds).unwrap_or(MAX_AFFINITY_SECONDS);
    Some(seconds.max(1))
}

/// Source ranges of an address's family, sorted, each once.
pub(super) fn ranges(service: &Service, family_of: IpAddr) -> Vec<IpNet> {
    let family = service.source_ranges.iter().map(IpNet::trunc);
    let mut ranges: Vec<IpNet> = family
        .filter(|range| range.addr().is_ipv4() == family_of.is_ipv4())
        .collect();
    ranges.sort_unstable();
    ranges.dedup();
    ranges
}

pub(super) fn family_of(place: Place) -> IpFamily {
    match place {
        Place::Address(address) => address.into(),
        Place::Node(family) => family,
    }
}

/// Where the switch sees packets to a frontend go.
pub(super) fn switch_address(wanted: &Wanted, policy: TrafficPolicy) -> (IpAddr, u16) {
    let address = match (wanted.claim.place, policy) {
        (Place::Address(address), _) => address,
        (Place::Node(family), TrafficPolicy::Cluster) => virtual_address(Virtual::NodePort, family),
        (Place::Node(family), TrafficPolicy::Local) => {
            virtual_address(Virtual::NodePortLocal, family)
        }
    };
    (address, wanted.claim.port)
}

impl Rendered {
    /// The flow of each endpoint that affinity may lead to, sorted.
    pub(super) fn member_flows(&self) -> Vec<FlowLine> {
        let cookie = CookieParts {
            kind: Kind::Service,
            object: self.object,
        };
        let mut flows = Vec::new();
        for Remembering {
            group,
            protocol,
            family,
            members,
        } in &self.remembering
        {
            let proto = Proto::Transport {
                protocol: *protocol,
                family: *family,
            };
            for member in members {
                let mut flow = FlowBuilder::new(Table::ServiceEndpoint, 200, cookie, proto)
                    .on("reg7", format!("{group:#x}"))
                    .actions(translate(*member));
                flow.matches.push(',');
                flow.matches.push_str(&remembered(*member));
                flows.push(flow);
            }
        }
        flows.sort_by(|a, b| a.key().cmp(&b.key()));
        flows
    }
}
