//! Who may do what.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use carrick_e2e::bed::{Bed, NAMESPACE};
use carrick_e2e::pod;
use carrick_proto::v1::distribution_client::DistributionClient;
use carrick_proto::v1::{AgentMessage, ControllerMessage, Hello, agent_message};
use tokio_stream::StreamExt as _;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};
use tonic::{Code, Request, Status};

use crate::Test;

pub fn tests() -> Vec<Test> {
    vec![
        ("a_stolen_token_opens_no_other_nodes_stream", stolen_token),
        (
            "an_agent_may_not_write_another_nodes_agentinfo",
            foreign_agentinfo,
        ),
        (
            "an_agent_reads_neither_nodes_nor_pods_nor_secrets",
            agent_rbac,
        ),
        ("no_component_reads_all_secrets", secrets),
    ]
}

/// Opens a stream for `node` with `token`, as an agent does; the first message or the refusal.
fn subscribe(bed: &Bed, node: &str, token: &str) -> Result<Result<ControllerMessage, Status>> {
    let address = pod::bracket(bed.controller_address()?);
    let tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(bed.ca_bundle()?))
        .domain_name("carrick-controller");
    let endpoint = Endpoint::from_shared(format!("https://{address}:11250"))?.tls_config(tls)?;
    let hello = AgentMessage {
        message: Some(agent_message::Message::Hello(Hello {
            protocol: 1,
            node: node.to_owned(),
            version: "e2e".to_owned(),
            ..Hello::default()
        })),
    };
    let mut request = Request::new(tokio_stream::iter([hello]).chain(tokio_stream::pending()));
    request
        .metadata_mut()
        .insert("authorization", format!("Bearer {token}").parse()?);
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?
        .block_on(async move {
            let channel = endpoint
                .connect()
                .await
                .context("connect to the controller")?;
            let answer = DistributionClient::new(channel).subscribe(request).await;
            let mut stream = match answer {
                Ok(answer) => answer.into_inner(),
                Err(status) => return Ok(Err(status)),
            };
            let first = tokio::time::timeout(Duration::from_secs(10), stream.message()).await;
            match first.context("the controller is silent")? {
                Ok(Some(message)) => Ok(Ok(message)),
                Ok(None) => bail!("the stream ended without a word"),
                Err(status) => Ok(Err(status)),
            }
        })
}

fn stolen_token(bed: &Bed) -> Result<()> {
    let token = bed.agent_token(bed.node_name(0), Some("carrick-controller"))?;
    match subscribe(bed, bed.node_name(1), &token)? {
        Ok(message) => bail!("the stream of another node was opened: {message:?}"),
        Err(status) => ensure!(
            status.code() == Code::PermissionDenied,
            "refused with {status}"
        ),
    }
    // A token for another audience is no token for us.
    let foreign = bed.agent_token(bed.node_name(0), None)?;
    match subscribe(bed, bed.node_name(0), &foreign)? {
        Ok(message) => bail!("a token for the API server opened a stream: {message:?}"),
        Err(status) => ensure!(
            status.code() == Code::Unauthenticated,
            "refused with {status}"
        ),
    }
    // With its own node's name the same token passes: it is the name that was refused.
    let own = subscribe(bed, bed.node_name(0), &token)?;
    ensure!(own.is_ok(), "its own stream was refused: {own:?}");
    Ok(())
}

fn foreign_agentinfo(bed: &Bed) -> Result<()> {
    let token = bed.agent_token(bed.node_name(0), None)?;
    let patch = r#"{"metadata":{"annotations":{"carrick.dev/e2e":"1"}}}"#;
    let out = bed.kubectl_any(&[
        "--token",
        &token,
        "patch",
        "agentinfo",
        bed.node_name(1),
        "--type=merge",
        "-p",
        patch,
    ])?;
    ensure!(
        !out.status.success(),
        "another node's AgentInfo was written"
    );
    Ok(())
}

pub(super) fn can(bed: &Bed, account: &str, verb: &str, what: &str) -> Result<bool> {
    let who = format!("system:serviceaccount:{NAMESPACE}:{account}");
    let out = bed.kubectl_any(&["auth", "can-i", verb, what, "--as", &who, "-A"])?;
    Ok(String::from_utf8_lossy(&out.stdout).trim() == "yes")
}

fn agent_rbac(bed: &Bed) -> Result<()> {
    for (verb, what) in [
        ("list", "nodes"),
        ("patch", "nodes"),
        ("list", "pods"),
        ("watch", "pods"),
        ("get", "secrets"),
        ("create", "pods"),
        ("list", "networkpolicies"),
    ] {
        ensure!(
            !can(bed, "carrick-agent", verb, what)?,
            "the agent may {verb} {what}"
        );
    }
    Ok(())
}

fn secrets(bed: &Bed) -> Result<()> {
    for account in [
        "carrick-operator",
        "carrick-controller",
        "carrick-agent",
        "carrick-ovs",
    ] {
        for verb in ["list", "get", "watch"] {
            ensure!(
                !can(bed, account, verb, "secrets")?,
                "{account} may {verb} secrets everywhere"
            );
        }
        ensure!(!can(bed, account, "*", "*")?, "{account} may do everything");
    }
    Ok(())
}
