//! Converts keys to text and back, with the escapes of a byte string literal.
//!
//! It shows keys as `Key`'s Display does, and reads the same texts: so `get` accepts every key that
//! `keys` shows. A tuple key is shown as a tuple, such as `("job", 7)`.

use partd_format::tuple::{Integer, NEST, NEXT_PART, Token, Tokens, UNNEST, ZERO};

/// Converts a key to text.
#[must_use]
pub fn escape(key: &[u8]) -> String {
    key.escape_ascii().to_string()
}

/// Converts a key to text for a table: a tuple as a tuple, and a plain key in quotes if it would
/// look like a missing key or a tuple without them.
#[must_use]
pub fn show(key: &[u8]) -> String {
    match tuple(key) {
        Some(text) => text,
        None if key.is_empty() || key.starts_with(b"(") => format!("\"{}\"", escape(key)),
        None => escape(key),
    }
}

/// The text of a key that is a tuple; `None` for a plain key.
fn tuple(key: &[u8]) -> Option<String> {
    /// Closes a tuple: a tuple of one part has a comma after it.
    fn close(text: &mut String, parts: usize) {
        text.push_str(if parts == 1 { ",)" } else { ")" });
    }
    let (mut text, mut plain) = (String::from("("), true);
    // The number of parts of each tuple that is open, the innermost last.
    let mut open = vec![0_usize];
    for token in Tokens::new(key) {
        let token = token.ok()?;
        if token == Token::Close {
            close(&mut text, open.pop()?);
            continue;
        }
        let parts = open.last_mut()?;
        if *parts > 0 {
            text.push_str(", ");
        }
        *parts += 1;
        plain &= matches!(token, Token::Bytes(_)) && *parts == 1;
        match token {
            Token::Bytes(bytes) => {
                text.push('"');
                bytes.runs().for_each(|run| text.push_str(&escape(run)));
                text.push('"');
            }
            Token::Integer(integer) => text.push_str(&integer.to_string()),
            Token::Open => {
                text.push('(');
                open.push(0);
            }
            Token::Close => {}
        }
    }
    close(&mut text, open.pop()?);
    (!plain).then_some(text)
}

/// The first `count` parts of a tuple key, as a key. A plain key counts as a tuple of one part.
#[must_use]
pub fn first_parts(key: &[u8], count: usize) -> Vec<u8> {
    let mut first = Vec::with_capacity(key.len());
    // The number of parts of each tuple that is open, the innermost last.
    let mut open = vec![0_usize];
    for token in Tokens::new(key) {
        let Ok(token) = token else { return key.to_vec() };
        if token == Token::Close {
            first.extend_from_slice(&UNNEST);
            open.pop();
            continue;
        }
        let is_outermost = open.len() == 1;
        let Some(parts) = open.last_mut() else { return key.to_vec() };
        if is_outermost && *parts == count {
            break;
        }
        if *parts > 0 {
            first.extend_from_slice(&NEXT_PART);
        }
        *parts += 1;
        match token {
            Token::Bytes(bytes) => {
                for &byte in bytes.runs().flatten() {
                    match byte {
                        0 => first.extend_from_slice(&ZERO),
                        byte => first.push(byte),
                    }
                }
            }
            Token::Integer(integer) => {
                let (bytes, len) = integer.encode();
                first.extend_from_slice(&bytes[..len]);
            }
            Token::Open => {
                first.extend_from_slice(&NEST);
                open.push(0);
            }
            Token::Close => {}
        }
    }
    first
}

/// Reads a key: a tuple of quoted strings, integers and tuples in parentheses, or a plain key.
///
/// In a plain key and in the strings of a tuple, `\\`, `\'`, `\"`, `\n`, `\r`, `\t`, `\0` and `\x`
/// with two hexadecimal digits are escapes; every other byte stands for itself. Quotes around the
/// whole text are not part of the key, and make a text in parentheses a plain key.
///
/// # Errors
/// A sentence that explains a wrong escape or tuple.
pub fn unescape(text: &[u8]) -> Result<Vec<u8>, String> {
    if text.starts_with(b"(") {
        let mut rest = text;
        let mut key = Vec::new();
        return match read_tuple(&mut rest, &mut key, 0) {
            Some(()) if rest.is_empty() => Ok(key),
            _ => Err(bad(text, "it is not a tuple; put a plain key with a parenthesis in quotes")),
        };
    }
    unescape_plain(unquote(text))
}

/// Reads a tuple from the parenthesis on, and appends its encoding to `key`.
fn read_tuple(rest: &mut &[u8], key: &mut Vec<u8>, depth: usize) -> Option<()> {
    if depth > partd_format::tuple::DEPTH_MAX {
        return None;
    }
    *rest = rest.strip_prefix(b"(")?;
    for i in 0_usize.. {
        *rest = rest.trim_ascii_start();
        if let Some(behind) = rest.strip_prefix(b")") {
            *rest = behind;
            // A tuple has at least one part.
            return (i > 0).then_some(());
        }
        if i > 0 {
            key.extend_from_slice(&NEXT_PART);
        }
        read_part(rest, key, depth)?;
        *rest = rest.trim_ascii_start();
        match rest.strip_prefix(b",") {
            Some(behind) => *rest = behind,
            None if rest.starts_with(b")") => {}
            None => return None,
        }
    }
    None
}

fn read_part(rest: &mut &[u8], key: &mut Vec<u8>, depth: usize) -> Option<()> {
    if rest.starts_with(b"(") {
        key.extend_from_slice(&NEST);
        read_tuple(rest, key, depth + 1)?;
        key.extend_from_slice(&UNNEST);
        return Some(());
    }
    if let Some(text) = rest.strip_prefix(b"\"") {
        let mut is_escaped = false;
        let end = text.iter().position(|&byte| {
            let ends = byte == b'"' && !is_escaped;
            is_escaped = byte == b'\\' && !is_escaped;
            ends
        })?;
        for (i, run) in unescape_plain(&text[..end]).ok()?.split(|&byte| byte == 0).enumerate() {
            if i > 0 {
                key.extend_from_slice(&ZERO);
            }
            key.extend_from_slice(run);
        }
        *rest = &text[end + 1..];
        return Some(());
    }
    let len = rest.iter().take_while(|byte| byte.is_ascii_digit() || **byte == b'-').count();
    let (digits, behind) = rest.split_at(len);
    let digits = std::str::from_utf8(digits).ok()?;
    let signed = digits.parse::<i128>().map(Integer::from);
    let integer = signed.or_else(|_| digits.parse::<u128>().map(Integer::from)).ok()?;
    let (bytes, len) = integer.encode();
    key.extend_from_slice(&bytes[..len]);
    *rest = behind;
    Some(())
}

/// Reads a plain key, or a string of a tuple, without its quotes.
fn unescape_plain(text: &[u8]) -> Result<Vec<u8>, String> {
    let mut key = Vec::with_capacity(text.len());
    let mut bytes = text.iter().copied();
    while let Some(byte) = bytes.next() {
        if byte != b'\\' {
            key.push(byte);
            continue;
        }
        key.push(match bytes.next() {
            Some(b'\\') => b'\\',
            Some(b'\'') => b'\'',
            Some(b'"') => b'"',
            Some(b'n') => b'\n',
            Some(b'r') => b'\r',
            Some(b't') => b'\t',
            Some(b'0') => 0,
            Some(b'x') => {
                let mut digit = || {
                    let byte = bytes.next()?;
                    char::from(byte).to_digit(16)
                };
                match (digit(), digit()) {
                    (Some(high), Some(low)) => (high << 4 | low) as u8,
                    _ => return Err(bad(text, "\\x needs two hexadecimal digits after it")),
                }
            }
            _ => return Err(bad(text, "write a backslash as \\\\")),
        });
    }
    Ok(key)
}

/// Removes the quotes around a text, unless the last one is escaped.
fn unquote(text: &[u8]) -> &[u8] {
    let inner = text.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\""));
    let Some(inner) = inner else { return text };
    let backslashes = inner.iter().rev().take_while(|&&byte| byte == b'\\').count();
    if backslashes.is_multiple_of(2) { inner } else { text }
}

fn bad(text: &[u8], why: &str) -> String {
    format!("the key \"{}\" cannot be read: {why}", String::from_utf8_lossy(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_survives_escaping_and_unescaping() {
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(unescape(escape(&all).as_bytes()), Ok(all));
        assert_eq!(unescape(show(b"").as_bytes()), Ok(vec![]));
        assert_eq!(show(b"(1, 2)"), r#""(1, 2)""#);
        assert_eq!(unescape(br#""(1, 2)""#), Ok(b"(1, 2)".to_vec()));
        for pair in 0..=u16::MAX {
            let key = pair.to_le_bytes();
            assert_eq!(unescape(show(&key).as_bytes()), Ok(key.to_vec()));
            let quoted = format!("\"{}\"", escape(&key));
            assert_eq!(unescape(quoted.as_bytes()), Ok(key.to_vec()), "as `Key` displays it");
        }
    }

    #[test]
    fn a_tuple_key_is_shown_and_read_as_a_tuple() {
        let large = u128::MAX.to_string();
        let smallest = i128::MIN.to_string();
        for (text, key) in [
            (r#"("a", "b")"#, b"a\0\x01b".to_vec()),
            (r#"("a", 1)"#, b"a\0\x01\0\x02\x21\x01".to_vec()),
            ("(0,)", b"\0\x02\x20".to_vec()),
            ("(-1, 256)", b"\0\x02\x1F\xFE\0\x01\0\x02\x22\x01\0".to_vec()),
            (r#"(("a",), "\x00")"#, b"\0\x03a\0\0\0\x01\0\xFF".to_vec()),
            (r#"("", ("b\"", ("c", "")))"#, b"\0\x01\0\x03b\"\0\x01\0\x03c\0\x01\0\0\0\0".to_vec()),
        ] {
            assert_eq!(show(&key), text);
            assert_eq!(unescape(text.as_bytes()), Ok(key));
        }
        for number in [large, smallest] {
            let text = format!("({number},)");
            assert_eq!(show(&unescape(text.as_bytes()).unwrap()), text);
        }
        assert_eq!(unescape(b"( \"a\" ,1, )"), unescape(br#"("a", 1)"#));
        for bad in
            ["(", "()", "(,)", "(1", "(1 2)", "(a)", "(\"a)", "(1) ", "(1)x", "(1-)", "(\"\\q\")"]
        {
            assert!(unescape(bad.as_bytes()).is_err(), "{bad}");
        }
        assert!(unescape("(".repeat(100_000).as_bytes()).is_err());
    }

    #[test]
    fn plain_bytes_stand_for_themselves_and_incomplete_escapes_are_errors() {
        assert_eq!(unescape("gr\u{fc}n".as_bytes()), Ok("gr\u{fc}n".as_bytes().to_vec()));
        assert_eq!(unescape(b"it's \\0"), Ok(b"it's \0".to_vec()));
        for bad in [&b"\\"[..], b"\\x", b"\\x4", b"\\xzz", b"\\q"] {
            assert!(unescape(bad).is_err(), "{}", bad.escape_ascii());
        }
    }
}
