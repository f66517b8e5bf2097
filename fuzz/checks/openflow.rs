//! What must hold of any bytes given to the decoders of OpenFlow.

use carrick_openflow::{Flow, Group, Match, Message, Meter};

/// A message: no panic; what is accepted is accepted again after encoding, and that is stable.
pub fn message(bytes: &[u8]) {
    // The length is mended, so that the body is reached.
    let mut bytes = bytes.to_vec();
    let Ok(length) = u16::try_from(bytes.len()) else {
        return;
    };
    if bytes.len() < 8 {
        drop(Message::decode(&bytes));
        return;
    }
    bytes[0] = 6;
    bytes[2..4].copy_from_slice(&length.to_be_bytes());
    let Ok((xid, message)) = Message::decode(&bytes) else {
        return;
    };
    let mut again = Vec::new();
    if message.encode(xid, &mut again).is_ok() {
        let (_, decoded) = Message::decode(&again).expect("what was encoded is decoded");
        let mut third = Vec::new();
        decoded
            .encode(xid, &mut third)
            .expect("what was decoded is encoded");
        assert_eq!(again, third, "encoding is stable");
    }
}

/// Fields of a match: no panic, stable encoding.
pub fn fields(bytes: &[u8]) {
    let Ok(decoded) = Match::decode_fields(bytes) else {
        return;
    };
    let again =
        Match::decode_fields(&decoded.encode_fields()).expect("what was encoded is decoded");
    assert_eq!(again, decoded);
    drop(decoded.to_string());
}

/// Text of a flow, a group or a meter: no panic, and what is printed is parsed as the same.
pub fn text(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    if let Ok(flow) = text.parse::<Flow>() {
        let printed = flow.to_string();
        let again: Flow = printed.parse().expect("what is printed is parsed");
        assert_eq!(again.canonical(), flow.canonical(), "{printed}");
    }
    if let Ok(group) = text.parse::<Group>() {
        let printed = group.to_string();
        let again: Group = printed.parse().expect("what is printed is parsed");
        assert_eq!(again.canonical(), group.canonical(), "{printed}");
    }
    if let Ok(meter) = text.parse::<Meter>() {
        let again: Meter = meter
            .to_string()
            .parse()
            .expect("what is printed is parsed");
        assert_eq!(again, meter);
    }
}
