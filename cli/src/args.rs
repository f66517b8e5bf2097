//! The command line as a value.

use clap::{Parser, Subcommand};

use crate::connect::ConnectArgs;
use crate::{check, exit, explain, get, inspect, status, uninstall, version};

/// Ask a Carrick network how it is, test it, take it away.
#[derive(Debug, Parser)]
#[command(
    name = "carrickctl",
    version = version::VERSION,
    after_help = exit::HELP,
    // Two words of help, not two pages, unless asked for.
    disable_help_subcommand = true,
    max_term_width = 100
)]
pub struct Cli {
    /// Which cluster.
    #[command(flatten, next_help_heading = "Cluster")]
    pub connect: ConnectArgs,
    /// Say more about requests on standard error (twice: everything).
    #[arg(long, short, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Tell how the network is: problems first, each with its mend.
    ///
    /// Reads the Networking, AgentInfos, ControllerInfos, nodes and Carrick's pods. Without
    /// permission to read nodes or pods it says what the rest tells. --watch and --wait look every
    /// two seconds.
    #[command(after_help = exit::HELP)]
    Status(status::Args),
    /// Test connectivity between all nodes, with test pods that are removed again.
    ///
    /// Makes a namespace with a name of its own and, on each node, two pods and one on the host
    /// network. They try TCP, UDP, 256 KiB over TCP and packets of exactly the pods' MTU between pods
    /// on the same and other nodes, pods and hosts, over every IP family; that the right pod answered
    /// and that source addresses stay. Needs to create namespaces, pods and pods/exec.
    #[command(after_help = exit::HELP)]
    Check(check::Args),
    /// List agents or controllers as they describe themselves, or the Services, policies or groups of a node.
    ///
    /// Services, policies and their rules are asked of the node's agent, as with inspect:
    /// `carrickctl get services --node worker-1`, and
    /// `carrickctl get services --node worker-1 kube-system/kube-dns` with backends;
    /// `carrickctl get rules --node worker-1 default/deny-all`,
    /// `carrickctl get rules --pod shop/web-0`: those that decide for one pod, and what each has decided.
    Get(get::Args),
    /// Explain where a packet to a Service goes, or which policies let a connection pass.
    ///
    /// With --node: which Service it meets, what translates it, which traffic policy counts, which
    /// endpoints may get it and why each other one may not, and the source address they see. With two
    /// places: which rule of which policy accepts or denies the connection, as it leaves the one and
    /// enters the other. The agents are asked, as with inspect; they send no packet.
    #[command(after_help = explain::EXAMPLES)]
    Explain(explain::Args),
    /// Show what one node's agent holds, asked of the agent itself.
    ///
    /// Through a port-forward to the agent's pod (create on pods/portforward is needed).
    Inspect(inspect::InspectArgs),
    /// Show the flows that a node's agent last gave to the switch.
    ///
    /// They come from the agent's saved commit, without counters; `carrickctl inspect` has the rest
    /// of what an agent knows.
    Flows(inspect::FlowsArgs),
    /// Delete the Networking and show how the nodes get clean.
    ///
    /// The operator holds the removal back while pods use the network, and says which;
    /// --acknowledge pods-lose-network accepts that they lose it.
    #[command(after_help = exit::HELP)]
    Uninstall(uninstall::Args),
    /// Print versions: this program's, and what runs in the cluster.
    Version(version::Args),
}
