//! etcd, kube-apiserver, kube-controller-manager and kube-scheduler.

use std::net::IpAddr;
use std::path::Path;

use anyhow::Result;

use crate::addressing::Addressing;
use crate::machine::{Blueprint, Component};
use crate::pki::{Pki, Subject};
use crate::spec::{ClusterSpec, IpFamily, PodCidrs};

/// Component names, as tests use them.
pub const ETCD: &str = "etcd";
/// The API server.
pub const API_SERVER: &str = "kube-apiserver";
/// The controller manager.
pub const CONTROLLER_MANAGER: &str = "kube-controller-manager";
/// The scheduler.
pub const SCHEDULER: &str = "kube-scheduler";

/// Issues the control plane's certificates and says how to run it.
pub fn blueprint(
    spec: &ClusterSpec,
    addressing: Addressing,
    pki: &Pki,
    bin: &Path,
) -> Result<Blueprint> {
    let mut addresses: Vec<IpAddr> = addressing
        .control_plane()
        .iter()
        .map(ipnet::IpNet::addr)
        .collect();
    addresses.extend(addressing.kubernetes_service());
    addresses.extend([
        IpAddr::from([127, 0, 0, 1]),
        IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1]),
    ]);
    let names = [
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
        "localhost",
    ];
    pki.issue(
        "apiserver",
        Subject {
            name: "kube-apiserver",
            group: None,
        },
        &names,
        &addresses,
    )?;
    for (file, name, group) in [
        ("admin", "carrick-testbed-admin", Some("system:masters")),
        (
            "kubelet-client",
            "kube-apiserver-kubelet-client",
            Some("system:masters"),
        ),
        ("controller-manager", "system:kube-controller-manager", None),
        ("scheduler", "system:kube-scheduler", None),
    ] {
        pki.issue(file, Subject { name, group }, &[], &[])?;
    }
    for file in ["admin", "controller-manager", "scheduler"] {
        pki.kubeconfig(file, &addressing.api_server(), &spec.name)?;
    }
    let components = vec![
        etcd(bin),
        api_server(spec, addressing, pki, bin),
        controller_manager(spec, addressing, pki, bin),
        scheduler(pki, bin),
    ];
    let hosts = "127.0.0.1 localhost control-plane\n::1 localhost\n".to_owned();
    Ok(Blueprint {
        kept: vec![("etcd", "/var/lib/etcd")],
        hosts,
        components,
        preloaded: None,
    })
}

/// A script that execs a program; `wait` comes before.
pub fn script(wait: &str, program: &Path, flags: &[String]) -> String {
    let mut text = format!("{wait}exec {}", program.display());
    for flag in flags {
        text.push_str(" \\\n  '");
        text.push_str(flag);
        text.push('\'');
    }
    text.push('\n');
    text
}

/// Shell words that wait until a TCP port of this machine answers: components that give up when
/// what they need is not there yet would only be started again later.
fn wait_port(port: u16) -> String {
    format!("until (exec 3<>/dev/tcp/127.0.0.1/{port}) 2>/dev/null; do sleep 0.05; done\n")
}

fn flags(pairs: &[(&str, String)]) -> Vec<String> {
    pairs
        .iter()
        .map(|(name, value)| format!("--{name}={value}"))
        .collect()
}

fn etcd(bin: &Path) -> Component {
    let url = |port: u16| format!("http://127.0.0.1:{port}");
    let flags = [
        flags(&[
            ("data-dir", "/var/lib/etcd".to_owned()),
            ("listen-client-urls", url(2379)),
            ("advertise-client-urls", url(2379)),
            ("listen-peer-urls", url(2380)),
            ("initial-advertise-peer-urls", url(2380)),
            ("initial-cluster", format!("default={}", url(2380))),
            ("log-level", "warn".to_owned()),
        ]),
        // A test cluster's data is not worth its disk's time.
        vec!["--unsafe-no-fsync".to_owned()],
    ]
    .concat();
    Component {
        name: ETCD,
        script: script("", &bin.join(ETCD), &flags),
    }
}

fn api_server(spec: &ClusterSpec, addressing: Addressing, pki: &Pki, bin: &Path) -> Component {
    let file = |name: &str| pki.file(name).display().to_string();
    let any = if spec.family == IpFamily::V4 {
        "0.0.0.0"
    } else {
        "::"
    };
    let flags = flags(&[
        ("etcd-servers", "http://127.0.0.1:2379".to_owned()),
        ("bind-address", any.to_owned()),
        ("secure-port", "6443".to_owned()),
        ("advertise-address", addressing.api_host().to_string()),
        (
            "service-cluster-ip-range",
            addressing.service_cidrs().join(","),
        ),
        ("tls-cert-file", file("apiserver.crt")),
        ("tls-private-key-file", file("apiserver.key")),
        ("client-ca-file", file("ca.crt")),
        ("service-account-key-file", file("sa.pub")),
        ("service-account-signing-key-file", file("sa.key")),
        (
            "service-account-issuer",
            "https://kubernetes.default.svc".to_owned(),
        ),
        ("authorization-mode", "Node,RBAC".to_owned()),
        ("enable-admission-plugins", "NodeRestriction".to_owned()),
        ("allow-privileged", "true".to_owned()),
        // Without it exec and logs look node names up in DNS.
        ("kubelet-preferred-address-types", "InternalIP".to_owned()),
        ("kubelet-certificate-authority", file("ca.crt")),
        ("kubelet-client-certificate", file("kubelet-client.crt")),
        ("kubelet-client-key", file("kubelet-client.key")),
        ("shutdown-delay-duration", "0s".to_owned()),
        ("v", "1".to_owned()),
    ]);
    Component {
        name: API_SERVER,
        script: script(&wait_port(2379), &bin.join(API_SERVER), &flags),
    }
}

fn controller_manager(
    spec: &ClusterSpec,
    addressing: Addressing,
    pki: &Pki,
    bin: &Path,
) -> Component {
    let file = |name: &str| pki.file(name).display().to_string();
    let config = file("controller-manager.conf");
    let mut pairs = vec![
        ("kubeconfig", config.clone()),
        ("authentication-kubeconfig", config.clone()),
        ("authorization-kubeconfig", config),
        ("service-account-private-key-file", file("sa.key")),
        ("root-ca-file", file("ca.crt")),
        ("cluster-signing-cert-file", file("ca.crt")),
        ("cluster-signing-key-file", file("ca.key")),
        ("use-service-account-credentials", "true".to_owned()),
        ("leader-elect", "false".to_owned()),
        (
            "allocate-node-cidrs",
            (spec.pod_cidrs == PodCidrs::ControllerManager).to_string(),
        ),
        ("cluster-cidr", addressing.pod_cidrs().join(",")),
        (
            "service-cluster-ip-range",
            addressing.service_cidrs().join(","),
        ),
        // Tests create hundreds of pods at once.
        ("kube-api-qps", "200".to_owned()),
        ("kube-api-burst", "400".to_owned()),
        ("v", "1".to_owned()),
    ];
    let mask = spec.node_mask_v4.to_string();
    match spec.family {
        IpFamily::V4 => pairs.push(("node-cidr-mask-size", mask)),
        IpFamily::V6 => pairs.push(("node-cidr-mask-size", "64".to_owned())),
        IpFamily::Dual => {
            pairs.push(("node-cidr-mask-size-ipv4", mask));
            pairs.push(("node-cidr-mask-size-ipv6", "64".to_owned()));
        }
    }
    Component {
        name: CONTROLLER_MANAGER,
        script: script(
            &wait_port(6443),
            &bin.join(CONTROLLER_MANAGER),
            &flags(&pairs),
        ),
    }
}

fn scheduler(pki: &Pki, bin: &Path) -> Component {
    let config = pki.file("scheduler.conf").display().to_string();
    let flags = flags(&[
        ("kubeconfig", config.clone()),
        ("authentication-kubeconfig", config.clone()),
        ("authorization-kubeconfig", config),
        ("leader-elect", "false".to_owned()),
        ("kube-api-qps", "200".to_owned()),
        ("kube-api-burst", "400".to_owned()),
        ("v", "1".to_owned()),
    ]);
    Component {
        name: SCHEDULER,
        script: script(&wait_port(6443), &bin.join(SCHEDULER), &flags),
    }
}
