//! Where the agent's files are. Tests give other directories.

use std::path::{Path, PathBuf};

use carrick_api::names::path;

/// Directories and files of one agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    /// State that outlives reboots.
    pub state: PathBuf,
    /// State of this boot.
    pub run: PathBuf,
    /// Open vSwitch's run directory.
    pub switch: PathBuf,
    /// The host's `/proc/sys/net`.
    pub proc_sys_net: PathBuf,
    /// The host's directory of CNI binaries.
    pub cni_bin: PathBuf,
    /// The host's directory of CNI configurations.
    pub cni_conf: PathBuf,
    /// The CNI plugin in our image.
    pub plugin: PathBuf,
    /// `state` by its parent: only so `agent cleanup` can remove the directory itself, which is a
    /// mount of its container otherwise.
    pub state_on_host: PathBuf,
    /// `run` by its parent.
    pub run_on_host: PathBuf,
    /// CA bundle for the controller's certificate.
    pub ca_bundle: PathBuf,
    /// Token for the controller.
    pub token: PathBuf,
}

impl Default for Paths {
    fn default() -> Self {
        Self {
            state: path::STATE_DIR.into(),
            run: path::RUN_DIR.into(),
            switch: path::OVS_RUN_DIR.into(),
            proc_sys_net: path::HOST_PROC_SYS_NET.into(),
            cni_bin: path::HOST_CNI_BIN.into(),
            cni_conf: path::HOST_CNI_CONF.into(),
            plugin: "/opt/carrick/carrick-cni".into(),
            state_on_host: Path::new(path::HOST_VAR_LIB).join("carrick"),
            run_on_host: Path::new(path::HOST_RUN).join("carrick"),
            ca_bundle: path::CA_BUNDLE_FILE.into(),
            token: path::TOKEN_FILE.into(),
        }
    }
}

impl Paths {
    /// All below one directory: for tests and for a second agent on a machine.
    pub fn below(root: &Path) -> Self {
        Self {
            state: root.join("state"),
            run: root.join("run"),
            switch: root.join("run/openvswitch"),
            proc_sys_net: PathBuf::from("/proc/sys/net"),
            cni_bin: root.join("cni/bin"),
            cni_conf: root.join("cni/conf"),
            plugin: root.join("carrick-cni"),
            state_on_host: root.join("state"),
            run_on_host: root.join("run"),
            ca_bundle: root.join("ca.crt"),
            token: root.join("token"),
        }
    }

    /// Journal of attachments and their addresses.
    pub fn attachments(&self) -> PathBuf {
        self.state.join("attachments.journal")
    }

    /// Journal of the records the controller sent.
    pub fn records(&self) -> PathBuf {
        self.state.join("records.journal")
    }

    /// The id ledger of this boot.
    pub fn ledger(&self) -> PathBuf {
        self.state.join("ledger.json")
    }

    /// Addresses where the controller was last seen.
    pub fn controllers(&self) -> PathBuf {
        self.state.join("controllers.json")
    }

    /// What the host had before us: sysctls, and addresses and routes of the transport interface.
    pub fn before(&self) -> PathBuf {
        self.state.join("before.json")
    }

    /// Held by the node's one agent.
    pub fn lock(&self) -> PathBuf {
        self.run.join("agent.lock")
    }

    /// The saved commit, replayed by the switch.
    pub fn commit(&self) -> PathBuf {
        self.run.join("commit.json")
    }

    /// nftables tables as they were read back after they were applied.
    pub fn nftables(&self) -> PathBuf {
        self.run.join("nftables.json")
    }

    /// The same of the table of Services.
    pub fn services_table(&self) -> PathBuf {
        self.run.join("nftables-services.json")
    }

    /// The database's socket.
    pub fn database(&self) -> PathBuf {
        self.switch.join("db.sock")
    }

    /// The OpenFlow socket of a bridge.
    pub fn management(&self, bridge: &str) -> PathBuf {
        self.switch.join(format!("{bridge}.mgmt"))
    }

    /// DELs that the plugin wrote down while nobody answered.
    pub fn deferred(&self) -> PathBuf {
        self.run.join("cni-deferred")
    }

    /// Socket of the CNI server.
    pub fn cni_socket(&self) -> PathBuf {
        self.run.join("cni.sock")
    }

    /// Socket of the read-only API.
    pub fn api_socket(&self) -> PathBuf {
        self.run.join("agent.sock")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_agree_with_the_other_parts() {
        let paths = Paths::default();
        assert_eq!(paths.commit(), Path::new(path::COMMIT_FILE));
        assert_eq!(paths.cni_socket(), Path::new(path::CNI_SOCKET));
        assert_eq!(paths.api_socket(), Path::new(path::AGENT_SOCKET));
    }
}
