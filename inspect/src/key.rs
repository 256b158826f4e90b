//! Converts keys to text and back, with the escapes of a byte string literal.
//!
//! It shows each byte as [`u8::escape_ascii`] does, like `Key`'s Display, and reads the same escapes: so
//! `get` accepts every key that `keys` shows.

/// Converts a key to text.
#[must_use]
pub fn escape(key: &[u8]) -> String {
    key.escape_ascii().to_string()
}

/// Converts a key to text for a table, where an empty cell would look like a missing key.
#[must_use]
pub fn show(key: &[u8]) -> String {
    if key.is_empty() { "\"\"".to_owned() } else { escape(key) }
}

/// Reads a key: `\\`, `\'`, `\"`, `\n`, `\r`, `\t`, `\0` and `\x` with two hexadecimal digits are
/// escapes; every other byte stands for itself. Quotes around the whole text are not part of the key.
///
/// # Errors
/// A sentence that explains a wrong escape.
pub fn unescape(text: &[u8]) -> Result<Vec<u8>, String> {
    let text = unquote(text);
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
        for pair in 0..=u16::MAX {
            let key = pair.to_le_bytes();
            assert_eq!(unescape(show(&key).as_bytes()), Ok(key.to_vec()));
            let quoted = format!("\"{}\"", escape(&key));
            assert_eq!(unescape(quoted.as_bytes()), Ok(key.to_vec()), "as `Key` displays it");
        }
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
