//! Bytes of a probe. Text, so that a capture can be read:
//!
//! ```text
//! request  CARRICKPROBE1 NONCE LENGTH\n             padded with blanks to REQUEST_HEADER
//! answer   CARRICKPROBE1 NONCE LENGTH PEER NAME\n   padded with blanks to ANSWER_HEADER
//! ```
//!
//! A stream is a request header and LENGTH bytes, answered by an answer header and the same bytes.
//! A datagram has the answer header's size at least and is answered by one of the same size.

use std::net::SocketAddr;

const MAGIC: &str = "CARRICKPROBE1";
/// Bytes of a request's header.
pub(super) const REQUEST_HEADER: usize = 48;
/// Bytes of an answer's header, and the least size of a datagram.
pub(super) const ANSWER_HEADER: usize = 160;
/// The most bytes a stream carries behind its header.
pub(super) const STREAM_MAX: u32 = 4 << 20;
/// Longest name of a server (a DNS label).
const NAME_MAX: usize = 63;

/// What a client asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) nonce: u64,
    pub(super) length: u32,
}

/// What a server answers before the echo.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) nonce: u64,
    pub(super) length: u32,
    /// The client as the server saw it.
    pub(super) peer: SocketAddr,
    pub(super) name: String,
}

impl Request {
    pub(super) fn encode(self) -> Vec<u8> {
        pad(
            format!("{MAGIC} {:016x} {}", self.nonce, self.length),
            REQUEST_HEADER,
        )
    }

    /// Reads the header at the start of `bytes`; nothing when it is none.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let text = header(bytes.get(..REQUEST_HEADER)?)?;
        let mut words = text.split(' ');
        let (nonce, length) = common(&mut words)?;
        words.next().is_none().then_some(Self { nonce, length })
    }
}

impl Answer {
    pub(super) fn encode(&self) -> Vec<u8> {
        let name: String = self
            .name
            .chars()
            .map(|c| if c.is_ascii_graphic() { c } else { '?' })
            .take(NAME_MAX)
            .collect();
        let name = if name.is_empty() { "?" } else { &name };
        pad(
            format!(
                "{MAGIC} {:016x} {} {} {name}",
                self.nonce, self.length, self.peer
            ),
            ANSWER_HEADER,
        )
    }

    /// Reads the header at the start of `bytes`; nothing when it is none.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let text = header(bytes.get(..ANSWER_HEADER)?)?;
        let mut words = text.split(' ');
        let (nonce, length) = common(&mut words)?;
        let peer = words.next()?.parse().ok()?;
        let name = words
            .next()
            .filter(|name| !name.is_empty() && name.len() <= NAME_MAX)?;
        let name = name.to_owned();
        words.next().is_none().then_some(Self {
            nonce,
            length,
            peer,
            name,
        })
    }
}

fn common<'a>(words: &mut impl Iterator<Item = &'a str>) -> Option<(u64, u32)> {
    if words.next()? != MAGIC {
        return None;
    }
    let nonce = words.next().filter(|word| word.len() == 16)?;
    let nonce = u64::from_str_radix(nonce, 16).ok()?;
    let length = words
        .next()?
        .parse()
        .ok()
        .filter(|length| *length <= STREAM_MAX)?;
    Some((nonce, length))
}

/// The text before the padding.
fn header(bytes: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(bytes).ok()?;
    let text = text.strip_suffix('\n')?.trim_end_matches(' ');
    text.bytes()
        .all(|b| b == b' ' || b.is_ascii_graphic())
        .then_some(text)
}

/// Pads with blanks; the last byte is a newline. Headers are shorter than `size` by construction.
fn pad(mut text: String, size: usize) -> Vec<u8> {
    text.truncate(size.saturating_sub(1));
    let mut bytes = text.into_bytes();
    bytes.resize(size.saturating_sub(1), b' ');
    bytes.push(b'\n');
    bytes
}

/// The payload of a probe: differs by nonce and position, so that a mix-up or a repetition shows.
pub(super) fn pattern(nonce: u64, length: usize) -> Vec<u8> {
    let seed = nonce.to_le_bytes();
    (0..length)
        .zip(seed.iter().cycle())
        .map(|(i, s)| s ^ u8::try_from((i / 8) % 251).unwrap_or(0))
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_written_is_read(nonce: u64, length in 0..=STREAM_MAX, port: u16, v6: u128, name in "[a-z0-9-]{1,63}") {
            let request = Request { nonce, length };
            let bytes = request.encode();
            prop_assert_eq!(bytes.len(), REQUEST_HEADER);
            prop_assert_eq!(Request::decode(&bytes), Some(request));
            let peer = SocketAddr::new(std::net::Ipv6Addr::from_bits(v6).into(), port);
            let answer = Answer { nonce, length, peer, name };
            let bytes = answer.encode();
            prop_assert_eq!(bytes.len(), ANSWER_HEADER);
            prop_assert_eq!(Answer::decode(&bytes), Some(answer));
        }

        #[test]
        fn any_bytes_are_read_without_harm(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Request::decode(&bytes);
            let _ = Answer::decode(&bytes);
        }
    }

    #[test]
    fn a_name_cannot_forge_a_header() {
        let answer = Answer {
            nonce: 1,
            length: 2,
            peer: "10.0.0.1:5".parse().unwrap(),
            name: "a b\nCARRICKPROBE1".into(),
        };
        assert_eq!(
            Answer::decode(&answer.encode()).unwrap().name,
            "a?b?CARRICKPROBE1"
        );
    }

    #[test]
    fn patterns_differ_by_nonce_and_place() {
        assert_ne!(pattern(1, 64), pattern(2, 64));
        assert_ne!(pattern(1, 64)[..8], pattern(1, 64)[8..16]);
    }
}
