//! Names, ports and paths that more than one part must agree on.

/// The API group of every Carrick resource.
pub const GROUP: &str = "carrick.dev";
/// The one name a `Networking` may have.
pub const NETWORKING_NAME: &str = "default";
/// The field manager of everything the operator applies.
pub const OPERATOR_FIELD_MANAGER: &str = "carrick-operator";
/// Finalizer that keeps a `Networking` until its nodes are clean.
pub const FINALIZER: &str = "carrick.dev/network";

/// Objects the operator makes, in its own namespace.
pub mod object {
    /// Deployment, ServiceAccount and Lease of the controller; also the name in its TLS certificate.
    pub const CONTROLLER: &str = "carrick-controller";
    /// Lease with which the controller's leader claims CIDRs before it gives them to nodes (made by
    /// the controller, in `ipam.mode: NodeIPAM`).
    pub const NODE_IPAM: &str = "carrick-node-ipam";
    /// DaemonSet and ServiceAccount of the agent.
    pub const AGENT: &str = "carrick-agent";
    /// DaemonSet and ServiceAccount of the switch.
    pub const SWITCH: &str = "carrick-ovs";
    /// Deployment, ServiceAccount and Lease of the operator (made by the chart).
    pub const OPERATOR: &str = "carrick-operator";
    /// ConfigMap with the effective configuration, a key `config-HASH.json` for each that is in use.
    pub const CONFIG: &str = "carrick-config";
    /// ConfigMap with the CA bundle agents trust, key `ca.crt`.
    pub const CA_BUNDLE: &str = "carrick-ca-bundle";
    /// Secret with the CA certificate and key (operator only).
    pub const CA: &str = "carrick-ca";
    /// Secret with the controller's serving certificate, keys `tls.crt` and `tls.key`.
    pub const CONTROLLER_TLS: &str = "carrick-controller-tls";
    /// Headless Service of the controller; agents read its EndpointSlices, never its address.
    pub const CONTROLLER_SERVICE: &str = "carrick-controller";
    /// Secret with the last applied effective spec.
    pub const LAST_APPLIED: &str = "carrick-last-applied";
    /// Secret with the render that last ran without a fault, and what became of the last rollout.
    pub const ROLLOUT: &str = "carrick-rollout";
    /// DaemonSet that pulls a change's images before anything restarts; there only meanwhile.
    pub const PRE_PULL: &str = "carrick-pre-pull";
}

/// Audience of the agents' ServiceAccount tokens.
pub const TOKEN_AUDIENCE: &str = "carrick-controller";

/// TCP ports on the host network.
pub mod port {
    /// Controller: gRPC for agents, TLS.
    pub const CONTROLLER_GRPC: u16 = 11250;
    /// Controller: health, metrics and read API; loopback plus the node address for probes.
    pub const CONTROLLER_HTTP: u16 = 11251;
    /// Agent: health, metrics and read API, loopback only.
    pub const AGENT_HTTP: u16 = 11252;
    /// Switch supervisor: health, loopback only.
    pub const SWITCH_HTTP: u16 = 11253;
    /// Operator: health and metrics.
    pub const OPERATOR_HTTP: u16 = 11254;
}

/// Paths inside the operands' containers; host paths are the same unless said otherwise.
pub mod path {
    /// The effective configuration (a ConfigMap mount).
    pub const CONFIG_FILE: &str = "/etc/carrick/config.json";
    /// The CA bundle (a ConfigMap mount).
    pub const CA_BUNDLE_FILE: &str = "/etc/carrick/ca/ca.crt";
    /// The agent's token for the controller (a projected volume).
    pub const TOKEN_FILE: &str = "/var/run/secrets/carrick/token";
    /// The controller's serving certificate (a Secret mount).
    pub const CONTROLLER_TLS_DIR: &str = "/etc/carrick/tls";
    /// State that outlives reboots: addresses, ledger, journal.
    pub const STATE_DIR: &str = "/var/lib/carrick";
    /// State of this boot (tmpfs on the host), shared by agent and switch.
    pub const RUN_DIR: &str = "/run/carrick";
    /// The agent's last commit, replayed by the switch supervisor.
    pub const COMMIT_FILE: &str = "/run/carrick/commit.json";
    /// Open vSwitch's run directory: `db.sock`, `br-int.mgmt`, pid files.
    pub const OVS_RUN_DIR: &str = "/run/carrick/openvswitch";
    /// Where carrick-cni finds the agent.
    pub const CNI_SOCKET: &str = "/run/carrick/cni.sock";
    /// The agent's read-only HTTP API.
    pub const AGENT_SOCKET: &str = "/run/carrick/agent.sock";
    /// The host's `/opt/cni/bin` (or the provider's) inside the agent's container.
    pub const HOST_CNI_BIN: &str = "/host/cni/bin";
    /// The host's `/etc/cni/net.d` (or the provider's) inside the agent's container.
    pub const HOST_CNI_CONF: &str = "/host/cni/conf";
    /// The host's `/proc/sys/net`, writable, inside the agent's container.
    pub const HOST_PROC_SYS_NET: &str = "/host/proc/sys/net";
    /// The host's `/var/lib`, writable; in the container of `agent cleanup` only: a directory cannot
    /// be removed from inside its own mount, so `STATE_DIR` goes by its parent.
    pub const HOST_VAR_LIB: &str = "/host/var/lib";
    /// The host's `/run`, writable; in the container of `agent cleanup` only, for `RUN_DIR`.
    pub const HOST_RUN: &str = "/host/run";
}

/// Interfaces and bridges on a node.
pub mod link {
    /// The integration bridge.
    pub const INTEGRATION_BRIDGE: &str = "br-int";
    /// The transport bridge of the userspace datapath.
    pub const TRANSPORT_BRIDGE: &str = "br-phy";
    /// The gateway: the host's port on the integration bridge.
    pub const GATEWAY: &str = "carrick-gw0";
    /// The tunnel port on the integration bridge.
    pub const TUNNEL: &str = "carrick-tun0";
    /// Prefix of the host side of pods' veth pairs.
    pub const POD_PREFIX: &str = "car";

    /// Whether a name is that of a pod's host end: the prefix and 12 hexadecimal digits.
    pub fn is_pod(name: &str) -> bool {
        name.strip_prefix(POD_PREFIX)
            .is_some_and(|rest| rest.len() == 12 && rest.bytes().all(|b| b.is_ascii_hexdigit()))
    }

    /// Whether a port of the kernel's datapath may be one that our switch made: pods' links, our
    /// internal ports, and the devices that Open vSwitch makes for tunnels.
    pub fn is_switch_port(name: &str) -> bool {
        const TUNNEL_DEVICES: [&str; 6] = [
            "genev_sys_",
            "vxlan_sys_",
            "gre_sys",
            "erspan_sys",
            "ip6gre_sys",
            "ip6erspan_sys",
        ];
        is_pod(name)
            || [INTEGRATION_BRIDGE, TRANSPORT_BRIDGE, GATEWAY, TUNNEL].contains(&name)
            || TUNNEL_DEVICES.iter().any(|prefix| name.starts_with(prefix))
    }
}

#[cfg(test)]
mod tests {
    use super::link::{is_pod, is_switch_port};

    #[test]
    fn only_our_links_are_pod_links() {
        assert!(is_pod("car0123456789ab"));
        for other in [
            "carrick-gw0",
            "carrick-tun0",
            "car0",
            "cali0123456789ab",
            "car0123456789ag",
        ] {
            assert!(!is_pod(other), "{other}");
        }
    }

    #[test]
    fn ports_of_our_switch_are_known_by_name() {
        for ours in ["car0123456789ab", "carrick-gw0", "br-int", "genev_sys_6081"] {
            assert!(is_switch_port(ours), "{ours}");
        }
        for other in ["eth0", "br-ex", "cali0123456789ab"] {
            assert!(!is_switch_port(other), "{other}");
        }
    }
}
