//! The names of the files in a store's directory.

use std::ffi::OsStr;

use partd_format::segment::{file_name, id_of_file_name};

/// The name of the control file.
pub(crate) const CONTROL: &str = "control";
/// The file that reserves disk space for a removal on a full disk.
pub(crate) const RESERVE: &str = "reserve";
/// The file that reserves disk space for the output of a compaction on a full disk. Removals never
/// take it, so a compaction can always free space and files.
pub(crate) const OUTPUT_RESERVE: &str = "reserve-output";
/// The minimum length of a reserve.
pub(crate) const RESERVE_MIN_BYTES: u64 = 64 << 10;
/// An output that a compaction is still writing.
pub(crate) const UNFINISHED_OUTPUT: &str = "tmp-output";
/// A control file under construction.
pub(crate) const UNFINISHED_CONTROL: &str = "tmp-control";
/// Marks a directory as a backup that is not complete. No handle opens such a directory.
pub(crate) const UNFINISHED_BACKUP: &str = "unfinished-backup";
/// The prefix of the name of a temporary store.
pub(crate) const TEMPORARY_PREFIX: &str = "partd-tmp-";

/// The name of a segment.
pub(crate) fn segment_name(id: u64) -> String {
    String::from_utf8_lossy(&file_name(id)).into_owned()
}

/// The name of a file that the writer in `slot` is still making.
pub(crate) fn unfinished_of_writer(slot: u16) -> String {
    format!("tmp-writer-{slot:04}")
}

/// The name of a dead segment of a temporary store that is kept for reuse.
pub(crate) fn recycled_name(id: u64) -> String {
    format!("tmp-recycled-{id:016x}")
}

/// The names to which recovery renames a segment without a readable header, in the order in which
/// it tries them.
pub(crate) fn torn_names(id: u64) -> impl Iterator<Item = String> {
    let first = format!("{id:016x}.torn");
    std::iter::once(first).chain((2..).map(move |n| format!("{id:016x}.torn-{n}")))
}

/// Whether a file of this name is unfinished or waits to be recycled.
pub(crate) fn is_unfinished(name: &OsStr) -> bool {
    let Some(maker) = name.as_encoded_bytes().strip_prefix(b"tmp-") else { return false };
    let recycled = maker.strip_prefix(b"recycled-").map(|id| [id, b".seg"].concat());
    matches!(maker, b"control" | b"output")
        || is_writer(maker)
        || recycled.is_some_and(|name| id_of_file_name(&name).is_some())
}

/// Whether a file of this name makes a directory a store.
pub(crate) fn is_of_store(name: &OsStr) -> bool {
    id_of_file_name(name.as_encoded_bytes()).is_some()
}

/// Whether a store may have a file of this name.
pub(crate) fn is_known(name: &OsStr) -> bool {
    let bytes = name.as_encoded_bytes();
    let torn = bytes.split_at_checked(16).filter(|(_, kind)| is_torn(kind));
    name == CONTROL
        || name == RESERVE
        || name == OUTPUT_RESERVE
        || is_of_store(name)
        || is_unfinished(name)
        || torn.is_some_and(|(id, _)| id_of_file_name(&[id, b".seg"].concat()).is_some())
}

fn is_torn(kind: &[u8]) -> bool {
    let number = kind.strip_prefix(b".torn");
    number.is_some_and(|number| match number.strip_prefix(b"-") {
        Some(digits) => !digits.is_empty() && digits.iter().all(u8::is_ascii_digit),
        None => number.is_empty(),
    })
}

/// Whether a name is `writer-` and the four digits of a slot.
fn is_writer(name: &[u8]) -> bool {
    let digits = name.strip_prefix(b"writer-");
    digits.is_some_and(|digits| digits.len() == 4 && digits.iter().all(u8::is_ascii_digit))
}
