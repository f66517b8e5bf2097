//! What load balancers ask this node, in mode `Full`: whether it has endpoints of a Service
//! (`healthCheckNodePort`), and whether its Services are served at all (port 10256, as of a kube-proxy).
//!
//! One task owns the sockets; they follow what the programmer tells. A port that somebody else has is told of
//! and tried again. Anybody may ask: connections are few, short and closed after one answer.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use carrick_datapath::services::ServiceName;
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Response, StatusCode};
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

/// Where a kube-proxy tells of its health.
pub const PROXY_PORT: u16 = 10256;
/// For how long changes may wait before the proxy is unhealthy: twice a kube-proxy's sync period.
const PATIENCE: Duration = Duration::from_mins(1);
/// Pause before a port that is in use is tried again.
const RETRY: Duration = Duration::from_secs(5);
/// Connections at a time on one port.
const CONNECTIONS: usize = 64;
/// How long a connection may take.
const LIMIT: Duration = Duration::from_secs(10);
/// Tells a load balancer how many endpoints are here.
const WEIGHT: &str = "x-load-balancing-endpoint-weight";

/// A health check node port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// The Service.
    pub service: ServiceName,
    /// Its ready endpoints on this node.
    pub local_endpoints: usize,
}

/// What is to be served.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Health check node ports.
    pub checks: BTreeMap<u16, Check>,
    /// Addresses they are on; empty is every address.
    pub addresses: BTreeSet<IpAddr>,
}

/// How the proxy is.
#[derive(Debug, Clone, Copy, Default)]
pub struct Pulse {
    /// When everything was last in place.
    pub updated: Option<Timestamp>,
    /// Since when something is not.
    pub waiting: Option<Instant>,
}

impl Pulse {
    fn is_healthy(&self, now: Instant) -> bool {
        self.waiting.is_none_or(|since| now - since < PATIENCE)
    }
}

/// Both, as the programmer tells them.
#[derive(Debug, Clone)]
pub struct Told {
    /// What is to be served; nothing, not even the proxy's own port, without.
    pub wanted: watch::Receiver<Option<Wanted>>,
    /// How the proxy is.
    pub pulse: watch::Receiver<Pulse>,
}

/// Ports that cannot be served, and why.
pub type Problems = BTreeMap<u16, String>;

/// What a socket answers for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Purpose {
    Proxy,
    Check,
}

/// Serves what is wanted until `shutdown`.
pub async fn run(mut told: Told, problems: watch::Sender<Problems>, shutdown: CancellationToken) {
    let mut sockets: BTreeMap<(IpAddr, u16), CancellationToken> = BTreeMap::new();
    let mut serving = JoinSet::new();
    loop {
        let wanted = told.wanted.borrow_and_update().clone();
        let places = places(wanted.as_ref());
        sockets.retain(|place, token| {
            let kept = places.contains_key(place);
            if !kept {
                token.cancel();
            }
            kept
        });
        let mut failed = Problems::new();
        for (&(address, port), &purpose) in &places {
            if sockets.contains_key(&(address, port)) {
                continue;
            }
            match bind(address, port).await {
                Ok(listener) => {
                    debug!(%address, port, "serving a health check");
                    let token = shutdown.child_token();
                    serving.spawn(serve(listener, purpose, port, told.clone(), token.clone()));
                    sockets.insert((address, port), token);
                }
                Err(error) => {
                    failed.insert(port, error.to_string());
                }
            }
        }
        problems.send_if_modified(|held| {
            let changed = *held != failed;
            if changed {
                for (port, error) in &failed {
                    warn!(port, error, "a health check port cannot be served");
                }
                if failed.is_empty() {
                    info!("every health check port is served");
                }
                held.clone_from(&failed);
            }
            changed
        });
        tokio::select! {
            () = shutdown.cancelled() => break,
            changed = told.wanted.changed() => if changed.is_err() { break },
            () = tokio::time::sleep(RETRY), if !failed.is_empty() => {}
            // Those that ended.
            Some(_) = serving.join_next() => {}
        }
    }
    for token in sockets.into_values() {
        token.cancel();
    }
    while serving.join_next().await.is_some() {}
}

/// Every socket there must be. The proxy's own port is on every address, as a kube-proxy's is.
fn places(wanted: Option<&Wanted>) -> BTreeMap<(IpAddr, u16), Purpose> {
    let every = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
    let Some(wanted) = wanted else {
        return BTreeMap::new();
    };
    let mut places = BTreeMap::new();
    for port in wanted.checks.keys() {
        if wanted.addresses.is_empty() {
            places.insert((every, *port), Purpose::Check);
        }
        for address in &wanted.addresses {
            places.insert((*address, *port), Purpose::Check);
        }
    }
    places.insert((every, PROXY_PORT), Purpose::Proxy);
    places
}

/// A socket; one on every address has both families where the host has IPv6.
async fn bind(address: IpAddr, port: u16) -> io::Result<TcpListener> {
    match TcpListener::bind(SocketAddr::new(address, port)).await {
        Err(error)
            if address == IpAddr::V6(Ipv6Addr::UNSPECIFIED)
                && error.kind() != io::ErrorKind::AddrInUse =>
        {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await
        }
        done => done,
    }
}

async fn serve(
    listener: TcpListener,
    purpose: Purpose,
    port: u16,
    told: Told,
    shutdown: CancellationToken,
) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    // Dropped with this task, and what is left of them with it.
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => return,
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, _)) = accepted else {
            // Files may be short: rather later than at once again.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let Ok(permit) = Arc::clone(&room).try_acquire_owned() else {
            continue;
        };
        let told = told.clone();
        connections.spawn(async move {
            let _permit = permit;
            let service = service_fn(|request: hyper::Request<hyper::body::Incoming>| {
                let answer = match purpose {
                    Purpose::Proxy => proxy(&told, request.uri().path()),
                    Purpose::Check => check(&told, port),
                };
                async { Ok::<_, Infallible>(answer) }
            });
            let mut http = http1::Builder::new();
            let connection = http
                .keep_alive(false)
                .serve_connection(TokioIo::new(stream), service);
            // Who asks may go away at any time.
            let _ = tokio::time::timeout(LIMIT, connection).await;
        });
    }
}

/// Whether this node has endpoints of a Service.
fn check(told: &Told, port: u16) -> Response<Full<Bytes>> {
    let healthy = told.pulse.borrow().is_healthy(Instant::now());
    let wanted = told.wanted.borrow();
    let check = wanted.as_ref().and_then(|wanted| wanted.checks.get(&port));
    let Some(check) = check else {
        return answer(StatusCode::NOT_FOUND, &Value::Null);
    };
    let (namespace, name) = check.service.as_str().split_once('/').unwrap_or_default();
    let body = json!({
        "service": {"namespace": namespace, "name": name},
        "localEndpoints": check.local_endpoints,
        "serviceProxyHealthy": healthy,
    });
    let status = if healthy && check.local_endpoints > 0 {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let mut response = answer(status, &body);
    let weight = HeaderValue::from(check.local_endpoints);
    response.headers_mut().insert(WEIGHT, weight);
    response
}

/// How the proxy is.
fn proxy(told: &Told, path: &str) -> Response<Full<Bytes>> {
    if !["/healthz", "/livez"].contains(&path) {
        return answer(StatusCode::NOT_FOUND, &Value::Null);
    }
    let pulse = *told.pulse.borrow();
    let body = json!({
        "lastUpdated": pulse.updated.map(|time| time.to_string()),
        "currentTime": Timestamp::now().to_string(),
    });
    let status = if pulse.is_healthy(Instant::now()) {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    answer(status, &body)
}

fn answer(status: StatusCode, body: &Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body.to_string())));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(
        "x-content-type-options",
        HeaderValue::from_static("nosniff"),
    );
    response
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    async fn ask(port: u16, path: &str) -> String {
        let mut stream = tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port))
            .await
            .unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    fn told(local_endpoints: usize) -> (watch::Sender<Option<Wanted>>, watch::Sender<Pulse>, Told) {
        let check = Check {
            service: ServiceName::new("shop", "web"),
            local_endpoints,
        };
        let wanted = watch::Sender::new(Some(Wanted {
            checks: BTreeMap::from([(30180, check)]),
            addresses: BTreeSet::new(),
        }));
        let pulse = watch::Sender::new(Pulse::default());
        let told = Told {
            wanted: wanted.subscribe(),
            pulse: pulse.subscribe(),
        };
        (wanted, pulse, told)
    }

    #[tokio::test]
    async fn endpoints_and_waiting_changes_decide() {
        let (wanted, pulse, told) = told(2);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let token = CancellationToken::new();
        let task = tokio::spawn(serve(
            listener,
            Purpose::Check,
            30180,
            told.clone(),
            token.clone(),
        ));
        let text = ask(port, "/whatever").await;
        let expected = "{\"service\":{\"namespace\":\"shop\",\"name\":\"web\"},\"localEndpoints\":2,\
                        \"serviceProxyHealthy\":true}";
        assert!(
            text.starts_with("HTTP/1.1 200") && text.ends_with(expected),
            "{text}"
        );
        assert!(
            text.contains("x-load-balancing-endpoint-weight: 2"),
            "{text}"
        );
        let none = |wanted: &mut Option<Wanted>| {
            for check in wanted
                .iter_mut()
                .flat_map(|wanted| wanted.checks.values_mut())
            {
                check.local_endpoints = 0;
            }
        };
        wanted.send_modify(none);
        assert!(ask(port, "/").await.starts_with("HTTP/1.1 503"));
        assert_eq!(proxy(&told, "/healthz").status(), StatusCode::OK);
        assert_eq!(proxy(&told, "/metrics").status(), StatusCode::NOT_FOUND);
        let long_ago = Instant::now().checked_sub(PATIENCE);
        pulse.send_modify(|pulse| pulse.waiting = long_ago);
        assert_eq!(
            proxy(&told, "/livez").status(),
            StatusCode::SERVICE_UNAVAILABLE
        );
        token.cancel();
        task.await.unwrap();
    }

    #[test]
    fn sockets_are_where_they_were_asked_for() {
        let (sender, _pulse, told) = told(1);
        let every: IpAddr = "::".parse().unwrap();
        let of = || {
            places(told.wanted.borrow().as_ref())
                .into_keys()
                .collect::<Vec<_>>()
        };
        assert_eq!(of(), [(every, PROXY_PORT), (every, 30180)]);
        let own: IpAddr = "192.0.2.1".parse().unwrap();
        sender.send_modify(|wanted| {
            for wanted in wanted.iter_mut() {
                wanted.addresses.insert(own);
            }
        });
        assert_eq!(of(), [(own, 30180), (every, PROXY_PORT)]);
        sender.send_modify(|wanted| *wanted = None);
        assert_eq!(of(), []);
    }
}
