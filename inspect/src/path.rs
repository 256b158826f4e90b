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

/// Converts text of several lines that may quote a path or an argument. A line with a character that
/// [`deceives`] is escaped like a path; line feeds stay.
#[must_use]
pub fn shown_lines(text: &str) -> String {
    text.split('\n').map(shown_line).collect::<Vec<_>>().join("\n")
}

/// Converts a message of one line that may quote a path. It is escaped like a path if it has a
/// character that [`deceives`], such as a line feed.
#[must_use]
pub fn shown_line(text: &str) -> String {
    if text.chars().any(deceives) { shown(text) } else { text.to_owned() }
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

    #[test]
    fn a_message_is_escaped_only_where_it_deceives() {
        let plain = r"cannot open C:\ü: it's gone";
        assert_eq!(shown_line(plain), plain);
        assert_eq!(shown_line("a\x1b[1m\nb"), r"a\x1b[1m\nb");
        assert_eq!(shown_lines("it's\n\x1b[1m\n"), "it's\n\\x1b[1m\n");
    }
}
