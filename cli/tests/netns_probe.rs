//! The probe between network namespaces of our own, over two routers whose link carries less than those
//! to the ends: what `carrickctl check` says about MTUs is true. Needs root, iproute2
//! and ethtool.
//!
//! ```text
//! a 1400 ── 1400 r 1300 ── 1300 s 1400 ── 1400 b
//! ```
//!
//! Both ends of each link agree. With one router and one end of its link at 1300, whatever came back in
//! a full packet of its own was dropped there without a word (the other end of a veth does not take
//! more than its MTU): a stream passed as long as the kernel handed over whole bursts of segments, and
//! hung when it sent one alone.

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

/// Four namespaces in a row; removed with everything in them when dropped.
struct Row([String; 4]);

/// Links of the row: their MTU.
const LINKS: [u16; 3] = [1400, 1300, 1400];

impl Row {
    fn new() -> Self {
        let row =
            Self(["a", "r", "s", "b"].map(|part| format!("probe-{}-{part}", std::process::id())));
        for ns in &row.0 {
            run(&format!("ip netns add {ns}"));
            run(&format!("ip -n {ns} link set lo up"));
        }
        let [_, r, s, _] = &row.0;
        for router in [r, s] {
            // Each lost packet is told: how long a stream waits for the next word is not what is tested.
            let router_settings = "net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 \
                                   net.ipv4.icmp_ratelimit=0 net.ipv6.icmp.ratelimit=0";
            run(&format!(
                "ip netns exec {router} sysctl -qw {router_settings}"
            ));
        }
        for (n, (ends, mtu)) in (1..).zip(row.0.windows(2).zip(LINKS)) {
            run(&format!(
                "ip -n {} link add right mtu {mtu} type veth peer name left mtu {mtu} netns {}",
                ends[0], ends[1]
            ));
            for (ns, link, host) in [(&ends[0], "right", 1), (&ends[1], "left", 2)] {
                run(&format!(
                    "ip -n {ns} addr add 10.9.{n}.{host}/24 dev {link}"
                ));
                run(&format!(
                    "ip -n {ns} addr add fd09:0:0:{n}::{host}/64 dev {link} nodad"
                ));
                run(&format!("ip -n {ns} link set {link} up"));
            }
        }
        for (ns, to, next) in [
            (0, "default", "1.2"),
            (1, "3", "2.2"),
            (2, "1", "2.1"),
            (3, "default", "3.1"),
        ] {
            let ns = &row.0[ns];
            let (link, host) = next.split_once('.').unwrap();
            let (v4, v6) = match to {
                "default" => ("default".to_owned(), "default".to_owned()),
                to => (format!("10.9.{to}.0/24"), format!("fd09:0:0:{to}::/64")),
            };
            run(&format!("ip -n {ns} route add {v4} via 10.9.{next}"));
            run(&format!(
                "ip -n {ns} route add {v6} via fd09:0:0:{link}::{host}"
            ));
        }
        row
    }

    fn near(&self) -> &str {
        &self.0[0]
    }

    fn far(&self) -> &str {
        &self.0[3]
    }
}

impl Drop for Row {
    fn drop(&mut self) {
        for ns in &self.0 {
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

/// Segments leave one by one, as from a card that does no segmentation.
fn without_bursts(ns: &str, link: &str) {
    run(&format!(
        "ip netns exec {ns} ethtool -K {link} tso off gso off"
    ));
}

#[test]
fn the_probe_tells_what_passes_a_path_and_what_does_not() {
    let row = Row::new();
    without_bursts(row.near(), "right");
    without_bursts(row.far(), "left");
    let token = CancellationToken::new();
    let stop = token.clone();
    let server = inside(row.far(), || async move {
        let listen = [
            "10.9.3.2".parse().unwrap(),
            "fd09:0:0:3::2".parse().unwrap(),
        ];
        serve(&listen, 11290, "far-end", stop).await
    });

    let passing = ask(
        row.near(),
        &[
            "tcp/10.9.3.2:11290/64",
            "tcp/10.9.3.2:11290/1048576",
            "udp/10.9.3.2:11290/200",
            "mtu/10.9.3.2:11290/1300",
            "tcp/[fd09:0:0:3::2]:11290/64",
            "tcp/[fd09:0:0:3::2]:11290/1048576",
            "udp/[fd09:0:0:3::2]:11290/200",
            "mtu/[fd09:0:0:3::2]:11290/1300",
        ],
        30_000,
    );
    assert_eq!(passing.len(), 8);
    for outcome in &passing {
        assert_eq!(outcome.failure, None, "{outcome:?}");
        assert_eq!(outcome.answered_by.as_deref(), Some("far-end"));
        let seen = outcome.seen_as.unwrap().to_string();
        assert!(seen == "10.9.1.1" || seen == "fd09:0:0:1::1", "{seen}");
    }

    // One above the narrow link, and one above our own: both families say so, whatever fragments.
    let failing = ask(
        row.near(),
        &[
            "mtu/10.9.3.2:11290/1301",
            "mtu/10.9.3.2:11290/1401",
            "mtu/[fd09:0:0:3::2]:11290/1301",
            "mtu/[fd09:0:0:3::2]:11290/1401",
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
        row.near(),
        &[
            "tcp/10.9.3.2:9/64",
            "tcp/10.9.3.77:11290/64",
            "udp/10.9.3.2:9/200",
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
