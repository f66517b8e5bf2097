//! Netlink messages as bytes, for the few families no crate speaks.

use std::io;
use std::time::Duration;

use netlink_sys::{Socket, SocketAddr};
use nix::sys::socket::{setsockopt, sockopt::ReceiveTimeout};
use nix::sys::time::TimeVal;

// include/uapi/linux/netlink.h
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_DUMP: u16 = 0x300;
const NLA_TYPE_MASK: u16 = 0x3fff;
const HEADER: usize = 16;
/// The kernel answers while the request is sent. An answer that is not there by then will not come,
/// and whoever waits would wait for ever.
pub(crate) const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// Marks an attribute that holds attributes.
pub(crate) const NESTED: u16 = 0x8000;

/// What a request wants back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Want {
    /// One answer, and an acknowledgement.
    One,
    /// Every object.
    Dump,
}

/// An attribute with its padding. Values here are short: a length that does not fit is cut to a
/// request the kernel refuses.
pub(crate) fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
    let mut bytes = Vec::with_capacity(value.len() + 8);
    bytes.extend_from_slice(&length.to_ne_bytes());
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// The attributes in `bytes`: type without flags, and value. Ends at the first that is cut short.
pub(crate) fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(rest, 0)?);
        let kind = u16_at(rest, 2)? & NLA_TYPE_MASK;
        let value = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The value of one attribute.
pub(crate) fn find(bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(bytes)
        .find(|(kind, _)| *kind == wanted)
        .map(|(_, value)| value)
}

/// Sends one request and returns the bodies (behind the 16 bytes of the header) of its replies.
/// Blocking: the kernel answers at once, or never (then `EAGAIN` comes after [`ANSWER_LIMIT`]).
pub(crate) fn exchange(
    socket: &Socket,
    kind: u16,
    want: Want,
    body: &[u8],
) -> io::Result<Vec<Vec<u8>>> {
    let length = u32::try_from(HEADER + body.len()).map_err(io::Error::other)?;
    let flags = match want {
        Want::One => NLM_F_REQUEST | NLM_F_ACK,
        Want::Dump => NLM_F_REQUEST | NLM_F_DUMP,
    };
    let mut request = Vec::with_capacity(HEADER + body.len());
    request.extend_from_slice(&length.to_ne_bytes());
    request.extend_from_slice(&kind.to_ne_bytes());
    request.extend_from_slice(&flags.to_ne_bytes());
    request.extend_from_slice(&1_u32.to_ne_bytes());
    request.extend_from_slice(&0_u32.to_ne_bytes());
    request.extend_from_slice(body);
    let seconds = ANSWER_LIMIT.as_secs().cast_signed();
    setsockopt(socket, ReceiveTimeout, &TimeVal::new(seconds, 0)).map_err(io::Error::from)?;
    socket.send_to(&request, &SocketAddr::new(0, 0), 0)?;
    let mut replies = Vec::new();
    loop {
        let (datagram, _) = socket.recv_from_full()?;
        let mut rest = datagram.as_slice();
        while let Some(length) = u32_at(rest, 0).and_then(|length| usize::try_from(length).ok()) {
            let Some(message) = rest.get(..length).filter(|message| message.len() >= HEADER) else {
                break;
            };
            match u16_at(message, 4) {
                Some(NLMSG_ERROR) => {
                    return match u32_at(message, HEADER).map_or(0, u32::cast_signed) {
                        0 => Ok(replies),
                        code => Err(io::Error::from_raw_os_error(code.saturating_neg())),
                    };
                }
                Some(NLMSG_DONE) => return Ok(replies),
                _ => replies.push(message.get(HEADER..).unwrap_or_default().to_vec()),
            }
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn attributes_are_padded_and_found() {
        let mut bytes = attribute(2, b"ethtool\0");
        assert_eq!(bytes.len(), 12);
        bytes.extend(attribute(1 | NESTED, &21_u16.to_ne_bytes()));
        assert_eq!(bytes.len(), 20);
        assert_eq!(find(&bytes, 1), Some(&21_u16.to_ne_bytes()[..]));
        assert_eq!(find(&bytes, 9), None);
        assert_eq!(attributes(&bytes).count(), 2);
    }

    proptest! {
        #[test]
        fn no_bytes_panic_or_loop(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            prop_assert!(attributes(&bytes).count() <= 16);
        }
    }
}
