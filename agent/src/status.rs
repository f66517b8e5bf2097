//! What the agent knows of itself, in one place: read by the API, `AgentInfo`, readiness, metrics
//! and the report on the stream; written by whoever finds it out.

use std::collections::BTreeMap;
use std::net::IpAddr;

use carrick_datapath::DatapathKind;
use carrick_k8s::condition::Status;
use carrick_proto::Number;
use ipnet::IpNet;
use jiff::Timestamp;
use serde::Serialize;
use tokio::sync::watch;

/// A condition's present state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fact {
    /// Whether it holds.
    pub status: Status,
    /// One word in CamelCase.
    pub reason: &'static str,
    /// A sentence that says what is and, when it is wrong, how to mend it.
    pub message: String,
}

impl Fact {
    /// It holds.
    pub fn holds(reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            status: Status::True,
            reason,
            message: message.into(),
        }
    }

    /// It does not hold.
    pub fn fails(reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            status: Status::False,
            reason,
            message: message.into(),
        }
    }

    /// Nobody can tell now.
    pub fn unknown(reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            status: Status::Unknown,
            reason,
            message: message.into(),
        }
    }
}

impl Serialize for Fact {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct as _;
        let mut fields = serializer.serialize_struct("Fact", 3)?;
        fields.serialize_field("status", self.status.as_str())?;
        fields.serialize_field("reason", self.reason)?;
        fields.serialize_field("message", &self.message)?;
        fields.end()
    }
}

/// The stream to the controller.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ControllerStream {
    /// Address of the replica.
    pub address: String,
    /// Since when it stands or is lost.
    pub since: Timestamp,
    /// Whether it stands.
    pub connected: bool,
}

/// Everything that is reported. Equal values mean nothing has to be told anew.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Conditions by type.
    pub conditions: BTreeMap<&'static str, Fact>,
    /// The datapath in use.
    pub datapath: Option<DatapathKind>,
    /// Version of Open vSwitch.
    pub switch_version: Option<String>,
    /// Pod CIDRs served.
    pub pod_cidrs: Vec<IpNet>,
    /// Where tunnels end here.
    pub tunnel_endpoints: Vec<IpAddr>,
    /// Addresses of the gateway.
    pub gateway_addresses: Vec<IpAddr>,
    /// Interface that carries tunnels.
    pub transport_interface: String,
    /// The entry of `nodeConfigs` that is for this node.
    pub node_config: String,
    /// MTU of pods.
    pub mtu: Option<u16>,
    /// Flows in the switch.
    pub flows: usize,
    /// Groups in the switch.
    pub groups: usize,
    /// Pods attached.
    pub pods: usize,
    /// Services known; 0 where others serve them.
    pub services: usize,
    /// Policies for pods of this node.
    pub policies: usize,
    /// Whether the runtime finds our network on this node.
    pub cni_installed: bool,
    /// Other nodes that can be reached.
    pub peers: usize,
    /// The stream to the controller.
    pub controller: Option<ControllerStream>,
    /// Epoch and sequence of the last batch that is in the switch.
    #[serde(serialize_with = "text")]
    pub realized: Number,
    /// The last thing that failed; empty when it succeeded since.
    pub last_error: String,
}

fn text<S: serde::Serializer>(number: &Number, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(number)
}

impl Report {
    /// Whether a condition is there and holds.
    pub fn holds(&self, condition: &str) -> bool {
        self.conditions
            .get(condition)
            .is_some_and(|fact| fact.status == Status::True)
    }
}

/// Where the report is kept. Clones share it.
#[derive(Debug, Clone)]
pub struct Board {
    report: watch::Sender<Report>,
}

impl Default for Board {
    fn default() -> Self {
        Self {
            report: watch::Sender::new(Report::default()),
        }
    }
}

impl Board {
    /// Changes the report; those who watch it hear only of real changes.
    pub fn update(&self, change: impl FnOnce(&mut Report)) {
        self.report.send_if_modified(|report| {
            let before = report.clone();
            change(report);
            *report != before
        });
    }

    /// Sets one condition.
    pub fn set(&self, condition: &'static str, fact: Fact) {
        self.update(|report| {
            report.conditions.insert(condition, fact);
        });
    }

    /// Takes a condition away that has no meaning on this node.
    pub fn unset(&self, condition: &'static str) {
        self.update(|report| {
            report.conditions.remove(condition);
        });
    }

    /// The report now.
    pub fn report(&self) -> Report {
        self.report.borrow().clone()
    }

    /// The report as it changes.
    pub fn watch(&self) -> watch::Receiver<Report> {
        self.report.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_real_changes_are_told() {
        let board = Board::default();
        let mut watch = board.watch();
        watch.mark_unchanged();
        board.set("Ready", Fact::fails("Starting", "starting"));
        assert!(watch.has_changed().unwrap());
        watch.mark_unchanged();
        board.set("Ready", Fact::fails("Starting", "starting"));
        assert!(!watch.has_changed().unwrap());
        assert!(!board.report().holds("Ready"));
        board.set("Ready", Fact::holds("Programmed", ""));
        assert!(board.report().holds("Ready"));
    }
}
