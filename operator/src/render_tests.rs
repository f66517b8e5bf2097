//! Golden files of what is rendered, and what must hold of every rendering.

use carrick_api::networking::NetworkingSpec;
use serde_json::Value;

use crate::facts::Facts;
use crate::object::{Kind, Object};
use crate::render::{Input, Purpose, render};
use crate::samples;

fn rendered(spec: &NetworkingSpec, facts: &Facts, purpose: Purpose) -> Vec<Object> {
    let installation = samples::installation();
    let detection = crate::provider::detect(facts);
    let unnamed = crate::effective::unnamed_service_proxy_mode(None, None);
    let effective = crate::effective::resolve(spec, &installation, facts, &detection, unnamed);
    let input = Input {
        effective: &effective,
        facts,
        installation: &installation,
        ca_bundle: "-----BEGIN CERTIFICATE-----\n",
        purpose,
    };
    render(&input).unwrap()
}

fn yaml(objects: &[Object]) -> String {
    let documents = objects
        .iter()
        .map(|object| serde_saphyr::to_string(&object.body).unwrap());
    documents.collect::<Vec<_>>().join("---\n")
}

fn find<'a>(objects: &'a [Object], kind: Kind, name: &str) -> &'a Value {
    &objects
        .iter()
        .find(|o| o.id.kind == kind && o.id.name == name)
        .unwrap()
        .body
}

#[test]
fn golden_defaults() {
    let objects = rendered(
        &NetworkingSpec::default(),
        &samples::facts(),
        Purpose::Network,
    );
    insta::assert_snapshot!("defaults", yaml(&objects));
}

#[test]
fn golden_everything_set() {
    let spec = samples::spec(
        r#"
apiServer: {host: api.example, port: 443}
images:
  registry: mirror.example:5000/net
  prefix: x-
  pullPolicy: Always
  pullSecrets: [mirror]
  digests: {carrick-ovs: "sha256:0000000000000000000000000000000000000000000000000000000000000000"}
traffic: {mtu: 1400, transport: {interface: eth1}, snat: {mode: Disabled}}
datapath: {type: Userspace}
hostFirewall: InsertRule
serviceProxy: {mode: Full, skipServices: [b/two, a/one], nodePortAddresses: ["2001:db8::/64", 192.0.2.0/24]}
nodeConfigs:
- {name: gpu, nodeSelector: {matchLabels: {pool: gpu}}, traffic: {transport: {interface: ens5}}}
cni: {binDir: /home/kubernetes/bin, confDir: /etc/cni/x, confFile: 01-a.conflist, exclusive: false}
controller:
  replicas: 1
  placement: {nodeSelector: {a: b}, tolerations: [{key: k, operator: Exists}]}
  resources: {limits: {memory: 1Gi}}
  extraArgs: [--workers=2]
agent:
  placement: {nodeSelector: {net: carrick}}
  resources: {requests: {cpu: "1"}}
  switchResources: {requests: {cpu: "2"}}
  priorityClass: mine
observability: {logLevel: debug}
startup: {taint: Disabled}
"#,
    );
    let mut objects = rendered(&spec, &samples::facts(), Purpose::Network);
    objects.retain(|object| {
        matches!(
            object.id.kind,
            Kind::ConfigMap | Kind::Deployment | Kind::DaemonSet
        )
    });
    insta::assert_snapshot!("everything_set", yaml(&objects));
}

#[test]
fn golden_cleanup() {
    let mut objects = rendered(
        &NetworkingSpec::default(),
        &samples::facts(),
        Purpose::Cleanup,
    );
    objects.retain(|object| object.id.kind == Kind::DaemonSet);
    insta::assert_snapshot!("cleanup", yaml(&objects));
}

#[test]
fn a_change_of_configuration_restarts_agents_and_no_switch() {
    let before = rendered(
        &NetworkingSpec::default(),
        &samples::facts(),
        Purpose::Network,
    );
    for change in [
        "{observability: {logLevel: debug}}",
        "{traffic: {mtu: 1400}}",
        "{datapath: {type: Kernel}}",
        "{cni: {exclusive: false}}",
        "{startup: {taintKey: a/b}}",
        "{apiServer: {host: other, port: 1}}",
        "{agent: {resources: {requests: {cpu: 10m}}}}",
    ] {
        let after = rendered(&samples::spec(change), &samples::facts(), Purpose::Network);
        let at = |objects: &[Object], name| {
            find(objects, Kind::DaemonSet, name)["spec"]["template"].clone()
        };
        assert_eq!(
            at(&before, "carrick-ovs"),
            at(&after, "carrick-ovs"),
            "{change}"
        );
        assert_ne!(
            at(&before, "carrick-agent"),
            at(&after, "carrick-agent"),
            "{change}"
        );
    }
}

/// Both what it may do and what restarts for a change of it.
#[test]
fn node_ipam_is_the_controllers_alone() {
    let rendered_of =
        |spec: &str| rendered(&samples::spec(spec), &samples::facts(), Purpose::Network);
    let before = rendered_of("{ipam: {mode: NodeIPAM, nodeIPAM: {clusterCIDRs: [10.244.0.0/16]}}}");
    let after = rendered_of(
        "{ipam: {mode: NodeIPAM, nodeIPAM: {clusterCIDRs: [10.244.0.0/16, 10.9.0.0/16]}}}",
    );
    let template =
        |objects: &[Object], kind, name| find(objects, kind, name)["spec"]["template"].clone();
    let agent = |objects| template(objects, Kind::DaemonSet, "carrick-agent");
    let controller = |objects| template(objects, Kind::Deployment, "carrick-controller");
    assert_eq!(agent(&before), agent(&after));
    assert_ne!(controller(&before), controller(&after));
    let config = find(&after, Kind::ConfigMap, "carrick-config").to_string();
    assert!(config.contains("10.9.0.0/16"), "{config}");

    let rules =
        |objects: &[Object], kind| find(objects, kind, "carrick-controller")["rules"].to_string();
    let plain = rendered_of("{startup: {taint: Disabled}}");
    let nodes = |objects: &[Object]| {
        let rules = find(objects, Kind::ClusterRole, "carrick-controller")["rules"].clone();
        rules.as_array().unwrap()[0]["verbs"].to_string()
    };
    assert!(!nodes(&plain).contains("patch") && !nodes(&plain).contains("update"));
    assert!(!rules(&plain, Kind::Role).contains("carrick-node-ipam"));
    let allocating = rendered_of(
        "{startup: {taint: Disabled}, ipam: {mode: NodeIPAM, nodeIPAM: {clusterCIDRs: [10.244.0.0/16]}}}",
    );
    assert!(nodes(&allocating).contains("patch"));
    assert!(rules(&allocating, Kind::Role).contains("carrick-node-ipam"));
}

#[test]
fn one_node_gets_one_controller() {
    let mut facts = samples::facts();
    let replicas = |facts: &Facts| {
        let objects = rendered(&NetworkingSpec::default(), facts, Purpose::Network);
        find(&objects, Kind::Deployment, "carrick-controller")["spec"]["replicas"].clone()
    };
    assert_eq!(replicas(&facts), 2);
    facts.nodes.truncate(1);
    assert_eq!(replicas(&facts), 1);
    facts.nodes.clear();
    assert_eq!(replicas(&facts), 1);
}

#[test]
fn every_operand_comes_up_in_a_cluster_without_network() {
    let objects = rendered(
        &NetworkingSpec::default(),
        &samples::facts(),
        Purpose::Network,
    );
    for object in &objects {
        let Some(pod) = object.body.pointer("/spec/template/spec") else {
            continue;
        };
        assert_eq!(pod["hostNetwork"], true, "{}", object.id);
        assert_eq!(pod["dnsPolicy"], "Default", "{}", object.id);
        let tolerations = pod["tolerations"].as_array().unwrap();
        let tolerates = |key: &str| {
            tolerations.iter().any(|toleration| {
                let any = toleration.get("key").is_none();
                toleration["operator"] == "Exists" && (any || toleration["key"] == key)
            })
        };
        assert!(tolerates("node.kubernetes.io/not-ready"), "{}", object.id);
        assert!(tolerates("carrick.dev/agent-not-ready"), "{}", object.id);
        for container in pod["containers"].as_array().unwrap() {
            let context = &container["securityContext"];
            assert_eq!(context["capabilities"]["drop"][0], "ALL");
            assert_eq!(context["readOnlyRootFilesystem"], true);
            assert_eq!(context["allowPrivilegeEscalation"], false);
            assert!(context.get("privileged").is_none());
        }
    }
}

#[test]
fn no_role_has_a_wildcard_or_reads_secrets() {
    let objects = rendered(
        &NetworkingSpec::default(),
        &samples::facts(),
        Purpose::Network,
    );
    for object in &objects {
        let Some(rules) = object.body.get("rules").and_then(Value::as_array) else {
            continue;
        };
        for rule in rules {
            let text = rule.to_string();
            assert!(!text.contains('*'), "{}: {text}", object.id);
            assert!(!text.contains("secrets"), "{}: {text}", object.id);
        }
    }
}
