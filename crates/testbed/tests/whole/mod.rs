//! A whole cluster: comes up, mends, obeys, leaves nothing; the same for both kinds of nodes.

use std::io::Write as _;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use carrick_testbed::{
    Cluster, ClusterSpec, IpFamily, KubeProxy, Limit, Link, NodeKind, Progress, StartupTaint,
    images,
};
use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;

/// Takes the cluster down however the test ends.
pub struct Guard(String);

impl Guard {
    /// For the cluster of this name.
    pub fn new(name: &str) -> Self {
        Self(name.to_owned())
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Err(error) = Cluster::down(&self.0, &Progress::stderr()) {
            Progress::stderr().say(format!("{error:#}"));
        }
    }
}

fn spec(name: &str, kind: NodeKind) -> ClusterSpec {
    ClusterSpec {
        nodes: 2,
        family: IpFamily::Dual,
        node_mask_v4: 20,
        startup_taint: StartupTaint::Enabled,
        kind,
        kube_proxy: KubeProxy::Nftables,
        ..ClusterSpec::new(name)
    }
}

/// Everything any cluster must do, and `more`.
pub fn test(kind: NodeKind, more: impl Fn(&Cluster) -> Result<()>) -> Result<()> {
    let progress = Progress::stderr();
    let name = format!("test-{}", std::process::id());
    let guard = Guard::new(&name);
    let cluster = Cluster::up(&spec(&name, kind), &progress)?;
    let result = registered(&cluster)
        .and_then(|()| kube_proxy_serves(&cluster))
        .and_then(|()| commands_are_faithful(&cluster))
        .and_then(|()| the_host_is_not_written_to(&cluster))
        .and_then(|()| links_are_cut_and_restored(&cluster))
        .and_then(|()| components_stop_and_start(&cluster))
        .and_then(|()| api_server_stops_and_starts(&cluster))
        .and_then(|()| pods_run(&cluster))
        .and_then(|()| nodes_restart(&cluster))
        .and_then(|()| more(&cluster))
        .and_then(|()| up_mends_what_was_killed(&cluster));
    result.with_context(|| cluster.report())?;
    drop(guard);
    let left = Cluster::leftovers(&name)?;
    ensure!(left.is_empty(), "left behind: {left:?}");
    ensure!(
        cluster.logs().join("node1/kubelet.log").exists(),
        "logs outlive the cluster"
    );
    Ok(())
}

/// Words, streams and exit codes are those a program of the host would have had.
fn commands_are_faithful(cluster: &Cluster) -> Result<()> {
    let node = cluster.node("node1")?;
    let words = [
        "printf",
        "%s|",
        "two words",
        "it's",
        "$HOME",
        "",
        "a\nb",
        "*",
    ];
    ensure!(
        node.exec(&words)? == "two words|it's|$HOME||a\nb|*|",
        "words were changed"
    );
    let mut child = node
        .command("bash")?
        .args(["-c", "cat; echo error >&2; exit 42"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    child
        .stdin
        .take()
        .context("no standard input")?
        .write_all(b"input")?;
    let output = child.wait_with_output()?;
    ensure!(
        output.stdout == b"input" && output.stderr == b"error\n",
        "streams were mixed: {output:?}"
    );
    ensure!(output.status.code() == Some(42), "{}", output.status);
    // Twenty at the same time, each waiting for the others.
    let children: Vec<_> = (0..20)
        .map(|number| {
            let script = "touch /run/together-$1; until [ $(ls /run/together-* | wc -l) = 20 ]; do sleep 0.05; done";
            node.command("bash")?
                .args(["-c", script, "together", &number.to_string()])
                .stdin(Stdio::null())
                .spawn()
                .map_err(anyhow::Error::from)
        })
        .collect::<Result<_>>()?;
    for mut child in children {
        ensure!(child.wait()?.success(), "a command among many failed");
    }
    Ok(())
}

fn the_host_is_not_written_to(cluster: &Cluster) -> Result<()> {
    let file = format!("carrick-testbed-{}", std::process::id());
    for dir in ["/etc", "/opt", "/var/lib", "/run", "/var/log"] {
        let path = format!("{dir}/{file}");
        cluster.node("node1")?.exec(&["touch", &path])?;
        ensure!(!Path::new(&path).exists(), "{path} is on the host");
    }
    Ok(())
}

/// A kubelet that is stopped stays so; containerd that was stopped and started answers.
fn components_stop_and_start(cluster: &Cluster) -> Result<()> {
    let node = cluster.node("node2")?;
    let answers = || node.exec(&["ctr", "version"]);
    node.stop_component("containerd", Signal::SIGKILL)?;
    ensure!(answers().is_err(), "a stopped containerd answers");
    node.start_component("containerd")?;
    Progress::quiet().wait("containerd", Duration::from_mins(1), || {
        Ok(answers().err().map(|error| format!("{error:#}")))
    })
}

/// A node reaches the API server by its cluster IP, also through a kube-proxy that found the rules of another.
fn kube_proxy_serves(cluster: &Cluster) -> Result<()> {
    let node = cluster.node("node1")?;
    let curl = |url: &str| {
        let words = ["curl", "--silent", "--insecure", "--max-time", "5", url];
        node.exec(&words)
    };
    let served = || {
        Progress::quiet().wait(
            "the API server's cluster IP",
            Duration::from_mins(1),
            || {
                let answer = curl("https://10.96.0.1/version");
                let served = answer.as_ref().is_ok_and(|text| text.contains("v1.34"));
                Ok((!served).then(|| format!("{answer:?}")))
            },
        )
    };
    served()?;
    // Waits until they are gone.
    let pods = [
        "delete",
        "pods",
        "-n",
        "kube-system",
        "-l",
        "k8s-app=kube-proxy",
    ];
    cluster.kubectl(&pods)?;
    Progress::quiet().wait("kube-proxy", Duration::from_mins(2), || {
        // Healthy once its rules are in place.
        let healthy = node.exec(&[
            "curl",
            "--silent",
            "--fail",
            "http://127.0.0.1:10256/healthz",
        ]);
        Ok(healthy.err().map(|error| format!("{error:#}")))
    })?;
    served()
}

fn registered(cluster: &Cluster) -> Result<()> {
    let path = "jsonpath={range .items[*]}{.spec.podCIDRs}{.spec.taints[*].key}{\"\\n\"}{end}";
    Progress::quiet().wait("pod CIDRs", Duration::from_secs(30), || {
        let nodes = cluster.kubectl(&["get", "nodes", "-o", path])?;
        let whole = |line: &&str| {
            line.contains("10.244.")
                && line.contains("/20")
                && line.contains("fd00:10:244:")
                && line.contains("carrick.dev/agent-not-ready")
        };
        Ok((nodes.lines().filter(whole).count() != 2).then_some(nodes))
    })
}

fn pings(cluster: &Cluster) -> Result<bool> {
    let to = cluster.node("node2")?.transport_addresses()[1].to_string();
    Ok(cluster
        .node("node1")?
        .exec(&["ping", "-c1", "-W1", &to])
        .is_ok())
}

/// Waits: a neighbour is not always found within the second that one echo request has.
fn reached(cluster: &Cluster) -> Result<()> {
    Progress::quiet().wait("an echo reply", Duration::from_secs(30), || {
        Ok((!pings(cluster)?).then(|| "none within a second".to_owned()))
    })
}

fn links_are_cut_and_restored(cluster: &Cluster) -> Result<()> {
    reached(cluster).context("nodes do not reach each other")?;
    cluster.cut_link("node2", Link::Transport)?;
    ensure!(!pings(cluster)?, "a cut link lets frames through");
    let carrier = cluster
        .node("node2")?
        .exec(&["cat", "/sys/class/net/eth1/carrier"])?;
    ensure!(carrier.trim() == "1", "a silent cut took the carrier");
    cluster.restore_link("node2", Link::Transport)?;
    cluster.limit_link("node2", Link::Transport, Limit::Loss { percent: 100 })?;
    ensure!(
        !pings(cluster)?,
        "a link that loses everything lets frames through"
    );
    cluster.restore_link("node2", Link::Transport)?;
    cluster.limit_link("node2", Link::Transport, Limit::Rate { kbit: 1000 })?;
    reached(cluster).context("a slow link lets nothing through")?;
    cluster.restore_link("node2", Link::Transport)
}

fn api_server_stops_and_starts(cluster: &Cluster) -> Result<()> {
    let machine = cluster.control_plane();
    machine.stop_component("kube-apiserver", Signal::SIGKILL)?;
    ensure!(
        cluster.kubectl(&["get", "--raw=/readyz"]).is_err(),
        "a stopped API server answers"
    );
    machine.start_component("kube-apiserver")?;
    Progress::quiet().wait("the API server", Duration::from_mins(1), || {
        Ok(cluster
            .kubectl(&["get", "--raw=/readyz"])
            .err()
            .map(|error| format!("{error:#}")))
    })
}

/// A privileged pod on the host's network, as Carrick's are, with a mount it shares with its node.
fn pods_run(cluster: &Cluster) -> Result<()> {
    let image = cluster.load_image(images::agnhost(cluster.binaries())?.path())?;
    let pod = serde_json::json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "probe"},
        "spec": {
            "hostNetwork": true, "nodeName": "node1", "terminationGracePeriodSeconds": 0,
            "automountServiceAccountToken": false,
            "containers": [{
                "name": "probe", "image": image.name(), "imagePullPolicy": "IfNotPresent",
                "securityContext": {"privileged": true},
                "volumeMounts": [{"name": "netns", "mountPath": "/run/netns", "mountPropagation": "Bidirectional"}],
            }],
            "volumes": [{"name": "netns", "hostPath": {"path": "/run/netns"}}],
        },
    })
    .to_string();
    // The default ServiceAccount comes a moment after the namespace.
    Progress::quiet().wait("the pod to be accepted", Duration::from_secs(30), || {
        Ok(cluster
            .kubectl_with_input(&["apply", "-f", "-"], &pod)
            .err()
            .map(|error| format!("{error:#}")))
    })?;
    cluster.kubectl(&[
        "wait",
        "--for=condition=Ready",
        "pod/probe",
        "--timeout=60s",
        "--request-timeout=60s",
    ])?;
    let said = cluster.kubectl(&["exec", "probe", "--", "agnhost", "--help"])?;
    ensure!(said.contains("Usage"), "exec said {said:?}");
    Ok(())
}

fn nodes_restart(cluster: &Cluster) -> Result<()> {
    let node = cluster.node("node1")?;
    let files = "touch /run/memory /var/lib/carrick/disk; sync /var/lib/carrick/disk";
    node.exec(&["bash", "-c", files])?;
    cluster.restart_node("node1")?;
    node.exec(&["test", "-e", "/var/lib/carrick/disk"])?;
    ensure!(
        node.exec(&["test", "-e", "/run/memory"]).is_err(),
        "/run survived a restart"
    );
    Ok(())
}

fn up_mends_what_was_killed(cluster: &Cluster) -> Result<()> {
    let pid = cluster
        .control_plane()
        .pid()
        .context("the control plane does not run")?;
    signal::kill(Pid::from_raw(pid), Signal::SIGKILL)?;
    let again = Cluster::up(cluster.spec(), &Progress::stderr())?;
    ensure!(
        again
            .kubectl(&["get", "pod", "probe", "-o=name"])?
            .contains("probe"),
        "etcd's data was lost"
    );
    Ok(())
}
