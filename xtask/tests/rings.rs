//! Holds the crate graph to its rings (ARCHITECTURE.md): lower never knows higher, and the pure
//! crates know no runtime, no Kubernetes client and no socket.

use std::collections::{BTreeMap, BTreeSet};

use cargo_metadata::{DependencyKind, MetadataCommand};

/// Which of our crates each of our crates may use (not counting dev-dependencies).
fn allowed() -> BTreeMap<&'static str, &'static [&'static str]> {
    BTreeMap::from([
        // Pure, published in spirit: nothing of ours.
        ("carrick-openflow", &[][..]),
        ("carrick-ovsdb", &[]),
        ("carrick-proto", &["carrick-policy"]),
        ("carrick-api", &[]),
        // Domain core.
        ("carrick-datapath", &["carrick-openflow", "carrick-policy"]),
        ("carrick-policy", &[]),
        // Drivers.
        ("carrick-node", &[]),
        ("carrick-k8s", &["carrick-api"]),
        // Components.
        (
            "carrick-operator",
            &["carrick-api", "carrick-k8s", "carrick-policy"],
        ),
        (
            "carrick-controller",
            &[
                "carrick-api",
                "carrick-k8s",
                "carrick-policy",
                "carrick-proto",
            ],
        ),
        (
            "carrick-agent",
            &[
                "carrick-api",
                "carrick-datapath",
                "carrick-k8s",
                "carrick-node",
                "carrick-openflow",
                "carrick-ovsdb",
                "carrick-policy",
                "carrick-proto",
            ],
        ),
        (
            "carrick-switch",
            &[
                "carrick-api",
                "carrick-datapath",
                "carrick-openflow",
                "carrick-ovsdb",
            ],
        ),
        ("carrick-cni", &[]),
        ("carrick-cli", &["carrick-api", "carrick-k8s"]),
        // Wiring.
        (
            "carrick",
            &[
                "carrick-agent",
                "carrick-cli",
                "carrick-controller",
                "carrick-operator",
                "carrick-switch",
            ],
        ),
        // Tests and tools.
        ("carrick-testkit", &[]),
        ("carrick-testbed", &[]),
        ("carrick-e2e", &["carrick-api", "carrick-testbed"]),
        (
            "xtask",
            &[
                "carrick-api",
                "carrick-e2e",
                "carrick-operator",
                "carrick-testbed",
                "carrick-testkit",
                "carrick-proto",
                "carrick-cli",
            ],
        ),
    ])
}

/// Crates that must stay free of IO, whatever their features say by default.
const PURE: &[&str] = &["carrick-openflow", "carrick-datapath", "carrick-policy"];
/// What a pure crate must not depend on, unless behind an optional feature.
const IMPURE: &[&str] = &[
    "tokio",
    "kube",
    "tonic",
    "rtnetlink",
    "nix",
    "hyper",
    "axum",
];

#[test]
fn crate_graph_keeps_to_its_rings() {
    let metadata = MetadataCommand::new()
        .no_deps()
        .exec()
        .expect("cargo metadata");
    let allowed = allowed();
    let ours: BTreeSet<&str> = metadata.packages.iter().map(|p| p.name.as_str()).collect();
    let mut wrong = Vec::new();
    for package in &metadata.packages {
        let Some(may) = allowed.get(package.name.as_str()) else {
            wrong.push(format!(
                "{}: has no ring; add it to xtask/tests/rings.rs",
                package.name
            ));
            continue;
        };
        for dependency in &package.dependencies {
            if dependency.kind == DependencyKind::Development {
                continue;
            }
            let name = dependency.name.as_str();
            if ours.contains(name) && !may.contains(&name) {
                wrong.push(format!("{} must not depend on {name}", package.name));
            }
            if PURE.contains(&package.name.as_str())
                && IMPURE.contains(&name)
                && !dependency.optional
            {
                wrong.push(format!(
                    "{} is pure and must not depend on {name}",
                    package.name
                ));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "the crate graph breaks its rings:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn every_ring_names_a_crate_that_exists() {
    let metadata = MetadataCommand::new()
        .no_deps()
        .exec()
        .expect("cargo metadata");
    let ours: BTreeSet<&str> = metadata.packages.iter().map(|p| p.name.as_str()).collect();
    let stale: Vec<_> = allowed()
        .into_keys()
        .filter(|name| !ours.contains(name))
        .collect();
    assert!(
        stale.is_empty(),
        "rings name crates that are gone: {stale:?}"
    );
}
