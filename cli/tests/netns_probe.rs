//! The probe between network namespaces of our own, over a router whose far link carries less than
//! the near one: what `carrickctl check` says about MTUs is true. Needs root and iproute2.
//!
//! ```text
//! a 1400 ── 1400 router 1300 ── 1400 b          (b's own interface says 1400)
//! ```

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests fail the test"
)]

use std::fs::File;
use std::process::Command;
use std::thread;
use std::time::Duration;

use carrick_cli::probe::{Failure, Outcome, Target, connect, serve};
use nix::sched::{CloneFlags, setns};
use tokio_util::sync::CancellationToken;

fn run(line: &str) {
    let mut words = line.split_whitespace();
    let program = words.next().unwrap();
    let output = Command::new(program)
        .args(words)
        .output()
        .unwrap_or_else(|error| {
            panic!("{program} does not start ({error}): install iproute2 and run as root")
        });
    assert!(
        output.status.success(),
        "{line}: {}(this tier needs root)",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Three namespaces in a row; removed with everything in them when dropped.
struct Row {
    a: String,
    r: String,
    b: String,
}

impl Row {
    fn new() -> Self {
        let name = |part: &str| format!("probe-{}-{part}", std::process::id());
        let row = Self {
            a: name("a"),
            r: name("r"),
            b: name("b"),
        };
        for ns in [&row.a, &row.r, &row.b] {
            run(&format!("ip netns add {ns}"));
            run(&format!("ip -n {ns} link set lo up"));
        }
        let forward = "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1";
        run(&format!("ip netns exec {} {forward}", row.r));
        for (i, (end, to_end, mtu)) in [(&row.a, "ra", 1400), (&row.b, "rb", 1300)]
            .into_iter()
            .enumerate()
        {
            let n = i + 1;
            let r = &row.r;
            run(&format!(
                "ip -n {end} link add eth0 mtu 1400 type veth peer name {to_end} netns {r}"
            ));
            run(&format!("ip -n {r} link set {to_end} mtu {mtu} up"));
            run(&format!("ip -n {end} link set eth0 up"));
            for (ns, link, host) in [(end, "eth0", 2), (r, to_end, 1)] {
                run(&format!(
                    "ip -n {ns} addr add 10.9.{n}.{host}/24 dev {link}"
                ));
                run(&format!(
                    "ip -n {ns} addr add fd09:0:0:{n}::{host}/64 dev {link} nodad"
                ));
            }
            run(&format!("ip -n {end} route add default via 10.9.{n}.1"));
            run(&format!(
                "ip -n {end} route add default via fd09:0:0:{n}::1"
            ));
        }
        row
    }
}

impl Drop for Row {
    fn drop(&mut self) {
        for ns in [&self.a, &self.r, &self.b] {
            let _ = Command::new("ip").args(["netns", "del", ns]).status();
        }
    }
}

/// Runs a future on a thread inside a namespace.
fn inside<T, F>(ns: &str, future: impl FnOnce() -> F + Send + 'static) -> thread::JoinHandle<T>
where
    T: Send + 'static,
    F: Future<Output = T>,
{
    let path = format!("/run/netns/{ns}");
    thread::spawn(move || {
        setns(File::open(path).unwrap(), CloneFlags::CLONE_NEWNET).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(future())
    })
}

/// Asks from `ns`; each target's outcome in the order of `targets`.
fn ask(ns: &str, targets: &[&str], millis: u64) -> Vec<Outcome> {
    let targets: Vec<Target> = targets
        .iter()
        .map(|target| target.parse().unwrap())
        .collect();
    let wanted = targets.clone();
    let mut found = inside(ns, move || async move {
        let mut found = Vec::new();
        let limit = Duration::from_millis(millis);
        let told = connect(targets, limit, |outcome| {
            found.push(outcome.clone());
            Ok::<(), std::convert::Infallible>(())
        });
        let Ok(_) = told.await;
        found
    })
    .join()
    .unwrap();
    found.sort_by_key(|outcome| wanted.iter().position(|target| *target == outcome.target));
    found
}

#[test]
fn the_probe_tells_what_passes_a_path_and_what_does_not() {
    let row = Row::new();
    let token = CancellationToken::new();
    let stop = token.clone();
    let server = inside(&row.b, || async move {
        let listen = [
            "10.9.2.2".parse().unwrap(),
            "fd09:0:0:2::2".parse().unwrap(),
        ];
        serve(&listen, 11290, "far-end", stop).await
    });

    let passing = ask(
        &row.a,
        &[
            "tcp/10.9.2.2:11290/64",
            "tcp/10.9.2.2:11290/1048576",
            "udp/10.9.2.2:11290/200",
            "mtu/10.9.2.2:11290/1300",
            "tcp/[fd09:0:0:2::2]:11290/64",
            "tcp/[fd09:0:0:2::2]:11290/1048576",
            "udp/[fd09:0:0:2::2]:11290/200",
            "mtu/[fd09:0:0:2::2]:11290/1300",
        ],
        // Long: the router limits how often it tells the narrow link's MTU, and retransmissions back off.
        60_000,
    );
    assert_eq!(passing.len(), 8);
    for outcome in &passing {
        assert_eq!(outcome.failure, None, "{outcome:?}");
        assert_eq!(outcome.answered_by.as_deref(), Some("far-end"));
        let seen = outcome.seen_as.unwrap().to_string();
        assert!(seen == "10.9.1.2" || seen == "fd09:0:0:1::2", "{seen}");
    }

    // One above the narrow link, and one above our own: both families say so, whatever fragments.
    let failing = ask(
        &row.a,
        &[
            "mtu/10.9.2.2:11290/1301",
            "mtu/10.9.2.2:11290/1401",
            "mtu/[fd09:0:0:2::2]:11290/1301",
            "mtu/[fd09:0:0:2::2]:11290/1401",
        ],
        3_000,
    );
    for outcome in &failing {
        assert_eq!(outcome.failure, Some(Failure::TooBig), "{outcome:?}");
    }
    assert_eq!(
        failing[0].message,
        "the path takes packets of 1300 bytes, not 1301"
    );

    // Nobody listens; nobody is there; no way leads there.
    let failing = ask(
        &row.a,
        &[
            "tcp/10.9.2.2:9/64",
            "tcp/10.9.2.77:11290/64",
            "udp/10.9.2.2:9/200",
        ],
        1_000,
    );
    let why: Vec<_> = failing.iter().map(|outcome| outcome.failure).collect();
    assert_eq!(why[0], Some(Failure::Refused), "{failing:?}");
    assert!(
        matches!(why[1], Some(Failure::Timeout | Failure::Unreachable)),
        "{failing:?}"
    );
    assert_eq!(why[2], Some(Failure::Refused), "{failing:?}");

    token.cancel();
    server.join().unwrap().unwrap();
}
