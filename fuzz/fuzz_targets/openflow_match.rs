//! Any bytes as fields of a match: no panic, stable encoding.

#![no_main]

use carrick_openflow::Match;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(decoded) = Match::decode_fields(bytes) else { return };
    let again = Match::decode_fields(&decoded.encode_fields()).expect("what was encoded is decoded");
    assert_eq!(again, decoded);
    drop(decoded.to_string());
});
