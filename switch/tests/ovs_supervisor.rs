//! The supervisor against the real Open vSwitch (on the datapath under test).

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "tests say what they expect"
)]

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use carrick_ovsdb::client::Client;
use carrick_ovsdb::desired::{BridgeConfig, DatapathType, InterfaceType, PortConfig, SwitchConfig};
use carrick_ovsdb::handover;
use carrick_ovsdb::rows::{OpenVSwitch, switch_request};
use carrick_ovsdb::switch::SwitchDb;
use carrick_testkit::ovs::{Datapath, Ovs, wait};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

/// The datapath under test.
fn datapath() -> DatapathType {
    match Datapath::under_test() {
        Datapath::Userspace => DatapathType::Netdev,
        Datapath::Kernel => DatapathType::System,
    }
}

const SUPERVISE: &str = env!("CARGO_BIN_EXE_carrick-switch");

/// A running supervisor in a namespace of its own; dropped, it and its daemons are killed.
struct Supervisor {
    ovs: Ovs,
    process: Child,
    boot_id: PathBuf,
    args: Vec<String>,
}

impl Supervisor {
    fn start(ovs: Ovs) -> Self {
        let boot_id = ovs.run_dir().join("test-boot-id");
        if !boot_id.exists() {
            fs::write(&boot_id, "boot-1\n").unwrap();
        }
        let process = spawn(&ovs, &boot_id, &[]);
        Self {
            ovs,
            process,
            boot_id,
            args: Vec::new(),
        }
    }

    fn new() -> Self {
        let supervisor = Self::start(Ovs::empty().unwrap());
        supervisor.wait_ready();
        supervisor
    }

    fn commit_file(&self) -> PathBuf {
        self.ovs.run_dir().join("commit.json")
    }

    fn log(&self) -> String {
        fs::read_to_string(self.ovs.run_dir().join("supervisor.log")).unwrap()
    }

    fn wait_logged(&self, words: &str) {
        if let Err(error) = wait(words, || self.log().contains(words)) {
            panic!("{error}\n{}", self.log());
        }
    }

    fn is_ready(&self) -> bool {
        http(&self.ovs, "/readyz").starts_with("HTTP/1.1 200")
    }

    fn wait_ready(&self) {
        if let Err(error) = wait("the switch to be ready", || self.is_ready()) {
            panic!("{error}\n{}", self.log());
        }
    }

    fn pid(&self, daemon: &str) -> Option<i32> {
        let file = self.ovs.run_dir().join(format!("{daemon}.pid"));
        fs::read_to_string(file).ok()?.trim().parse().ok()
    }

    fn kill_daemon(&self, daemon: &str) {
        let pid = self.pid(daemon).unwrap();
        kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
        wait("another one", || {
            self.pid(daemon).is_some_and(|now| now != pid)
        })
        .unwrap();
    }

    fn external_id(&self, key: &str) -> Option<String> {
        let key = format!("external_ids:{key}");
        let value = self
            .ovs
            .vsctl(&["--if-exists", "get", "Open_vSwitch", ".", &key])
            .unwrap();
        let value = value.trim().trim_matches('"').to_owned();
        (!value.is_empty()).then_some(value)
    }

    fn is_released(&self) -> bool {
        let start = self.external_id(handover::START);
        start.is_some() && start == self.external_id(handover::RESTORED)
    }

    /// Ends it as the kubelet does.
    fn stop(&mut self) {
        self.signal(Signal::SIGTERM);
        let mut status = None;
        wait("the supervisor to end", || {
            status = self.process.try_wait().unwrap();
            status.is_some()
        })
        .unwrap();
        assert!(status.unwrap().success(), "{}", self.log());
    }

    fn signal(&self, signal: Signal) {
        kill(
            Pid::from_raw(i32::try_from(self.process.id()).unwrap()),
            signal,
        )
        .unwrap();
    }

    fn restart(&mut self) {
        self.process = spawn(&self.ovs, &self.boot_id, &self.args);
        self.wait_ready();
    }

    fn flows(&self) -> String {
        let target = self.ovs.target("br-int");
        let flows = self
            .ovs
            .ofctl(&["--no-stats", "--sort", "dump-flows", &target])
            .unwrap();
        flows.lines().map(str::trim).collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        // Its daemons' pid files tell them; the namespace goes with `ovs`.
        self.process.kill().ok();
        self.process.wait().ok();
        for daemon in ["ovs-vswitchd", "ovsdb-server"] {
            let Some(pid) = self.pid(daemon) else {
                continue;
            };
            let cmdline = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let ours = self.ovs.run_dir().to_string_lossy().into_owned();
            if String::from_utf8_lossy(&cmdline).contains(&ours) {
                kill(Pid::from_raw(pid), Signal::SIGKILL).ok();
                let gone = || !Path::new(&format!("/proc/{pid}/exe")).exists();
                wait("a daemon to end", gone).ok();
            }
        }
    }
}

fn spawn(ovs: &Ovs, boot_id: &Path, args: &[String]) -> Child {
    let log = fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(ovs.run_dir().join("supervisor.log"))
        .unwrap();
    let mut command = ovs.command(SUPERVISE);
    command.arg("--run-dir").arg(ovs.run_dir());
    command
        .arg("--commit-file")
        .arg(ovs.run_dir().join("commit.json"));
    command.arg("--boot-id").arg(boot_id).args(args);
    command.stdout(log.try_clone().unwrap()).stderr(log);
    command.spawn().unwrap()
}

/// The answer to a GET inside the namespace. (The namespace has its own loopback.)
fn http(ovs: &Ovs, path: &str) -> String {
    let script = format!(
        "exec 3<>/dev/tcp/127.0.0.1/11253 && printf 'GET {path} HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n' >&3 && cat <&3"
    );
    let output = ovs
        .command("bash")
        .args(["-c", &script])
        .stderr(Stdio::null())
        .output()
        .unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn commit(datapath: &str, boot: &str) -> serde_json::Value {
    json!({
        "version": 1, "bootId": boot, "datapath": datapath, "bridge": "br-int",
        "meters": ["meter=1,pktps,burst,stats,bands=type=drop,rate=100,burst_size=200"],
        "groups": ["group_id=7,type=select,selection_method=dp_hash,bucket=bucket_id:0,weight:100,actions=ct(commit,table=50,zone=1,nat(dst=192.0.2.1:80))"],
        "flows": [
            "cookie=0x1000, table=0, priority=100,ip,in_port=1 actions=set_field:0x1/0xf->reg0,goto_table:20",
            "cookie=0x1001, table=20, priority=50,tcp,tp_dst=80 actions=group:7",
            "cookie=0x1002, table=20, priority=10,udp actions=meter:1,output:2",
            "table=0, priority=0 actions=drop",
        ],
    })
}

async fn make_bridge(supervisor: &Supervisor) -> SwitchDb {
    let db = SwitchDb::connect(supervisor.ovs.db_socket()).await.unwrap();
    let mut bridge = BridgeConfig::new("br-int", datapath());
    bridge
        .ports
        .push(PortConfig::new("gw0", InterfaceType::Internal));
    let config = SwitchConfig {
        bridges: vec![bridge],
        ..SwitchConfig::default()
    };
    let applied = db.apply(config).await.unwrap();
    assert!(applied.failed.is_empty());
    db
}

#[tokio::test]
async fn it_starts_serves_and_stops() {
    let mut supervisor = Supervisor::new();
    assert!(supervisor.is_released());
    assert!(http(&supervisor.ovs, "/livez").starts_with("HTTP/1.1 200"));
    let metrics = http(&supervisor.ovs, "/metrics");
    assert!(metrics.contains("carrick_switch_daemon_starts_total{daemon=\"ovs-vswitchd\"} 1"));
    assert!(metrics.contains("carrick_switch_ready 1"));
    let version = supervisor
        .ovs
        .vsctl(&["get", "Open_vSwitch", ".", "ovs_version"])
        .unwrap();
    assert_eq!(version.trim(), "\"3.1.0\"");
    make_bridge(&supervisor).await;
    // The daemons' own words come to the supervisor's log, through a pipe: soon, not before the port does.
    supervisor.wait_logged("bridge br-int: added interface br-int");
    supervisor.stop();
    assert!(
        !Path::new(&format!(
            "/proc/{}",
            supervisor.pid("ovs-vswitchd").unwrap_or(0)
        ))
        .join("exe")
        .exists()
    );

    // The database outlives the container…
    supervisor.restart();
    assert_eq!(
        supervisor
            .ovs
            .vsctl(&["list-ports", "br-int"])
            .unwrap()
            .trim(),
        "gw0"
    );
    supervisor.stop();
    // …but not the boot.
    fs::write(&supervisor.boot_id, "boot-2\n").unwrap();
    supervisor.restart();
    assert_eq!(supervisor.ovs.vsctl(&["list-br"]).unwrap(), "");
    assert!(supervisor.log().contains("it is of another boot"));
}

#[tokio::test]
async fn a_database_that_cannot_be_read_is_set_aside() {
    let ovs = Ovs::empty().unwrap();
    fs::write(ovs.db_file(), "OVSDB JSON 5 rubbish").unwrap();
    fs::write(ovs.run_dir().join("boot-id"), "boot-1").unwrap();
    let supervisor = Supervisor::start(ovs);
    supervisor.wait_ready();
    assert!(supervisor.ovs.run_dir().join("conf.db.set-aside").exists());
    assert!(supervisor.log().contains("set a file aside"));
}

#[tokio::test]
async fn the_database_is_converted_in_both_directions() {
    let mut supervisor = Supervisor::new();
    make_bridge(&supervisor).await;
    supervisor.stop();
    // As another version would have left it: a table and a column we do not know, one we lack.
    let schema = fs::read_to_string(carrick_testkit::ovs::SCHEMA).unwrap();
    let mut other: serde_json::Value = serde_json::from_str(&schema).unwrap();
    for (version, change) in [("9.0.0", "newer"), ("8.0.0", "older")] {
        other["version"] = json!(version);
        other["cksum"] = json!("");
        let bridge = &mut other["tables"]["Bridge"]["columns"];
        if change == "newer" {
            bridge["of_tomorrow"] = json!({"type": "string"});
        } else {
            bridge.as_object_mut().unwrap().remove("of_tomorrow");
            bridge.as_object_mut().unwrap().remove("auto_attach");
        }
        let file = supervisor.ovs.run_dir().join(format!("{change}.ovsschema"));
        fs::write(&file, other.to_string()).unwrap();
        let db = supervisor.ovs.db_file();
        let convert = [
            "ovsdb-tool",
            "convert",
            db.to_str().unwrap(),
            file.to_str().unwrap(),
        ];
        supervisor.ovs.exec(&convert).unwrap();
        supervisor.restart();
        let version_now = ["ovsdb-tool", "db-version", db.to_str().unwrap()];
        assert_eq!(
            supervisor.ovs.exec(&version_now).unwrap().trim(),
            "8.3.1",
            "{change}"
        );
        assert_eq!(
            supervisor
                .ovs
                .vsctl(&["list-ports", "br-int"])
                .unwrap()
                .trim(),
            "gw0"
        );
        supervisor.stop();
    }
}

/// Starts a supervisor of our own on a host that it must refuse; its words.
fn refused(host: &Ovs) -> String {
    let dir = tempfile::tempdir().unwrap();
    let output = host
        .command(SUPERVISE)
        .arg("--run-dir")
        .arg(dir.path())
        .arg("--commit-file")
        .arg(dir.path().join("commit.json"))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    assert!(!output.status.success());
    assert!(!dir.path().join("conf.db").exists(), "nothing was begun");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test]
async fn another_switch_on_this_host_is_refused_with_the_mend() {
    let other = Ovs::start().unwrap();
    let words = refused(&other);
    assert!(
        words.contains("already runs an Open vSwitch of its own"),
        "{words}"
    );
    assert!(
        words.contains("systemctl disable --now openvswitch-switch"),
        "{words}"
    );
    // And it was left alone.
    other
        .add_bridge("br-theirs", Datapath::under_test())
        .unwrap();
}

#[tokio::test]
async fn ports_that_another_switch_left_in_the_kernel_are_refused_with_the_mend() {
    // The name is what the kernel gives to its datapath; any controller of links shows as it does.
    let host = Ovs::empty().unwrap();
    for line in [
        "link add ovs-system type bridge",
        "link add eth1 type veth peer name veth1",
        "link set eth1 master ovs-system",
    ] {
        let words: Vec<&str> = std::iter::once("ip").chain(line.split(' ')).collect();
        host.exec(&words).unwrap();
    }
    let words = refused(&host);
    assert!(
        words.contains("has ports that another Open vSwitch left (eth1)"),
        "{words}"
    );
    assert!(words.contains("ovs-dpctl del-dp ovs-system"), "{words}");
    let link = host.exec(&["ip", "link", "show", "eth1"]).unwrap();
    assert!(link.contains("master ovs-system"), "{link}");
}

#[tokio::test]
async fn daemons_that_die_come_back() {
    let supervisor = Supervisor::new();
    make_bridge(&supervisor).await;
    let start = supervisor.external_id(handover::START).unwrap();
    supervisor.kill_daemon("ovsdb-server");
    // ovs-vswitchd went on: nothing was replayed.
    wait("the database", || {
        supervisor.ovs.vsctl(&["list-br"]).is_ok()
    })
    .unwrap();
    assert_eq!(supervisor.external_id(handover::START).unwrap(), start);
    assert!(supervisor.is_ready());

    supervisor.kill_daemon("ovs-vswitchd");
    wait("the release", || {
        supervisor.is_released() && supervisor.external_id(handover::START).unwrap() != start
    })
    .unwrap();
    supervisor.wait_ready();
    let metrics = http(&supervisor.ovs, "/metrics");
    assert!(
        metrics.contains("carrick_switch_daemon_starts_total{daemon=\"ovs-vswitchd\"} 2"),
        "{metrics}"
    );
}

#[tokio::test]
async fn a_killed_supervisor_leaves_daemons_that_the_next_one_ends() {
    let mut supervisor = Supervisor::new();
    make_bridge(&supervisor).await;
    let before = supervisor.pid("ovs-vswitchd").unwrap();
    supervisor.signal(Signal::SIGKILL);
    supervisor.process.wait().unwrap();
    supervisor.restart();
    assert_ne!(supervisor.pid("ovs-vswitchd").unwrap(), before);
    assert!(!Path::new(&format!("/proc/{before}/exe")).exists());
    assert_eq!(
        supervisor
            .ovs
            .vsctl(&["list-ports", "br-int"])
            .unwrap()
            .trim(),
        "gw0"
    );
}

#[tokio::test]
async fn a_commit_of_no_use_is_set_aside_reported_and_not_fatal() {
    let mut supervisor = Supervisor::new();
    make_bridge(&supervisor).await;
    for (content, why) in [
        ("{ not a commit".to_owned(), "not readable"),
        (
            commit(Datapath::under_test().as_str(), "boot-0").to_string(),
            "boot",
        ),
        (
            commit(Datapath::under_test().as_str(), "boot-1")
                .to_string()
                .replace("\"version\":1", "\"version\":99"),
            "version",
        ),
    ] {
        supervisor.stop();
        fs::write(supervisor.commit_file(), content).unwrap();
        supervisor.restart();
        let result = supervisor.external_id(handover::RESULT).unwrap();
        assert!(
            result.contains("unusable") && result.contains(why),
            "{result}"
        );
        assert!(!supervisor.commit_file().exists());
        assert!(
            supervisor
                .ovs
                .run_dir()
                .join("commit.json.set-aside")
                .exists()
        );
        assert!(supervisor.is_released());
    }
    // One for the other datapath is reported, too.
    let other = match Datapath::under_test() {
        Datapath::Userspace => "system",
        Datapath::Kernel => "netdev",
    };
    fs::write(
        supervisor.commit_file(),
        commit(other, "boot-1").to_string(),
    )
    .unwrap();
    supervisor.stop();
    supervisor.restart();
    let result = supervisor.external_id(handover::RESULT).unwrap();
    assert!(result.contains(&format!("datapath {other}")), "{result}");
}

#[tokio::test]
async fn the_last_commit_is_restored_after_kill_9_and_nobody_writes_meanwhile() {
    let supervisor = Supervisor::new();
    let db = make_bridge(&supervisor).await;
    db.restored().await.unwrap();
    fs::write(
        supervisor.commit_file(),
        commit(Datapath::under_test().as_str(), "boot-1").to_string(),
    )
    .unwrap();

    // Watches all that time that the two marks are equal only while the flows are there.
    let client = Client::connect(supervisor.ovs.db_socket()).await.unwrap();
    let monitor = client.monitor(switch_request()).await.unwrap();
    let mut changes = monitor.changes();
    let mut flows = None;
    for _ in 0..3 {
        let before = db.restored().await.unwrap();
        supervisor.kill_daemon("ovs-vswitchd");
        let after = tokio::time::timeout(Duration::from_secs(20), async {
            loop {
                let now = db.restored().await.unwrap();
                if now != before {
                    break now;
                }
            }
        });
        let after = after.await.unwrap();
        assert_ne!(before, after);
        let result = supervisor.external_id(handover::RESULT).unwrap();
        assert_eq!(result, "restored 4 flows, 1 groups, 1 meters");
        let now = supervisor.flows();
        assert_eq!(
            now.lines().filter(|line| line.contains("priority")).count(),
            4,
            "{now}"
        );
        assert!(now.contains("group:7") && now.contains("meter:1"), "{now}");
        let groups = supervisor
            .ovs
            .ofctl(&["dump-groups", &supervisor.ovs.target("br-int")])
            .unwrap();
        assert!(
            groups.contains("dp_hash") && groups.contains("192.0.2.1:80"),
            "{groups}"
        );
        let meters = supervisor
            .ovs
            .ofctl(&["dump-meters", &supervisor.ovs.target("br-int")])
            .unwrap();
        assert!(meters.contains("rate=100"), "{meters}");
        assert_eq!(flows.get_or_insert(now.clone()), &now);
        supervisor.wait_ready();
    }
    // Each start was first said to be unrestored.
    let mut unrestored = 0;
    while let Ok(Ok(set)) = tokio::time::timeout(Duration::from_millis(20), changes.next()).await {
        for change in &set.changes {
            if let carrick_ovsdb::cache::RowChange::Modify { new, .. } = &change.change
                && *change.table == *"Open_vSwitch"
            {
                let root: OpenVSwitch = carrick_ovsdb::rows::TableRow::read(change.uuid, &**new);
                let marks =
                    [handover::START, handover::RESTORED].map(|key| root.external_ids.get(key));
                if marks[0].is_some() && marks[1].is_none() && root.external_ids.len() == 1 {
                    unrestored += 1;
                }
                assert!(marks[1].is_none() || marks[0] == marks[1], "{marks:?}");
            }
        }
    }
    assert!(unrestored >= 3, "{unrestored}");
}

#[tokio::test]
async fn a_commit_the_switch_refuses_is_reported_and_the_agent_may_write() {
    let supervisor = Supervisor::new();
    make_bridge(&supervisor).await;
    let mut bad = commit(Datapath::under_test().as_str(), "boot-1");
    // A flow that goes to a group nobody made: the bundle is refused as a whole.
    bad["flows"][1] = json!("table=20, priority=50,tcp,tp_dst=80 actions=group:99");
    fs::write(supervisor.commit_file(), bad.to_string()).unwrap();
    supervisor.kill_daemon("ovs-vswitchd");
    wait("the report", || {
        supervisor.is_released()
            && supervisor
                .external_id(handover::RESULT)
                .is_some_and(|text| text.contains("failed"))
    })
    .unwrap();
    // Not half of it.
    assert!(
        !supervisor.flows().contains("priority=100"),
        "{}",
        supervisor.flows()
    );
}

#[tokio::test]
async fn a_hold_of_the_kernel_datapath_never_outlives_its_deadline() {
    // The bridge cannot be made here or its flows cannot be replayed: whatever goes wrong, the hold
    // is set before ovs-vswitchd starts and is gone when the switch is released.
    let mut supervisor = Supervisor::new();
    let add = [
        "--no-wait",
        "add-br",
        "br-int",
        "--",
        "set",
        "bridge",
        "br-int",
        "datapath_type=system",
    ];
    supervisor.ovs.vsctl(&add).unwrap();
    supervisor.stop();
    let mut bad = commit("system", "boot-1");
    bad["flows"][1] = json!("table=20, priority=50,tcp,tp_dst=80 actions=group:99");
    fs::write(supervisor.commit_file(), bad.to_string()).unwrap();
    supervisor.args = vec!["--restore-deadline=1".to_owned()];
    supervisor.process = spawn(&supervisor.ovs, &supervisor.boot_id, &supervisor.args);
    wait("the database", || {
        supervisor.ovs.vsctl(&["list-br"]).is_ok()
    })
    .unwrap();
    let client = Client::connect(supervisor.ovs.db_socket()).await.unwrap();
    let monitor = client.monitor(switch_request()).await.unwrap();
    let held = monitor.wait_for(|cache| {
        OpenVSwitch::one(cache).filter(|root| root.other_config.contains_key("flow-restore-wait"))
    });
    let root = tokio::time::timeout(Duration::from_secs(20), held)
        .await
        .unwrap();
    assert!(
        !root.external_ids.contains_key(handover::RESTORED),
        "{:?}",
        root.external_ids
    );
    let released = monitor.wait_for(|cache| {
        OpenVSwitch::one(cache).filter(|root| root.external_ids.contains_key(handover::RESTORED))
    });
    let root = tokio::time::timeout(Duration::from_secs(20), released)
        .await
        .unwrap();
    assert!(
        !root.other_config.contains_key("flow-restore-wait"),
        "{:?}",
        root.other_config
    );
    assert!(
        root.external_ids[handover::RESULT].starts_with("failed"),
        "{:?}",
        root.external_ids
    );
}

#[test]
fn health_is_served_where_it_is_said() {
    // The port is taken: the supervisor says so and ends.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let output = std::process::Command::new(SUPERVISE)
        .arg("--run-dir")
        .arg(dir.path())
        .arg("--http")
        .arg(listener.local_addr().unwrap().to_string())
        .output()
        .unwrap();
    assert!(!output.status.success());
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(
        words.contains("cannot serve health on 127.0.0.1"),
        "{words}"
    );
    drop(listener);
}
