//! Health and metrics over HTTP, on loopback.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::metrics::Metrics;

/// What the probes say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Health {
    /// On the way to ready.
    Starting,
    /// ovs-vswitchd runs and is released to the agent.
    Ready,
}

/// Serves until it is dropped.
pub(crate) async fn serve(
    address: SocketAddr,
    health: watch::Receiver<Health>,
    metrics: Arc<Metrics>,
) -> std::io::Result<impl Future<Output = std::io::Result<()>>> {
    let listener = TcpListener::bind(address).await?;
    let ready = move || {
        let health = *health.borrow();
        async move {
            match health {
                Health::Ready => (StatusCode::OK, "ok"),
                Health::Starting => (StatusCode::SERVICE_UNAVAILABLE, "the switch is starting"),
            }
        }
    };
    let text = move || {
        let text = metrics.text();
        async move {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            match text {
                Ok(text) => ([(header::CONTENT_TYPE, kind)], text).into_response(),
                Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
            }
        }
    };
    let router = Router::new()
        // That it answers is the answer: children are restarted by us, not by the kubelet.
        .route("/livez", get(|| async { "ok" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(text));
    Ok(async move { axum::serve(listener, router).await })
}
