//! Cuts a byte stream into JSON texts: OVSDB sends JSON-RPC messages one after the other with
//! nothing in between (RFC 7047 §4).
//!
//! Each byte is looked at once however the stream is split, and a message may not exceed the limit,
//! so that a peer can neither cost quadratic time nor unbounded memory.

use bytes::{Buf as _, Bytes, BytesMut};

/// Finds the ends of JSON objects in a stream.
#[derive(Debug)]
pub struct Framer {
    buffer: BytesMut,
    limit: usize,
    /// Bytes of `buffer` already looked at.
    seen: usize,
    /// Open braces and brackets.
    depth: usize,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Plain,
    String,
    Escape,
}

impl Framer {
    /// A framer that refuses messages of more than `limit` bytes.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            buffer: BytesMut::new(),
            limit,
            seen: 0,
            depth: 0,
            state: State::Plain,
        }
    }

    /// Where the next bytes of the stream go.
    pub fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// The next whole message, or `None` when more bytes are needed.
    ///
    /// # Errors
    /// When the stream does not hold JSON objects, or one is too long. The stream is then useless.
    pub fn next_message(&mut self) -> Result<Option<Bytes>, FrameError> {
        if self.depth == 0 {
            let blank = self
                .buffer
                .iter()
                .take_while(|byte| byte.is_ascii_whitespace())
                .count();
            self.buffer.advance(blank);
            match self.buffer.first() {
                None => return Ok(None),
                Some(b'{') => {}
                Some(byte) => return Err(FrameError::Start { byte: *byte }),
            }
        }
        while let Some(byte) = self.buffer.get(self.seen) {
            self.seen += 1;
            match (self.state, byte) {
                (State::Escape, _) | (State::Plain, b'"') => self.state = State::String,
                (State::String, b'\\') => self.state = State::Escape,
                (State::String, b'"') => self.state = State::Plain,
                (State::Plain, b'{' | b'[') => self.depth += 1,
                (State::Plain, b'}' | b']') => {
                    self.depth -= 1;
                    if self.depth == 0 {
                        let message = self.buffer.split_to(self.seen).freeze();
                        self.seen = 0;
                        return Ok(Some(message));
                    }
                }
                (State::Plain | State::String, _) => {}
            }
            if self.seen >= self.limit {
                return Err(FrameError::TooLong { limit: self.limit });
            }
        }
        Ok(None)
    }
}

/// Why a stream cannot be cut into messages.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum FrameError {
    /// A message does not begin with `{`.
    #[error("a message begins with byte {byte:#04x}, not with {{")]
    Start {
        /// The byte.
        byte: u8,
    },
    /// A message is longer than the limit.
    #[error("a message is longer than {limit} bytes")]
    TooLong {
        /// The limit.
        limit: usize,
    },
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cut(pieces: &[&[u8]], limit: usize) -> Result<Vec<String>, FrameError> {
        let mut framer = Framer::new(limit);
        let mut messages = Vec::new();
        for piece in pieces {
            framer.buffer().extend_from_slice(piece);
            while let Some(message) = framer.next_message()? {
                messages.push(String::from_utf8_lossy(&message).into_owned());
            }
        }
        Ok(messages)
    }

    #[test]
    fn messages_are_cut_wherever_the_stream_is_split() {
        let text = br#"{"a":"}\"{\\"} {"b":[{"c":"["}]}{}"#;
        let want = [r#"{"a":"}\"{\\"}"#, r#"{"b":[{"c":"["}]}"#, "{}"];
        for split in 0..=text.len() {
            let (left, right) = text.split_at(split);
            assert_eq!(cut(&[left, right], 1000).unwrap(), want, "split at {split}");
        }
    }

    #[test]
    fn rubbish_and_endless_messages_are_refused() {
        assert_eq!(cut(&[b"  x"], 10), Err(FrameError::Start { byte: b'x' }));
        assert_eq!(cut(&[b"[]"], 10), Err(FrameError::Start { byte: b'[' }));
        assert_eq!(
            cut(&[b"{\"aaaaaaaaaaaaaa"], 10),
            Err(FrameError::TooLong { limit: 10 })
        );
        assert_eq!(cut(&[b"{\"a\":\"\\"], 100).unwrap(), [""; 0]);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..8)) {
            let pieces: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
            let _ = cut(&pieces, 64);
        }
    }
}
