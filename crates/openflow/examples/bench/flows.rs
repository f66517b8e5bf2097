//! The flows that are measured.

use carrick_openflow::match_::ct_state;
use carrick_openflow::{Action, Cookie, Flow, FlowMod, Instructions, Match, MatchError, TableId};

/// A flow as network policy has it: six fields, two conjunctions.
///
/// # Errors
/// Never for any index; the builder's own error type.
pub fn policy(index: u32) -> Result<Flow, MatchError> {
    let source = std::net::Ipv4Addr::from_bits(0x0a00_0000 | index & 0x00ff_ffff);
    let m = Match::builder()
        .ipv4()
        .nw_src(source.into(), 32)
        .reg(0, 0x3, 0xf)
        .reg(1, index >> 24, u32::MAX)
        .ct_state(ct_state::TRK | ct_state::NEW, 0)
        .build()?;
    let actions = vec![
        Action::conjunction(index, 0, 3),
        Action::conjunction(index.wrapping_add(1), 1, 3),
    ];
    let cookie = Cookie(0x0100_0000_0000 | u64::from(index));
    Ok(Flow::new(TableId(40), 100, m, Instructions::from(actions)).with_cookie(cookie))
}

/// The first `count` of them.
///
/// # Errors
/// As [`policy`].
pub fn policies(count: u32) -> Result<Vec<Flow>, MatchError> {
    (0..count).map(policy).collect()
}

/// What adds them.
pub fn adds(flows: &[Flow]) -> Vec<FlowMod> {
    flows.iter().cloned().map(FlowMod::add).collect()
}
