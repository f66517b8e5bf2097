//! Test pods: agnhost with `netexec`, and commands run in their network namespace with the
//! node's tools (the image holds nothing but its one binary).

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::bed::{Bed, IpFamily};
use crate::wait;

/// Port of agnhost's HTTP server (TCP).
pub const TCP_PORT: u16 = 8080;
/// Port of agnhost's echo server (UDP).
pub const UDP_PORT: u16 = 8081;

/// A running test pod.
#[derive(Debug, Clone)]
pub struct Pod {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// UID.
    pub uid: String,
    /// The node it runs on.
    pub node: String,
    /// Its addresses, IPv4 first.
    pub addresses: Vec<IpAddr>,
    /// Its network namespace under /run/netns on the node.
    pub netns: String,
}

/// What `create` sends to the API server.
pub fn manifest(bed: &Bed, namespace: &str, name: &str, node: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": namespace, "name": name, "labels": {"app": name}},
        "spec": {
            "nodeName": node,
            "terminationGracePeriodSeconds": 0,
            "tolerations": [{"operator": "Exists"}],
            "containers": [{
                "name": "agnhost", "image": bed.agnhost(), "imagePullPolicy": "IfNotPresent",
                "args": ["netexec", format!("--http-port={TCP_PORT}"), format!("--udp-port={UDP_PORT}")],
            }],
        },
    })
}

impl Pod {
    /// Creates a pod on `node` and waits until it runs with all the addresses of the cluster.
    pub fn create(bed: &Bed, namespace: &str, name: &str, node: &str) -> Result<Self> {
        bed.apply(&manifest(bed, namespace, name, node))?;
        Self::running(bed, namespace, name)
    }

    /// The same with one label more, which it has from its beginning.
    pub fn create_with(
        bed: &Bed,
        namespace: &str,
        name: &str,
        node: &str,
        (key, value): (&str, &str),
    ) -> Result<Self> {
        let mut object = manifest(bed, namespace, name, node);
        object["metadata"]["labels"][key] = json!(value);
        bed.apply(&object)?;
        Self::running(bed, namespace, name)
    }

    /// Waits for a pod created elsewhere.
    pub fn running(bed: &Bed, namespace: &str, name: &str) -> Result<Self> {
        let mut found = None;
        let what = format!("pod {namespace}/{name} to run");
        wait::until(&what, Duration::from_secs(90), || {
            let pod = bed.get("pod", Some(namespace), name)?;
            let status = &pod["status"]["containerStatuses"][0];
            if pod["status"]["phase"] != "Running" || status["ready"] != true {
                bail!("phase {}, {}", pod["status"]["phase"], status["state"]);
            }
            // Status may still tell the address of a sandbox that is gone.
            found = Some(Self::parse(bed, namespace, name, &pod)?);
            Ok(true)
        })?;
        found.context("pod vanished")
    }

    fn parse(bed: &Bed, namespace: &str, name: &str, pod: &Value) -> Result<Self> {
        let mut addresses = pod["status"]["podIPs"]
            .as_array()
            .context("pod has no podIPs")?
            .iter()
            .filter_map(|ip| ip["ip"].as_str())
            .map(str::parse)
            .collect::<Result<Vec<IpAddr>, _>>()?;
        addresses.sort();
        let families = match bed.family() {
            IpFamily::Dual => 2,
            IpFamily::V4 | IpFamily::V6 => 1,
        };
        ensure!(
            addresses.len() == families,
            "pod {name} has addresses {addresses:?}"
        );
        let node = pod["spec"]["nodeName"]
            .as_str()
            .context("pod has no node")?
            .to_owned();
        let netns = find_netns(bed, &node, addresses[0])?;
        Ok(Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            uid: pod["metadata"]["uid"]
                .as_str()
                .unwrap_or_default()
                .to_owned(),
            node,
            addresses,
            netns,
        })
    }

    /// Runs a shell script in the pod's network namespace; its output, or an error with all of it.
    pub fn run(&self, bed: &Bed, script: &str) -> Result<String> {
        bed.node(
            &self.node,
            &format!("ip netns exec {} bash -c {}", self.netns, quote(script)),
        )
        .with_context(|| format!("in pod {}: {script}", self.name))
    }

    /// Deletes the pod and waits until it is gone.
    pub fn delete(&self, bed: &Bed) -> Result<()> {
        bed.kubectl(&[
            "delete",
            "pod",
            "-n",
            &self.namespace,
            &self.name,
            "--force",
            "--grace-period=0",
            "--ignore-not-found",
            "--wait=true",
            "--timeout=60s",
        ])?;
        Ok(())
    }
}

/// Two pods ping and ask each other over TCP, by every address.
pub fn talk(bed: &Bed, a: &Pod, b: &Pod) -> Result<()> {
    for (from, to) in [(a, b), (b, a)] {
        for address in &to.addresses {
            from.run(bed, &ping(*address))?;
            from.run(bed, &tcp(*address))?;
        }
    }
    Ok(())
}

/// The name under /run/netns of the namespace that holds `address`.
fn find_netns(bed: &Bed, node: &str, address: IpAddr) -> Result<String> {
    let script = format!(
        "for n in $(ls /run/netns); do ip -n $n -o addr show 2>/dev/null | grep -q ' {address}/' && echo $n && exit 0; done; exit 1"
    );
    let out = bed
        .node(node, &script)
        .with_context(|| format!("no namespace holds {address}"))?;
    Ok(out.trim().to_owned())
}

/// Quotes for a shell.
pub fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// `[v6]` or `v4`, as URLs and socat want it.
pub fn bracket(address: IpAddr) -> String {
    match address {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => format!("[{v6}]"),
    }
}

/// Script: three pings, all answered. Late is not lost: on a busy machine an upcall takes its time.
pub fn ping(to: IpAddr) -> String {
    format!("ping -n -c 3 -i 0.2 -W 10 {to}")
}

/// Script: a ping of exactly `bytes` of IP packet, not to be fragmented.
pub fn ping_size(to: IpAddr, bytes: u32) -> String {
    let header = if to.is_ipv4() { 28 } else { 48 };
    format!("ping -n -c 2 -i 0.2 -W 2 -M do -s {} {to}", bytes - header)
}

/// Script: an HTTP request to agnhost.
pub fn tcp(to: IpAddr) -> String {
    format!(
        "curl -sS --fail --noproxy '*' --max-time 20 http://{}:{TCP_PORT}/hostname",
        bracket(to)
    )
}

/// Script: an echo over UDP by agnhost. It ends with the answer: UDP itself has no end to wait for.
pub fn udp(to: IpAddr) -> String {
    udp_within(to, Duration::from_secs(10))
}

/// The same for an answer within `patience`.
pub fn udp_within(to: IpAddr, patience: Duration) -> String {
    let patience = patience.as_secs();
    format!(
        "exec 3<>/dev/udp/{to}/{UDP_PORT} && printf 'echo carrick' >&3 \
         && answer=$(timeout {patience} dd bs=64 count=1 status=none <&3) && [ \"$answer\" = carrick ]"
    )
}
