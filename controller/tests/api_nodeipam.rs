//! `ipam.mode: NodeIPAM` against a real etcd and kube-apiserver: nodes without CIDRs get them, a full
//! pool says so, restarts change nothing, and leaders that follow each other give no CIDR twice.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test says what it expects by failing"
)]

#[expect(dead_code, reason = "shared with the tests of the stream")]
mod lab;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use carrick_api::effective::{EffectiveConfig, NodeIpam};
use ipnet::IpNet;
use lab::{Cluster, NAMESPACE, effective, eventually};
use serde_json::Value;

fn allocating(clusters: &[&str]) -> EffectiveConfig {
    EffectiveConfig {
        node_ipam: Some(NodeIpam {
            cluster_cidrs: clusters.iter().map(|text| text.parse().unwrap()).collect(),
            node_mask_size_ipv4: 24,
            node_mask_size_ipv6: 64,
        }),
        ..effective()
    }
}

/// Makes Nodes with these `spec`s by name.
fn create(cluster: &Cluster, nodes: &[(&str, &str)]) {
    let mut text = String::new();
    for (name, spec) in nodes {
        write!(
            text,
            r#"{{"apiVersion":"v1","kind":"Node","metadata":{{"name":"{name}"}},"spec":{spec}}}"#
        )
        .unwrap();
    }
    cluster.create(&text);
}

fn nodes(cluster: &Cluster) -> BTreeMap<String, Value> {
    let list: Value = serde_json::from_str(&cluster.get(&["nodes", "-o", "json"])).unwrap();
    let items = list["items"].as_array().unwrap().iter();
    items
        .map(|node| {
            (
                node["metadata"]["name"].as_str().unwrap().to_owned(),
                node.clone(),
            )
        })
        .collect()
}

fn cidrs(node: &Value) -> Vec<IpNet> {
    let list = node["spec"]["podCIDRs"].as_array().into_iter().flatten();
    list.map(|text| text.as_str().unwrap().parse().unwrap())
        .collect()
}

fn cidrs_of(cluster: &Cluster, node: &str) -> Vec<IpNet> {
    cidrs(&nodes(cluster)[node])
}

#[track_caller]
fn assert_disjoint(nodes: &BTreeMap<String, Value>) {
    let mut all: Vec<(IpNet, &String)> = nodes
        .iter()
        .flat_map(|(name, node)| cidrs(node).into_iter().map(move |cidr| (cidr, name)))
        .collect();
    all.sort();
    for pair in all.windows(2) {
        assert!(!pair[0].0.contains(&pair[1].0), "{pair:?}");
    }
}

/// The condition of the replica's `ControllerInfo`: status, reason, message.
fn condition(cluster: &Cluster, pod: &str) -> [String; 3] {
    let get = ["get", "controllerinfo", pod, "-o", "json"];
    let text = cluster.server.kubectl(&get).unwrap_or_default();
    let info: Value = serde_json::from_str(&text).unwrap_or_default();
    let conditions = info["status"]["conditions"].as_array();
    let found = conditions
        .into_iter()
        .flatten()
        .find(|condition| condition["type"] == "NodeCIDRsAllocated");
    ["status", "reason", "message"].map(|key| {
        let value = found.and_then(|condition| condition[key].as_str());
        value.unwrap_or_default().to_owned()
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_without_cidrs_get_one_of_each_family_and_a_restart_changes_nothing() {
    let cluster = Cluster::start();
    let config = allocating(&["10.0.0.0/16", "fd00:10::/48"]);
    create(&cluster, &[("early", "{}")]);
    let controller = cluster.controller_by("controller-0", config.clone()).await;
    create(&cluster, &[("late", "{}"), ("later", "{}")]);
    eventually("every node has CIDRs", || {
        nodes(&cluster).values().all(|node| !cidrs(node).is_empty())
    })
    .await;
    let before = nodes(&cluster);
    assert_disjoint(&before);
    // The lowest that nobody has: node-a has 10.0.1.0/24 and node-b 10.0.2.0/24.
    let texts = |name: &str| before[name]["spec"]["podCIDRs"].to_string();
    assert_eq!(texts("early"), r#"["10.0.0.0/24","fd00:10::/64"]"#);
    assert_eq!(before["early"]["spec"]["podCIDR"], "10.0.0.0/24");
    assert_eq!(texts("node-a"), r#"["10.0.1.0/24"]"#, "respected");
    for name in ["late", "later"] {
        assert_eq!(cidrs(&before[name]).len(), 2);
    }
    eventually("the condition says that all is well", || {
        condition(&cluster, "controller-0")[0] == "True"
    })
    .await;
    let metrics = controller.asked("/metrics").await;
    for line in [
        "carrick_controller_node_cidrs_allocated_total 3",
        "carrick_controller_node_cidrs_left{family=\"ipv4\"} 251",
    ] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
    controller.end().await;

    // Another replica takes over: nothing is written but what a new node needs.
    let controller = cluster.controller_by("controller-1", config).await;
    create(&cluster, &[("new", "{}")]);
    eventually("the new node has CIDRs", || {
        !cidrs_of(&cluster, "new").is_empty()
    })
    .await;
    let mut after = nodes(&cluster);
    assert_disjoint(&after);
    after.remove("new");
    for (name, node) in &after {
        assert_eq!(
            node["metadata"]["resourceVersion"], before[name]["metadata"]["resourceVersion"],
            "{name} was written"
        );
    }
    controller.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_pool_says_so_and_a_wider_one_mends_it() {
    let cluster = Cluster::start();
    // Room for two beside node-a and node-b.
    let small = allocating(&["10.0.0.0/22"]);
    let controller = cluster.controller_by("controller-0", small).await;
    create(&cluster, &[("n1", "{}"), ("n2", "{}")]);
    eventually("two nodes have CIDRs", || {
        ["n1", "n2"]
            .iter()
            .all(|name| !cidrs_of(&cluster, name).is_empty())
    })
    .await;
    create(&cluster, &[("n3", "{}")]);
    eventually("the condition says that the pool is full", || {
        condition(&cluster, "controller-0")[1] == "CIDRNotAvailable"
    })
    .await;
    let [status, _, message] = condition(&cluster, "controller-0");
    assert_eq!(status, "False");
    for part in [
        "node n3 gets no pod CIDR: no IPv4 CIDR is left in 10.0.0.0/22",
        "add an IPv4 CIDR to spec.ipam.nodeIPAM.clusterCIDRs",
    ] {
        assert!(message.contains(part), "{message}");
    }
    eventually("an event says so", || {
        let events = cluster.get(&["events", "-A", "-o", "json"]);
        events.contains("CIDRNotAvailable") && events.contains("node n3 gets no pod CIDR")
    })
    .await;

    // A node that goes makes room at once.
    cluster.server.kubectl(&["delete", "node", "n1"]).unwrap();
    eventually("the node has what another gave back", || {
        !cidrs_of(&cluster, "n3").is_empty()
    })
    .await;
    controller.end().await;

    // As the operator rolls a wider configuration out, and somebody else allocates too: that is
    // reported and left as it is.
    create(
        &cluster,
        &[
            ("n4", "{}"),
            (
                "foreign",
                r#"{"podCIDR":"172.20.0.0/24","podCIDRs":["172.20.0.0/24"]}"#,
            ),
            (
                "twin",
                r#"{"podCIDR":"10.0.1.128/25","podCIDRs":["10.0.1.128/25"]}"#,
            ),
        ],
    );
    let wide = allocating(&["10.0.0.0/22", "10.9.0.0/16"]);
    let controller = cluster.controller_by("controller-1", wide).await;
    eventually("the node has a CIDR of the range that was added", || {
        cidrs_of(&cluster, "n4") == ["10.9.0.0/24".parse::<IpNet>().unwrap()]
    })
    .await;
    eventually("what others allocate is reported", || {
        condition(&cluster, "controller-1")[1] == "CIDROverlap"
    })
    .await;
    let message = condition(&cluster, "controller-1")[2].clone();
    for part in [
        "10.0.1.128/25 of node twin overlaps 10.0.1.0/24 of node node-a",
        "172.20.0.0/24 of node foreign is outside the cluster CIDRs",
        "--allocate-node-cidrs=false",
    ] {
        assert!(message.contains(part), "{part}: {message}");
    }
    assert!(!message.contains("n4"), "{message}");
    assert_eq!(
        cidrs_of(&cluster, "twin"),
        ["10.0.1.128/25".parse::<IpNet>().unwrap()]
    );
    controller.end().await;
}

fn write_claims(cluster: &Cluster, epoch: u64, claims: &str) {
    let annotate = [
        "annotate",
        "lease",
        "carrick-node-ipam",
        "-n",
        NAMESPACE,
        "--overwrite",
        &format!("carrick.dev/epoch={epoch}"),
        &format!("carrick.dev/node-cidr-claims={claims}"),
    ];
    cluster.server.kubectl(&annotate).unwrap();
}

/// A leader before claimed a CIDR and may still be about to write it: no other node gets it, and its
/// node gets no other. And one that writes the claims while we lead ends our right to go on with
/// what we knew.
#[tokio::test(flavor = "multi_thread")]
async fn claims_of_a_leader_before_are_kept_and_another_writer_is_noticed() {
    let cluster = Cluster::start();
    create(&cluster, &[("aaa", "{}"), ("zzz", "{}")]);
    let uid = nodes(&cluster)["zzz"]["metadata"]["uid"].clone();
    cluster.create(&format!(
        r#"{{"apiVersion":"coordination.k8s.io/v1","kind":"Lease","metadata":{{"name":"carrick-node-ipam","namespace":"{NAMESPACE}"}}}}"#
    ));
    // Of a higher epoch than a Lease that is made anew begins with.
    let claims = format!(
        r#"{{{uid}:{{"node":"zzz","podCIDRs":["10.0.0.0/24"]}},"gone":{{"node":"x","podCIDRs":["10.0.3.0/24"]}}}}"#
    );
    write_claims(&cluster, 4, &claims);
    let controller = cluster
        .controller_by("controller-0", allocating(&["10.0.0.0/16"]))
        .await;
    eventually("both nodes have CIDRs", || {
        ["aaa", "zzz"]
            .iter()
            .all(|name| !cidrs_of(&cluster, name).is_empty())
    })
    .await;
    let net = |text: &str| text.parse::<IpNet>().unwrap();
    assert_eq!(cidrs_of(&cluster, "zzz"), [net("10.0.0.0/24")]);
    // The claim for a Node that is gone held nothing back.
    assert_eq!(cidrs_of(&cluster, "aaa"), [net("10.0.3.0/24")]);
    let epoch = cluster.get(&[
        "lease",
        "carrick-controller",
        "-n",
        NAMESPACE,
        "-o",
        r"jsonpath={.metadata.annotations.carrick\.dev/epoch}",
    ]);
    assert_eq!(epoch, "5", "above that of the claims");

    // As another leader would: a claim for a Node we are about to serve.
    create(&cluster, &[("claimed", "{}")]);
    eventually("it is served", || !cidrs_of(&cluster, "claimed").is_empty()).await;
    write_claims(&cluster, 5, "{}");
    create(&cluster, &[("after", "{}")]);
    eventually("it is served after the Lease was taken anew", || {
        !cidrs_of(&cluster, "after").is_empty()
    })
    .await;
    assert_disjoint(&nodes(&cluster));
    // Claims that cannot be read are not taken for none.
    write_claims(&cluster, 5, "{");
    create(&cluster, &[("waits", "{}")]);
    eventually("the damage is reported with its mend", || {
        let [_, reason, message] = condition(&cluster, "controller-0");
        reason == "RequestsFailing" && message.contains("delete the Lease")
    })
    .await;
    assert!(cidrs_of(&cluster, "waits").is_empty());
    let delete = ["delete", "lease", "carrick-node-ipam", "-n", NAMESPACE];
    cluster.server.kubectl(&delete).unwrap();
    eventually("it is served", || !cidrs_of(&cluster, "waits").is_empty()).await;
    assert_disjoint(&nodes(&cluster));
    controller.end().await;
}

/// A leader that dies without a word, in a runtime of its own that is dropped, while nodes join: they come
/// until it is dead, however fast it serves them.
#[test]
fn a_leader_that_dies_while_nodes_join_gives_no_cidr_twice() {
    const SERVED: usize = 25;
    const TOGETHER: usize = 20;
    /// Where the leader serves nobody, somebody must say so.
    const MOST: usize = 1000;
    let cluster = Cluster::start();
    let (first, second) = (
        tokio::runtime::Runtime::new().unwrap(),
        tokio::runtime::Runtime::new().unwrap(),
    );
    let config = allocating(&["10.0.0.0/12", "fd00:10::/48"]);
    let _dying = first.block_on(cluster.controller_by("controller-0", config.clone()));
    let heir = second.block_on(cluster.controller_by("controller-1", config));
    let served = || {
        let all = nodes(&cluster);
        all.iter()
            .filter(|(name, node)| name.starts_with('n') && cidrs(node).len() == 2)
            .count()
    };
    let dead = AtomicBool::new(false);
    let joined = std::thread::scope(|scope| {
        let joining = scope.spawn(|| {
            let mut joined = 0;
            loop {
                let last = dead.load(Ordering::SeqCst);
                let names: Vec<String> = (joined..joined + TOGETHER)
                    .map(|index| format!("n{index}"))
                    .collect();
                let specs: Vec<(&str, &str)> =
                    names.iter().map(|name| (name.as_str(), "{}")).collect();
                create(&cluster, &specs);
                joined += TOGETHER;
                if last || joined >= MOST {
                    return joined;
                }
            }
        });
        second.block_on(eventually("the first nodes are served", || {
            served() >= SERVED
        }));
        first.shutdown_timeout(Duration::from_millis(1));
        dead.store(true, Ordering::SeqCst);
        joining.join().unwrap()
    });
    second.block_on(eventually("every node is served", || served() == joined));
    assert_disjoint(&nodes(&cluster));
    second.block_on(heir.end());
}
