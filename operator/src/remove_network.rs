//! `carrick operator remove-network`: deletes the Networking and waits until it is gone.
//!
//! The chart's pre-delete hook runs it, so that `helm uninstall` does not take the operator away
//! before the nodes are clean.

use std::time::Duration;

use anyhow::bail;
use carrick_api::Networking;
use carrick_api::names::NETWORKING_NAME;
use carrick_api::status::condition;
use carrick_k8s::client::{REQUEST_TIMEOUT, timely};
use kube::api::DeleteParams;
use kube::{Api, Client};
use tokio::time::Instant;
use tracing::info;

/// Between two looks.
const PERIOD: Duration = Duration::from_secs(2);

/// Arguments of `carrick operator remove-network`.
#[derive(Debug, Clone, clap::Args)]
pub struct RemoveNetwork {
    /// Seconds to wait until the network is removed.
    #[arg(long, default_value_t = 300)]
    pub timeout: u64,
}

/// Deletes the Networking and waits until it is gone; on timeout fails with what holds it back.
pub async fn run(args: &RemoveNetwork, client: Client) -> anyhow::Result<()> {
    let api: Api<Networking> = Api::all(client);
    let deadline = Instant::now() + Duration::from_secs(args.timeout);
    let params = DeleteParams::background();
    match timely(
        "delete",
        REQUEST_TIMEOUT,
        api.delete(NETWORKING_NAME, &params),
    )
    .await
    {
        Ok(_) => info!("deleting the Networking"),
        Err(error) if error.status() == Some(404) => {
            info!("there is no Networking");
            return Ok(());
        }
        Err(error) => return Err(error.into()),
    }
    let mut said = String::new();
    loop {
        match timely("get", REQUEST_TIMEOUT, api.get_opt(NETWORKING_NAME)).await {
            Ok(None) => {
                info!("the network is removed");
                return Ok(());
            }
            Ok(Some(networking)) => {
                let message = ready_message(&networking);
                if message != said {
                    info!("{message}");
                    said = message;
                }
            }
            Err(error) => info!(
                error = carrick_k8s::telemetry::chain(&error),
                "no answer; trying again"
            ),
        }
        if Instant::now() >= deadline {
            bail!(
                "the network was not removed within {} s: {said} (Then run `helm uninstall` again, or set \
                 uninstallHook.enabled=false to leave the network behind.)",
                args.timeout
            );
        }
        tokio::time::sleep(PERIOD).await;
    }
}

fn ready_message(networking: &Networking) -> String {
    let conditions = networking
        .status
        .iter()
        .flat_map(|status| &status.conditions);
    { conditions }
        .find(|found| found.type_ == condition::READY)
        .map_or_else(
            || "waiting for the operator".to_owned(),
            |found| found.message.clone(),
        )
}
