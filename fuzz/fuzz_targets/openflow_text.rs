//! Any text as a flow, a group or a meter: no panic, and what is printed is parsed as the same.

#![no_main]

use carrick_openflow::{Flow, Group, Meter};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
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
        let printed = meter.to_string();
        assert_eq!(printed.parse::<Meter>().expect("what is printed is parsed"), meter);
    }
});
