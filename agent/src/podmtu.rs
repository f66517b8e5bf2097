//! Pods whose interfaces have another MTU than pods get now (pure).
//!
//! A pod keeps the MTU it was made with: its connections and whatever runs in it have taken it for
//! granted. When the node's goes up that is harmless; when it goes down its large packets are lost.

use std::collections::BTreeMap;
use std::sync::Arc;

use carrick_k8s::telemetry::some;

use crate::ipam::Attachment;
use crate::plan::HostLinks;
use crate::status::Fact;

/// Pods named in the condition.
const NAMED: usize = 10;

/// Pods with a larger MTU than `mtu`, with theirs. Both ends of a pod's link have the MTU it was made
/// with.
pub fn larger(wanted: &[Arc<Attachment>], links: &HostLinks, mtu: u16) -> BTreeMap<String, u32> {
    let own = |attachment: &Arc<Attachment>| {
        let link = links.get(&attachment.host_link)?;
        Some((attachment.pod.to_string(), link.mtu))
    };
    let all = wanted.iter().filter_map(own);
    all.filter(|(_, own)| *own > u32::from(mtu)).collect()
}

/// What is to be said of them.
pub fn fact(larger: &BTreeMap<String, u32>, mtu: u16) -> Fact {
    if larger.is_empty() {
        return Fact::holds("NoneLarger", "");
    }
    let named: Vec<String> = larger
        .iter()
        .map(|(pod, own)| format!("{pod} ({own})"))
        .collect();
    Fact::fails(
        "MadeWithLargerMTU",
        format!(
            "{} pods were made when pods' MTU here was larger than it is now ({mtu}), and their large packets \
             are lost: {}. Delete them, so that they are made again; or give the transport interface \
             its MTU back",
            larger.len(),
            some(&named, NAMED)
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use carrick_k8s::condition::Status;

    #[test]
    fn pods_with_a_larger_mtu_are_named_with_it() {
        let pods = |count: u32| {
            (0..count)
                .map(|n| (format!("default/p{n:02}"), 1450))
                .collect()
        };
        assert_eq!(fact(&pods(0), 1350).status, Status::True);
        let message = fact(&pods(12), 1350).message;
        for part in [
            "12 pods",
            "is now (1350)",
            "default/p00 (1450), default/p01 (1450)",
            "default/p09 (1450) and 2 more.",
        ] {
            assert!(message.contains(part), "{part}: {message}");
        }
    }
}
