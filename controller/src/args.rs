//! The command line.

use std::net::{AddrParseError, IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use carrick_api::names::{path, port};
use carrick_k8s::telemetry::Format;

/// Arguments of `carrick controller`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// The effective configuration.
    #[arg(long, default_value = path::CONFIG_FILE, value_name = "FILE")]
    pub config: PathBuf,
    /// Directory with the serving certificate: tls.crt and tls.key.
    #[arg(long, default_value = path::CONTROLLER_TLS_DIR, value_name = "DIR")]
    pub tls_dir: PathBuf,
    /// Where to serve agents. Default: the gRPC port on every address.
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub listen: Option<SocketAddr>,
    /// Where to serve health and metrics.
    #[arg(long, default_value_t = SocketAddr::from(([127, 0, 0, 1], port::CONTROLLER_HTTP)), value_name = "ADDRESS:PORT")]
    pub http: SocketAddr,
    /// The address agents are told to find this replica at. Default, also when it is empty: the
    /// node's InternalIP.
    #[arg(long, env = "POD_IP", default_value = "", value_name = "ADDRESS")]
    pub advertise: Advertise,
    /// This pod's namespace, where the Lease is.
    #[arg(long, env = "POD_NAMESPACE")]
    pub namespace: String,
    /// This pod's name, the identity in the Lease.
    #[arg(long, env = "POD_NAME")]
    pub pod: String,
    /// This pod's node.
    #[arg(long, env = "NODE_NAME")]
    pub node: String,
    /// How log lines look: text or json.
    #[arg(long, env = "CARRICK_LOG_FORMAT", default_value = "text")]
    pub log_format: Format,
}

/// An address, or none for an empty text: the downward API leaves `POD_IP` empty while the pod has no
/// address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Advertise(pub Option<IpAddr>);

impl FromStr for Advertise {
    type Err = AddrParseError;

    fn from_str(text: &str) -> Result<Self, AddrParseError> {
        if text.is_empty() {
            return Ok(Self(None));
        }
        text.parse().map(|address| Self(Some(address)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(clap::Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    /// The controller did not start at all.
    #[test]
    fn an_empty_pod_ip_is_none() {
        let parse = |address: &str| {
            let advertise = format!("--advertise={address}");
            let line = ["x", "--namespace=n", "--pod=p", "--node=a", &advertise];
            <Cli as clap::Parser>::try_parse_from(line).map(|cli| cli.args.advertise.0)
        };
        assert_eq!(parse("").ok(), Some(None));
        assert_eq!(
            parse("fd00::1").ok(),
            Some(Some("fd00::1".parse().unwrap()))
        );
        assert!(parse("here").is_err());
    }
}
