//! What a runtime of CNI 1.1 asks: libcni itself (`cnitool`) speaks to the plugin that the agent
//! installed. containerd 1.6, which runs the pods here, calls ADD and DEL only.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use carrick_e2e::bed::Bed;
use carrick_e2e::pod::{self, Pod, quote};
use carrick_e2e::wait;
use carrick_testbed::{Progress, binaries};

use crate::Test;

/// The sandbox's network namespace.
const NETNS: &str = "cnitool";

pub fn tests() -> Vec<Test> {
    vec![("libcni_adds_checks_collects_and_deletes", libcni)]
}

/// libcni on a node, for a sandbox that the test made.
struct Runtime<'a> {
    bed: &'a Bed,
    node: &'a str,
    /// Of `cnitool`.
    program: &'a Path,
    /// `CNI_ARGS` as a kubelet's runtime gives them.
    arguments: String,
}

impl Runtime<'_> {
    /// Runs commands of `cnitool` one after the other, then `script`. libcni's cache holds nothing
    /// else meanwhile: its GC deletes whatever else it finds there, the node's pods too.
    fn run(&self, commands: &[&str], script: &str) -> Result<String> {
        let mut lines = vec![
            "set -e; mkdir -p /var/lib/cni /run/cnitool-cache".to_owned(),
            "mount --bind /run/cnitool-cache /var/lib/cni".to_owned(),
        ];
        lines.extend(commands.iter().map(|command| {
            format!(
                "CNI_PATH=/opt/cni/bin CNI_ARGS={} {} {command} carrick /run/netns/{NETNS}",
                quote(&self.arguments),
                quote(&self.program.to_string_lossy()),
            )
        }));
        lines.push(script.to_owned());
        self.bed.node(
            self.node,
            &format!("unshare --mount bash -c {}", quote(&lines.join("\n"))),
        )
    }

    fn attached(&self, uid: &str) -> Result<bool> {
        Ok(!self.bed.attachments_of(self.node, uid)?.is_empty())
    }
}

fn libcni(bed: &Bed) -> Result<()> {
    let program = binaries::cnitool(&Progress::stderr())?;
    let namespace = bed.namespace("runtime")?;
    let node = bed.node_name(0);
    let peer = Pod::create(bed, &namespace, "peer", node)?;
    // The kubelet waits for the Secret before it asks for a sandbox: the pod's record comes, its
    // sandbox is ours to make.
    let mut waiting = pod::manifest(bed, &namespace, "waiting", node);
    waiting["spec"]["volumes"] = serde_json::json!([
        {"name": "never", "secret": {"secretName": "never"}}
    ]);
    waiting["spec"]["containers"][0]["volumeMounts"] =
        serde_json::json!([{"name": "never", "mountPath": "/never"}]);
    bed.apply(&waiting)?;
    let uid = bed.get("pod", Some(&namespace), "waiting")?["metadata"]["uid"]
        .as_str()
        .context("the pod has no UID")?
        .to_owned();
    let runtime = Runtime {
        bed,
        node,
        program: &program,
        arguments: format!(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME=waiting;\
             K8S_POD_INFRA_CONTAINER_ID=cnitool;K8S_POD_UID={uid}"
        ),
    };
    bed.node(node, &format!("ip netns add {NETNS}"))?;
    let tried = converse(&runtime, &peer, &uid);
    bed.node(
        node,
        &format!("ip netns del {NETNS}; rm -rf /run/cnitool-cache"),
    )?;
    bed.kubectl(&["delete", "pod", "-n", &namespace, "waiting", "--force"])?;
    peer.delete(bed)?;
    tried
}

fn converse(runtime: &Runtime<'_>, peer: &Pod, uid: &str) -> Result<()> {
    runtime.run(&["status"], "").context("STATUS")?;
    let added = runtime.run(&["add"], "").context("ADD")?;
    let added: serde_json::Value = serde_json::from_str(&added).context("the result of ADD")?;
    ensure!(added["cniVersion"] == "1.1.0", "ADD spoke {added}");
    ensure!(runtime.attached(uid)?, "the agent knows no such attachment");
    let target = peer.addresses.first().context("the peer has no address")?;
    let ping = format!("ip netns exec {NETNS} {}", pod::ping(*target));
    // The sandbox's first packets may meet duplicate address detection.
    wait::until("the sandbox to talk", Duration::from_secs(30), || {
        runtime.bed.node(runtime.node, &ping).map(|_| true)
    })?;
    runtime.run(&["check"], "").context("CHECK")?;

    // Who breaks a sandbox is told what is wrong with it.
    let broken = runtime.run(
        &[],
        &format!("ip -n {NETNS} link set eth0 down; ip -n {NETNS} address flush dev eth0"),
    );
    broken.context("break the sandbox")?;
    let Err(error) = runtime.run(&["check"], "") else {
        anyhow::bail!("CHECK finds a sandbox without addresses in order");
    };
    let said = format!("{error:#}");
    ensure!(
        said.contains("eth0"),
        "CHECK does not say what is wrong: {said}"
    );

    // libcni deletes what its cache knows and names nothing as valid: the agent takes that for no list, so
    // the node's pods stay.
    runtime.run(&["gc"], "").context("GC")?;
    ensure!(!runtime.attached(uid)?, "GC left the attachment");
    ensure!(
        runtime.attached(&peer.uid)?,
        "GC took another pod's attachment"
    );
    runtime.bed.node(runtime.node, &pod::ping(*target))?;
    runtime
        .run(&["del", "del"], "")
        .context("DEL of what is gone")?;
    let left = runtime.bed.node(
        runtime.node,
        &format!("ip -n {NETNS} -o link show eth0 || true"),
    )?;
    ensure!(left.trim().is_empty(), "left in the sandbox: {left}");
    Ok(())
}
