//! Any bytes as a message: no panic, and what is accepted is accepted again after encoding.

#![no_main]

use carrick_openflow::Message;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    // The length is mended, so that the body is reached.
    let mut bytes = bytes.to_vec();
    let Ok(length) = u16::try_from(bytes.len()) else { return };
    if bytes.len() < 8 {
        drop(Message::decode(&bytes));
        return;
    }
    bytes[0] = 6;
    bytes[2..4].copy_from_slice(&length.to_be_bytes());
    let Ok((xid, message)) = Message::decode(&bytes) else { return };
    let mut again = Vec::new();
    if message.encode(xid, &mut again).is_ok() {
        let (_, decoded) = Message::decode(&again).expect("what was encoded is decoded");
        let mut third = Vec::new();
        decoded.encode(xid, &mut third).expect("what was decoded is encoded");
        assert_eq!(again, third, "encoding is stable");
    }
});
