//! Scripts that break a node from within.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::event::{Part, StateFile};
use crate::bed::Bed;
use crate::wait;

/// The agent's process on a node. The bracket keeps the script from finding itself.
const AGENT: &str = "pgrep -o -f '[c]arrick agent'";
/// Where the switch keeps the commit, and the agent everything else.
const COMMIT: &str = "/run/carrick/commit.json";
const STATE: &str = "/var/lib/carrick";
/// A file that takes what is free.
const FILLER: &str = "/var/lib/carrick/.carrick-chaos-filler";
/// Files that an agent may open that is short of descriptors: enough for one who asks how it is.
const FEW: usize = 8;
/// A boot that never was.
const NO_BOOT: &str = "00000000-0000-4000-8000-000000000000";

/// Script: prints the process id of a part on its node; `None` of the ones that move.
pub(super) fn pid_of(part: Part) -> Option<String> {
    let component = |name: &str| format!("cat /run/machine/pids/{name}");
    match part {
        Part::Agent(_) => Some(AGENT.to_owned()),
        Part::Vswitchd(_) => Some("pidof ovs-vswitchd".to_owned()),
        Part::Database(_) => Some("pidof ovsdb-server".to_owned()),
        Part::Runtime(_) => Some(component("containerd")),
        Part::Kubelet(_) => Some(component("kubelet")),
        Part::ControllerLeader | Part::ControllerStandby | Part::Operator => None,
    }
}

/// The agent's process id.
pub(super) fn agent_pid(bed: &Bed, node: &str) -> Result<String> {
    let pid = bed.node(node, AGENT).context("no agent runs")?;
    Ok(pid.trim().to_owned())
}

/// Kills the agent right after a command on the node, and waits for the next one.
pub(super) fn kill_agent_after(bed: &Bed, node: &str, command: &str) -> Result<()> {
    let before = agent_pid(bed, node)?;
    bed.node(node, &format!("{command} && kill -KILL {before}"))?;
    wait_next_agent(bed, node, &before)
}

/// Waits for an agent that has another process than `before` and says that its node is ready.
pub(super) fn wait_next_agent(bed: &Bed, node: &str, before: &str) -> Result<()> {
    let what = format!("another agent on {node}");
    wait::until(&what, Duration::from_mins(2), || {
        ensure!(agent_pid(bed, node)? != before, "it is the same one");
        agent_ready(bed, node)
    })
}

/// Whether the agent says that its node carries pods. It does not ask the API server.
pub(super) fn agent_ready(bed: &Bed, node: &str) -> Result<bool> {
    let state = bed.agent_json(node, "/v1/state")?;
    let ready = &state["report"]["conditions"]["Ready"];
    ensure!(ready["status"] == "True", "{node}: {ready}");
    Ok(true)
}

fn path_of(file: StateFile) -> String {
    match file {
        StateFile::Attachments => format!("{STATE}/attachments.journal"),
        StateFile::Records => format!("{STATE}/records.journal"),
        StateFile::Ledger => format!("{STATE}/ledger.json"),
        StateFile::Commit => COMMIT.to_owned(),
    }
}

/// Garbage over the beginning of a file, read by the agent that starts next.
pub(super) fn corrupt(bed: &Bed, node: &str, file: StateFile) -> Result<()> {
    let path = path_of(file);
    let garbage = format!("printf 'no state of anybody' | dd of={path} conv=notrunc status=none");
    kill_agent_after(bed, node, &garbage)?;
    // Whoever comes next must find this run's damage only.
    bed.node(node, &format!("find {STATE} -name '*.corrupt*' -delete"))
        .map(drop)
}

/// A file says that it is of a boot that never was; read by the agent that starts next.
pub(super) fn from_another_boot(bed: &Bed, node: &str, file: StateFile) -> Result<()> {
    let path = path_of(file);
    let edit = format!(
        "grep -q bootId {path} && sed -i 's/\"bootId\": *\"[^\"]*\"/\"bootId\":\"{NO_BOOT}\"/' {path}"
    );
    kill_agent_after(bed, node, &edit)
}

/// Starts one more agent as the node's is started: same container, same arguments. It must end, and
/// name the first.
pub(super) fn second_agent(bed: &Bed, node: &str) -> Result<String> {
    let first = bed.agent_pod(node)?;
    let pid = agent_pid(bed, node)?;
    let script = format!(
        "mapfile -d '' words < /proc/{pid}/cmdline; mapfile -d '' names < /proc/{pid}/environ; \
         env -i \"${{names[@]}}\" timeout 60 nsenter -t {pid} --mount --net --uts --ipc --root --wd -- \"${{words[@]}}\" 2>&1; \
         echo \"ended with $?\""
    );
    let said = bed.node(node, &script)?;
    ensure!(
        said.contains("another agent runs on this node") && said.contains(&first),
        "the second agent does not name {first}: {said}"
    );
    ensure!(!said.contains("ended with 0"), "it ended well: {said}");
    ensure!(agent_pid(bed, node)? == pid, "the first agent ended");
    agent_ready(bed, node)?;
    Ok(said)
}

/// Takes every free byte of the node's disk, the reserve of root included. Nothing is written: the node's
/// disk is a file of the host's that grows by what is.
pub(super) fn fill_disk(bed: &Bed, node: &str) -> Result<()> {
    let script = format!(
        "touch {FILLER}; for size in $((1 << 30)) $((1 << 26)) $((1 << 22)) $((1 << 18)) 4096; do \
         while fallocate -o $(stat -c %s {FILLER}) -l $size {FILLER} 2>/dev/null; do :; done; done; \
         ! dd if=/dev/zero of={FILLER}.more bs=65536 count=1 status=none 2>/dev/null; full=$?; rm -f {FILLER}.more; exit $full"
    );
    bed.node(node, &script).context("fill the disk").map(drop)
}

/// Gives it back.
pub(super) fn free_disk(bed: &Bed, node: &str) -> Result<()> {
    bed.node(node, &format!("rm -f {FILLER}")).map(drop)
}

/// The agent may open [`FEW`] files more than it has now, or as many as it likes.
pub(super) fn limit_descriptors(bed: &Bed, node: &str, is_limited: bool) -> Result<()> {
    let pid = agent_pid(bed, node)?;
    let limit = if is_limited {
        format!("$(( $(ls /proc/{pid}/fd | wc -l) + {FEW} ))")
    } else {
        format!("$(prlimit --pid {pid} --nofile --output HARD --noheadings | tr -d ' ')")
    };
    // The soft limit only: the hard one could not be raised again everywhere.
    bed.node(node, &format!("prlimit --pid {pid} --nofile={limit}:"))
        .map(drop)
}

/// The agent's container may have less memory than it uses; the next container has the old limit.
pub(super) fn exhaust_memory(bed: &Bed, node: &str) -> Result<()> {
    let pid = agent_pid(bed, node)?;
    let script =
        format!("echo 2M > /sys/fs/cgroup$(sed -n 's/^0:://p' /proc/{pid}/cgroup)/memory.max");
    bed.node(node, &script)?;
    wait_next_agent(bed, node, &pid)
}

/// Sets a kernel node's clock forth and back, and lets the agent live with it meanwhile.
pub(super) fn jump_clock(bed: &Bed, node: &str, seconds: i64) -> Result<()> {
    let jump = |by: i64| {
        bed.node(
            node,
            &format!("date -s @$(( $(date +%s) + {by} )) >/dev/null"),
        )
    };
    jump(seconds)?;
    let ready = wait::until("the agent to live with it", Duration::from_mins(1), || {
        agent_ready(bed, node)
    });
    jump(-seconds)?;
    ready
}
