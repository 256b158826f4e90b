//! What a file in the directory of a store is: by its name, and by its first bytes.

use partd_format::control::{self, Fixed};
use partd_format::segment::{DURABLE_END_AT, HEADER_LEN, id_of_file_name};
use partd_format::{Error, Evidence, SegmentHeader};

/// What a name says (SPEC.md, "Files of a store").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Name {
    /// A segment of this id.
    Segment(u64),
    /// The control file.
    Control,
    /// Space kept for removals and compactions on a full disk; it holds nothing.
    Reserve,
    /// A file that was not finished.
    Unfinished,
    /// A dead segment that a temporary store keeps to write it again.
    Recycled,
    /// A segment without a readable header, which recovery has set aside.
    Torn,
    /// No name that a store gives.
    Strange,
}

impl Name {
    /// Reads the name of a file.
    #[must_use]
    pub fn of(name: &[u8]) -> Name {
        let id = |digits: &[u8]| id_of_file_name(&[digits, b".seg"].concat());
        if let Some(id) = id_of_file_name(name) {
            return Name::Segment(id);
        }
        match name {
            b"control" => return Name::Control,
            b"reserve" | b"reserve-output" => return Name::Reserve,
            _ => {}
        }
        if let Some(maker) = name.strip_prefix(b"tmp-") {
            return match maker.strip_prefix(b"recycled-") {
                Some(digits) if id(digits).is_some() => Name::Recycled,
                _ if matches!(maker, b"control" | b"output") || is_writer(maker) => {
                    Name::Unfinished
                }
                _ => Name::Strange,
            };
        }
        match name.split_at_checked(16) {
            Some((digits, kind)) if id(digits).is_some() && is_torn(kind) => Name::Torn,
            _ => Name::Strange,
        }
    }
}

/// Whether something is named after a writer's slot.
fn is_writer(name: &[u8]) -> bool {
    let digits = name.strip_prefix(b"writer-");
    digits.is_some_and(|digits| digits.len() == 4 && digits.iter().all(u8::is_ascii_digit))
}

/// `.torn`, `.torn-2` and so on.
fn is_torn(kind: &[u8]) -> bool {
    let number = kind.strip_prefix(b".torn");
    number.is_some_and(|number| match number.strip_prefix(b"-") {
        Some(digits) => !digits.is_empty() && digits.iter().all(u8::is_ascii_digit),
        None => number.is_empty(),
    })
}

/// What the first bytes of a file say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// Nothing that was ever stored: all zeros, or too short for a header.
    Blank,
    /// A segment of the store with this uuid.
    Segment([u8; 16]),
    /// A control file.
    Control(Fixed),
    /// A file of a newer version of the format: it may be anybody's.
    NewerVersion,
    /// Something else: what a power cut has torn, or what somebody has put there.
    Unknown,
}

impl Content {
    /// How many bytes [`of`](Content::of) looks at.
    pub const LEN: usize = HEADER_LEN as usize;

    /// Looks at the first bytes of a file of `len` bytes, which are fewer than [`LEN`](Content::LEN)
    /// only if the file is shorter.
    #[must_use]
    pub fn of(bytes: &[u8], len: u64) -> Content {
        if bytes.len() < Content::LEN || bytes[..Content::LEN].iter().all(|&byte| byte == 0) {
            return Content::Blank;
        }
        // Version 0 is what a power cut leaves where the magic came to the disk and the rest did not.
        let is_newer = |error: &Error| {
            let newer = u64::from(partd_format::VERSION) + 1..;
            error.what == "format version"
                && matches!(error.found, Evidence::Number(found) if newer.contains(&found))
        };
        match SegmentHeader::decode(&bytes[..DURABLE_END_AT as usize], len) {
            Ok(header) => return Content::Segment(header.store),
            Err(error) if is_newer(&error) => return Content::NewerVersion,
            Err(_) => {}
        }
        match Fixed::decode(&bytes[..control::FIXED_LEN]) {
            Ok(fixed) => Content::Control(fixed),
            Err(error) if is_newer(&error) => Content::NewerVersion,
            Err(_) => Content::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_that_the_engine_gives_and_no_others() {
        for (name, expected) in [
            ("000000000000000a.seg", Name::Segment(10)),
            ("control", Name::Control),
            ("reserve", Name::Reserve),
            ("reserve-output", Name::Reserve),
            ("tmp-control", Name::Unfinished),
            ("tmp-output", Name::Unfinished),
            ("tmp-writer-0007", Name::Unfinished),
            ("tmp-recycled-000000000000000a", Name::Recycled),
            ("000000000000000a.torn", Name::Torn),
            ("000000000000000a.torn-2", Name::Torn),
            ("000000000000000a.torn-", Name::Strange),
            ("000000000000000a.torn2", Name::Strange),
            ("000000000000000g.torn", Name::Strange),
            ("tmp-writer-7", Name::Strange),
            ("tmp-recycled-a", Name::Strange),
            ("tmp-spare-000000000000000a", Name::Strange),
            ("tmp-notes", Name::Strange),
            ("store.lock", Name::Strange),
            ("writer-0000.lock", Name::Strange),
            ("", Name::Strange),
        ] {
            assert_eq!(Name::of(name.as_bytes()), expected, "{name}");
        }
    }
    #[test]
    fn a_newer_version_may_be_anybodys_and_version_zero_is_a_torn_file() {
        let mut bytes = [0; Content::LEN];
        assert_eq!(Content::of(&bytes, 4096), Content::Blank);
        assert_eq!(Content::of(&bytes[..100], 100), Content::Blank);
        for (magic, at) in [(&control::MAGIC, 8), (b"PARTDSEG", 8)] {
            bytes[..8].copy_from_slice(magic);
            bytes[at] = 0;
            assert_eq!(Content::of(&bytes, 4096), Content::Unknown);
            bytes[at] = partd_format::VERSION as u8 + 1;
            assert_eq!(Content::of(&bytes, 4096), Content::NewerVersion);
        }
    }
}
