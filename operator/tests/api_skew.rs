//! An operator that meets what a newer one left, as after `helm rollback`, on a real kube-apiserver.

#![expect(clippy::unwrap_used, reason = "tests say what they expect")]

mod bed;

use bed::NAMESPACE;
use bed::rollout::Stage;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{Patch, PatchParams};
use kube::core::PartialObjectMeta;
use serde_json::{Value, json};

const CRD: &str = "networkings.carrick.dev";

/// A CRD as a newer version has it: more values, a higher revision.
fn bring_crd_forward(stage: &Stage) {
    fn widen(value: &mut Value) {
        match value {
            Value::Object(fields) => {
                if let Some(Value::Array(values)) = fields.get_mut("enum") {
                    if values.contains(&json!("NodeIPAM")) {
                        values.push(json!("FromTheFuture"));
                    }
                    if values.contains(&json!("PullingImages")) {
                        values.push(json!("Canary"));
                    }
                }
                fields.values_mut().for_each(widen);
            }
            Value::Array(values) => values.iter_mut().for_each(widen),
            _ => {}
        }
    }
    let text = { &stage.bed.server }
        .kubectl(&["get", "crd", CRD, "-o", "json"])
        .unwrap();
    let mut crd: Value = serde_json::from_str(&text).unwrap();
    widen(&mut crd["spec"]);
    crd["metadata"]["annotations"]["carrick.dev/crd-revision"] = json!("99");
    { &stage.bed.server }
        .kubectl_with_input(&["replace", "-f", "-"], &crd.to_string())
        .unwrap();
}

async fn read(secrets: &Api<Secret>, name: &str, key: &str) -> Value {
    let data = secrets.get(name).await.unwrap().data.unwrap();
    serde_json::from_slice(&data[key].0).unwrap()
}

async fn write(secrets: &Api<Secret>, name: &str, key: &str, value: &Value) {
    let patch = json!({"stringData": {key: value.to_string()}});
    secrets
        .patch(name, &PatchParams::default(), &Patch::Merge(patch))
        .await
        .unwrap();
}

/// What the newer operator was at.
async fn report_canary(stage: &Stage) {
    let mut status = stage.bed.networking()["status"].clone();
    status["rollout"]["phase"] = json!("Canary");
    let api: Api<PartialObjectMeta<carrick_api::Networking>> = Api::all(stage.client());
    let object = json!({"apiVersion": "carrick.dev/v1alpha1", "kind": "Networking",
        "metadata": {"name": "default"}, "spec": {}, "status": status});
    let params = PatchParams::apply("carrick-operator").force();
    api.patch_status("default", &params, &Patch::Apply(object))
        .await
        .unwrap();
    assert_eq!(
        stage.bed.networking()["status"]["rollout"]["phase"],
        "Canary"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_goes_on_with_what_a_newer_one_left() {
    let mut stage = Stage::start(&["node1", "node2"]).await;
    stage.bed.apply(&json!({})).unwrap();
    stage.bed.start_operator().await;
    stage.until_phase("Complete").await;
    stage.bed.stop_operator().await;

    bring_crd_forward(&stage);
    let secrets: Api<Secret> = Api::namespaced(stage.client(), NAMESPACE);
    let (last, record) = ("carrick-last-applied", "carrick-rollout");
    let mut effective = read(&secrets, last, "effective.json").await;
    effective["ipam"] = json!("FromTheFuture");
    write(&secrets, last, "effective.json", &effective).await;
    let mut rollout = read(&secrets, record, "rollout.json").await;
    rollout["good"]["render"]["images"] = json!(["carrick", "carrick-ovs", "a third"]);
    write(&secrets, record, "rollout.json", &rollout).await;
    report_canary(&stage).await;
    stage.restarted.clear();
    stage.bed.start_operator().await;
    stage.until_phase("Complete").await;
    assert_eq!(stage.restarted, [""; 0], "what runs is what is wanted");
    let effective = read(&secrets, last, "effective.json").await;
    assert_eq!(effective["ipam"], "NodeCIDR");
    let rollout = read(&secrets, record, "rollout.json").await;
    let images = rollout["good"]["render"]["images"].as_array().unwrap();
    assert_eq!(images.len(), 2, "what runs is the last good render");

    // Changes are in order as ever.
    let debug = json!({"observability": {"logLevel": "debug"}});
    stage.bed.apply(&debug).unwrap();
    stage.until_phase("Complete").await;
    assert_eq!(
        stage.restarted,
        ["controller", "controller", "agent node1", "agent node2"]
    );

    // Of what cannot be understood nothing is done.
    let before = stage.bed.versions();
    let unknown = json!({"ipam": {"mode": "FromTheFuture"}});
    stage.bed.apply(&unknown).unwrap();
    let message = { &stage.bed }
        .until_condition("Stalled", "True", "UnknownSpec")
        .await;
    for words in ["spec.ipam", "FromTheFuture", "To mend it"] {
        assert!(message.contains(words), "{words}: {message}");
    }
    assert_eq!(stage.bed.versions(), before, "nothing is touched");
    stage.bed.apply(&debug).unwrap();
    stage.bed.until_condition("Ready", "True", "Ready").await;
    stage.bed.stop_operator().await;
}
