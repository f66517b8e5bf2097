//! Other people's firewalls, as they set them up, in the kernel.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "tests say what they expect"
)]

use carrick_agent::firewall::driver::Firewalls;
use carrick_agent::status::Fact;
use carrick_api::effective::HostFirewall::{InsertRule, Report};
use carrick_k8s::condition::Status;
use carrick_node::{Namespace, Nft};
use carrick_testkit::netns::Scratch;

/// Debian's Docker: the policy of iptables' FORWARD is drop, and its own bridge passes. kube-proxy's
/// chain passes what is marked and what is established.
const DOCKER: &str = "
iptables-nft -P FORWARD DROP
iptables-nft -N DOCKER-USER
iptables-nft -A DOCKER-USER -j RETURN
iptables-nft -N KUBE-FORWARD
iptables-nft -A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
iptables-nft -A KUBE-FORWARD -m comment --comment 'rules' -m mark --mark 0x4000/0x4000 -j ACCEPT
iptables-nft -A KUBE-FORWARD -m comment --comment 'pod source' -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
iptables-nft -A FORWARD -m comment --comment 'kubernetes' -j KUBE-FORWARD
iptables-nft -A FORWARD -j DOCKER-USER
iptables-nft -A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
iptables-nft -A FORWARD -i docker0 ! -o docker0 -j ACCEPT
iptables-nft -A FORWARD -i docker0 -o docker0 -j ACCEPT
";

/// firewalld 1.3: forwarding ends in a reject.
const FIREWALLD: &str = "
nft -f - <<'END'
table inet firewalld {
  chain filter_FORWARD {
    type filter hook forward priority filter + 10; policy accept;
    ct state { established, related } accept
    ct status dnat accept
    iifname \"lo\" accept
    ct state invalid drop
    jump filter_FORWARD_POLICIES
    reject with icmpx admin-prohibited
  }
  chain filter_FORWARD_POLICIES {
    iifname \"eth1\" oifname \"eth1\" jump filter_FWD_public
    iifname \"eth1\" jump filter_FWD_public
    jump filter_FWD_public
    reject with icmpx admin-prohibited
  }
  chain filter_FWD_public {
    jump filter_FWD_public_allow
  }
  chain filter_FWD_public_allow {
    oifname \"eth1\" accept
  }
}
END
";

/// ufw: policies of drop; what passes is by port or established.
const UFW: &str = "
iptables-nft -P INPUT DROP
iptables-nft -P FORWARD DROP
iptables-nft -N ufw-before-forward
iptables-nft -N ufw-before-input
iptables-nft -N ufw-reject-forward
iptables-nft -A ufw-before-forward -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
iptables-nft -A ufw-before-forward -p icmp --icmp-type 8 -j ACCEPT
iptables-nft -A ufw-before-input -i lo -j ACCEPT
iptables-nft -A ufw-before-input -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
iptables-nft -A ufw-before-input -p tcp --dport 22 -j ACCEPT
iptables-nft -A ufw-before-input -d 224.0.0.251/32 -p udp --dport 5353 -j ACCEPT
iptables-nft -A INPUT -j ufw-before-input
iptables-nft -A FORWARD -j ufw-before-forward
iptables-nft -A FORWARD -j ufw-reject-forward
";

struct Host {
    scratch: Scratch,
    firewalls: Firewalls,
}

impl Host {
    fn new(setup: &str) -> Self {
        let scratch = Scratch::new();
        let namespace = Namespace::open(scratch.path()).unwrap();
        let host = Self {
            firewalls: Firewalls::new(Nft::new(None).in_namespace(namespace)),
            scratch,
        };
        host.sh(setup);
        host
    }

    fn sh(&self, script: &str) -> String {
        self.scratch.exec("sh", &["-e", "-c", script])
    }

    fn ruleset(&self) -> String {
        self.sh("nft -a list ruleset 2>/dev/null")
    }

    fn marked(&self) -> Vec<String> {
        let all = self.sh("nft list ruleset 2>/dev/null");
        let marked = all
            .lines()
            .filter(|line| line.contains("comment \"carrick\""));
        marked.map(|line| line.trim().to_owned()).collect()
    }

    async fn report(&self) -> Fact {
        let before = self.ruleset();
        let fact = self.firewalls.sync(Report).await;
        assert_eq!(self.ruleset(), before, "a report changes nothing");
        fact
    }

    /// Reports, inserts, is flushed, inserts again, and leaves what was there.
    async fn round(&self, named: &[&str], rules: usize) {
        let before = self.ruleset();
        let fact = self.report().await;
        assert_eq!(
            (fact.status, fact.reason),
            (Status::False, "DropsPodTraffic")
        );
        for part in named {
            assert!(fact.message.contains(part), "{}", fact.message);
        }
        for _ in 0..2 {
            let fact = self.firewalls.sync(InsertRule).await;
            assert_eq!((fact.status, fact.reason), (Status::True, "RuleInserted"));
            assert_eq!(self.marked().len(), rules, "{:?}", self.marked());
        }
        let fact = self.firewalls.sync(Report).await;
        assert_eq!(fact.reason, "DropsPodTraffic");
        assert_eq!(self.ruleset(), before);
        self.firewalls.sync(InsertRule).await;
        assert_eq!(self.firewalls.leave().await, Vec::<String>::new());
        assert_eq!(self.ruleset(), before);
    }
}

#[tokio::test]
async fn docker_drops_and_lets_pods_pass_by_our_rule() {
    let host = Host::new(DOCKER);
    let named = [
        "chain FORWARD of table filter ip drops packets from pods",
        "to pods",
    ];
    host.round(&named, 2).await;
    // iptables still reads and changes its table, ours in it; what it flushes comes back.
    host.firewalls.sync(InsertRule).await;
    assert!(
        host.sh("iptables-nft -S FORWARD")
            .contains("-A FORWARD -i carrick-gw0")
    );
    host.sh("iptables-nft -F FORWARD");
    assert_eq!(host.marked(), Vec::<String>::new());
    host.firewalls.sync(InsertRule).await;
    assert_eq!(host.marked().len(), 2);
    // Somebody opens it: ours are not needed any more.
    host.sh("iptables-nft -P FORWARD ACCEPT");
    let fact = host.firewalls.sync(InsertRule).await;
    assert_eq!(fact.reason, "NothingDrops");
    assert_eq!(host.marked(), Vec::<String>::new());
}

#[tokio::test]
async fn firewalld_drops_what_goes_to_pods_and_has_a_mend_of_its_own() {
    let host = Host::new(FIREWALLD);
    let named = [
        "chain filter_FORWARD of table firewalld inet drops packets to pods",
        "firewall-cmd --permanent --zone=trusted --add-interface=carrick-gw0",
    ];
    host.round(&named, 1).await;
}

#[tokio::test]
async fn ufw_drops_in_both_of_its_chains() {
    let host = Host::new(UFW);
    let named = [
        "chain FORWARD of table filter ip drops packets to pods",
        "chain INPUT of table filter ip drops packets from pods",
    ];
    host.round(&named, 3).await;
}

#[tokio::test]
async fn a_host_without_a_firewall_or_with_an_open_one_is_said_to_be_open() {
    let host = Host::new("true");
    assert_eq!(host.report().await.reason, "NothingDrops");
    host.sh("nft add table inet carrick; nft 'add chain inet carrick x { type filter hook forward priority 0; policy drop; }'");
    assert_eq!(
        host.report().await.reason,
        "NothingDrops",
        "ours is not foreign"
    );
    host.sh("iptables-nft -P FORWARD DROP; iptables-nft -A FORWARD -s 10.244.0.0/16 -j ACCEPT; iptables-nft -A FORWARD -d 10.244.0.0/16 -j ACCEPT");
    assert_eq!(
        host.report().await.reason,
        "NothingDrops",
        "somebody opened the pod CIDRs"
    );
}

/// What the rule is for: a packet between two links that another table would drop.
#[tokio::test]
async fn a_packet_of_a_pod_passes_a_foreign_drop_by_our_rule() {
    let (host, pod, outside) = (Host::new(DOCKER), Scratch::new(), Scratch::new());
    host.sh("sysctl -qw net.ipv4.ip_forward=1; ip link set lo up");
    for (link, other, netns, net) in [
        ("carrick-gw0", "eth0", &pod, "10.1.0"),
        ("eth1", "eth0", &outside, "192.0.2"),
    ] {
        host.sh(&format!(
            "ip link add {link} type veth peer name {other} netns {name} && \
             ip addr add {net}.1/24 dev {link} && ip link set {link} up",
            name = netns.name()
        ));
        let line = format!(
            "ip addr add {net}.2/24 dev eth0 && ip link set eth0 up && ip route add default via {net}.1"
        );
        netns.exec("sh", &["-e", "-c", &line]);
    }
    let ping = |from: &Scratch, to: &str| {
        let line = format!("ping -c 1 -W 1 {to} >/dev/null && echo yes || echo no");
        from.exec("sh", &["-c", &line]).trim() == "yes"
    };
    assert!(!ping(&pod, "192.0.2.2") && !ping(&outside, "10.1.0.2"));
    host.firewalls.sync(InsertRule).await;
    assert!(ping(&pod, "192.0.2.2") && ping(&outside, "10.1.0.2"));
    host.firewalls.leave().await;
    assert!(!ping(&pod, "192.0.2.2"));
}
