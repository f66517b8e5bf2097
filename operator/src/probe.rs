//! Whether an API server answers at the endpoint that `spec.apiServer` names.
//!
//! Asked before anything is applied: operands that cannot reach the API server would take the
//! network down with them.

use std::time::{Duration, Instant};

use carrick_api::effective::Endpoint;
use carrick_k8s::client::{self, timely};
use carrick_k8s::telemetry::chain;
use kube::Config;

use crate::cluster::PROBE_TIMEOUT;
use crate::facts::Probe;

/// How long an answer counts; a failure is tried again sooner.
const GOOD_FOR: Duration = Duration::from_mins(5);
const BAD_FOR: Duration = Duration::from_secs(15);

/// Tries endpoints and remembers the last answer.
#[derive(Debug)]
pub struct Prober {
    config: Config,
    last: Option<(Endpoint, Probe, Instant)>,
}

impl Prober {
    /// Uses the credentials and the CA of `config`.
    pub fn new(config: Config) -> Self {
        Self { config, last: None }
    }

    /// Whether an API server answers at `endpoint`.
    pub async fn probe(&mut self, endpoint: &Endpoint, now: Instant) -> Probe {
        if let Some((asked, answer, at)) = &self.last {
            let good_for = if *answer == Probe::Answered {
                GOOD_FOR
            } else {
                BAD_FOR
            };
            if asked == endpoint && now.duration_since(*at) < good_for {
                return answer.clone();
            }
        }
        let answer = match self.ask(endpoint).await {
            Ok(()) => Probe::Answered,
            Err(why) => Probe::Failed(why),
        };
        self.last = Some((endpoint.clone(), answer.clone(), now));
        answer
    }

    async fn ask(&self, endpoint: &Endpoint) -> Result<(), String> {
        let host = if endpoint.host.contains(':') {
            format!("[{}]", endpoint.host)
        } else {
            endpoint.host.clone()
        };
        let mut config = self.config.clone();
        config.cluster_url = format!("https://{host}:{}", endpoint.port)
            .parse()
            .map_err(|error| format!("not an address: {error}"))?;
        let connection = client::from_config(config).map_err(|error| chain(&error))?;
        timely(
            "version",
            PROBE_TIMEOUT,
            connection.client.apiserver_version(),
        )
        .await
        .map(|_| ())
        .map_err(|error| chain(&error))
    }
}
