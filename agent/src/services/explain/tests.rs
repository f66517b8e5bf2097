use std::collections::BTreeMap;

use carrick_datapath::IdLedger;
use serde_json::{Value, json};

use super::super::{feed, object};
use super::*;

fn known() -> Surroundings {
    let cidr = "10.10.2.0/24".parse().unwrap();
    let address = "172.31.0.2".parse().unwrap();
    Surroundings {
        pods: [("10.1.0.5".parse().unwrap(), "n/web-1".to_owned())].into(),
        own: vec!["172.31.0.1".parse().unwrap()],
        peers: [("b".to_owned(), (vec![cidr], vec![address]))].into(),
    }
}

/// A proxy that serves cluster IPs, with one Service.
fn proxy() -> Proxy {
    let mut proxy = feed::tests::proxy();
    let service = json!({
        "metadata": {"name": "web", "namespace": "n"},
        "spec": {"clusterIP": "10.96.0.7", "ports": [{"port": 80, "name": "http"}],
            "sessionAffinity": "ClientIP"},
    });
    let slice = json!({
        "metadata": {"name": "web-1", "namespace": "n",
            "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4", "ports": [{"port": 8080, "name": "http"}],
        "endpoints": [
            {"addresses": ["10.1.0.5"], "nodeName": "a"},
            {"addresses": ["10.10.2.5"], "conditions": {"ready": false, "serving": false}},
        ],
    });
    let service = object::service(&serde_json::from_value(service).unwrap());
    let slice = object::endpoint_slice(&serde_json::from_value(slice).unwrap());
    proxy.upsert_service(service.unwrap());
    proxy.upsert_slice(&slice.unwrap());
    let mut ledger = IdLedger::default();
    while proxy.next_batch(&mut ledger, 10).unwrap().is_some() {}
    proxy
}

/// A query as the API takes it, written `key=value&key=value`.
fn ask(query: &str) -> Result<Value, String> {
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let pairs: BTreeMap<&str, &str> = pairs.collect();
    let asked: Asked = serde_json::from_value(json!(pairs)).map_err(|error| error.to_string())?;
    let question = asked.question(known()).map_err(|error| error.to_string())?;
    let wrong = Wrong {
        problems: vec!["programming Services: it broke".to_owned()],
        kept_off: &|_| true,
    };
    let explained =
        explain(&proxy(), true, &question, &wrong).map_err(|error| error.to_string())?;
    Ok(serde_json::to_value(explained).unwrap())
}

#[test]
fn a_pods_packet_is_explained() {
    let expected = json!({
        "listed": true,
        "client": {"reason": "Pod", "message": "a pod of this node"},
        "explanations": [{
            "service": "n/web",
            "portName": "http",
            "frontend": {"kind": "ClusterIP", "address": "10.96.0.7", "protocol": "tcp", "port": 80},
            "path": {"reason": "Switch", "message": "the switch of the pod's node translates the packet"},
            "policy": {"policy": "Cluster", "reason": "InternalTrafficPolicy",
                "message": "the Service's internalTrafficPolicy"},
            "outcome": {"reason": "Answered", "message": "one of the endpoints answers"},
            "source": {"reason": "Client", "message": "the client's own: the switch keeps a pod's source"},
            "affinitySeconds": 10800,
            "endpoints": [
                {"address": "10.1.0.5", "port": 8080, "local": true, "pod": "n/web-1"},
                {"address": "10.10.2.5", "port": 8080, "local": false,
                    "leftOut": {"reason": "NotReady", "message": "not ready"}},
            ],
            "findings": ["programming Services: it broke"],
        }],
        "more": 0,
    });
    for query in [
        "address=10.96.0.7&port=80",
        "address=10.96.0.7&port=80&protocol=tcp&from=pod",
        "address=::ffff:10.96.0.7&port=80",
        "service=n/web",
        "service=n/web&port=http",
        "service=n/web&port=80",
    ] {
        assert_eq!(ask(query), Ok(expected.clone()), "{query}");
    }
    let client = ask("service=n/web&from=10.1.0.5").unwrap()["client"].clone();
    assert_eq!(client["message"], "pod n/web-1 of this node (10.1.0.5)");
}

#[test]
fn what_carrick_does_not_serve_is_located() {
    for (query, path, location) in [
        (
            "address=10.96.0.7&port=80&from=host",
            "OtherProxy",
            Value::Null,
        ),
        (
            "address=10.96.0.7&port=80&from=172.31.0.1",
            "OtherProxy",
            Value::Null,
        ),
        (
            "address=10.96.0.7&port=80&from=192.0.2.1",
            "OtherProxy",
            Value::Null,
        ),
        (
            "address=10.1.0.5&port=80",
            "NoService",
            json!("PodOfThisNode"),
        ),
        ("address=172.31.0.1&port=80", "NoService", json!("ThisNode")),
        (
            "address=127.0.0.1&port=80&from=host",
            "NoService",
            json!("ThisNode"),
        ),
        (
            "address=10.10.2.9&port=80",
            "NoService",
            json!("PodOfOtherNode"),
        ),
        (
            "address=172.31.0.2&port=80",
            "NoService",
            json!("OtherNode"),
        ),
        ("address=192.0.2.9&port=80", "NoService", json!("Outside")),
    ] {
        let explained = &ask(query).unwrap()["explanations"][0];
        assert_eq!(explained["path"]["reason"], path, "{query}");
        assert_eq!(explained["location"]["reason"], location, "{query}");
        assert_eq!(explained["outcome"]["reason"], "NotServed", "{query}");
    }
    let other_port = &ask("address=10.96.0.7&port=81").unwrap()["explanations"][0];
    assert_eq!(
        other_port["findings"],
        json!(["Service n/web has the address, with 80/tcp (http)"])
    );
}

#[test]
fn what_is_no_question_is_refused() {
    let long = format!("service=n/{}", "w".repeat(64));
    for (query, says) in [
        ("", "either service"),
        ("service=n/web&address=10.96.0.7", "either service"),
        ("service=web", "namespace/name"),
        ("service=n/web/x", "namespace/name"),
        ("service=../web", "namespace/name"),
        (long.as_str(), "namespace/name"),
        ("service=n/web&port=a b", "port is"),
        ("service=n/web&protocol=tcp", "protocol is"),
        ("address=10.96.0.7", "port is"),
        ("address=10.96.0.7&port=0", "port is"),
        ("address=10.96.0.7&port=65536", "port is"),
        ("address=10.96.0.7&port=http", "port is"),
        ("address=10.96.0.7&port=80&protocol=icmp", "protocol is"),
        ("address=10.96.0.256&port=80", "address is not"),
        ("address=224.0.0.1&port=80", "address is not"),
        ("address=0.0.0.0&port=80", "address is not"),
        ("address=127.0.0.1&port=80", "loopback"),
        ("address=::1&port=80&from=host", "loopback"),
        ("address=10.96.0.7&port=80&from=somebody", "from is pod"),
        ("address=10.96.0.7&port=80&from=10.1", "from is not"),
        ("address=10.96.0.7&port=80&from=fd00::1", "families"),
        ("address=10.96.0.7&port=80&from=10.10.2.5", "pod of node b"),
        ("service=n/none", "knows no Service n/none"),
        ("service=n/web&port=https", "it has 80/tcp (http)"),
        ("service=n/web&from=outside", "no address for such a client"),
        ("service=n/web&node=a", "unknown field"),
    ] {
        let refused = ask(query).unwrap_err();
        assert!(refused.contains(says), "{query}: {refused}");
    }
}
