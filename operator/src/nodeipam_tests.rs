use super::*;
use crate::samples;

fn effective(ipam: &str) -> Effective {
    samples::effective_of(&samples::spec(&format!("{{ipam: {ipam}}}")))
}

/// NodeIPAM with these ranges and more settings.
fn ranges(list: &str, more: &str) -> Effective {
    effective(&format!(
        "{{mode: NodeIPAM, nodeIPAM: {{clusterCIDRs: [{list}]{more}}}}}"
    ))
}

fn facts() -> Facts {
    let mut facts = samples::facts();
    for (index, node) in facts.nodes.iter_mut().enumerate() {
        let last = u8::try_from(index).unwrap() + 1;
        node.addresses = vec![IpAddr::from([172, 30, 1, last])];
    }
    facts
}

#[track_caller]
fn check(effective: &Effective, expect: &[(&str, &str)]) {
    let found = refusals(effective, &facts());
    assert_eq!(found.len(), expect.len(), "{found:#?}");
    for (refusal, (field, part)) in found.iter().zip(expect) {
        assert_eq!(refusal.field, format!("spec.ipam.nodeIPAM.{field}"));
        let text = refusal.to_string();
        assert!(text.contains(part), "{text}");
        assert!(!refusal.mend.is_empty() && text.ends_with('.'), "{text}");
    }
}

#[test]
fn ranges_that_work_are_taken() {
    check(&effective("{}"), &[]);
    check(
        &effective("{mode: NodeCIDR, nodeIPAM: {clusterCIDRs: []}}"),
        &[],
    );
    check(&ranges("10.244.0.0/16", ""), &[]);
    check(&ranges("10.0.0.0/10, fd00:10::/48, 10.128.0.0/9", ""), &[]);
    // One node's CIDR is a range.
    check(&ranges("10.244.7.0/24", ""), &[]);
}

#[test]
fn ranges_that_cannot_work_are_refused_with_the_mend() {
    const CIDRS: &str = "clusterCIDRs";
    check(
        &effective("{mode: NodeCIDR, nodeIPAM: {clusterCIDRs: [10.244.0.0/16]}}"),
        &[(CIDRS, "acts in ipam.mode NodeIPAM only")],
    );
    check(&effective("{mode: NodeIPAM}"), &[(CIDRS, "is empty")]);
    let nine: Vec<String> = (0..9).map(|i| format!("10.1{i}.0.0/16")).collect();
    check(&ranges(&nine.join(","), ""), &[(CIDRS, "has 9 ranges")]);
    check(
        &ranges("10.244.0.1/16", ""),
        &[(CIDRS, "10.244.0.1/16 is no CIDR")],
    );
    check(&ranges("here", ""), &[(CIDRS, "here is no CIDR")]);
    check(
        &ranges("10.244.0.0/25", ""),
        &[(
            CIDRS,
            "smaller than the /24 that one node gets (nodeMaskSizeIPv4)",
        )],
    );
    check(
        &ranges(
            "10.244.0.0/16",
            ", nodeMaskSizeIPv4: 29, nodeMaskSizeIPv6: 120",
        ),
        &[
            ("nodeMaskSizeIPv4", "29 is not between 8 and 28"),
            ("nodeMaskSizeIPv6", "120 is not between 16 and 112"),
        ],
    );
    check(
        &ranges("10.244.0.0/16, 10.244.128.0/17", ""),
        &[(CIDRS, "10.244.128.0/17 overlaps 10.244.0.0/16")],
    );
    check(
        &ranges("10.96.0.0/12", ""),
        &[(CIDRS, "the Service range 10.96.0.0/16")],
    );
    check(
        &ranges("172.30.1.0/24", ""),
        &[(CIDRS, "the address 172.30.1.1 of node node1")],
    );
    check(
        &ranges("172.30.0.0/24", ""),
        &[(CIDRS, "the API server's address 172.30.0.1")],
    );
    check(
        &ranges("169.254.0.0/17", ""),
        &[(CIDRS, "which is reserved")],
    );
    check(
        &ranges("fd00:10::/48", ""),
        &[(CIDRS, "Services have IPv4 addresses here")],
    );
}

#[test]
fn what_is_doubtful_is_named() {
    let mut facts = facts();
    facts.service_cidrs.push("fd00:96::/112".parse().unwrap());
    let found = doubts(&ranges("10.244.0.0/23", ""), &facts);
    let names: Vec<_> = found.iter().map(|doubt| doubt.name).collect();
    assert_eq!(
        names,
        [
            "services-without-pod-family",
            "pod-cidrs-outside-cluster-cidrs",
            "cluster-cidrs-too-small"
        ]
    );
    assert!(found[1].message.contains("10.244.2.0/24 of node node3"));
    assert!(found[1].message.contains("--allocate-node-cidrs=false"));
    assert!(doubts(&effective("{}"), &facts).is_empty());
    let fits = ranges("10.244.0.0/16, fd00:10::/48", "");
    assert!(doubts(&fits, &facts).is_empty());
}

#[test]
fn a_range_may_be_added_and_widened_and_one_that_nodes_use_stays() {
    let last = ranges("10.244.0.0/23, 10.244.2.0/23", "");
    let change = |next: &str| {
        let found = change(&last, &ranges(next, ""), &facts());
        found.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert!(change("10.244.0.0/23, 10.244.2.0/23, 10.9.0.0/16").is_empty());
    assert!(change("10.244.0.0/16").is_empty(), "wider");
    assert!(
        change("10.244.2.0/23, 10.244.0.0/23").is_empty(),
        "another order"
    );
    let used = change("10.244.0.0/23");
    assert_eq!(used.len(), 1);
    assert!(
        used[0].contains("10.244.2.0/23 cannot be taken out")
            && used[0].contains("10.244.2.0/24 of node node3"),
        "{used:?}"
    );
    assert!(used[0].contains("put 10.244.2.0/23 back"), "{used:?}");
    let dual = change("10.244.0.0/16, fd00:10::/48");
    assert!(
        dual[0].contains("IPv4 cannot become IPv4 and IPv6"),
        "{dual:?}"
    );
    // One that no node uses may go.
    let last = ranges("10.244.0.0/16, 10.9.0.0/16", "");
    assert!(super::change(&last, &ranges("10.244.0.0/16", ""), &facts()).is_empty());
}
