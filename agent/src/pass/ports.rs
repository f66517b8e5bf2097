//! A pass's part in the switch's database: bridges and ports.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use carrick_api::names::link;
use carrick_datapath::DatapathKind;
use carrick_ovsdb::desired::Applied;

use super::PassError;
use crate::desired::switch_config;
use crate::ipam::{Attachment, AttachmentKey};
use crate::plan::{HostLinks, NodePlan};
use crate::switchdb::SwitchDriver;

/// Makes bridges and ports what they must be.
pub(super) async fn apply_ports(
    switch: &mut SwitchDriver,
    plan: &NodePlan,
    wanted: &[Arc<Attachment>],
    attach: &BTreeMap<AttachmentKey, Arc<Attachment>>,
    links: &HostLinks,
) -> Result<Applied, PassError> {
    // A device made anew under the name of a port that is there is not opened again by the
    // userspace datapath: the old port goes in a transaction of its own.
    if plan.datapath == DatapathKind::Netdev && !attach.is_empty() {
        let there: BTreeSet<String> = switch
            .interfaces()
            .await?
            .into_iter()
            .map(|port| port.name)
            .collect();
        let stale = |attachment: &&Arc<Attachment>| {
            attach.contains_key(&attachment.key) && there.contains(&attachment.host_link)
        };
        if wanted.iter().any(|attachment| stale(&attachment)) {
            let kept = wanted.iter().filter(|attachment| !stale(attachment));
            let config = switch_config(plan, kept.map(Arc::as_ref), links);
            switch.apply(config).await?;
        }
    }
    let config = switch_config(plan, wanted.iter().map(Arc::as_ref), links);
    let applied = switch.apply(config).await?;
    for name in [link::GATEWAY, link::TUNNEL] {
        if let Some(error) = applied.failed.get(name) {
            let mend = match plan.datapath {
                DatapathKind::System => {
                    "; if the kernel has no openvswitch module with Geneve, load it or set \
                         datapath.type: Userspace"
                }
                DatapathKind::Netdev => "",
            };
            return Err(PassError::Port {
                reason: format!("{error}{mend}"),
            });
        }
    }
    Ok(applied)
}
