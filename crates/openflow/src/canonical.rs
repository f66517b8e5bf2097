//! The form in which things are compared: what the switch stores when it is given something, and
//! so what its dumps say.

use crate::action::{Action, ControllerForm, Ct, Nat, NatAddresses};
use crate::flow::{Flow, FlowFlags};
use crate::group::{Group, GroupType};
use crate::id::{GroupId, OfPort};

/// Flags that a switch keeps with a flow; the others are for the moment of adding
/// (`OFPUTIL_FF_STATE` in Open vSwitch).
const KEPT: FlowFlags = FlowFlags(
    FlowFlags::SEND_FLOW_REM.0 | FlowFlags::NO_PACKET_COUNTS.0 | FlowFlags::NO_BYTE_COUNTS.0,
);

pub(crate) fn flow(flow: &mut Flow) {
    flow.flags = FlowFlags(flow.flags.0 & KEPT.0);
    actions(&mut flow.instructions.apply);
    actions(&mut flow.instructions.write);
    if let Some(metadata) = &mut flow.instructions.metadata {
        metadata.value &= metadata.mask;
    }
}

pub(crate) fn group(group: &mut Group) {
    for bucket in &mut group.buckets {
        actions(&mut bucket.actions);
        bucket.weight = match group.kind {
            GroupType::Select => Some(bucket.weight.unwrap_or(1)),
            _ => bucket.weight.filter(|weight| *weight != 0),
        };
        bucket.watch_port = bucket.watch_port.filter(|port| *port != OfPort::ANY);
        bucket.watch_group = bucket.watch_group.filter(|group| *group != GroupId::ANY);
    }
    // No method is how a switch says "as it likes".
    group.selection = group
        .selection
        .take()
        .filter(|selection| !selection.method.is_empty());
}

/// Nesting is bounded where actions are made from bytes or text.
fn actions(list: &mut [Action]) {
    for action in list {
        match action {
            Action::Output { port, max_len } if *port != OfPort::CONTROLLER => *max_len = 0,
            Action::Controller(controller) => controller.form = ControllerForm::Shortest,
            Action::Ct(ct) => {
                let Ct { nat, exec, .. } = ct.as_mut();
                if let Some(nat) = nat {
                    canonical_nat(nat);
                }
                actions(exec);
            }
            Action::Clone(nested) => actions(nested),
            _ => {}
        }
    }
}

fn canonical_nat(nat: &mut Nat) {
    match &mut nat.addresses {
        Some(NatAddresses::V4(first, last)) if *last == Some(*first) => *last = None,
        Some(NatAddresses::V6(first, last)) if *last == Some(*first) => *last = None,
        _ => {}
    }
    if let Some((first, last)) = &mut nat.ports
        && first == last
    {
        *last = 0;
    }
}
