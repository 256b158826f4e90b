//! Numbers and ids as text, in messages and in the output of the tool.

/// Formats a range of sequence numbers: "batch 3" or "batches 3 to 5".
#[must_use]
pub fn range(first: u64, last: u64) -> String {
    if first == last { format!("batch {first}") } else { format!("batches {first} to {last}") }
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
