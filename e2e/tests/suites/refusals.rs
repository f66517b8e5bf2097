//! Bad input: refused or reported with a sentence that mends it, the running network untouched.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use carrick_e2e::bed::Bed;
use carrick_e2e::pod::{self, Pod};
use carrick_e2e::wait;
use serde_json::{Value, json};

use crate::Test;

pub fn tests() -> Vec<Test> {
    vec![
        ("a_second_networking_is_refused", second),
        ("a_wrong_enum_is_refused", wrong_enum),
        ("an_unknown_field_is_refused", unknown_field),
        ("an_mtu_below_1280_with_ipv6_is_refused", small_mtu),
        (
            "an_unreachable_api_server_is_refused",
            unreachable_api_server,
        ),
        ("a_wrong_provider_is_refused_with_evidence", wrong_provider),
        ("a_changed_datapath_is_refused", changed_datapath),
        (
            "an_overlapping_pod_cidr_is_reported_and_not_programmed",
            overlap,
        ),
        ("drift_in_an_operand_is_removed", drift),
        ("paused_changes_nothing", paused),
    ]
}

/// Applies a Networking and returns what the API server said when it refused it.
fn refused_by_api(bed: &Bed, networking: &Value) -> Result<String> {
    match bed.apply(networking) {
        Ok(()) => bail!("the API server accepted {networking}"),
        Err(error) => Ok(format!("{error:#}")),
    }
}

fn second(bed: &Bed) -> Result<()> {
    let mut networking = bed.networking()?;
    networking["metadata"] = json!({"name": "second"});
    networking["status"] = Value::Null;
    let said = refused_by_api(bed, &networking)?;
    ensure!(
        said.contains("default"),
        "the message does not name the one allowed: {said}"
    );
    Ok(())
}

fn wrong_enum(bed: &Bed) -> Result<()> {
    let said = bed.patch_networking(&json!({"traffic": {"mode": "Bridge"}}));
    let said = format!("{:#}", said.err().context("accepted mode Bridge")?);
    ensure!(
        said.contains("traffic.mode") && said.contains("Encap"),
        "{said}"
    );
    Ok(())
}

fn unknown_field(bed: &Bed) -> Result<()> {
    let mut networking = bed.networking_spec()?;
    networking["spec"]["encryption"] = json!({"mode": "WireGuard"});
    let said = refused_by_api(bed, &networking)?;
    ensure!(said.contains("encryption"), "{said}");
    Ok(())
}

/// Applies `patch`, waits for the refusal to show, checks that pods still talk, takes it back.
fn refused_by_operator(bed: &Bed, patch: &Value, back: &Value, words: &[&str]) -> Result<()> {
    let namespace = bed.namespace("refusals")?;
    let a = Pod::create(bed, &namespace, "a", bed.node_name(0))?;
    let c = Pod::create(bed, &namespace, "c", bed.node_name(1))?;
    let before = bed.operand_revisions()?;
    if let Err(error) = bed.patch_networking(patch) {
        // The API server's own refusal (CEL) is as good.
        let said = format!("{error:#}");
        for word in words {
            ensure!(said.contains(word), "{word:?} is missing in {said}");
        }
    } else {
        let seen = wait::until("the refusal in a condition", Duration::from_mins(1), || {
            let said = bed.networking()?["status"]["conditions"].to_string();
            for word in words {
                ensure!(said.contains(word), "{word:?} is missing in {said}");
            }
            Ok(true)
        });
        let after = bed.operand_revisions();
        bed.patch_networking(back)?;
        seen?;
        ensure!(before == after?, "the refused change touched the operands");
    }
    for address in &c.addresses {
        a.run(bed, &pod::ping(*address))?;
    }
    bed.wait_ready(Duration::from_secs(90))
}

fn small_mtu(bed: &Bed) -> Result<()> {
    refused_by_operator(
        bed,
        &json!({"traffic": {"mtu": 1200}}),
        &json!({"traffic": {"mtu": null}}),
        &["traffic.mtu", "1280"],
    )
}

fn unreachable_api_server(bed: &Bed) -> Result<()> {
    refused_by_operator(
        bed,
        &json!({"apiServer": {"host": "198.51.100.1", "port": 6443}}),
        &json!({"apiServer": null}),
        &["apiServer", "198.51.100.1"],
    )
}

fn wrong_provider(bed: &Bed) -> Result<()> {
    refused_by_operator(
        bed,
        &json!({"provider": "Kind"}),
        &json!({"provider": null}),
        &["provider", "Kind"],
    )
}

fn changed_datapath(bed: &Bed) -> Result<()> {
    refused_by_operator(
        bed,
        &json!({"datapath": {"type": "Kernel"}}),
        &json!({"datapath": {"type": "Userspace"}}),
        &["datapath.type"],
    )
}

/// A Node object whose pod CIDR lies in another node's: reported, its route not programmed.
fn overlap(bed: &Bed) -> Result<()> {
    let victim = bed.get("node", None, bed.node_name(1))?;
    let cidr = victim["spec"]["podCIDR"]
        .as_str()
        .context("node has no podCIDR")?
        .to_owned();
    let service = if cidr.contains(':') {
        "fd00:10:96::/120"
    } else {
        "10.96.1.0/24"
    };
    for (name, cidr) in [
        ("overlaps-a-node", cidr.as_str()),
        ("overlaps-services", service),
    ] {
        bed.apply(&json!({
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": name},
            "spec": {"podCIDR": cidr, "podCIDRs": [cidr], "unschedulable": true,
                     "taints": [{"key": "carrick.dev/e2e", "effect": "NoExecute"}]},
        }))?;
        let patch =
            json!({"status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.77"}]}});
        bed.kubectl(&[
            "patch",
            "node",
            name,
            "--subresource=status",
            "--type=merge",
            "-p",
            &patch.to_string(),
        ])?;
        let seen = wait::until(
            &format!("the overlap of {name} to be reported"),
            Duration::from_mins(1),
            || {
                let networking = bed.networking()?["status"].to_string();
                let infos = bed.kubectl(&["get", "agentinfos,controllerinfos", "-o", "json"])?;
                Ok(networking.contains(name) || infos.contains(name))
            },
        );
        let flows = bed.node(
            bed.node_name(0),
            "ovs-ofctl -O OpenFlow15 dump-flows unix:/run/carrick/openvswitch/br-int.mgmt",
        )?;
        bed.kubectl(&["delete", "node", name, "--wait=true"])?;
        seen?;
        ensure!(
            !flows.contains("192.0.2.77"),
            "a flow leads to the overlapping node:\n{flows}"
        );
    }
    let namespace = bed.namespace("refusals")?;
    let a = Pod::create(bed, &namespace, "a", bed.node_name(0))?;
    let c = Pod::create(bed, &namespace, "c", bed.node_name(1))?;
    for address in &c.addresses {
        a.run(bed, &pod::ping(*address))?;
    }
    Ok(())
}

/// A field someone else set on the agent's DaemonSet is taken away.
fn drift(bed: &Bed) -> Result<()> {
    let before = bed.operand_revisions()?;
    let patch =
        json!({"spec": {"template": {"spec": {"nodeSelector": {"carrick.dev/e2e": "nowhere"}}}}});
    bed.kubectl(&[
        "patch",
        "daemonset",
        "-n",
        carrick_e2e::bed::NAMESPACE,
        "carrick-agent",
        "--type=merge",
        "-p",
        &patch.to_string(),
    ])?;
    wait::until(
        "the foreign field to be removed",
        Duration::from_mins(1),
        || {
            let daemonset = bed.get(
                "daemonset",
                Some(carrick_e2e::bed::NAMESPACE),
                "carrick-agent",
            )?;
            Ok(daemonset["spec"]["template"]["spec"]["nodeSelector"]["carrick.dev/e2e"].is_null())
        },
    )?;
    bed.wait_ready(Duration::from_mins(2))?;
    ensure!(
        before == bed.operand_revisions()?,
        "the operands did not return to what they were"
    );
    Ok(())
}

fn paused(bed: &Bed) -> Result<()> {
    let before = bed.operand_revisions()?;
    bed.patch_networking(&json!({"management": "Paused", "observability": {"logLevel": "debug"}}))?;
    let seen = wait::until(
        "status to tell of the pause",
        Duration::from_mins(1),
        || {
            let networking = bed.networking()?;
            ensure!(
                networking["status"]["observedGeneration"] == networking["metadata"]["generation"],
                "not observed yet"
            );
            Ok(networking["status"]["conditions"]
                .to_string()
                .contains("Paused"))
        },
    );
    let after = bed.operand_revisions();
    bed.patch_networking(&json!({"management": null, "observability": null}))?;
    seen?;
    ensure!(before == after?, "a paused operator changed its operands");
    bed.wait_ready(Duration::from_mins(2))
}
