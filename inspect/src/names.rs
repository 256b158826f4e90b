//! Classifies the files in the directory of a store, by name and by content.

use partd_format::control::{self, Fixed};
use partd_format::segment::{DURABLE_END_AT, HEADER_LEN, id_of_file_name};
use partd_format::{Error, Evidence, SegmentHeader};

/// The name of the file that marks a directory as a backup that is not complete.
pub const UNFINISHED_BACKUP: &str = "unfinished-backup";

/// The kind of file that a name stands for (SPEC.md, "Files of a store").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Name {
    /// The segment with this id.
    Segment(u64),
    /// The control file.
    Control,
    /// Disk space kept for removals and compactions on a full disk.
    Reserve,
    /// An unfinished file.
    Unfinished,
    /// A dead segment that a temporary store keeps to reuse.
    Recycled,
    /// A segment with a torn header that recovery renamed.
    Torn,
    /// The mark of a backup that is not complete.
    UnfinishedBackup,
    /// A name that no store uses.
    Foreign,
}

impl Name {
    /// Classifies a file name.
    #[must_use]
    pub fn of(name: &[u8]) -> Name {
        let id = |digits: &[u8]| id_of_file_name(&[digits, b".seg"].concat());
        if let Some(id) = id_of_file_name(name) {
            return Name::Segment(id);
        }
        match name {
            b"control" => return Name::Control,
            b"reserve" | b"reserve-output" => return Name::Reserve,
            _ if name == UNFINISHED_BACKUP.as_bytes() => return Name::UnfinishedBackup,
            _ => {}
        }
        if let Some(suffix) = name.strip_prefix(b"tmp-") {
            return match suffix.strip_prefix(b"recycled-") {
                Some(digits) if id(digits).is_some() => Name::Recycled,
                _ if matches!(suffix, b"control" | b"output") || is_writer(suffix) => {
                    Name::Unfinished
                }
                _ => Name::Foreign,
            };
        }
        match name.split_at_checked(16) {
            Some((digits, kind)) if id(digits).is_some() && is_torn(kind) => Name::Torn,
            _ => Name::Foreign,
        }
    }
}

/// Whether the name ends in the number of a writer slot: `writer-0000`.
fn is_writer(name: &[u8]) -> bool {
    let digits = name.strip_prefix(b"writer-");
    digits.is_some_and(|digits| digits.len() == 4 && digits.iter().all(u8::is_ascii_digit))
}

/// Whether it is `.torn`, `.torn-2` and so on.
fn is_torn(kind: &[u8]) -> bool {
    let number = kind.strip_prefix(b".torn");
    number.is_some_and(|number| match number.strip_prefix(b"-") {
        Some(digits) => !digits.is_empty() && digits.iter().all(u8::is_ascii_digit),
        None => number.is_empty(),
    })
}

/// The kind of file, by its first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// Never written: all zeros, or too short for a header.
    Blank,
    /// A segment of the store with this uuid.
    Segment([u8; 16]),
    /// A control file.
    Control(Fixed),
    /// A file of a newer format version; it may belong to any store.
    NewerVersion,
    /// Something else: a file that a power cut tore, or one that is not part of a store.
    Unknown,
}

impl Content {
    /// How many bytes [`of`](Content::of) reads.
    pub const LEN: usize = HEADER_LEN as usize;

    /// Classifies a file of `len` bytes by its first bytes: [`LEN`](Content::LEN) of them, or all
    /// if the file is shorter.
    #[must_use]
    pub fn of(bytes: &[u8], len: u64) -> Content {
        if bytes.len() < Content::LEN || bytes[..Content::LEN].iter().all(|&byte| byte == 0) {
            return Content::Blank;
        }
        // A power cut leaves version 0 if it lets the magic reach the disk but not the rest.
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
    fn only_the_names_that_the_engine_uses_belong_to_a_store() {
        for (name, expected) in [
            ("000000000000000a.seg", Name::Segment(10)),
            ("control", Name::Control),
            ("reserve", Name::Reserve),
            ("reserve-output", Name::Reserve),
            ("unfinished-backup", Name::UnfinishedBackup),
            ("tmp-control", Name::Unfinished),
            ("tmp-output", Name::Unfinished),
            ("tmp-writer-0007", Name::Unfinished),
            ("tmp-recycled-000000000000000a", Name::Recycled),
            ("000000000000000a.torn", Name::Torn),
            ("000000000000000a.torn-2", Name::Torn),
            ("000000000000000a.torn-", Name::Foreign),
            ("000000000000000a.torn2", Name::Foreign),
            ("000000000000000g.torn", Name::Foreign),
            ("tmp-writer-7", Name::Foreign),
            ("tmp-recycled-a", Name::Foreign),
            ("tmp-spare-000000000000000a", Name::Foreign),
            ("tmp-notes", Name::Foreign),
            ("store.lock", Name::Foreign),
            ("writer-0000.lock", Name::Foreign),
            ("", Name::Foreign),
        ] {
            assert_eq!(Name::of(name.as_bytes()), expected, "{name}");
        }
    }

    #[test]
    fn a_newer_version_is_recognised_and_version_zero_is_not_one() {
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
