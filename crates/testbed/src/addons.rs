//! What a cluster runs in `kube-system` when it is asked to: kube-proxy and CoreDNS, in the objects kubeadm
//! makes of them (names, labels, ConfigMaps, the DaemonSet), because those are what users have.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::addressing::Addressing;
use crate::archive::Archive;
use crate::cluster::Cluster;
use crate::images;
use crate::progress::Progress;
use crate::spec::{ClusterDns, ClusterSpec, KubeProxy};

/// Where they run.
const NAMESPACE: &str = "kube-system";
/// How long kube-proxy may take to run on every node of a busy machine.
const DEADLINE: Duration = Duration::from_mins(3);

/// What of them a cluster has, with their images.
#[derive(Debug)]
pub struct Addons {
    kube_proxy: Option<(KubeProxy, Archive)>,
    dns: Option<Archive>,
}

impl Addons {
    /// Builds what the cluster shall have, or finds it in the cache.
    ///
    /// # Errors
    /// When something does not build, or a program is not installed.
    pub fn make(spec: &ClusterSpec, progress: &Progress) -> Result<Self> {
        Ok(Self {
            kube_proxy: match spec.kube_proxy {
                KubeProxy::None => None,
                mode => Some((mode, images::kube_proxy(progress)?)),
            },
            dns: match spec.dns {
                ClusterDns::None => None,
                ClusterDns::CoreDns => Some(images::coredns(progress)?),
            },
        })
    }

    /// Their images.
    pub fn images(&self) -> impl Iterator<Item = &Archive> {
        let proxy = self.kube_proxy.iter().map(|(_, image)| image);
        proxy.chain(&self.dns)
    }

    /// Applies their objects and waits for kube-proxy, which needs no network of pods. CoreDNS does: it is
    /// ready when the network is.
    ///
    /// # Errors
    /// When the API server refuses an object, or kube-proxy does not run on every node in time.
    pub fn apply(&self, cluster: &Cluster, progress: &Progress) -> Result<()> {
        let addressing = cluster.addressing();
        let mut objects = Vec::new();
        if let Some((mode, image)) = &self.kube_proxy {
            objects.extend(kube_proxy(*mode, addressing, image.name()));
        }
        if let Some(image) = &self.dns {
            objects.extend(coredns(&addressing.cluster_dns(), image.name()));
        }
        if objects.is_empty() {
            return Ok(());
        }
        let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
        cluster.kubectl_with_input(
            &[
                "apply",
                "--server-side",
                "--force-conflicts",
                "--field-manager=carrick-testbed",
                "-f",
                "-",
            ],
            &list.to_string(),
        )?;
        if self.kube_proxy.is_some() {
            progress.wait("kube-proxy on every node", DEADLINE, || {
                let text = cluster.kubectl(&[
                    "get",
                    "daemonset",
                    "kube-proxy",
                    "--namespace",
                    NAMESPACE,
                    "-o=json",
                ])?;
                let set: Value = serde_json::from_str(&text).context("parse the DaemonSet")?;
                Ok(missing(&set, cluster.nodes().len()))
            })?;
        }
        Ok(())
    }
}

/// What a DaemonSet lacks to run on so many nodes.
fn missing(set: &Value, nodes: usize) -> Option<String> {
    let status = &set["status"];
    let current = status["observedGeneration"] == set["metadata"]["generation"];
    let here = status["updatedNumberScheduled"].as_u64().unwrap_or(0);
    let ready = status["numberReady"].as_u64().unwrap_or(0);
    let enough = |count: u64| usize::try_from(count).is_ok_and(|count| count >= nodes);
    (!current || !enough(here) || !enough(ready))
        .then(|| format!("{ready} of {nodes} are ready, {here} up to date"))
}

/// kube-proxy as kubeadm runs it.
fn kube_proxy(mode: KubeProxy, addressing: Addressing, image: &str) -> Vec<Value> {
    let any = if addressing.api_host().is_ipv4() {
        "0.0.0.0"
    } else {
        "::"
    };
    let config = json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "bindAddress": any,
        "clientConnection": {"kubeconfig": "/var/lib/kube-proxy/kubeconfig.conf"},
        "clusterCIDR": addressing.pod_cidrs().join(","),
        // These limits are the host's alone, not a network namespace's.
        "conntrack": {"maxPerCore": 0, "min": 0},
        "mode": mode.to_string(),
    });
    let account = "/var/run/secrets/kubernetes.io/serviceaccount";
    let kubeconfig = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "default",
        "clusters": [{"name": "default", "cluster": {
            "certificate-authority": format!("{account}/ca.crt"), "server": addressing.api_server()}}],
        "contexts": [{"name": "default", "context": {
            "cluster": "default", "namespace": "default", "user": "default"}}],
        "users": [{"name": "default", "user": {"tokenFile": format!("{account}/token")}}],
    });
    let labels = json!({"k8s-app": "kube-proxy"});
    vec![
        service_account("kube-proxy"),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
            "metadata": {"name": "kubeadm:node-proxier"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:node-proxier"},
            "subjects": [{"kind": "ServiceAccount", "name": "kube-proxy", "namespace": NAMESPACE}],
        }),
        json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "kube-proxy", "namespace": NAMESPACE, "labels": {"app": "kube-proxy"}},
            "data": {"config.conf": config.to_string(), "kubeconfig.conf": kubeconfig.to_string()},
        }),
        json!({
            "apiVersion": "apps/v1", "kind": "DaemonSet",
            "metadata": {"name": "kube-proxy", "namespace": NAMESPACE, "labels": labels},
            "spec": {
                "selector": {"matchLabels": labels},
                "updateStrategy": {"type": "RollingUpdate"},
                "template": {
                    // The configuration is read once, at the start: another one is another pod.
                    "metadata": {"labels": labels, "annotations": {"carrick.dev/testbed-mode": mode.to_string()}},
                    "spec": {
                        "priorityClassName": "system-node-critical",
                        "serviceAccountName": "kube-proxy",
                        "hostNetwork": true,
                        "nodeSelector": {"kubernetes.io/os": "linux"},
                        "tolerations": [{"operator": "Exists"}],
                        "containers": [{
                            "name": "kube-proxy", "image": image, "imagePullPolicy": "IfNotPresent",
                            "command": ["/usr/local/bin/kube-proxy", "--config=/var/lib/kube-proxy/config.conf",
                                        "--hostname-override=$(NODE_NAME)"],
                            "env": [{"name": "NODE_NAME", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}],
                            "securityContext": {"privileged": true},
                            "volumeMounts": [
                                {"name": "kube-proxy", "mountPath": "/var/lib/kube-proxy"},
                                {"name": "xtables-lock", "mountPath": "/run/xtables.lock"},
                                {"name": "lib-modules", "mountPath": "/lib/modules", "readOnly": true},
                            ],
                        }],
                        "volumes": [
                            {"name": "kube-proxy", "configMap": {"name": "kube-proxy"}},
                            {"name": "xtables-lock", "hostPath": {"path": "/run/xtables.lock", "type": "FileOrCreate"}},
                            {"name": "lib-modules", "hostPath": {"path": "/lib/modules"}},
                        ],
                    },
                },
            },
        }),
    ]
}

/// kubeadm's but for `forward`: nodes here have no name server to forward to.
const COREFILE: &str = "\
.:53 {
    errors
    health {
        lameduck 5s
    }
    ready
    kubernetes cluster.local in-addr.arpa ip6.arpa {
        pods insecure
        fallthrough in-addr.arpa ip6.arpa
        ttl 30
    }
    prometheus :9153
    cache 30
    loop
    reload
    loadbalance
}
";

/// CoreDNS as kubeadm runs it, behind these cluster IPs.
fn coredns(addresses: &[IpAddr], image: &str) -> Vec<Value> {
    let labels = json!({"k8s-app": "kube-dns"});
    let families: Vec<_> = addresses
        .iter()
        .map(|address| if address.is_ipv4() { "IPv4" } else { "IPv6" })
        .collect();
    let policy = match addresses {
        [_] => "SingleStack",
        _ => "RequireDualStack",
    };
    let port = |name, protocol, port| json!({"name": name, "protocol": protocol, "port": port, "targetPort": port});
    let rule = |group: &str, resources: &[&str]| json!({"apiGroups": [group], "resources": resources, "verbs": ["list", "watch"]});
    vec![
        service_account("coredns"),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
            "metadata": {"name": "system:coredns"},
            "rules": [rule("", &["endpoints", "services", "pods", "namespaces"]),
                      rule("discovery.k8s.io", &["endpointslices"])],
        }),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
            "metadata": {"name": "system:coredns"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:coredns"},
            "subjects": [{"kind": "ServiceAccount", "name": "coredns", "namespace": NAMESPACE}],
        }),
        json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "coredns", "namespace": NAMESPACE},
            "data": {"Corefile": COREFILE},
        }),
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {
                "name": "kube-dns", "namespace": NAMESPACE,
                "labels": {"k8s-app": "kube-dns", "kubernetes.io/cluster-service": "true", "kubernetes.io/name": "CoreDNS"},
            },
            "spec": {
                "selector": labels, "clusterIP": addresses.first(), "clusterIPs": addresses,
                "ipFamilies": families, "ipFamilyPolicy": policy,
                "ports": [port("dns", "UDP", 53), port("dns-tcp", "TCP", 53), port("metrics", "TCP", 9153)],
            },
        }),
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "coredns", "namespace": NAMESPACE, "labels": labels},
            "spec": {
                "replicas": 2,
                "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1}},
                "selector": {"matchLabels": labels},
                "template": {
                    "metadata": {"labels": labels},
                    "spec": {
                        "priorityClassName": "system-cluster-critical",
                        "serviceAccountName": "coredns",
                        "dnsPolicy": "Default",
                        "affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{
                            "weight": 100,
                            "podAffinityTerm": {"labelSelector": {"matchLabels": labels}, "topologyKey": "kubernetes.io/hostname"},
                        }]}},
                        "tolerations": [{"key": "CriticalAddonsOnly", "operator": "Exists"}],
                        "containers": [{
                            "name": "coredns", "image": image, "imagePullPolicy": "IfNotPresent",
                            "args": ["-conf", "/etc/coredns/Corefile"],
                            "ports": [{"name": "dns", "containerPort": 53, "protocol": "UDP"},
                                      {"name": "dns-tcp", "containerPort": 53, "protocol": "TCP"},
                                      {"name": "metrics", "containerPort": 9153, "protocol": "TCP"}],
                            "livenessProbe": {"httpGet": {"path": "/health", "port": 8080},
                                              "initialDelaySeconds": 60, "timeoutSeconds": 5, "failureThreshold": 5},
                            "readinessProbe": {"httpGet": {"path": "/ready", "port": 8181}, "periodSeconds": 2},
                            "securityContext": {"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
                                                "capabilities": {"add": ["NET_BIND_SERVICE"], "drop": ["ALL"]}},
                            "volumeMounts": [{"name": "config-volume", "mountPath": "/etc/coredns", "readOnly": true}],
                        }],
                        "volumes": [{"name": "config-volume", "configMap": {
                            "name": "coredns", "items": [{"key": "Corefile", "path": "Corefile"}]}}],
                    },
                },
            },
        }),
    ]
}

fn service_account(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": NAMESPACE}})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::IpFamily;

    #[test]
    fn kube_proxy_has_the_api_servers_own_address() {
        for (family, any) in [(IpFamily::Dual, "0.0.0.0"), (IpFamily::V6, "::")] {
            let addressing = Addressing::new(3, family);
            let objects = kube_proxy(KubeProxy::Iptables, addressing, "localhost/kube-proxy:1");
            let map = objects
                .iter()
                .find(|object| object["kind"] == "ConfigMap")
                .unwrap();
            let data = |key: &str| -> Value {
                serde_json::from_str(map["data"][key].as_str().unwrap()).unwrap()
            };
            assert_eq!(data("config.conf")["mode"], "iptables");
            assert_eq!(data("config.conf")["bindAddress"], any);
            // A cluster IP would need the kube-proxy that is to be started.
            assert_eq!(
                data("kubeconfig.conf")["clusters"][0]["cluster"]["server"],
                addressing.api_server()
            );
        }
    }

    #[test]
    fn dns_has_the_tenth_address_of_each_family() {
        let service = |family| {
            let objects = coredns(&Addressing::new(0, family).cluster_dns(), "image");
            let found = objects
                .into_iter()
                .find(|object| object["kind"] == "Service");
            found.unwrap()["spec"].take()
        };
        let both = service(IpFamily::Dual);
        assert_eq!(both["clusterIPs"], json!(["10.96.0.10", "fd00:10:96::a"]));
        assert_eq!(both["ipFamilies"], json!(["IPv4", "IPv6"]));
        let one = service(IpFamily::V6);
        assert_eq!(one["clusterIP"], "fd00:10:96::a");
        assert_eq!(one["ipFamilyPolicy"], "SingleStack");
    }

    #[test]
    fn a_daemon_set_is_waited_for_until_its_last_template_runs_everywhere() {
        let set = |observed, updated, ready| {
            json!({"metadata": {"generation": 2}, "status": {"observedGeneration": observed,
                   "updatedNumberScheduled": updated, "numberReady": ready}})
        };
        assert_eq!(missing(&set(2, 3, 3), 3), None);
        for not_yet in [set(1, 3, 3), set(2, 2, 3), set(2, 3, 2), json!({})] {
            assert!(missing(&not_yet, 3).is_some(), "{not_yet}");
        }
    }
}
