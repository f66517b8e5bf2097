//! Whether `serviceProxy` can work in this cluster.

use std::net::IpAddr;

use carrick_api::effective::ServiceProxyMode;

use crate::effective::Effective;
use crate::facts::Facts;
use crate::verdict::Refusal;

/// Whoever replaces kube-proxy cannot reach the API server by what kube-proxy, or its replacement, serves: the
/// agent would need itself to start. And only who does has node ports.
pub(super) fn refusal(effective: &Effective, facts: &Facts) -> Option<Refusal> {
    let proxy = &effective.service_proxy;
    if proxy.mode != ServiceProxyMode::Full && proxy.kube_proxy.is_some() {
        return Some(Refusal {
            field: "spec.serviceProxy.kubeProxy".into(),
            reason: format!("in mode {:?} kube-proxy must run", proxy.mode),
            mend: "leave it out, or choose mode Full".into(),
        });
    }
    if proxy.mode != ServiceProxyMode::Full {
        return (!proxy.node_port_addresses.is_empty()).then(|| Refusal {
            field: "spec.serviceProxy.nodePortAddresses".into(),
            reason: format!("in mode {:?} node ports are kube-proxy's", proxy.mode),
            mend:
                "set kube-proxy's own nodePortAddresses and leave it out here, or choose mode Full"
                    .into(),
        });
    }
    api_server_is_a_service(effective, facts).then(|| Refusal {
        field: "spec.serviceProxy.mode".into(),
        reason: format!(
            "Full replaces kube-proxy, and the API server is reached at {}, which is the kubernetes Service: \
             without kube-proxy no agent could start",
            effective.api_server.host
        ),
        mend: "set spec.apiServer.host and spec.apiServer.port (or the chart's values of that name) to an endpoint \
               of the API server itself"
            .into(),
    })
}

/// The endpoint is an address or the name of the Service `kubernetes`.
pub(super) fn api_server_is_a_service(effective: &Effective, facts: &Facts) -> bool {
    let host = effective.api_server.host.as_str();
    let by_address = host.parse::<IpAddr>().is_ok_and(|address| {
        let in_range = facts
            .service_cidrs
            .iter()
            .any(|range| range.contains(&address));
        in_range || facts.kubernetes_service.contains(&address)
    });
    let mut labels = host.split('.');
    let named =
        labels.next() == Some("kubernetes") && matches!(labels.next(), None | Some("default"));
    by_address || named
}

#[cfg(test)]
mod tests {
    use super::super::tests::check;
    use super::*;

    #[test]
    fn full_is_refused_by_way_of_a_service() {
        let full = "serviceProxy: {mode: Full, nodePortAddresses: [192.0.2.0/24]}";
        assert_eq!(check("{serviceProxy: {mode: ClusterIP}}", |_| {}), [""; 0]);
        let mode = "spec.serviceProxy.mode";
        assert_eq!(check(&format!("{{{full}}}"), |_| {}), [""; 0]);
        for other in ["Disabled", "ClusterIP"] {
            let spec = format!("{{{}}}", full.replace("Full", other));
            let ranges = "spec.serviceProxy.nodePortAddresses";
            assert_eq!(check(&spec, |_| {}), [ranges], "{other}");
        }
        for (mode, refused) in [
            ("Disabled", &["spec.serviceProxy.kubeProxy"][..]),
            ("ClusterIP", &["spec.serviceProxy.kubeProxy"]),
            ("Full", &[]),
        ] {
            for kube_proxy in ["Auto", "Keep", "Disable"] {
                let spec = format!("{{serviceProxy: {{mode: {mode}, kubeProxy: {kube_proxy}}}}}");
                assert_eq!(check(&spec, |_| {}), refused, "{spec}");
            }
        }
        let kubernetes = |facts: &mut Facts| {
            facts.kubernetes_service = vec!["203.0.113.1".parse().unwrap()];
        };
        for host in [
            "203.0.113.1",
            "10.96.0.1",
            "kubernetes.default.svc",
            "kubernetes.default.svc.cluster.local",
            "kubernetes",
        ] {
            let spec = format!("{{{full}, apiServer: {{host: {host}, port: 443}}}}");
            assert_eq!(check(&spec, kubernetes), [mode], "{host}");
            let by_pods = spec.replace(full, "serviceProxy: {mode: ClusterIP}");
            assert_eq!(check(&by_pods, kubernetes), [""; 0], "{host}");
        }
    }
}
