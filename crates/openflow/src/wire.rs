//! A cursor over untrusted bytes and helpers to append big-endian numbers.

use crate::error::{DecodeError, DecodeReason};

type Result<T> = std::result::Result<T, DecodeError>;

/// Reads from the front; every read is checked and errors carry the offset within the whole.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    offset: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, offset: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The bytes left, without reading them.
    pub(crate) fn peek(&self) -> &'a [u8] {
        self.bytes
    }

    pub(crate) fn error<T>(&self, field: &'static str, reason: DecodeReason) -> Result<T> {
        Err(DecodeError {
            offset: self.offset,
            field,
            reason,
        })
    }

    pub(crate) fn take(&mut self, count: usize, field: &'static str) -> Result<&'a [u8]> {
        let Some((head, tail)) = self.bytes.split_at_checked(count) else {
            return self.error(
                field,
                DecodeReason::Truncated {
                    need: count,
                    have: self.len(),
                },
            );
        };
        self.bytes = tail;
        self.offset += count;
        Ok(head)
    }

    /// A reader of the next `count` bytes.
    pub(crate) fn sub(&mut self, count: usize, field: &'static str) -> Result<Self> {
        let offset = self.offset;
        Ok(Self {
            bytes: self.take(count, field)?,
            offset,
        })
    }

    pub(crate) fn rest(&mut self) -> &'a [u8] {
        let bytes = self.bytes;
        self.offset += bytes.len();
        self.bytes = &[];
        bytes
    }

    pub(crate) fn skip(&mut self, count: usize, field: &'static str) -> Result<()> {
        self.take(count, field).map(|_| ())
    }

    pub(crate) fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N]> {
        let Some((head, tail)) = self.bytes.split_first_chunk::<N>() else {
            return self.error(
                field,
                DecodeReason::Truncated {
                    need: N,
                    have: self.len(),
                },
            );
        };
        self.bytes = tail;
        self.offset += N;
        Ok(*head)
    }

    pub(crate) fn u8(&mut self, field: &'static str) -> Result<u8> {
        self.array::<1>(field).map(|[byte]| byte)
    }

    pub(crate) fn u16(&mut self, field: &'static str) -> Result<u16> {
        self.array(field).map(u16::from_be_bytes)
    }

    pub(crate) fn u32(&mut self, field: &'static str) -> Result<u32> {
        self.array(field).map(u32::from_be_bytes)
    }

    pub(crate) fn u64(&mut self, field: &'static str) -> Result<u64> {
        self.array(field).map(u64::from_be_bytes)
    }

    pub(crate) fn u128(&mut self, field: &'static str) -> Result<u128> {
        self.array(field).map(u128::from_be_bytes)
    }

    /// A number of up to 16 bytes.
    pub(crate) fn uint(&mut self, count: usize, field: &'static str) -> Result<u128> {
        if count > 16 {
            return self.error(field, DecodeReason::Length(count));
        }
        let bytes = self.take(count, field)?;
        let mut wide = [0; 16];
        // count is at most 16.
        wide[16 - count..].copy_from_slice(bytes);
        Ok(u128::from_be_bytes(wide))
    }
}

/// Appends big-endian numbers.
pub(crate) trait Put {
    fn u8(&mut self, value: u8);
    fn u16(&mut self, value: u16);
    fn u32(&mut self, value: u32);
    fn u64(&mut self, value: u64);
    /// The low `count` bytes (at most 16) of `value`.
    fn uint(&mut self, value: u128, count: usize);
    fn bytes(&mut self, bytes: &[u8]);
    fn zeros(&mut self, count: usize);
    /// Zeros until what was appended since `start` is a multiple of 8.
    fn pad8(&mut self, start: usize);
    /// Overwrites two bytes at `offset`, which must be written already.
    fn patch_u16(&mut self, offset: usize, value: u16);
}

impl Put for Vec<u8> {
    fn u8(&mut self, value: u8) {
        self.push(value);
    }

    fn u16(&mut self, value: u16) {
        self.extend_from_slice(&value.to_be_bytes());
    }

    fn u32(&mut self, value: u32) {
        self.extend_from_slice(&value.to_be_bytes());
    }

    fn u64(&mut self, value: u64) {
        self.extend_from_slice(&value.to_be_bytes());
    }

    fn uint(&mut self, value: u128, count: usize) {
        let wide = value.to_be_bytes();
        self.extend_from_slice(&wide[16 - count.min(16)..]);
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }

    fn zeros(&mut self, count: usize) {
        self.resize(self.len() + count, 0);
    }

    fn pad8(&mut self, start: usize) {
        let length = self.len() - start;
        self.zeros(padding(length));
    }

    fn patch_u16(&mut self, offset: usize, value: u16) {
        if let Some(place) = self.get_mut(offset..offset + 2) {
            place.copy_from_slice(&value.to_be_bytes());
        }
    }
}

/// Bytes that are missing to a multiple of 8.
pub(crate) const fn padding(length: usize) -> usize {
    (8 - length % 8) % 8
}
