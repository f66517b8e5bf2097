//! Words for actions of earlier versions of OpenFlow, translated to 1.5 as `ovs-ofctl` does
//! (ovs-actions(7)). Some depend on the flow's match, some on the actions before them.

use super::{Result, key_value, small};
use crate::action::Action;
use crate::error::ParseError;
use crate::field::Field;
use crate::match_::{MaskedField, Match};

/// The bit of `vlan_vid` and `vlan_tci` that says there is a tag (`OFPVID_PRESENT`).
const PRESENT: u128 = 0x1000;
/// Ethertype of a tag that is pushed (802.1Q).
const TAG: u16 = 0x8100;
/// The bits of the type of service that are the DSCP.
const DSCP: u8 = 0xfc;

/// What is known of a packet before an action.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Before {
    /// It has a VLAN tag.
    vlan: bool,
    /// Its transport protocol.
    protocol: Option<u128>,
}

impl Before {
    /// What a match says.
    pub(super) fn of(match_: &Match) -> Self {
        let present = |field| {
            let value = match_.get(field).map(|(value, mask)| value & mask);
            value.is_some_and(|value| value & PRESENT != 0)
        };
        Self {
            vlan: present(Field::VlanVid)
                || present(Field::VlanTci)
                || match_.get(Field::VlanPcp).is_some(),
            protocol: match_.exact(Field::IpProto),
        }
    }

    /// Goes on behind an action.
    pub(super) fn follow(&mut self, action: &Action) {
        match action {
            Action::PushVlan(_) => self.vlan = true,
            Action::PopVlan => self.vlan = false,
            _ => {}
        }
    }
}

/// Pushes what an old word stands for; false when `item` is none.
pub(super) fn push(item: &str, before: &mut Before, list: &mut Vec<Action>) -> Result<bool> {
    let (key, text) = key_value(item);
    match key {
        "mod_vlan_vid" | "set_vlan_vid" => {
            let number: u16 = small(text)?;
            if u128::from(number) >= PRESENT {
                return Err(ParseError::new(item, "is larger than 4095"));
            }
            tag(item, key, before, list)?;
            list.push(set(Field::VlanVid, u128::from(number) | PRESENT));
        }
        "mod_vlan_pcp" | "set_vlan_pcp" => {
            let priority: u8 = small(text)?;
            if priority > 7 {
                return Err(ParseError::new(item, "is larger than 7"));
            }
            tag(item, key, before, list)?;
            list.push(set(Field::VlanPcp, priority.into()));
        }
        "mod_nw_tos" => {
            let service: u8 = small(text)?;
            if service & !DSCP != 0 {
                return Err(ParseError::new(item, "sets more than the upper six bits"));
            }
            list.push(set(Field::IpDscp, (service >> 2).into()));
        }
        "mod_tp_src" | "mod_tp_dst" => {
            let port: u16 = small(text)?;
            let source = key == "mod_tp_src";
            let field = match before.protocol {
                Some(6) if source => Field::TcpSrc,
                Some(6) => Field::TcpDst,
                Some(17) if source => Field::UdpSrc,
                Some(17) => Field::UdpDst,
                Some(132) if source => Field::SctpSrc,
                Some(132) => Field::SctpDst,
                _ => return Err(ParseError::new(item, "needs tcp, udp or sctp in the match")),
            };
            list.push(set(field, port.into()));
        }
        "enqueue" => {
            let why = "is of OpenFlow 1.0 only: write set_queue:QUEUE,output:PORT,pop_queue";
            return Err(ParseError::new(item, why));
        }
        _ => return Ok(false),
    }
    Ok(true)
}

/// Makes sure of a tag: `mod_` pushes one where there is none, `set_` needs one.
fn tag(item: &str, key: &str, before: &mut Before, list: &mut Vec<Action>) -> Result<()> {
    if !before.vlan {
        if key.starts_with("set_") {
            return Err(ParseError::new(
                item,
                "needs a VLAN tag in the match or pushed before",
            ));
        }
        list.push(Action::PushVlan(TAG));
    }
    before.vlan = true;
    Ok(())
}

fn set(field: Field, value: u128) -> Action {
    Action::SetField(MaskedField::whole(field, value))
}

#[cfg(test)]
mod tests {
    use crate::flow::Flow;

    fn actions(text: &str) -> Result<String, String> {
        let flow: Flow = text
            .parse()
            .map_err(|error: crate::ParseError| error.to_string())?;
        Ok(flow.instructions.to_string())
    }

    #[test]
    fn old_words_become_actions_of_1_5() {
        for (text, want) in [
            (
                "actions=mod_vlan_vid:5",
                "push_vlan:0x8100,set_field:4101->vlan_vid",
            ),
            (
                "dl_vlan=3 actions=mod_vlan_vid:5",
                "set_field:4101->vlan_vid",
            ),
            (
                "actions=mod_vlan_vid:5,mod_vlan_pcp:3",
                "push_vlan:0x8100,set_field:4101->vlan_vid,set_field:3->vlan_pcp",
            ),
            (
                "dl_vlan=3 actions=strip_vlan,mod_vlan_pcp:3",
                "pop_vlan,push_vlan:0x8100,set_field:3->vlan_pcp",
            ),
            ("udp6 actions=mod_tp_dst:53", "set_field:53->udp_dst"),
            ("ip actions=mod_nw_tos:184", "set_field:46->ip_dscp"),
        ] {
            assert_eq!(actions(text).unwrap(), want, "{text}");
        }
    }

    #[test]
    fn old_words_that_cannot_be_say_why() {
        for (text, want) in [
            ("actions=set_vlan_vid:5", "needs a VLAN tag"),
            ("actions=mod_vlan_vid:4096", "larger than 4095"),
            ("ip actions=mod_tp_dst:80", "needs tcp, udp or sctp"),
            ("ip actions=mod_nw_tos:1", "upper six bits"),
            ("actions=enqueue:1:2", "set_queue:QUEUE"),
        ] {
            let error = actions(text).unwrap_err();
            assert!(error.contains(want), "{text}: {error}");
        }
    }
}
