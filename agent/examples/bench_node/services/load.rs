//! The Services and EndpointSlices of a cluster, and what changes of them.

use std::time::Duration;

use carrick_testkit::apiserver::ApiServer;
use futures::{StreamExt as _, stream};
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use serde_json::{Value, json};
use tokio::time::MissedTickBehavior;
use tokio_stream::wrappers::IntervalStream;

/// Requests under way at once.
const TOGETHER: usize = 32;
/// Endpoints that the API server takes into one slice by default (kube-controller-manager's
/// `--max-endpoints-per-slice`).
const PER_SLICE: usize = 100;
/// The Service whose one endpoint comes and goes.
pub const LONELY: &str = "lonely";
/// Its cluster IP and port.
pub const LONELY_AT: (&str, u16) = ("10.96.255.250", 80);

/// What an API server holds.
pub struct Load {
    pub server: ApiServer,
    client: Client,
    services: usize,
    endpoints: usize,
    changed: usize,
}

impl Load {
    /// A Node, so many Services with so many endpoints each, and one Service without.
    pub async fn new(services: usize, each: usize) -> Self {
        let server = ApiServer::start().expect("etcd and kube-apiserver start");
        let kubeconfig = Kubeconfig::read_from(server.kubeconfig()).unwrap();
        let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
            .await
            .unwrap();
        config.read_timeout = Some(Duration::from_mins(1));
        let client = Client::try_from(config).unwrap();
        let load = Self {
            server,
            client,
            services,
            endpoints: services * each,
            changed: 0,
        };
        let node: Node = object(json!({
            "metadata": {"name": super::NODE},
            "spec": {"podCIDR": "10.10.1.0/24", "podCIDRs": ["10.10.1.0/24"]},
        }));
        let nodes: Api<Node> = Api::all(load.client.clone());
        nodes.create(&PostParams::default(), &node).await.unwrap();
        let status =
            json!({"status": {"addresses": [{"type": "InternalIP", "address": super::NODE_IP}]}});
        let params = PatchParams::default();
        nodes
            .patch_status(super::NODE, &params, &Patch::Merge(&status))
            .await
            .unwrap();
        load.create(LONELY, Some(LONELY_AT.0), &[vec![]]).await;
        let this = &load;
        stream::iter(0..services)
            .for_each_concurrent(TOGETHER, |number| async move {
                let endpoints: Vec<Value> =
                    (0..each).map(|n| endpoint(number * each + n)).collect();
                let slices: Vec<Vec<Value>> =
                    endpoints.chunks(PER_SLICE).map(<[Value]>::to_vec).collect();
                this.create(&name(number), None, &slices).await;
            })
            .await;
        load
    }

    /// How many Services have endpoints.
    pub const fn services(&self) -> usize {
        self.services
    }

    /// How many endpoints they have together.
    pub const fn endpoints(&self) -> usize {
        self.endpoints
    }

    async fn create(&self, name: &str, address: Option<&str>, slices: &[Vec<Value>]) {
        let service: Service = object(json!({
            "metadata": {"name": name},
            "spec": {"clusterIP": address, "ports": [{"name": "web", "port": 80, "targetPort": super::reach::PORT}]},
        }));
        let services: Api<Service> = Api::default_namespaced(self.client.clone());
        services
            .create(&PostParams::default(), &service)
            .await
            .unwrap();
        for (number, endpoints) in slices.iter().enumerate() {
            let slice: EndpointSlice = object(json!({
                "metadata": {
                    "name": format!("{name}-{number}"),
                    "labels": {"kubernetes.io/service-name": name},
                },
                "addressType": "IPv4",
                "ports": [{"name": "web", "port": super::reach::PORT, "protocol": "TCP"}],
                "endpoints": endpoints,
            }));
            self.slices()
                .create(&PostParams::default(), &slice)
                .await
                .unwrap();
        }
    }

    fn slices(&self) -> Api<EndpointSlice> {
        Api::default_namespaced(self.client.clone())
    }

    /// Gives the lonely Service its endpoint, on the node itself, or takes it away.
    pub async fn lonely(&self, is_there: bool) {
        let endpoints = if is_there {
            json!([{"addresses": [super::NODE_IP], "conditions": {"ready": true}, "nodeName": super::NODE}])
        } else {
            json!([])
        };
        self.patch(LONELY, &json!({"endpoints": endpoints})).await;
    }

    async fn patch(&self, service: &str, change: &Value) {
        let params = PatchParams::default();
        let name = format!("{service}-0");
        self.slices()
            .patch(&name, &params, &Patch::Merge(change))
            .await
            .unwrap();
    }

    /// Changes one endpoint of one Service after the other: another address each time.
    pub async fn churn(&mut self, per_second: u32, length: Duration) {
        let each = self.endpoints / self.services;
        let first = self.changed;
        let count = usize::try_from(u64::from(per_second) * length.as_secs()).unwrap();
        self.changed += count;
        let this = &*self;
        let mut ticks = tokio::time::interval(Duration::from_secs(1) / per_second);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let numbers = stream::iter(first..first + count);
        IntervalStream::new(ticks)
            .zip(numbers)
            .for_each_concurrent(TOGETHER, |(_, number)| async move {
                let service = number % this.services;
                let mut endpoints: Vec<Value> = (0..each.min(PER_SLICE))
                    .map(|n| endpoint(service * each + n))
                    .collect();
                let place = number / this.services % endpoints.len();
                endpoints[place] = endpoint(this.endpoints + number);
                this.patch(&name(service), &json!({"endpoints": endpoints}))
                    .await;
            })
            .await;
    }
}

fn name(number: usize) -> String {
    format!("service-{number}")
}

/// An endpoint on another node: the addresses from 10.128.0.0 on.
fn endpoint(number: usize) -> Value {
    let [_, a, b, c] = u32::try_from(number).unwrap().to_be_bytes();
    json!({
        "addresses": [format!("10.{}.{b}.{c}", 128 + a)],
        "conditions": {"ready": true},
        "nodeName": "node2",
    })
}

fn object<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}
