//! The chart as Helm renders it: lints, the schema refuses nonsense, and the operator's permissions
//! contain what it grants.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "tests say what they expect"
)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use carrick_api::effective::{ServiceProxyMode, TrafficMode};
use carrick_api::names::object;
use carrick_api::networking::{IpamMode, Switch};
use carrick_operator::render::rbac;
use k8s_openapi::api::rbac::v1::PolicyRule;
use serde_json::Value;

fn chart() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/carrick")
}

fn template(values: &[&str]) -> Output {
    let mut command = Command::new(carrick_testkit::helm().unwrap());
    command.args([
        "template",
        "carrick",
        "--namespace",
        "net",
        "--kube-version",
        "1.34.0",
    ]);
    for value in values {
        command.args(["--set", value]);
    }
    command.arg(chart()).output().unwrap()
}

fn rendered(values: &[&str]) -> Vec<Value> {
    let output = template(values);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8(output.stdout).unwrap();
    text.split("\n---")
        .map(|document| document.trim_start_matches("---"))
        .filter(|document| document.contains("kind:"))
        .map(|document| serde_saphyr::from_str(document).unwrap())
        .collect()
}

#[track_caller]
fn refused(values: &[&str], words: &str) {
    let output = template(values);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        !output.status.success() && said.contains(words),
        "{values:?}: {said}"
    );
}

fn find<'a>(objects: &'a [Value], kind: &str, name: &str) -> &'a Value {
    objects
        .iter()
        .find(|object| object["kind"] == kind && object["metadata"]["name"] == name)
        .unwrap_or_else(|| panic!("no {kind} {name}"))
}

#[test]
fn the_chart_lints() {
    let output = Command::new(carrick_testkit::helm().unwrap())
        .args(["lint", "--strict"])
        .arg(chart())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stdout)
    );
}

#[test]
fn values_that_make_no_sense_are_refused() {
    refused(&["operator.replicas=0"], "replicas");
    refused(&["apiServer.port=70000"], "port");
    refused(&["images.pullPolicy=Sometimes"], "pullPolicy");
    refused(&["images.carrick.digest=sha256:1"], "digest");
    refused(&["operator.logLevel=loud"], "logLevel");
    refused(&["nonsense=1"], "nonsense");
}

#[test]
fn images_and_the_api_server_reach_the_operator() {
    let digest = format!("sha256:{}", "a".repeat(64));
    let objects = rendered(&[
        "images.registry=r.example:5000/m",
        "images.prefix=x-",
        "images.carrickOvs.tag=v2",
        &format!("images.carrick.digest={digest}"),
        "apiServer.host=fd00::1",
        "apiServer.port=443",
        "images.pullSecrets={one,two}",
    ]);
    let deployment = find(&objects, "Deployment", object::OPERATOR);
    let pod = &deployment["spec"]["template"]["spec"];
    let container = &pod["containers"][0];
    assert_eq!(
        container["image"],
        format!("r.example:5000/m/x-carrick@{digest}")
    );
    let env = |name: &str| {
        let env = container["env"].as_array().unwrap();
        env.iter().find(|var| var["name"] == name).unwrap()["value"].clone()
    };
    assert_eq!(
        env("CARRICK_OVS_IMAGE"),
        "r.example:5000/m/x-carrick-ovs:v2"
    );
    assert_eq!(env("KUBERNETES_SERVICE_HOST"), "fd00::1");
    assert_eq!(env("KUBERNETES_SERVICE_PORT"), "443");
    assert_eq!(env("CARRICK_PULL_SECRETS"), "one,two");
    assert_eq!(pod["imagePullSecrets"].as_array().unwrap().len(), 2);
    assert_eq!(pod["hostNetwork"], true);
    assert_eq!(pod["dnsPolicy"], "Default");
}

#[test]
fn the_networking_is_made_when_asked_for_and_helm_never_deletes_it() {
    let objects = rendered(&[]);
    assert!(!objects.iter().any(|object| object["kind"] == "Networking"));
    let objects = rendered(&["networking.create=true", "networking.spec.traffic.mtu=1400"]);
    let networking = find(&objects, "Networking", "default");
    assert_eq!(networking["spec"]["traffic"]["mtu"], 1400);
    assert_eq!(
        networking["metadata"]["annotations"]["helm.sh/resource-policy"],
        "keep"
    );
}

#[test]
fn the_uninstall_hook_can_be_left_out() {
    let hooks = |objects: &[Value]| {
        let hook = "helm.sh/hook";
        objects
            .iter()
            .filter(|o| o["metadata"]["annotations"][hook] == "pre-delete")
            .count()
    };
    let objects = rendered(&["uninstallHook.timeoutSeconds=60"]);
    assert_eq!(hooks(&objects), 4);
    let job = find(&objects, "Job", "carrick-operator-uninstall");
    assert_eq!(
        job["spec"]["template"]["spec"]["containers"][0]["args"],
        serde_json::json!(["operator", "remove-network", "--timeout=60"])
    );
    assert_eq!(job["spec"]["template"]["spec"]["hostNetwork"], true);
    assert_eq!(hooks(&rendered(&["uninstallHook.enabled=false"])), 0);
}

#[test]
fn no_rule_has_a_wildcard_and_secrets_are_named() {
    for object in rendered(&[]) {
        for rule in object["rules"].as_array().into_iter().flatten() {
            let text = rule.to_string();
            assert!(!text.contains('*'), "{text}");
            if text.contains("\"secrets\"") {
                assert_eq!(rule["resourceNames"].as_array().unwrap().len(), 4, "{text}");
            }
        }
    }
}

#[test]
fn kube_proxy_may_be_patched_only_where_somebody_wants_it() {
    let verbs = |values: &[&str]| {
        let objects = rendered(values);
        let role = find(&objects, "Role", "carrick-operator-detection").clone();
        let of_sets = role["rules"].as_array().unwrap().iter();
        let mut of_sets = of_sets.filter(|rule| rule["resources"][0] == "daemonsets");
        let rule = of_sets.next().unwrap().clone();
        assert_eq!(rule["resourceNames"], serde_json::json!(["kube-proxy"]));
        rule["verbs"].to_string()
    };
    let create = "networking.create=true";
    let full = "networking.spec.serviceProxy.mode=Full";
    let keep = "networking.spec.serviceProxy.kubeProxy=Keep";
    let (looks, patches) = (r#"["get"]"#, r#"["get","patch"]"#);
    assert_eq!(verbs(&[]), looks);
    assert_eq!(verbs(&["kubeProxy.mayDisable=true"]), patches);
    assert_eq!(verbs(&[create, full]), patches);
    assert_eq!(verbs(&[create]), patches);
    assert_eq!(verbs(&[full]), looks);
    let beside = "networking.spec.serviceProxy.mode=ClusterIP";
    assert_eq!(verbs(&[create, beside]), looks);
    assert_eq!(verbs(&[create, full, keep]), looks);
}

fn rules(object: &Value) -> Vec<PolicyRule> {
    serde_json::from_value(object["rules"].clone()).unwrap()
}

/// Whether `have` allows one verb on one resource, by name when a name is given (RBAC: an empty
/// list of names allows all).
fn allows(
    have: &[PolicyRule],
    group: &str,
    resource: &str,
    verb: &str,
    name: Option<&str>,
) -> bool {
    let holds =
        |list: &Option<Vec<String>>, item: &str| list.iter().flatten().any(|have| have == item);
    have.iter().any(|rule| {
        let names = rule.resource_names.clone().unwrap_or_default();
        holds(&rule.api_groups, group)
            && holds(&rule.resources, resource)
            && rule.verbs.iter().any(|have| have == verb)
            && (names.is_empty() || name.is_some_and(|name| names.iter().any(|have| have == name)))
    })
}

#[track_caller]
fn contains(have: &[PolicyRule], granted: &[PolicyRule]) {
    for rule in granted {
        let names = rule.resource_names.clone().unwrap_or_default();
        let names: Vec<Option<&str>> = if names.is_empty() {
            vec![None]
        } else {
            names.iter().map(|name| Some(name.as_str())).collect()
        };
        for group in rule.api_groups.iter().flatten() {
            for resource in rule.resources.iter().flatten() {
                for verb in &rule.verbs {
                    for name in &names {
                        assert!(
                            allows(have, group, resource, verb, *name),
                            "the operator grants {verb} {group}/{resource} {name:?} and has it not"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn the_operator_has_what_it_grants() {
    let objects = rendered(&[]);
    let cluster = rules(find(&objects, "ClusterRole", object::OPERATOR));
    contains(
        &cluster,
        &rbac::controller_rules(Switch::Enabled, IpamMode::NodeIPAM, TrafficMode::Encap),
    );
    contains(&cluster, &rbac::agent_rules(ServiceProxyMode::Full));
    let mut own = rules(find(&objects, "Role", object::OPERATOR));
    own.extend(cluster);
    contains(&own, &rbac::controller_namespace_rules(IpamMode::NodeIPAM));
    contains(&own, &rbac::agent_namespace_rules());
}

#[test]
fn the_charts_version_is_the_workspaces() {
    let chart: Value =
        serde_saphyr::from_str(&std::fs::read_to_string(chart().join("Chart.yaml")).unwrap())
            .unwrap();
    assert_eq!(chart["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(chart["appVersion"], env!("CARGO_PKG_VERSION"));
}
