//! What the agent writes to and reads from a real API server.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test says what it expects by failing"
)]

use std::path::Path;
use std::time::Duration;

use carrick_agent::controllers::{Addresses, follow, load};
use carrick_agent::info::{status, write};
use carrick_agent::status::{Fact, Report};
use carrick_api::agentinfo::{AgentInfo, condition};
use carrick_k8s::client::from_config;
use carrick_testkit::apiserver::ApiServer;
use jiff::Timestamp;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

const LIMIT: Duration = Duration::from_mins(1);

async fn client(server: &ApiServer) -> Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let kubeconfig = Kubeconfig::read_from(server.kubeconfig()).unwrap();
    let options = KubeConfigOptions::default();
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &options)
        .await
        .unwrap();
    from_config(config).unwrap().client
}

#[tokio::test(flavor = "multi_thread")]
async fn agentinfo_is_made_and_kept() {
    let server = ApiServer::start().expect("etcd and kube-apiserver start");
    let crds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crds");
    server
        .kubectl(&["apply", "--server-side", "-f", crds.to_str().unwrap()])
        .unwrap();
    server
        .kubectl(&[
            "wait",
            "--for=condition=Established",
            "crd/agentinfos.carrick.dev",
            "--timeout=60s",
        ])
        .unwrap();
    let client = client(&server).await;
    let mut report = Report::default();
    report.conditions.insert(
        condition::READY,
        Fact::fails("Starting", "the agent has just started"),
    );
    report.mtu = Some(1450);
    let mut conditions = Vec::new();
    let first = status(&report, &mut conditions, Timestamp::now());
    write(&client, "node1", first).await.unwrap();
    report.conditions.insert(
        condition::READY,
        Fact::holds("Ready", "the node carries pods"),
    );
    report.pods = 3;
    let second = status(&report, &mut conditions, Timestamp::now());
    write(&client, "node1", second.clone()).await.unwrap();
    let api: Api<AgentInfo> = Api::all(client);
    let found = api.get("node1").await.unwrap().status.unwrap();
    assert_eq!(found.counts.unwrap().pods, 3);
    assert_eq!(found.mtu, Some(1450));
    assert_eq!(found.conditions.len(), 1);
    assert_eq!(found.conditions[0].status, "True");
}

#[tokio::test(flavor = "multi_thread")]
async fn controllers_are_found_by_their_endpoint_slices_and_kept_on_disk() {
    let server = ApiServer::start().expect("etcd and kube-apiserver start");
    let slice = |address: &str| {
        format!(
            r#"{{"apiVersion":"discovery.k8s.io/v1","kind":"EndpointSlice","metadata":{{"name":"c","namespace":"default",
            "labels":{{"kubernetes.io/service-name":"carrick-controller"}}}},"addressType":"IPv4",
            "ports":[{{"name":"grpc","port":11250,"protocol":"TCP"}}],"endpoints":[{{"addresses":["{address}"]}}]}}"#
        )
    };
    server
        .kubectl_with_input(&["apply", "-f", "-"], &slice("192.0.2.1"))
        .unwrap();
    let client = client(&server).await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("controllers.json");
    let sender = watch::Sender::new(Addresses::default());
    let mut addresses = sender.subscribe();
    let shutdown = CancellationToken::new();
    let task = tokio::spawn(follow(
        client,
        "default".to_owned(),
        path.clone(),
        sender,
        shutdown.clone(),
    ));
    for address in ["192.0.2.1", "192.0.2.2"] {
        let expected = format!("{address}:11250").parse().unwrap();
        server
            .kubectl_with_input(&["apply", "-f", "-"], &slice(address))
            .unwrap();
        let seen = addresses.wait_for(|seen| seen.contains(&expected) && seen.len() == 1);
        drop(tokio::time::timeout(LIMIT, seen).await.unwrap().unwrap());
    }
    // Nobody left: the last that were seen stay known.
    server
        .kubectl(&["delete", "endpointslice", "c", "-n", "default"])
        .unwrap();
    shutdown.cancel();
    task.await.unwrap();
    let (kept, aside) = load(&path).unwrap();
    assert!(aside.is_none());
    assert_eq!(kept.len(), 1);
}
