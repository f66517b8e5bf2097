//! Services for the lab: their objects, pods' servers, and who answers.

use std::net::IpAddr;
use std::process::{Child, Command, Stdio};

use carrick_datapath::{CookieParts, Kind};
use carrick_testkit::apiserver::ApiServer;
use serde_json::json;

use super::{LabNode, in_netns};

/// Where the Services are.
pub const NAMESPACE: &str = "default";
/// Where pods' servers listen.
pub const PORT: u16 = 8080;

/// A process of a pod that says who it is.
pub struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Server {
    /// UDP on both families: each datagram is answered with `name`.
    pub fn start_udp(netns: &str, name: &str) -> Self {
        Self::run(
            netns,
            &format!(
                "import socket\n\
                 s=socket.socket(socket.AF_INET6,socket.SOCK_DGRAM)\n\
                 s.bind(('::',{PORT}))\n\
                 while True:\n d,a=s.recvfrom(64)\n s.sendto(b'{name}',a)\n"
            ),
        )
    }

    /// Holds a port and answers nobody.
    pub fn hold(netns: &str, port: u16) -> Self {
        let held = Self::run(
            netns,
            &format!(
                "import socket,time\n\
                 s=socket.socket(socket.AF_INET6)\n\
                 s.bind(('::',{port}))\ns.listen(1)\ntime.sleep(1000)\n"
            ),
        );
        let line = format!("ss -Hltn sport = {port} | grep -q {port}");
        super::wait("the port to be held", || in_netns(netns, &line).0);
        held
    }

    /// TCP on both families: each connection is told `name` and the source it has, and closed.
    pub fn start(netns: &str, name: &str) -> Self {
        let program = format!(
            "import socket\n\
             name={name:?}\n\
             s=socket.socket(socket.AF_INET6)\n\
             s.setsockopt(socket.SOL_SOCKET,socket.SO_REUSEADDR,1)\n\
             s.bind(('::',{PORT}))\n\
             s.listen(64)\n\
             while True:\n c,a=s.accept()\n c.sendall(f'{{name}} {{a[0]}}'.encode())\n c.close()\n"
        );
        Self::run(netns, &program)
    }

    fn run(netns: &str, program: &str) -> Self {
        let child = Command::new("ip")
            .args(["netns", "exec", netns, "python3", "-c", program])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("python3 is installed");
        Self(child)
    }
}

/// Who answers UDP, or the name of the error. The client keeps its port, as one does that sends all the time.
pub fn ask_udp(netns: &str, address: &str, port: u16) -> Result<String, String> {
    let program = format!(
        "import socket\n\
         f=socket.AF_INET6 if ':' in '{address}' else socket.AF_INET\n\
         s=socket.socket(f,socket.SOCK_DGRAM); s.settimeout(1); s.bind(('',5555))\n\
         try:\n\
         \x20s.connect(('{address}',{port})); s.send(b'x'); print(s.recv(64).decode())\n\
         except OSError as e: print('error',type(e).__name__)"
    );
    let (_, text) = in_netns(netns, &format!("python3 -c \"{program}\""));
    match text.trim().split_once(' ') {
        Some(("error", error)) => Err(error.to_owned()),
        _ => Ok(text.trim().to_owned()),
    }
}

/// Who answers at an address; nobody within two seconds is none.
pub fn who(netns: &str, address: &str, port: u16) -> String {
    match ask(netns, address, port) {
        Ok((name, _)) => name,
        Err(_) => String::new(),
    }
}

/// Who answers and what source they see, or the name of the error.
pub fn ask(netns: &str, address: &str, port: u16) -> Result<(String, String), String> {
    let program = format!(
        "import socket\n\
         try:\n\
         \x20s=socket.create_connection(('{address}',{port}),2); print(s.recv(64).decode())\n\
         except OSError as e: print('error',type(e).__name__)"
    );
    let (_, text) = in_netns(netns, &format!("python3 -c \"{program}\""));
    match text.trim().split_once(' ') {
        Some(("error", error)) => Err(error.to_owned()),
        Some((name, source)) => Ok((
            name.to_owned(),
            source.trim_start_matches("::ffff:").to_owned(),
        )),
        None => Err(text),
    }
}

pub fn apply(server: &ApiServer, object: &serde_json::Value) {
    let text = object.to_string();
    server
        .kubectl_with_input(&["apply", "-f", "-"], &text)
        .unwrap();
}

pub fn service(name: &str, ips: &[&str], protocol: &str) -> serde_json::Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "clusterIP": ips[0], "clusterIPs": ips,
            "ipFamilyPolicy": if ips.len() > 1 { "RequireDualStack" } else { "SingleStack" },
            "ports": [{"name": "p", "port": 80, "protocol": protocol}],
        },
    })
}

/// Slices of a Service, one for each family of the addresses.
pub fn endpoints(service: &str, protocol: &str, addresses: &[&String]) -> Vec<serde_json::Value> {
    ["IPv4", "IPv6"]
        .into_iter()
        .map(|family| {
            let of_family = addresses.iter().filter(|address| {
                let address: IpAddr = address.parse().unwrap();
                address.is_ipv4() == (family == "IPv4")
            });
            let list: Vec<_> = of_family
                .map(|address| json!({"addresses": [address], "nodeName": "node1"}))
                .collect();
            json!({
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
                "metadata": {
                    "name": format!("{service}-{}", family.to_lowercase()), "namespace": NAMESPACE,
                    "labels": {"kubernetes.io/service-name": service},
                },
                "addressType": family,
                "ports": [{"name": "p", "port": PORT, "protocol": protocol}],
                "endpoints": list,
            })
        })
        .collect()
}

/// Flows of a Service in the bridge.
pub fn is_service(flow: &str) -> bool {
    let cookie = flow.split("cookie=0x").nth(1);
    let cookie = cookie.and_then(|rest| rest.split(',').next());
    let bits = cookie.and_then(|hex| u64::from_str_radix(hex, 16).ok());
    bits.and_then(CookieParts::from_bits)
        .is_some_and(|parts| parts.kind == Kind::Service)
}

pub fn groups(node: &LabNode) -> Vec<String> {
    let target = node.ovs.target("br-int");
    let dump = node
        .ovs
        .ofctl(&["-O", "OpenFlow15", "dump-groups", &target]);
    let mut groups: Vec<String> = dump
        .unwrap()
        .lines()
        .filter(|line| line.contains("group_id"))
        .map(|line| line.trim().to_owned())
        .collect();
    groups.sort();
    groups
}

/// A Service as the agent's read API tells of it.
pub fn told(node: &LabNode, name: &str) -> serde_json::Value {
    let path = format!("/v1/services?service={NAMESPACE}/{name}");
    let (_, body) = node.api(&path).unwrap_or_default();
    let answer: serde_json::Value = serde_json::from_str(&body).unwrap_or_default();
    answer["services"][format!("{NAMESPACE}/{name}")].clone()
}

/// The lines of the saved commit.
pub fn saved(node: &LabNode) -> Vec<String> {
    let bytes = std::fs::read(node.paths.commit()).unwrap_or_default();
    let commit = carrick_datapath::Commit::from_bytes(&bytes);
    commit.map(|commit| commit.flows).unwrap_or_default()
}
