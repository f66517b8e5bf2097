//! The client of the API server.

use std::fmt;
use std::future::Future;
use std::time::Duration;

use kube::{Client, Config};

/// How long to wait for a TCP and TLS connection to the API server.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long one request may take by [`timely`]'s default.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);

/// Making a client failed.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Neither a ServiceAccount's files with `KUBERNETES_SERVICE_HOST` and `_PORT`, nor a kubeconfig.
    #[error("no way to reach the API server is configured")]
    Configuration(#[source] Box<kube::config::InferConfigError>),
    /// The configuration cannot be used, e.g. a CA certificate does not parse.
    #[error("cannot make a client for the API server at {endpoint}")]
    Client {
        /// The API server.
        endpoint: String,
        /// The cause.
        #[source]
        source: Box<kube::Error>,
    },
    /// The URL of the configuration names no host.
    #[error("the API server's URL {url} names no host")]
    NoHost {
        /// The URL.
        url: String,
    },
}

/// Where the API server is: what the operator hands to its operands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// DNS name or address, without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// A client and where it leads.
#[derive(Clone)]
pub struct Connection {
    /// The client; clones share its connections.
    pub client: Client,
    /// The API server it was made for.
    pub endpoint: Endpoint,
    /// The namespace of the ServiceAccount (or of the kubeconfig's context).
    pub namespace: String,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("endpoint", &self.endpoint)
            .field("namespace", &self.namespace)
            .finish_non_exhaustive()
    }
}

/// Makes a client from `KUBERNETES_SERVICE_HOST`, `KUBERNETES_SERVICE_PORT` and the pod's
/// ServiceAccount, or, outside a pod, from the kubeconfig. Connects nothing yet. Token and CA are read
/// again from their files about once a minute.
pub async fn connect() -> Result<Connection, ConnectError> {
    let config = Config::infer()
        .await
        .map_err(|source| ConnectError::Configuration(Box::new(source)))?;
    from_config(config)
}

/// Makes a client from a configuration in hand (tests, tools).
pub fn from_config(mut config: Config) -> Result<Connection, ConnectError> {
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    let url = &config.cluster_url;
    let host = url
        .host()
        .map(|host| {
            host.trim_start_matches('[')
                .trim_end_matches(']')
                .to_owned()
        })
        .filter(|host| !host.is_empty())
        .ok_or_else(|| ConnectError::NoHost {
            url: url.to_string(),
        })?;
    let default_port = if url.scheme_str() == Some("http") {
        80
    } else {
        443
    };
    let endpoint = Endpoint {
        host,
        port: url.port_u16().unwrap_or(default_port),
    };
    let namespace = config.default_namespace.clone();
    let client = Client::try_from(config).map_err(|source| ConnectError::Client {
        endpoint: endpoint.to_string(),
        source: Box::new(source),
    })?;
    Ok(Connection {
        client,
        endpoint,
        namespace,
    })
}

/// A request failed or took too long.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The API server refused it or could not be reached.
    #[error("{what} failed")]
    Failed {
        /// The request, for people.
        what: &'static str,
        /// The cause.
        #[source]
        source: Box<kube::Error>,
    },
    /// No answer in time.
    #[error("{what} got no answer within {limit:?}")]
    TimedOut {
        /// The request, for people.
        what: &'static str,
        /// The time it had.
        limit: Duration,
    },
}

impl CallError {
    /// The HTTP status the API server answered with, if it answered.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Failed { source, .. } => status_code(source),
            Self::TimedOut { .. } => None,
        }
    }
}

/// The HTTP status of an API server's refusal.
#[must_use]
pub fn status_code(error: &kube::Error) -> Option<u16> {
    match error {
        kube::Error::Api(status) => Some(status.code),
        _ => None,
    }
}

/// Gives a request a deadline: the client has none of its own, because watches have none.
pub async fn timely<T>(
    what: &'static str,
    limit: Duration,
    request: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, CallError> {
    match tokio::time::timeout(limit, request).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(source)) => Err(CallError::Failed {
            what,
            source: Box::new(source),
        }),
        Err(_) => Err(CallError::TimedOut { what, limit }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(url: &str) -> Endpoint {
        let config = Config::new(url.parse().unwrap());
        from_config(config).unwrap().endpoint
    }

    #[tokio::test]
    async fn the_endpoint_is_what_the_url_names() {
        assert_eq!(
            endpoint("http://10.0.0.1:6443").to_string(),
            "10.0.0.1:6443"
        );
        let v6 = endpoint("http://[fd00::1]:6443");
        assert_eq!(
            (v6.host.as_str(), v6.to_string().as_str()),
            ("fd00::1", "[fd00::1]:6443")
        );
        assert_eq!(endpoint("http://api.example").port, 80);
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_without_an_answer_ends() {
        let never = std::future::pending::<Result<(), kube::Error>>();
        let error = timely("read", Duration::from_secs(3), never)
            .await
            .unwrap_err();
        assert_eq!(error.to_string(), "read got no answer within 3s");
        assert_eq!(error.status(), None);
    }
}
