//! The command line.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

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
    /// The address agents are told to find this replica at. Default: the node's InternalIP.
    #[arg(long, env = "POD_IP", value_name = "ADDRESS")]
    pub advertise: Option<IpAddr>,
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
