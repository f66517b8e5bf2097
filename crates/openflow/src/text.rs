//! `ovs-ofctl` syntax: printing and parsing of flows, groups, meters, matches and actions.
//!
//! Printing is canonical: equal values give equal text, in the order and with the names that
//! `ovs-ofctl dump-flows` uses, so that `ovs-ofctl` parses what is printed here and the other way
//! round. Unknown parts print as hexadecimal in a form of our own (`unknown(…)`), which only this
//! crate parses.

mod action_old;
mod action_parse;
mod action_print;
mod flow;
mod group;
mod learn;
mod match_;
mod meter;
mod value;

use crate::error::ParseError;

type Result<T> = std::result::Result<T, ParseError>;

/// The most bytes of text that are parsed at once.
const MAX_TEXT: usize = 1 << 20;

/// Splits at commas and white space that stand in no brackets.
fn items(text: &str) -> Result<Vec<&str>> {
    if text.len() > MAX_TEXT {
        return Err(ParseError::new(text, "is longer than 1 MiB"));
    }
    let mut result = Vec::new();
    let mut depth = 0_usize;
    let mut start = 0;
    for (index, byte) in text.bytes().enumerate() {
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => {
                depth = depth
                    .checked_sub(1)
                    .ok_or_else(|| ParseError::new(text, "closes a bracket that is not open"))?;
            }
            b',' | b' ' | b'\t' | b'\n' | b'\r' if depth == 0 => {
                result.push(&text[start..index]);
                start = index + 1;
            }
            _ => {}
        }
    }
    if depth != 0 {
        return Err(ParseError::new(text, "leaves a bracket open"));
    }
    result.push(&text[start..]);
    result.retain(|item| !item.is_empty());
    Ok(result)
}

/// Splits `key=value`, `key:value` or `key(value)`; the value keeps what follows the bracket.
fn key_value(item: &str) -> (&str, &str) {
    match item.find(['=', ':', '(']) {
        None => (item, ""),
        Some(index) if item.as_bytes().get(index) == Some(&b'(') => item.split_at(index),
        Some(index) => (&item[..index], &item[index + 1..]),
    }
}

/// What stands in the brackets that `text` consists of.
fn in_brackets(text: &str) -> Result<&str> {
    text.strip_prefix('(')
        .and_then(|rest| rest.strip_suffix(')'))
        .ok_or_else(|| ParseError::new(text, "should stand in brackets"))
}

/// A number, decimal or hexadecimal with `0x`.
fn number(text: &str) -> Result<u128> {
    let (digits, radix) = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => (digits, 16),
        None => (text, 10),
    };
    let plain = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    u128::from_str_radix(digits, radix)
        .ok()
        .filter(|_| plain)
        .ok_or_else(|| ParseError::new(text, "is not a number"))
}

/// A number that fits `T`.
fn small<T: TryFrom<u128>>(text: &str) -> Result<T> {
    T::try_from(number(text)?).map_err(|_| ParseError::new(text, "is too large"))
}

/// Bytes as two hexadecimal digits each, separated by dots or nothing.
fn hex_bytes(text: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() / 2);
    let mut rest = text;
    while !rest.is_empty() {
        let pair = rest
            .get(..2)
            .filter(|pair| pair.bytes().all(|b| b.is_ascii_hexdigit()));
        let byte = pair.and_then(|pair| u8::from_str_radix(pair, 16).ok());
        bytes.push(byte.ok_or_else(|| ParseError::new(text, "is not hexadecimal bytes"))?);
        rest = rest.get(2..).unwrap_or_default();
        rest = rest.strip_prefix('.').unwrap_or(rest);
    }
    Ok(bytes)
}

/// Displays bytes as two hexadecimal digits each.
struct Hex<'a>(&'a [u8], &'a str);

impl std::fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str(self.1)?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

/// Writes items with commas between them.
pub(crate) struct List<'a, 'b> {
    out: &'a mut std::fmt::Formatter<'b>,
    any: bool,
}

impl<'a, 'b> List<'a, 'b> {
    fn new(out: &'a mut std::fmt::Formatter<'b>) -> Self {
        Self { out, any: false }
    }

    fn item(&mut self, item: std::fmt::Arguments<'_>) -> std::fmt::Result {
        if self.any {
            self.out.write_str(",")?;
        }
        self.any = true;
        self.out.write_fmt(item)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_respect_brackets() {
        assert_eq!(
            items("a=1, b(c,d)->e[0..3],,f").unwrap(),
            ["a=1", "b(c,d)->e[0..3]", "f"]
        );
        assert!(items("a(").is_err());
        assert!(items("a)(").is_err());
        assert_eq!(key_value("ct(commit)"), ("ct", "(commit)"));
        assert_eq!(key_value("load:1->x"), ("load", "1->x"));
        assert_eq!(key_value("drop"), ("drop", ""));
    }

    #[test]
    fn numbers() {
        assert_eq!(number("0x1F").unwrap(), 31);
        assert_eq!(small::<u8>("255").unwrap(), 255);
        assert!(small::<u8>("256").is_err());
        assert!(number("+1").is_err());
        assert!(number("").is_err());
        assert_eq!(hex_bytes("01.02ff").unwrap(), [1, 2, 255]);
        assert!(hex_bytes("0").is_err());
    }
}
