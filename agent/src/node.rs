//! What the agent's tasks share.

use std::sync::Arc;
use std::time::{Duration, Instant};

use carrick_api::effective::EffectiveConfig;
use carrick_proto::{AddressChange, Number};
use tokio::sync::{mpsc, watch};

use crate::cni::network::PodNetworkSettings;
use crate::ipam::AttachmentStore;
use crate::paths::Paths;
use crate::plan::NodePlan;
use crate::programmer::Request;
use crate::records::{Committed, RecordStore};
use crate::services::metrics::SyncMetrics;
use crate::services::view::Query;
use crate::status::Board;

/// Address changes that may wait for the stream: more than pods start at once on a node. When it
/// is full the stream is opened anew, and its Hello tells all.
pub const ADDRESS_CHANGES: usize = 1024;
/// Requests that may wait for the programmer, which takes all of them in one pass.
pub const REQUESTS: usize = 1024;

/// The last batch the programmer has dealt with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Realized {
    /// Its number.
    pub number: Number,
    /// Why it is only stored, when it is.
    pub error: Option<String>,
}

/// What the agent's tasks share. Every field is cheap to read from any of them.
#[derive(Debug)]
pub struct Node {
    /// Name of this node.
    pub name: String,
    /// Name of the agent's pod; empty outside one.
    pub pod: String,
    /// The effective configuration.
    pub config: EffectiveConfig,
    /// Where files are.
    pub paths: Paths,
    /// The kernel's boot id.
    pub boot_id: String,
    /// Attachments and their addresses.
    pub attachments: Arc<AttachmentStore>,
    /// Records of the controller.
    pub records: Arc<RecordStore>,
    /// The records as they change; written by the stream after they are durable.
    pub committed: watch::Sender<Arc<Committed>>,
    /// What is in the switch; written by the programmer.
    pub realized: watch::Sender<Realized>,
    /// What pods are built by; written by the programmer.
    pub settings: watch::Sender<Option<Arc<PodNetworkSettings>>>,
    /// The last plan that could be made; written by the programmer.
    pub plan: watch::Sender<Option<Arc<NodePlan>>>,
    /// The agent's report on itself.
    pub board: Board,
    /// Requests to the programmer.
    pub programmer: mpsc::Sender<Request>,
    /// Questions about Services, to the programmer.
    pub service_queries: mpsc::Sender<Query>,
    /// Questions about policies, to the programmer.
    pub policy_queries: mpsc::Sender<crate::policy::view::Query>,
    /// What rules of policy have decided; written by the programmer.
    pub policy_totals: crate::policy::counters::Totals,
    /// How Services get into the switch.
    pub service_sync: SyncMetrics,
    /// Address changes for the stream.
    pub address_changes: mpsc::Sender<AddressChange>,
    /// Told when an address change found no room: the stream must be opened anew.
    pub addresses_lost: watch::Sender<u64>,
    /// Told when the host's links or addresses changed: the programmer looks at once.
    pub links_changed: watch::Sender<u64>,
    /// When this process began; times given to the attachment store count from here.
    pub origin: Instant,
}

impl Node {
    /// The time since this process began.
    pub fn now(&self) -> Duration {
        self.origin.elapsed()
    }

    /// Where the records of the controller were committed last.
    pub fn committed(&self) -> Arc<Committed> {
        Arc::clone(&self.committed.borrow())
    }
}
