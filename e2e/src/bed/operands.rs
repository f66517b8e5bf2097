//! Carrick's own parts on a bed: their pods, who leads, and what agents say.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::{Bed, NAMESPACE};
use crate::wait;

impl Bed {
    /// Template hashes of everything the operator rolls: what a change of configuration moves.
    pub fn operand_revisions(&self) -> Result<BTreeMap<String, String>> {
        let mut revisions = BTreeMap::new();
        for item in self.list(&["deployments,daemonsets", "-n", NAMESPACE])? {
            let name = format!("{}/{}", item["kind"], item["metadata"]["name"]);
            revisions.insert(name, item["spec"]["template"].to_string());
        }
        Ok(revisions)
    }

    /// The pod of a component on a node.
    pub fn pod_on(&self, node: &str, component: &str) -> Result<String> {
        let selector = format!("app.kubernetes.io/component={component}");
        let field = format!("spec.nodeName={node}");
        let pods = self.list(&[
            "pods",
            "-n",
            NAMESPACE,
            "-l",
            &selector,
            "--field-selector",
            &field,
        ])?;
        let pod = pods.iter().find(|pod| {
            pod["metadata"]["deletionTimestamp"].is_null() && pod["status"]["phase"] == "Running"
        });
        let name = pod.and_then(|pod| pod["metadata"]["name"].as_str());
        name.map(str::to_owned)
            .with_context(|| format!("no {component} runs on {node}"))
    }

    /// The agent's pod on a node.
    pub fn agent_pod(&self, node: &str) -> Result<String> {
        self.pod_on(node, "agent")
    }

    /// Waits for a ready agent on a node that has reported.
    pub fn wait_agent(&self, node: &str, deadline: Duration) -> Result<()> {
        wait::until(&format!("the agent of {node}"), deadline, || {
            let pod = self.agent_pod(node)?;
            self.pod_ready(&pod)
        })
    }

    /// Whether a pod of ours is Ready.
    pub fn pod_ready(&self, pod: &str) -> Result<bool> {
        let pod = self.get("pod", Some(NAMESPACE), pod)?;
        Ok(pod["status"]["conditions"]
            .as_array()
            .into_iter()
            .flatten()
            .any(|condition| condition["type"] == "Ready" && condition["status"] == "True"))
    }

    /// How often the containers of a pod of ours were restarted.
    pub fn restarts(&self, pod: &str) -> Result<u64> {
        let pod = self.get("pod", Some(NAMESPACE), pod)?;
        let statuses = pod["status"]["containerStatuses"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        Ok(statuses
            .iter()
            .filter_map(|status| status["restartCount"].as_u64())
            .sum())
    }

    /// Addresses of each attachment a pod has, as its agent knows them.
    pub fn attachments_of(&self, node: &str, uid: &str) -> Result<Vec<Vec<IpAddr>>> {
        let all = self.agent_json(node, "/v1/attachments")?["attachments"].take();
        let of_pod = all
            .as_array()
            .into_iter()
            .flatten()
            .filter(|one| one["pod"]["uid"] == uid);
        of_pod
            .map(|one| {
                let texts = one["addresses"].as_array().into_iter().flatten();
                let parsed = texts
                    .filter_map(Value::as_str)
                    .map(str::parse)
                    .collect::<Result<_, _>>();
                parsed.context("an attachment with a broken address")
            })
            .collect()
    }

    /// The pod that holds a component's Lease, and its node.
    pub fn leader(&self, lease: &str) -> Result<(String, String)> {
        let lease = self.get("lease", Some(NAMESPACE), lease)?;
        let holder = lease["spec"]["holderIdentity"]
            .as_str()
            .context("nobody leads")?
            .to_owned();
        let pod = self.get("pod", Some(NAMESPACE), &holder)?;
        let node = pod["spec"]["nodeName"]
            .as_str()
            .context("the leader has no node")?
            .to_owned();
        Ok((holder, node))
    }

    /// Waits until the agent of a node has programmed everything it holds.
    pub fn settled(&self, node: &str) -> Result<()> {
        let count = "ovs-ofctl -O OpenFlow15 dump-flows unix:/run/carrick/openvswitch/br-int.mgmt | grep -c priority= || true";
        let mut previous = self.node(node, count)?;
        let mut same = 0;
        wait::until("the flows to settle", Duration::from_mins(1), || {
            let now = self.node(node, count)?;
            same = if now == previous { same + 1 } else { 0 };
            previous = now;
            Ok(same >= 5)
        })
    }

    /// What an agent's read-only API says.
    pub fn agent_json(&self, node: &str, path: &str) -> Result<Value> {
        let out = self.node(
            node,
            &format!("curl -sS --fail --noproxy '*' http://127.0.0.1:11252{path}"),
        )?;
        serde_json::from_str(&out).with_context(|| format!("{path} answered {out}"))
    }

    /// A token of the agent on a node, as the API server sees that agent.
    pub fn agent_token(&self, node: &str, audience: Option<&str>) -> Result<String> {
        let pod = self.agent_pod(node)?;
        let mut arguments = vec![
            "create",
            "token",
            "carrick-agent",
            "-n",
            NAMESPACE,
            "--bound-object-kind=Pod",
            "--bound-object-name",
            &pod,
        ];
        if let Some(audience) = audience {
            arguments.extend(["--audience", audience]);
        }
        Ok(self.kubectl(&arguments)?.trim().to_owned())
    }

    /// The controller's address for agents: the leader's node address.
    pub fn controller_address(&self) -> Result<IpAddr> {
        let (_, node) = self.leader("carrick-controller")?;
        self.node_addresses(&node)?
            .first()
            .copied()
            .context("the leader's node has no address")
    }

    /// The CA bundle that agents trust.
    pub fn ca_bundle(&self) -> Result<String> {
        let bundle = self.get("configmap", Some(NAMESPACE), "carrick-ca-bundle")?;
        let Some(text) = bundle["data"]["ca.crt"].as_str() else {
            bail!("no ca.crt in {bundle}")
        };
        Ok(text.to_owned())
    }
}
