use proptest::prelude::*;

use super::*;

fn frame(command: &str, config: &str) -> Frame {
    Frame {
        command: command.to_owned(),
        container_id: "0a1b2c".to_owned(),
        netns: "/run/netns/cni-1".to_owned(),
        ifname: "eth0".to_owned(),
        args: "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0;\
               K8S_POD_INFRA_CONTAINER_ID=0a1b2c;K8S_POD_UID=9f"
            .to_owned(),
        config: config.to_owned(),
    }
}

fn config(version: &str, more: &str) -> String {
    format!(r#"{{"cniVersion":"{version}","name":"carrick","type":"carrick-cni"{more}}}"#)
}

fn code(result: Result<Request, CniError>) -> u32 {
    result.map_or_else(|error| error.code.number(), |_| 0)
}

#[test]
fn add_carries_pod_and_port_mappings() {
    let more = r#","capabilities":{"portMappings":true},"runtimeConfig":{"portMappings":[
        {"hostPort":8080,"containerPort":80,"protocol":"tcp","hostIP":""},
        {"hostPort":0,"containerPort":81,"protocol":"tcp"},
        {"hostPort":53,"containerPort":5353,"protocol":"UDP","hostIP":"192.0.2.1"},
        {"hostPort":54,"containerPort":5353,"protocol":"sctp","hostIP":"::"}]}"#;
    let request = Request::parse(&frame("ADD", &config("1.0.0", more))).unwrap();
    assert_eq!(request.version, CniVersion::V100);
    let Command::Add(add) = request.command else {
        panic!("{request:?}")
    };
    assert_eq!(add.pod.to_string(), "default/web-0");
    assert_eq!(add.pod.uid, "9f");
    assert_eq!(add.key.to_string(), "0a1b2c/eth0");
    let ports: Vec<_> = add
        .port_mappings
        .iter()
        .map(|m| (m.host_port, m.host_ip))
        .collect();
    assert_eq!(
        ports,
        [
            (53, Some("192.0.2.1".parse().unwrap())),
            (54, Some("::".parse().unwrap())),
            (8080, None)
        ]
    );
}

#[test]
fn each_mistake_has_the_code_of_the_specification() {
    let good = config("1.1.0", "");
    let with = |change: &dyn Fn(&mut Frame)| {
        let mut frame = frame("ADD", &good);
        change(&mut frame);
        code(Request::parse(&frame))
    };
    assert_eq!(with(&|_| ()), 0);
    assert_eq!(with(&|f| f.config = "{".to_owned()), 6);
    assert_eq!(with(&|f| f.config = String::new()), 6);
    assert_eq!(with(&|f| f.config = "[]".to_owned()), 7);
    assert_eq!(with(&|f| f.config = config("0.3.1", "")), 1);
    assert_eq!(with(&|f| f.config = config("2.0.0", "")), 1);
    assert_eq!(
        with(&|f| f.config = r#"{"cniVersion":"1.0.0"}"#.to_owned()),
        7
    );
    for id in ["", "-a", "../x", "a/b", "a b", "é"] {
        assert_eq!(with(&|f| f.container_id = id.to_owned()), 4, "{id}");
    }
    for ifname in ["", ".", "..", "a/b", "a:b", "a b", "sixteen-bytes-xx"] {
        assert_eq!(with(&|f| f.ifname = ifname.to_owned()), 4, "{ifname}");
    }
    assert_eq!(with(&|f| f.netns = String::new()), 4);
    assert_eq!(with(&|f| f.args = "K8S_POD_NAME=x".to_owned()), 4);
    assert_eq!(with(&|f| f.command = "NOPE".to_owned()), 4);
    let bad = r#","runtimeConfig":{"portMappings":[{"hostPort":70000,"containerPort":1}]}"#;
    assert_eq!(with(&|f| f.config = config("1.0.0", bad)), 7);
}

#[test]
fn del_needs_neither_namespace_nor_pod() {
    let mut frame = frame("DEL", &config("0.4.0", ""));
    frame.netns.clear();
    frame.args.clear();
    let request = Request::parse(&frame).unwrap();
    assert!(matches!(request.command, Command::Del(_)));
}

#[test]
fn gc_and_status_belong_to_1_1_0() {
    for command in ["GC", "STATUS"] {
        assert_eq!(
            code(Request::parse(&frame(command, &config("1.0.0", "")))),
            4
        );
        let mut frame = frame(command, &config("1.1.0", ""));
        frame.container_id.clear();
        frame.ifname.clear();
        assert_eq!(code(Request::parse(&frame)), 0, "{command}");
    }
}

#[test]
fn valid_attachments_are_read_in_every_spelling() {
    let list = r#"[{"containerID":"a","ifname":"eth0"}]"#;
    let key = AttachmentKey {
        container_id: "a".to_owned(),
        ifname: "eth0".to_owned(),
    };
    for (more, expect) in [
        (String::new(), None),
        (r#","cni.dev/valid-attachments":null"#.to_owned(), None),
        (
            r#","cni.dev/valid-attachments":[]"#.to_owned(),
            Some(vec![]),
        ),
        (
            format!(r#","cni.dev/valid-attachments":{list}"#),
            Some(vec![key.clone()]),
        ),
        (
            format!(r#","cni.dev/attachments":{list}"#),
            Some(vec![key.clone()]),
        ),
        (
            format!(r#","cni.dev/valid-attachments":{list},"cni.dev/attachments":[]"#),
            Some(vec![key]),
        ),
    ] {
        let request = Request::parse(&frame("GC", &config("1.1.0", &more))).unwrap();
        assert_eq!(request.command, Command::Gc(expect), "{more}");
    }
}

#[test]
fn check_needs_the_previous_result() {
    assert_eq!(
        code(Request::parse(&frame("CHECK", &config("1.0.0", "")))),
        7
    );
    let more = r#","prevResult":{"cniVersion":"1.0.0","ips":[{"address":"10.0.0.5/32"},{"address":"fd00::5/128"}]}"#;
    let request = Request::parse(&frame("CHECK", &config("1.0.0", more))).unwrap();
    let Command::Check(check) = request.command else {
        panic!("{request:?}")
    };
    assert_eq!(check.addresses.len(), 2);
}

proptest! {
    #[test]
    fn no_input_panics(
        command in "ADD|DEL|CHECK|GC|STATUS|.{0,8}",
        id in ".{0,80}", netns in ".{0,40}", ifname in ".{0,20}", args in ".{0,60}", text in ".{0,200}",
    ) {
        let frame = Frame { command, container_id: id, netns, ifname, args, config: text };
        let _ = Request::parse(&frame);
        let _ = version_of(&frame.config);
    }
}
