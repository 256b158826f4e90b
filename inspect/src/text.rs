//! Numbers, sizes, ids and errors as text, in messages and in the output of the tools.

use std::io;

use rustix::process::{Resource, getrlimit};

/// Formats a range of sequence numbers: "batch 3" or "batches 3 to 5".
#[must_use]
pub fn range(first: u64, last: u64) -> String {
    if first == last { format!("batch {first}") } else { format!("batches {first} to {last}") }
}

/// Formats a size in the largest unit that leaves at least 1 before the point: "977 KiB".
#[must_use]
pub fn size(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let (mut value, mut unit) = (bytes as f64, 0);
    while value >= 1023.5 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    match unit {
        0 => format!("{bytes} B"),
        _ if value < 9.995 => format!("{value:.2} {}", units[unit]),
        _ if value < 99.95 => format!("{value:.1} {}", units[unit]),
        _ => format!("{value:.0} {}", units[unit]),
    }
}

/// Formats an error of a write. If it exceeded the file size limit of this process, names the limit.
#[must_use]
pub fn io_error(error: &io::Error) -> String {
    match (error.kind(), getrlimit(Resource::Fsize).current) {
        (io::ErrorKind::FileTooLarge, Some(limit)) => format!(
            "{error}: this process may only write files of at most {limit} bytes (RLIMIT_FSIZE, \
             `ulimit -f`)"
        ),
        _ => error.to_string(),
    }
}

/// Formats a uuid with hyphens.
#[must_use]
pub fn uuid(bytes: &[u8; 16]) -> String {
    let mut text = String::with_capacity(36);
    for (i, byte) in bytes.iter().enumerate() {
        if matches!(i, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    text
}
