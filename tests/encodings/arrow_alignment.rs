//! Record batches are read from the mapping without a copy of any buffer, before and after a
//! compaction.

use std::sync::Arc;

use arrow_array::{Array, ArrayRef, Decimal128Array, Int64Array, RecordBatch, StringArray};
use arrow_buffer::Buffer;
use arrow_ipc::reader::StreamDecoder;
use partd::{Arrow, Buffer as Buffered, Dict, Partd, SegmentLog};

/// The bytes before a frame.
const PREFIX_BYTES: usize = 8;

fn batch(rows: i64) -> RecordBatch {
    let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(0..rows));
    // Its elements need an alignment of 16 bytes.
    let prices: ArrayRef = Arc::new(Decimal128Array::from_iter_values((0..rows).map(i128::from)));
    let names: ArrayRef =
        Arc::new(StringArray::from_iter_values((0..rows).map(|i| format!("row {i}"))));
    RecordBatch::try_from_iter([("n", numbers), ("price", prices), ("name", names)]).unwrap()
}

/// Reads the batches of a lent value. Fails if a buffer is not aligned or lies outside the value.
fn lent(log: &SegmentLog) -> Vec<RecordBatch> {
    let mut batches = Vec::new();
    for chunk in log.view("k").unwrap().owned_chunks() {
        let inside = chunk.as_ptr_range();
        let mut frames = Buffer::from(chunk.clone());
        while !frames.is_empty() {
            let len = u64::from_le_bytes(frames[..PREFIX_BYTES].try_into().unwrap()) as usize;
            let mut stream = frames.slice_with_length(PREFIX_BYTES, len);
            frames = frames.slice(PREFIX_BYTES + len);
            let mut decoder = StreamDecoder::new().with_require_alignment(true);
            while !stream.is_empty() {
                batches.extend(decoder.decode(&mut stream).unwrap());
            }
            for column in batches.last().unwrap().columns() {
                for buffer in column.to_data().buffers() {
                    assert!(inside.contains(&buffer.as_ptr()), "a buffer was copied");
                    assert!(
                        (buffer.as_ptr() as usize).is_multiple_of(64),
                        "a buffer is misaligned"
                    );
                }
            }
        }
    }
    batches
}

/// Checks the batches that the layer lends: they are right, and their buffers are the mapping's.
fn check_batches(p: &Arrow<SegmentLog>, expected: &[RecordBatch]) {
    let chunks: Vec<_> = p.inner().view("k").unwrap().owned_chunks().collect();
    let mut count = 0;
    for (lent, expected) in p.lend_batches("k").unwrap().zip(expected) {
        let lent = lent.unwrap();
        assert_eq!(&lent, expected);
        for column in lent.columns() {
            for buffer in column.to_data().buffers() {
                let is_inside =
                    |chunk: &bytes::Bytes| chunk.as_ptr_range().contains(&buffer.as_ptr());
                assert!(chunks.iter().any(is_inside), "a buffer was copied");
            }
        }
        count += 1;
    }
    assert_eq!(count, expected.len());
}

#[test]
fn batches_are_lent_through_a_buffer_that_joined_and_split_their_frames() {
    let dir = tempfile::tempdir().unwrap();
    let log = SegmentLog::open(dir.path().join("store")).unwrap();
    let p = Arrow::new(Buffered::new(Dict::new(), log, 64 << 20));
    let batches: Vec<RecordBatch> = (0..40).map(|i| batch(i * 100)).collect();
    for batch in &batches {
        p.append([("k", batch)]).unwrap();
    }
    let lent: Vec<RecordBatch> = p.lend_batches("k").unwrap().map(Result::unwrap).collect();
    assert_eq!(lent, batches);
    assert_eq!(p.lend_batches("missing").unwrap().count(), 0);
}

#[test]
fn lent_record_batches_share_the_bytes_of_the_mapping_before_and_after_a_compaction() {
    let dir = tempfile::tempdir().unwrap();
    let options = SegmentLog::options().segment_len_bytes(1 << 20).compaction_dead_share(None);
    let open = || Arrow::new(options.open(dir.path().join("store")).unwrap());
    let batches: Vec<RecordBatch> = [100, 1001, 30, 257].map(batch).into();
    let p = open();
    for batch in &batches {
        p.append([("k", batch)]).unwrap();
        // Something small between them, so that not every batch of the log is aligned by chance.
        p.inner().append([("other", "x")]).unwrap();
    }
    assert_eq!(lent(p.inner()), batches);
    check_batches(&p, &batches);
    drop(p);
    let p = open();
    p.inner().delete(["other"]).unwrap();
    assert_eq!(p.inner().compact().unwrap().skipped, None);
    assert_eq!(lent(p.inner()), batches);
    check_batches(&p, &batches);
}
