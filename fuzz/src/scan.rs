//! Every read through `partd-format`, and the invariants that hold whatever the bytes are.
//!
//! Nothing here allocates: the format's parsers need no allocator, and the limit proves it.

use partd_format::control::{Commit, FIXED_LEN, Fixed, decode_durable_seq};
use partd_format::segment::{DURABLE_END_AT, HEADER_LEN, file_name, id_of_file_name};
use partd_format::word::durable_end;
use partd_format::{Batch, Ending, Link, SEQUENCE_MAX, Salt, Scanner, State};

/// The cases that a scan has reached, so that targets and tests can check their coverage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reached {
    /// Whether the header was valid.
    pub header: bool,
    /// Committed batches that parse.
    pub batches: u64,
    /// Their entries.
    pub entries: u64,
    /// Batches whose values all match their checksums.
    pub whole: u64,
}

/// Reads bytes as a whole segment file.
///
/// # Panics
/// Panics if the result contradicts itself or lies outside the bytes: a defect of the format crate.
pub fn segment(bytes: &[u8]) -> Reached {
    let mut reached = Reached::default();
    let mut scanner = match Scanner::new(bytes) {
        Ok(scanner) => scanner,
        Err(error) => {
            assert!(error.offset <= bytes.len() as u64, "an error beyond the file");
            return reached;
        }
    };
    reached.header = true;
    let header = *scanner.header();
    let len = bytes.len() as u64;
    assert!(header.len == len && header.data_start >= HEADER_LEN && header.data_start <= len);
    let written = header.encode();
    assert!(
        written[..DURABLE_END_AT as usize] == bytes[..DURABLE_END_AT as usize],
        "a header changes when it is re-encoded"
    );
    if let Ok((inputs, retained)) = header.lists(bytes) {
        let output = header.output.map_or((0, 0), |o| (o.inputs as usize, o.retained as usize));
        assert!((inputs.count(), retained.count()) == output, "lists are not as long as they say");
    }
    let mut next = header.data_start;
    for found in scanner.by_ref() {
        assert!(found.offset == next && found.len >= 48 && found.len.is_multiple_of(8));
        next += found.len;
        assert!(next <= len, "a batch extends beyond the segment");
        let committed = matches!(found.state, Ok(State::Committed(_)));
        assert!(committed == found.batch.is_some());
        if let Ok(State::Committed(sequence)) = found.state {
            assert!((1..=SEQUENCE_MAX).contains(&sequence));
        }
        if let Some(Ok(batch)) = &found.batch {
            reached.batches += 1;
            read_batch(batch, header.salt, &mut reached);
            assert!(batch.offset() == found.offset && batch.batch_len() == found.len);
        }
    }
    assert!(scanner.next().is_none(), "a scan continues after its end");
    assert!(scanner.offset() == next);
    match scanner.ending().expect("a scan ends") {
        Ending::Open | Ending::Sealed => {}
        Ending::Broken(error) => assert!(error.offset <= len, "an error beyond the file"),
    }
    reached
}

fn read_batch(batch: &Batch<'_>, salt: Salt, reached: &mut Reached) {
    let (start, end) = (batch.offset(), batch.offset() + batch.batch_len());
    let mut next = start + batch.head_len();
    assert!(next <= end);
    let mut all_match = true;
    let mut entries = 0;
    for entry in batch.entries() {
        entries += 1;
        let is_long = entry.value_len >= 1024;
        let start = if is_long { next.next_multiple_of(64) } else { next };
        assert!(entry.value_offset == start, "a value is not where the format puts it");
        next = start + entry.value_len;
        assert!(next <= end, "a value extends beyond its batch");
        let value = batch.value(&entry);
        assert!(value.len() as u64 == entry.value_len, "a value is cut");
        assert!(entry.kind.has_value() || value.is_empty());
        assert!(entry.sequence.is_some() == batch.has_sequences());
        all_match &= entry.check(salt, value).is_ok();
    }
    assert!(entries == batch.len(), "entries are missing");
    assert!(end - next < 8, "bytes of the batch belong to no value");
    assert!(batch.check_values(salt).is_ok() == all_match);
    reached.entries += entries as u64;
    reached.whole += u64::from(all_match);
}

/// Reads bytes as a control file, as words of every kind, and as a file name.
///
/// # Panics
/// Panics if a decoded item does not encode to the same bytes: a defect of the format crate.
pub fn control_and_words(bytes: &[u8]) {
    if let Ok(fixed) = Fixed::decode(bytes) {
        assert!(
            fixed.encode()[..60] == bytes[..60],
            "the fixed fields change when they are re-encoded"
        );
    }
    let mut store = [0; 16];
    let store_len = bytes.len().min(16);
    store[..store_len].copy_from_slice(&bytes[..store_len]);
    let words = bytes.chunks_exact(8).skip(FIXED_LEN / 8).take(16);
    for (i, word) in words.enumerate() {
        let word = u64::from_le_bytes(word.try_into().expect("eight bytes"));
        let (salt, at) =
            (Salt(u64::from_le_bytes(store[8..].try_into().expect("eight"))), i as u64 * 8);
        assert!(Commit::decode(word).encode() == word);
        assert!(decode_durable_seq(&store, word).is_ok_and(|n| n <= SEQUENCE_MAX) || word != 0);
        if let Ok(state) = State::decode(salt, at, word) {
            assert!(state.encode(salt, at) == word, "a state word changes when it is re-encoded");
        }
        if let Ok(link) = Link::decode(salt, at, word, u64::MAX) {
            assert!(link.encode(salt, at) == word, "a link word changes when it is re-encoded");
        }
        if let Ok(end) = durable_end::decode(salt, word) {
            assert!(
                end == 0 || durable_end::encode(salt, end) == word,
                "a durable watermark changes when it is re-encoded"
            );
        }
    }
    if let Some(id) = id_of_file_name(&bytes[..bytes.len().min(20)]) {
        assert!(file_name(id)[..] == bytes[..20], "a name changes when it is re-encoded");
    }
}
