//! The HTTP server for health and metrics, with room for a component's own read API.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::health::{Health, Verdict};

/// The content type of prometheus-client's text (OpenMetrics 1.0).
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// An address cannot be served.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} for health and metrics")]
pub struct ServeError {
    /// The address.
    pub address: SocketAddr,
    /// The cause.
    #[source]
    pub source: std::io::Error,
}

#[derive(Clone)]
struct Answers {
    registry: Arc<Registry>,
    health: Health,
}

/// `/livez`, `/readyz` and `/metrics`.
pub fn routes(registry: Arc<Registry>, health: Health) -> Router {
    Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(Answers { registry, health })
}

fn verdict(verdict: Verdict) -> Response {
    match verdict {
        Ok(()) => (StatusCode::OK, "ok\n").into_response(),
        Err(text) => (StatusCode::SERVICE_UNAVAILABLE, text + "\n").into_response(),
    }
}

async fn livez(State(answers): State<Answers>) -> Response {
    verdict(answers.health.liveness(Instant::now()))
}

async fn readyz(State(answers): State<Answers>) -> Response {
    verdict(answers.health.readiness())
}

async fn metrics(State(answers): State<Answers>) -> Response {
    let mut text = String::new();
    match prometheus_client::encoding::text::encode(&mut text, &answers.registry) {
        Ok(()) => ([(header::CONTENT_TYPE, OPENMETRICS)], text).into_response(),
        Err(error) => {
            error!(%error, "metrics cannot be encoded");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

/// A running server. It ends with its token; await [`Server::ended`] after cancelling.
#[derive(Debug)]
pub struct Server {
    /// Where it listens (the port is real when 0 was asked for).
    pub address: SocketAddr,
    task: JoinHandle<()>,
}

impl Server {
    /// Waits until the server has answered its last request.
    pub async fn ended(self) {
        if let Err(error) = self.task.await {
            error!(%error, "the HTTP server ended badly");
        }
    }
}

/// Serves health, metrics and `extra` on `address` until `shutdown` is cancelled.
pub async fn serve(
    address: SocketAddr,
    registry: Arc<Registry>,
    health: Health,
    extra: Router,
    shutdown: CancellationToken,
) -> Result<Server, ServeError> {
    let fail = |source| ServeError { address, source };
    let listener = TcpListener::bind(address).await.map_err(fail)?;
    let bound = listener.local_addr().map_err(fail)?;
    let app = routes(registry, health).merge(extra);
    let task = tokio::spawn(async move {
        let serving = axum::serve(listener, app).with_graceful_shutdown(shutdown.cancelled_owned());
        if let Err(error) = serving.await {
            error!(%error, "the HTTP server failed");
        }
    });
    info!(address = %bound, "serving health and metrics");
    Ok(Server {
        address: bound,
        task,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn ask(address: SocketAddr, path: &str) -> String {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn health_and_metrics_are_served_until_the_token_ends() {
        let mut registry = Registry::default();
        let counter = prometheus_client::metrics::counter::Counter::<u64>::default();
        registry.register("things", "Things.", counter.clone());
        counter.inc();
        let health = Health::new();
        health.unready("caches", "cold");
        let token = CancellationToken::new();
        let local = SocketAddr::from(([127, 0, 0, 1], 0));
        let server = serve(
            local,
            Arc::new(registry),
            health.clone(),
            Router::new(),
            token.clone(),
        )
        .await
        .unwrap();

        assert!(
            ask(server.address, "/livez")
                .await
                .starts_with("HTTP/1.1 200")
        );
        let cold = ask(server.address, "/readyz").await;
        assert!(
            cold.starts_with("HTTP/1.1 503") && cold.contains("caches: cold"),
            "{cold}"
        );
        health.ready("caches");
        assert!(
            ask(server.address, "/readyz")
                .await
                .starts_with("HTTP/1.1 200")
        );
        assert!(
            ask(server.address, "/metrics")
                .await
                .contains("things_total 1")
        );

        token.cancel();
        tokio::time::timeout(Duration::from_secs(10), server.ended())
            .await
            .unwrap();
    }
}
