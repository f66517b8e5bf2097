//! What holds for all values: bytes and text round-trip, no input panics, no input costs more than
//! its length.

#![expect(clippy::unwrap_used, reason = "tests say what they expect")]

#[path = "support/arbitrary.rs"]
mod arbitrary;

use std::time::{Duration, Instant};

use carrick_openflow::{
    Action, Field, Flow, Group, Instructions, MaskedField, Match, Message, Meter, Xid,
};
use proptest::prelude::*;

fn encode(message: &Message) -> Vec<u8> {
    let mut bytes = Vec::new();
    message.encode(Xid(7), &mut bytes).unwrap();
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn every_message_round_trips(message in arbitrary::message()) {
        let bytes = encode(&message);
        let (xid, decoded) = Message::decode(&bytes).unwrap();
        prop_assert_eq!(xid, Xid(7));
        prop_assert_eq!(&decoded, &message);
        prop_assert_eq!(encode(&decoded), bytes);
    }

    #[test]
    fn flow_text_round_trips(flow in arbitrary::flow(arbitrary::strict_match())) {
        let text = flow.to_string();
        let parsed: Flow = text.parse().map_err(|error| TestCaseError::fail(format!("{text}: {error}")))?;
        prop_assert_eq!(parsed.canonical(), flow.canonical(), "{}", text);
        prop_assert_eq!(parsed.to_string(), text);
    }

    #[test]
    fn match_text_round_trips(m in arbitrary::strict_match()) {
        let text = m.to_string();
        prop_assert_eq!(text.parse::<Match>().unwrap(), m, "{}", text);
    }

    #[test]
    fn group_text_round_trips(group in arbitrary::group()) {
        let text = group.to_string();
        let parsed: Group = text.parse().map_err(|error| TestCaseError::fail(format!("{text}: {error}")))?;
        prop_assert_eq!(parsed, group, "{}", text);
    }

    #[test]
    fn meter_text_round_trips(meter in arbitrary::meter()) {
        let text = meter.to_string();
        prop_assert_eq!(text.parse::<Meter>().unwrap(), meter, "{}", text);
    }

    #[test]
    fn canonical_is_stable(flow in arbitrary::flow(arbitrary::loose_match())) {
        let once = flow.canonical();
        prop_assert_eq!(once.canonical(), once);
    }

    #[test]
    fn noise_never_panics(kind in 0_u8..40, body in proptest::collection::vec(any::<u8>(), 0..300)) {
        let length = u16::try_from(body.len() + 8).unwrap();
        let mut bytes = vec![6, kind];
        bytes.extend(length.to_be_bytes());
        bytes.extend([0; 4]);
        bytes.extend(body);
        drop(Message::decode(&bytes));
    }

    #[test]
    fn a_changed_byte_never_panics(message in arbitrary::message(), at in any::<prop::sample::Index>(), value in any::<u8>()) {
        let mut bytes = encode(&message);
        let index = at.index(bytes.len());
        bytes[index] = value;
        if let Ok((xid, decoded)) = Message::decode(&bytes) {
            // What was accepted can be sent and is accepted again.
            let mut again = Vec::new();
            if decoded.encode(xid, &mut again).is_ok() {
                prop_assert!(Message::decode(&again).is_ok(), "{:?}", decoded);
            }
        }
    }

    #[test]
    fn text_noise_never_panics(text in "[a-z0-9_=,:()\\[\\]./>+ -]{0,80}") {
        drop(text.parse::<Flow>());
        drop(text.parse::<Instructions>());
        drop(text.parse::<Group>());
        drop(text.parse::<Meter>());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn messages_cut_at_every_byte_never_panic(message in arbitrary::message()) {
        let bytes = encode(&message);
        for length in 0..bytes.len() {
            let mut cut = bytes[..length].to_vec();
            // As it is, and with a length that agrees.
            prop_assert!(Message::decode(&cut).is_err());
            if length >= 8 {
                let field = u16::try_from(length).unwrap();
                cut[2..4].copy_from_slice(&field.to_be_bytes());
                drop(Message::decode(&cut));
            }
        }
    }
}

#[test]
fn deep_nesting_is_refused_and_not_followed() {
    let deep = |depth: usize| format!("{}output:1{}", "clone(".repeat(depth), ")".repeat(depth));
    assert!(deep(10).parse::<Action>().is_ok());
    assert!(deep(1000).parse::<Action>().is_err());
    // The same in bytes: each clone takes 16.
    let mut action = Vec::new();
    for _ in 0..2000_u16 {
        let length = u16::try_from(action.len() + 16).unwrap();
        let mut outer = vec![0xff, 0xff];
        outer.extend(length.to_be_bytes());
        outer.extend([0, 0, 0x23, 0x20, 0, 42, 0, 0, 0, 0, 0, 0]);
        outer.extend(&action);
        action = outer;
    }
    let mut message = vec![6, 13];
    message.extend(
        u16::try_from(8 + 8 + 8 + action.len())
            .unwrap()
            .to_be_bytes(),
    );
    message.extend([0; 4]);
    message.extend([0xff; 4]);
    message.extend(u16::try_from(action.len()).unwrap().to_be_bytes());
    message.extend([0, 0, 0, 1, 0, 4, 0, 0, 0, 0]);
    message.extend(action);
    let error = Message::decode(&message).unwrap_err();
    assert!(error.to_string().contains("nested too deep"), "{error}");
}

/// The largest messages of small parts: time must grow with their length only.
#[test]
fn the_worst_message_is_quick() {
    let start = Instant::now();
    for _ in 0..20 {
        let text = format!("actions={}", vec!["set_field:1->reg0"; 2500].join(","));
        let flow: Flow = text.parse().unwrap();
        let bytes = encode(&Message::FlowMod(carrick_openflow::FlowMod::add(flow)));
        let (_, decoded) = Message::decode(&bytes).unwrap();
        let Message::FlowMod(decoded) = decoded else {
            panic!("{decoded:?}")
        };
        assert_eq!(decoded.flow.instructions.apply.len(), 2500);
    }
    // Many unknown fields: sorted once, not each time.
    let mut fields = Vec::new();
    for number in 0..16_000_u32 {
        fields.extend([0x70, 0, u8::try_from(number % 128).unwrap() << 1, 0]);
    }
    assert_eq!(
        Match::decode_fields(&fields).unwrap().unknown().len(),
        16_000
    );
    assert!(
        start.elapsed() < Duration::from_secs(20),
        "{:?}",
        start.elapsed()
    );
}

/// A zero of 16 bytes was printed as `0x0` and read back as one of one byte.
#[test]
fn tunnel_metadata_keeps_its_width_in_text() {
    for bytes in [1, 4, 16] {
        let ones = if bytes == 16 {
            u128::MAX
        } else {
            (1 << (8 * bytes)) - 1
        };
        for value in [0, 1, ones] {
            let field = Field::tun_metadata(0).unwrap();
            let field = MaskedField::sized(field, bytes, value, ones).unwrap();
            let action = Action::SetField(field);
            let text = action.to_string();
            assert_eq!(text.parse::<Action>().unwrap(), action, "{text}");
        }
    }
}

/// The weight 1 is what a select group means by saying none; any other group says it.
#[test]
fn a_bucket_keeps_its_weight_in_text() {
    for kind in ["all", "select", "indirect", "ff"] {
        for weight in ["", ",weight:0", ",weight:1", ",weight:7"] {
            let text = format!("group_id=1,type={kind},bucket=bucket_id:0{weight},actions=drop");
            let group: Group = text.parse().unwrap();
            let unsaid = if kind == "select" { Some(1) } else { None };
            let said = weight
                .strip_prefix(",weight:")
                .map(|weight| weight.parse().unwrap());
            assert_eq!(group.buckets[0].weight, said.or(unsaid), "{text}");
            assert_eq!(group.to_string().parse::<Group>().unwrap(), group, "{text}");
        }
    }
}

/// 65280 to 65287 of 16 bits were printed as their 32-bit numbers; and in decimals a number of 32 bits
/// between 65280 and 65535 means a reserved port of OpenFlow 1.0.
#[test]
fn numbers_beside_the_reserved_ports_are_kept_in_text() {
    for value in [0xfeff, 0xff00, 0xff01, 0xfff7, 0xfff8, 0xfffe, 0xffff] {
        for field in [Field::InPort16, Field::InPort] {
            let action = Action::SetField(MaskedField::exact(field, value).unwrap());
            let text = action.to_string();
            assert_eq!(text.parse::<Action>().unwrap(), action, "{text}");
        }
        let masked = MaskedField::masked(Field::InPort, value & 0xff00, 0xff00).unwrap();
        let action = Action::SetField(masked);
        let text = action.to_string();
        assert_eq!(text.parse::<Action>().unwrap(), action, "{text}");
    }
}
