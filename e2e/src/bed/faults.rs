//! What tests break on a bed.

use std::time::Duration;

use anyhow::{Context as _, Result};
use carrick_testbed::{Limit, Link};
use nix::sys::signal::Signal;

use super::{Bed, NAMESPACE};
use crate::wait;

/// The process of every pod's sandbox.
const SANDBOX: &str = "^/usr/bin/pause";

/// Script: runs `found` with the process `$p` of a pod, the one whose command line `pattern` matches,
/// and ends with its success; fails when there is none. By cgroup and command line: only that pod's own
/// process can be meant.
fn with_process(uid: &str, pattern: &str, found: &str) -> String {
    format!(
        "for p in $(grep -l 'pod{uid}\\|pod{under}' /proc/[0-9]*/cgroup 2>/dev/null | cut -d/ -f3); do tr '\\0' ' ' < /proc/$p/cmdline | grep -q '{pattern}' && {found} && exit 0; done; echo 'no such process' >&2; exit 1",
        // systemd writes it so.
        under = uid.replace('-', "_"),
    )
}

impl Bed {
    /// Sends SIGKILL to a process of a pod: the one whose command line holds `pattern`.
    pub fn kill_in_pod(&self, node: &str, pod: &str, pattern: &str) -> Result<()> {
        self.kill_in_pod_after(node, pod, pattern, "true")
    }

    /// The same, right after a command on the node: nobody acts in between.
    pub fn kill_in_pod_after(
        &self,
        node: &str,
        pod: &str,
        pattern: &str,
        command: &str,
    ) -> Result<()> {
        let pod = self.get("pod", Some(NAMESPACE), pod)?;
        let uid = pod["metadata"]["uid"]
            .as_str()
            .context("a pod without UID")?;
        let found = format!("{command} && kill -KILL $p");
        self.node(node, &with_process(uid, pattern, &found))
            .map(drop)
    }

    /// Kills process 1 of a pod's sandbox, so that the kubelet must make it again.
    pub fn kill_sandbox(&self, node: &str, uid: &str) -> Result<()> {
        self.node(node, &with_process(uid, SANDBOX, "kill -KILL $p"))
            .map(drop)
    }

    /// Whether a sandbox of the pod runs.
    pub fn sandbox_runs(&self, node: &str, uid: &str) -> Result<bool> {
        let script = format!(
            "({}) 2>/dev/null && echo yes || echo no",
            with_process(uid, SANDBOX, "true")
        );
        Ok(self.node(node, &script)?.trim() == "yes")
    }

    /// Stops the API server; etcd and the rest stay.
    pub fn stop_api_server(&self) -> Result<()> {
        self.cluster
            .control_plane()
            .stop_component("kube-apiserver", Signal::SIGKILL)
    }

    /// Starts it again.
    pub fn start_api_server(&self) -> Result<()> {
        self.cluster
            .control_plane()
            .start_component("kube-apiserver")?;
        wait::until("the API server", Duration::from_mins(1), || {
            self.kubectl(&["get", "--raw=/readyz"]).map(|_| true)
        })
    }

    /// Restarts a node's kubelet, which registers the node again when its object is gone.
    pub fn restart_kubelet(&self, node: &str) -> Result<()> {
        let node = self.cluster.node(node)?;
        node.stop_component("kubelet", Signal::SIGTERM)?;
        node.start_component("kubelet")
    }

    /// Ends a node as a power failure does and starts it again with its disk.
    pub fn restart_node(&self, node: &str) -> Result<()> {
        self.cluster.restart_node(node)
    }

    /// Cuts a node's transport link.
    pub fn cut_transport(&self, node: &str) -> Result<()> {
        self.cluster.cut_link(node, Link::Transport)
    }

    /// Makes a node's transport link whole again.
    pub fn restore_transport(&self, node: &str) -> Result<()> {
        self.cluster.restore_link(node, Link::Transport)
    }

    /// Limits what reaches a node over its transport link.
    pub fn limit_transport(&self, node: &str, limit: Limit) -> Result<()> {
        self.cluster.limit_link(node, Link::Transport, limit)
    }

    /// Sends a signal to etcd: SIGSTOP and SIGCONT pause it.
    pub fn signal_etcd(&self, signal: Signal) -> Result<()> {
        let control_plane = self.cluster.control_plane();
        let pid = control_plane
            .component_pid("etcd")?
            .context("etcd does not run")?;
        let name = signal.as_str().trim_start_matches("SIG").to_owned();
        control_plane
            .exec(&["kill", "-s", &name, &pid.to_string()])
            .map(drop)
    }
}
