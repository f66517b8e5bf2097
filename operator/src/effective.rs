//! The effective spec: a `Networking` with every default filled in.
//!
//! It is what is validated, compared with the last applied one, rendered and shown in
//! `status.effective`. Stored in the Secret [`carrick_api::names::object::LAST_APPLIED`] with
//! every default explicit, so that a new operator's new defaults never change a running network
//! by themselves.

use std::collections::BTreeMap;

use carrick_api::effective::{
    Cni, DatapathType, EffectiveConfig, Endpoint, HostFirewall, KubeProxy, ServiceProxy,
    ServiceProxyMode, SnatMode, Traffic, TrafficMode, TunnelProtocol,
};
use carrick_api::networking::{
    self, IpamMode, LogLevel, Management, NetworkingSpec, Placement, Provider, PullPolicy,
    Resources, Switch,
};
use carrick_api::nodeconfig::{NodeConfig, first_match};
use carrick_api::status::NetworkingStatus;
use ipnet::IpNet;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde::{Deserialize, Serialize};

use crate::facts::{Facts, Installation};
use crate::image::{self, Source};
use crate::provider::Detection;

/// Key of the taint that bootstrap sets on nodes without an agent.
pub const DEFAULT_TAINT_KEY: &str = "carrick.dev/agent-not-ready";
/// Name of the configuration list in the CNI directory: sorts before everybody's.
pub const DEFAULT_CONF_FILE: &str = "05-carrick.conflist";

/// A `Networking` with every default filled in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Effective {
    /// What this cluster is; never `Auto`.
    pub provider: Provider,
    /// The API server for operands.
    pub api_server: Endpoint,
    /// Images and how they are pulled.
    pub images: Images,
    /// How packets travel.
    pub traffic: Traffic,
    /// Where pod addresses come from.
    pub ipam: IpamMode,
    /// What mode `NodeIPAM` allocates; there also when another mode names ranges, to refuse them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_ipam: Option<NodeIpam>,
    /// Which datapath.
    pub datapath: DatapathType,
    /// What is done about foreign firewalls.
    #[serde(default)]
    pub host_firewall: HostFirewall,
    /// Who serves Services. An object last applied before this field existed left them to kube-proxy.
    #[serde(default)]
    pub service_proxy: ServiceProxy,
    /// The mode of it where the spec names none ([`unnamed_service_proxy_mode`]).
    #[serde(default)]
    pub unnamed_service_proxy_mode: ServiceProxyMode,
    /// What differs on some nodes.
    #[serde(default)]
    pub node_configs: Vec<NodeConfig>,
    /// CNI files on hosts.
    pub cni: Cni,
    /// The controller's Deployment.
    pub controller: Controller,
    /// The DaemonSets.
    pub agent: Agent,
    /// Log level of controller and agents.
    pub log_level: LogLevel,
    /// The controller removes the startup taint.
    pub taint: Switch,
    /// Its key.
    pub taint_key: String,
}

/// `ipam.nodeIPAM`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeIpam {
    /// Ranges, as they are written.
    pub cluster_cidrs: Vec<String>,
    /// Prefix length of a node's IPv4 CIDR.
    pub node_mask_size_ipv4: u8,
    /// Prefix length of a node's IPv6 CIDR.
    pub node_mask_size_ipv6: u8,
}

impl NodeIpam {
    /// The ranges that are CIDRs; what is none is refused by `crate::nodeipam`.
    pub fn parsed(&self) -> Vec<IpNet> {
        self.cluster_cidrs
            .iter()
            .filter_map(|text| text.parse().ok())
            .collect()
    }
}

/// Images and how they are pulled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Images {
    /// Reference of the `carrick` image.
    pub carrick: String,
    /// Reference of the `carrick-ovs` image.
    pub carrick_ovs: String,
    /// When kubelets pull.
    pub pull_policy: PullPolicy,
    /// Names of pull Secrets.
    pub pull_secrets: Vec<String>,
}

/// The controller's Deployment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Controller {
    /// Replicas asked for; a cluster of one node gets one (see [`Effective::controller_replicas`]).
    pub replicas: i32,
    /// Where.
    pub placement: Placement,
    /// How much.
    pub resources: Resources,
    /// More arguments.
    pub extra_args: Vec<String>,
}

/// The DaemonSets of agent and switch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Agent {
    /// Where.
    pub placement: Placement,
    /// How much the agent gets.
    pub resources: Resources,
    /// How much the switch gets.
    pub switch_resources: Resources,
    /// PriorityClass of both.
    pub priority_class: String,
}

fn text(value: Option<&String>, default: &str) -> String {
    match value {
        Some(value) if !value.is_empty() => value.clone(),
        _ => default.to_owned(),
    }
}

fn requests(cpu: &str, memory: &str) -> Resources {
    Resources {
        requests: Some(BTreeMap::from([
            ("cpu".to_owned(), Quantity(cpu.to_owned())),
            ("memory".to_owned(), Quantity(memory.to_owned())),
        ])),
        limits: None,
    }
}

/// The mode of `serviceProxy` where the spec names none: fixed when an object is first applied, so
/// that an upgrade takes no kube-proxy over. New objects replace it; one that was applied when the
/// field did not exist, or meant `Disabled` by default, leaves it alone.
pub fn unnamed_service_proxy_mode(
    last: Option<&Effective>,
    status: Option<&NetworkingStatus>,
) -> ServiceProxyMode {
    if let Some(last) = last {
        return last.unnamed_service_proxy_mode;
    }
    // What was applied last is lost or not understood, but something was.
    let shown = status.and_then(|status| status.effective.as_ref());
    shown.map_or(ServiceProxyMode::Full, |effective| {
        let set = effective.service_proxy.as_ref();
        set.and_then(|proxy| proxy.mode).unwrap_or_default()
    })
}

/// Fills in every default of `spec`.
pub fn resolve(
    spec: &NetworkingSpec,
    installation: &Installation,
    facts: &Facts,
    detection: &Detection,
    unnamed_service_proxy_mode: ServiceProxyMode,
) -> Effective {
    let provider = match spec.provider {
        None | Some(Provider::Auto) => detection.provider,
        Some(provider) => provider,
    };
    let profile = crate::provider::profile(provider);
    let api = spec.api_server.clone().unwrap_or_default();
    let api_server = match (api.host, api.port) {
        (Some(host), Some(port)) if !host.is_empty() && port != 0 => Endpoint { host, port },
        _ => facts.reached.clone(),
    };
    let traffic = spec.traffic.clone().unwrap_or_default();
    let tunnel = traffic.tunnel.unwrap_or_default();
    let transport = traffic.transport.unwrap_or_default();
    let snat = traffic.snat.unwrap_or_default();
    let cni = spec.cni.clone().unwrap_or_default();
    let controller = spec.controller.clone().unwrap_or_default();
    let agent = spec.agent.clone().unwrap_or_default();
    let startup = spec.startup.clone().unwrap_or_default();
    Effective {
        provider,
        api_server,
        images: images(spec.images.as_ref(), installation),
        traffic: Traffic {
            mode: traffic.mode.unwrap_or(TrafficMode::Encap),
            tunnel_protocol: tunnel.protocol.unwrap_or(TunnelProtocol::Geneve),
            tunnel_port: tunnel.port.unwrap_or(0),
            tunnel_checksum: tunnel.checksum.unwrap_or(false),
            mtu: traffic.mtu.unwrap_or(0),
            transport_interface: transport.interface.unwrap_or_default(),
            // The API server has checked that they are ranges.
            transport_cidrs: transport
                .cidrs
                .unwrap_or_default()
                .iter()
                .filter_map(|text| text.parse().ok())
                .collect(),
            snat: snat.mode.unwrap_or(SnatMode::Auto),
            snat_randomly: snat.random_fully.unwrap_or(false),
        },
        ipam: spec
            .ipam
            .as_ref()
            .and_then(|ipam| ipam.mode)
            .unwrap_or(IpamMode::NodeCIDR),
        node_ipam: node_ipam(spec),
        datapath: spec
            .datapath
            .as_ref()
            .and_then(|d| d.type_)
            .unwrap_or(DatapathType::Auto),
        host_firewall: spec.host_firewall.unwrap_or_default(),
        service_proxy: service_proxy(spec, unnamed_service_proxy_mode),
        unnamed_service_proxy_mode,
        node_configs: spec.node_configs.clone().unwrap_or_default(),
        cni: Cni {
            bin_dir: text(cni.bin_dir.as_ref(), profile.cni_bin_dir),
            conf_dir: text(cni.conf_dir.as_ref(), profile.cni_conf_dir),
            conf_file: text(cni.conf_file.as_ref(), DEFAULT_CONF_FILE),
            exclusive: cni.exclusive.unwrap_or(true),
        },
        controller: Controller {
            replicas: controller.replicas.unwrap_or(2).max(1),
            placement: controller.placement.unwrap_or_default(),
            resources: controller
                .resources
                .unwrap_or_else(|| requests("100m", "64Mi")),
            extra_args: controller.extra_args.unwrap_or_default(),
        },
        agent: Agent {
            placement: agent.placement.unwrap_or_default(),
            resources: agent.resources.unwrap_or_else(|| requests("50m", "48Mi")),
            switch_resources: agent
                .switch_resources
                .unwrap_or_else(|| requests("100m", "96Mi")),
            priority_class: text(agent.priority_class.as_ref(), "system-node-critical"),
        },
        log_level: spec
            .observability
            .as_ref()
            .and_then(|observability| observability.log_level)
            .unwrap_or(LogLevel::Info),
        taint: startup.taint.unwrap_or(Switch::Enabled),
        taint_key: text(startup.taint_key.as_ref(), DEFAULT_TAINT_KEY),
    }
}

fn service_proxy(spec: &NetworkingSpec, unnamed: ServiceProxyMode) -> ServiceProxy {
    let set = spec.service_proxy.clone().unwrap_or_default();
    let mut skip_services = set.skip_services.unwrap_or_default();
    // Their order means nothing, and another one must not roll the agents.
    skip_services.sort_unstable();
    let ranges = set.node_port_addresses.unwrap_or_default();
    // The API server has checked that they are ranges.
    let ranges = ranges.iter().filter_map(|text| text.parse().ok());
    let mut node_port_addresses: Vec<IpNet> = ranges.map(|range: IpNet| range.trunc()).collect();
    node_port_addresses.sort_unstable();
    node_port_addresses.dedup();
    let mode = set.mode.unwrap_or(unnamed);
    // Elsewhere only what somebody has set, so that it is refused.
    let default = (mode == ServiceProxyMode::Full).then_some(KubeProxy::Auto);
    ServiceProxy {
        mode,
        skip_services,
        node_port_addresses,
        kube_proxy: set.kube_proxy.or(default),
    }
}

fn node_ipam(spec: &NetworkingSpec) -> Option<NodeIpam> {
    let ipam = spec.ipam.clone().unwrap_or_default();
    let set = ipam.node_ipam.unwrap_or_default();
    let cluster_cidrs = set.cluster_cidrs.unwrap_or_default();
    let matters = ipam.mode == Some(IpamMode::NodeIPAM) || !cluster_cidrs.is_empty();
    matters.then(|| NodeIpam {
        cluster_cidrs,
        node_mask_size_ipv4: set.node_mask_size_ipv4.unwrap_or(24),
        node_mask_size_ipv6: set.node_mask_size_ipv6.unwrap_or(64),
    })
}

fn images(images: Option<&networking::Images>, installation: &Installation) -> Images {
    let images = images.cloned().unwrap_or_default();
    let digests = images.digests.unwrap_or_default();
    let registry = images.registry.unwrap_or_default();
    let prefix = images.prefix.unwrap_or_default();
    let reference = |default: &str, name: &str| {
        let digest = digests.get(name).map_or("", String::as_str);
        image::resolve(
            default,
            &Source {
                registry: &registry,
                prefix: &prefix,
                digest,
            },
        )
    };
    Images {
        carrick: reference(&installation.carrick_image, "carrick"),
        carrick_ovs: reference(&installation.carrick_ovs_image, "carrick-ovs"),
        pull_policy: images.pull_policy.unwrap_or(PullPolicy::IfNotPresent),
        pull_secrets: images
            .pull_secrets
            .unwrap_or_else(|| installation.pull_secrets.clone()),
    }
}

impl Effective {
    /// How many replicas of the controller run: one where there is one node to run on, because
    /// they share host ports.
    pub fn controller_replicas(&self, facts: &Facts) -> i32 {
        let nodes = facts.nodes.iter().filter(|node| node.is_linux()).count();
        i32::try_from(nodes)
            .unwrap_or(i32::MAX)
            .clamp(1, self.controller.replicas)
    }

    /// The configuration that controller and agents read.
    pub fn config(&self, facts: &Facts) -> EffectiveConfig {
        EffectiveConfig {
            api_server: self.api_server.clone(),
            traffic: self.traffic.clone(),
            datapath: self.datapath,
            host_firewall: self.host_firewall,
            service_proxy: self.service_proxy.clone(),
            cni: self.cni.clone(),
            startup_taint: (self.taint == Switch::Enabled).then(|| self.taint_key.clone()),
            service_cidrs: facts.service_cidrs.clone(),
            node_ipam: self
                .node_ipam
                .as_ref()
                .filter(|_| self.ipam == IpamMode::NodeIPAM)
                .map(|ipam| carrick_api::effective::NodeIpam {
                    cluster_cidrs: ipam.parsed(),
                    node_mask_size_ipv4: ipam.node_mask_size_ipv4,
                    node_mask_size_ipv6: ipam.node_mask_size_ipv6,
                }),
            node_configs: self.node_configs.clone(),
            log_level: self.log_level.as_str().to_owned(),
        }
    }

    /// The datapath of a node with these labels.
    pub fn datapath_on(&self, labels: &BTreeMap<String, String>) -> DatapathType {
        first_match(&self.node_configs, labels)
            .and_then(NodeConfig::datapath_type)
            .unwrap_or(self.datapath)
    }

    /// Whether some node may use the userspace datapath.
    pub fn has_userspace(&self) -> bool {
        let own = self
            .node_configs
            .iter()
            .filter_map(NodeConfig::datapath_type);
        own.chain([self.datapath])
            .any(|datapath| datapath == DatapathType::Userspace)
    }

    /// As it is shown in `status.effective`: the spec a person could have written.
    pub fn to_spec(&self, spec: &NetworkingSpec) -> NetworkingSpec {
        let images = spec.images.clone().unwrap_or_default();
        NetworkingSpec {
            management: Some(spec.management.unwrap_or(Management::Managed)),
            provider: Some(self.provider),
            api_server: Some(networking::ApiServer {
                host: Some(self.api_server.host.clone()),
                port: Some(self.api_server.port),
            }),
            images: Some(networking::Images {
                pull_policy: Some(self.images.pull_policy),
                pull_secrets: Some(self.images.pull_secrets.clone()),
                ..images
            }),
            traffic: Some(networking::Traffic {
                mode: Some(self.traffic.mode),
                tunnel: (self.traffic.mode != TrafficMode::NoEncap).then_some(networking::Tunnel {
                    protocol: Some(self.traffic.tunnel_protocol),
                    port: Some(self.traffic.tunnel_port),
                    checksum: Some(self.traffic.tunnel_checksum),
                }),
                mtu: Some(self.traffic.mtu),
                transport: Some(networking::Transport {
                    interface: Some(self.traffic.transport_interface.clone()),
                    cidrs: Some(
                        self.traffic
                            .transport_cidrs
                            .iter()
                            .map(ToString::to_string)
                            .collect(),
                    ),
                }),
                snat: Some(networking::Snat {
                    mode: Some(self.traffic.snat),
                    random_fully: Some(self.traffic.snat_randomly),
                }),
            }),
            ipam: Some(networking::Ipam {
                mode: Some(self.ipam),
                node_ipam: self.node_ipam.as_ref().map(|ipam| networking::NodeIpam {
                    cluster_cidrs: Some(ipam.cluster_cidrs.clone()),
                    node_mask_size_ipv4: Some(ipam.node_mask_size_ipv4),
                    node_mask_size_ipv6: Some(ipam.node_mask_size_ipv6),
                }),
            }),
            datapath: Some(networking::Datapath {
                type_: Some(self.datapath),
            }),
            host_firewall: Some(self.host_firewall),
            service_proxy: Some(networking::ServiceProxy {
                mode: Some(self.service_proxy.mode),
                kube_proxy: self.service_proxy.kube_proxy,
                skip_services: Some(self.service_proxy.skip_services.clone()),
                node_port_addresses: Some(
                    self.service_proxy
                        .node_port_addresses
                        .iter()
                        .map(ToString::to_string)
                        .collect(),
                ),
            }),
            node_configs: Some(self.node_configs.clone()),
            cni: Some(networking::Cni {
                bin_dir: Some(self.cni.bin_dir.clone()),
                conf_dir: Some(self.cni.conf_dir.clone()),
                conf_file: Some(self.cni.conf_file.clone()),
                exclusive: Some(self.cni.exclusive),
            }),
            controller: Some(networking::Controller {
                replicas: Some(self.controller.replicas),
                placement: Some(self.controller.placement.clone()),
                resources: Some(self.controller.resources.clone()),
                extra_args: Some(self.controller.extra_args.clone()),
            }),
            agent: Some(networking::Agent {
                placement: Some(self.agent.placement.clone()),
                resources: Some(self.agent.resources.clone()),
                switch_resources: Some(self.agent.switch_resources.clone()),
                priority_class: Some(self.agent.priority_class.clone()),
            }),
            observability: Some(networking::Observability {
                log_level: Some(self.log_level),
            }),
            startup: Some(networking::Startup {
                taint: Some(self.taint),
                taint_key: Some(self.taint_key.clone()),
            }),
            rollout: Some(crate::rollout::observe::shown(spec.rollout.as_ref())),
            acknowledge: Some(spec.acknowledge.clone().unwrap_or_default()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::samples;

    #[test]
    fn an_upgrade_takes_no_kube_proxy_over() {
        use ServiceProxyMode::{ClusterIP, Disabled, Full};
        let unnamed = |last: Option<&Effective>, shown: Option<&str>| {
            let status = shown.map(|spec| NetworkingStatus {
                effective: Some(samples::spec(spec)),
                ..NetworkingStatus::default()
            });
            unnamed_service_proxy_mode(last, status.as_ref())
        };
        assert_eq!(unnamed(None, None), Full, "a new object");
        // As releases wrote it that had no such default.
        let mut written = serde_json::to_value(samples::effective()).unwrap();
        let fields = written.as_object_mut().unwrap();
        fields.remove("unnamedServiceProxyMode");
        fields.insert("serviceProxy".to_owned(), json!({"mode": "ClusterIP"}));
        let last: Effective = serde_json::from_value(written).unwrap();
        assert_eq!(unnamed(Some(&last), None), Disabled);
        assert_eq!(unnamed(Some(&samples::effective()), None), Full);
        // The Secret is gone.
        assert_eq!(unnamed(None, Some("{}")), Disabled);
        assert_eq!(
            unnamed(None, Some("{serviceProxy: {mode: ClusterIP}}")),
            ClusterIP
        );
    }
}
