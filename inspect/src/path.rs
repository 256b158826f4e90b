//! Converts paths to text, and escapes what could mislead a terminal or a reader of JSON.

use std::ffi::OsStr;

/// Converts a path to text. A path is escaped like a key if it is not UTF-8 or holds a backslash,
/// or a character that controls a terminal, is invisible or turns the direction of text. So no two
/// paths look alike and none moves the cursor.
pub fn shown(path: impl AsRef<OsStr>) -> String {
    let path = path.as_ref();
    match path.to_str() {
        Some(text) if !text.chars().any(|c| c == '\\' || deceives(c)) => text.to_owned(),
        _ => path.as_encoded_bytes().escape_ascii().to_string(),
    }
}

/// Whether a character moves the cursor, is invisible, ends a line or turns the direction of text.
#[must_use]
pub fn deceives(char: char) -> bool {
    let is_invisible = matches!(
        char,
        '\u{AD}'
            | '\u{200B}'..='\u{200F}'
            | '\u{2028}'..='\u{202E}'
            | '\u{2060}'..='\u{206F}'
            | '\u{FEFF}'
    );
    char.is_control() || is_invisible
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    #[test]
    fn plain_paths_are_shown_as_they_are_and_all_others_escaped() {
        for plain in ["/data/store", "sp ace ü", "quo'te\"", "", "日本"] {
            assert_eq!(shown(plain), plain);
        }
        assert_eq!(shown("esc\x1b[31mred\nline"), r"esc\x1b[31mred\nline");
        assert_eq!(shown(r"esc\x1b"), r"esc\\x1b");
        assert_eq!(shown("gnp.\u{202e}txt"), r"gnp.\xe2\x80\xaetxt");
        assert_eq!(shown(OsStr::from_bytes(b"non\xffutf8")), r"non\xffutf8");
    }
}
