//! A reader follows a writer that still writes, and takes record batches without a copy.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use datafusion_common::arrow::array::{Array, AsArray, RecordBatch};
use datafusion_common::arrow::buffer::Buffer;
use datafusion_common::arrow::datatypes::Int64Type;
use datafusion_common::arrow::ipc::reader::StreamDecoder;
use datafusion_common::arrow::ipc::writer::StreamWriter;
use datafusion_common::{DataFusionError, Result};
use datafusion_execution::memory_pool::{GreedyMemoryPool, MemoryPool};
use datafusion_execution::{SpillFile, TempFileFactory};
use futures::{FutureExt, Stream, StreamExt, TryStreamExt};
use partd::{Partd, SegmentLog};
use partd_datafusion::PartdSpill;

use crate::common::rows;

type Chunks = Pin<Box<dyn Stream<Item = Result<Bytes>> + Send>>;

fn file(spill: &PartdSpill) -> Arc<dyn SpillFile> {
    spill.create_temp_file("a test").expect("a file can be created")
}

/// The next `len` bytes, which the stream must return in half a minute.
async fn take(chunks: &mut Chunks, len: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while bytes.len() < len {
        let chunk = tokio::time::timeout(Duration::from_secs(30), chunks.next()).await;
        bytes.extend(chunk.expect("not within 30 s").expect("no end yet").expect("no error"));
    }
    bytes
}

#[tokio::test]
async fn a_reader_gets_what_was_flushed_then_waits_and_ends_with_the_writer() {
    let spill = PartdSpill::temporary().unwrap();
    for len in [1, 100, 20_000, 300_000] {
        let file = file(&spill);
        let (mut writer, mut chunks) = (file.open_writer().unwrap(), file.read_stream().unwrap());
        assert!(chunks.next().now_or_never().is_none(), "nothing was written");
        for round in 0..20 {
            let bytes = vec![round; len];
            writer.write_all(&bytes).unwrap();
            writer.flush().unwrap();
            assert_eq!(take(&mut chunks, len).await, bytes);
            assert!(chunks.next().now_or_never().is_none(), "round {round}");
        }
        // A reader that waits already is woken, and one that comes late sees everything.
        let waiting = tokio::spawn(async move { chunks.next().await });
        tokio::task::yield_now().await;
        writer.finish().unwrap();
        assert!(waiting.await.unwrap().is_none());
        let all: Vec<Bytes> = file.read_stream().unwrap().try_collect().await.unwrap();
        assert_eq!(all.concat(), (0..20).flat_map(|round| vec![round; len]).collect::<Vec<_>>());
    }
    assert_eq!(spill.stats().files, 0);
}

#[tokio::test]
async fn a_compaction_and_the_end_of_the_factory_do_not_disturb_a_reader() {
    let spill = PartdSpill::temporary().unwrap();
    let (one, other) = (file(&spill), file(&spill));
    let mut writers = [one.open_writer().unwrap(), other.open_writer().unwrap()];
    let (mut chunks, mut read) = (one.read_stream().unwrap(), Vec::new());
    let mut expected = Vec::new();
    for round in 0..50_u8 {
        let bytes = vec![round; 7777];
        expected.extend_from_slice(&bytes);
        for writer in &mut writers {
            writer.write_all(&bytes).unwrap();
            writer.flush().unwrap();
        }
        read.extend(take(&mut chunks, 7777).await);
        if round % 10 == 0 {
            spill.store().compact().unwrap();
        }
    }
    writers.into_iter().for_each(|mut writer| writer.finish().unwrap());
    drop((spill, other));
    assert!(chunks.next().await.is_none());
    assert!(read == expected);
    let again: Vec<Bytes> = one.read_stream().unwrap().try_collect().await.unwrap();
    assert!(again.concat() == expected);
}

/// Writes batches as DataFusion does.
fn write(file: &Arc<dyn SpillFile>, batches: &[RecordBatch]) {
    let out = file.open_writer().unwrap();
    let mut writer = StreamWriter::try_new(out, &batches[0].schema()).unwrap();
    batches.iter().for_each(|batch| writer.write(batch).unwrap());
    writer.finish().unwrap();
    writer.into_inner().unwrap().finish().unwrap();
}

/// Reads batches as DataFusion does.
async fn read(file: &Arc<dyn SpillFile>) -> Vec<RecordBatch> {
    let (mut decoder, mut batches) = (StreamDecoder::new(), Vec::new());
    let mut chunks = file.read_stream().unwrap();
    while let Some(chunk) = chunks.next().await {
        let mut buffer = Buffer::from(chunk.unwrap());
        while !buffer.is_empty() {
            batches.extend(decoder.decode(&mut buffer).unwrap());
        }
    }
    decoder.finish().unwrap();
    batches
}

#[tokio::test]
async fn the_buffers_of_a_batch_are_bytes_of_the_store_before_and_after_a_compaction() {
    let spill = PartdSpill::temporary().unwrap();
    let file = file(&spill);
    let batches: Vec<RecordBatch> =
        (0..10).map(|i| rows(1, i * 8192..(i + 1) * 8192, 1000)).collect();
    write(&file, &batches);
    for compacted in [false, true] {
        if compacted {
            spill.store().compact().unwrap();
        }
        let read = read(&file).await;
        assert_eq!(read, batches);
        let view = spill.store().view(("spill", "0")).unwrap();
        let chunks: Vec<_> = view.chunks().map(<[u8]>::as_ptr_range).collect();
        for batch in &read {
            for column in 0..3 {
                let numbers = batch.column(column).as_primitive::<Int64Type>().values();
                let at = numbers.as_ptr().cast::<u8>();
                assert!(chunks.iter().any(|chunk| chunk.contains(&at)), "column {column}");
            }
            // DataFusion counts the buffers of a batch by their capacity.
            let body = batch.column(0).to_data().buffers()[0].capacity();
            let least: usize =
                batch.columns().iter().map(|c| c.to_data().get_slice_memory_size().unwrap()).sum();
            assert!(compacted || body < least * 2, "{body} counted, {least} needed");
        }
    }
    // They stay valid without the file and the store.
    let kept = read(&file).await;
    drop((file, spill));
    assert_eq!(kept, batches);
}

#[tokio::test]
async fn short_batches_are_gathered_with_memory_of_the_pool_and_without() {
    let batches: Vec<RecordBatch> = (0..200).map(|i| rows(1, i * 3..i * 3 + 3, 10)).collect();
    for pool_bytes in [1 << 20, 1] {
        let pool: Arc<dyn MemoryPool> = Arc::new(GreedyMemoryPool::new(pool_bytes));
        let spill = PartdSpill::builder().memory_pool(&pool).build().unwrap();
        let file = file(&spill);
        write(&file, &batches);
        assert_eq!(pool.reserved(), 0, "a finished file needs no memory");
        assert_eq!(read(&file).await, batches);
        let appended = spill.store().counters().batches_written;
        match pool_bytes {
            1 => assert!(appended > 200, "{appended}"),
            _ => assert!(appended < 20, "{appended}"),
        }
    }
}

#[tokio::test]
async fn a_file_has_one_writer_at_a_time_and_a_finished_one_takes_no_more() {
    let spill = PartdSpill::temporary().unwrap();
    let file = file(&spill);
    let mut writer = file.open_writer().unwrap();
    assert!(file.open_writer().is_err());
    writer.write_all(b"one").unwrap();
    writer.finish().unwrap();
    writer.write_all(b"no").unwrap_err();
    // The next writer appends.
    let mut second = file.open_writer().unwrap();
    second.write_all(b", two").unwrap();
    drop(second); // not finished: what it wrote is there, as in a file
    let all: Vec<Bytes> = file.read_stream().unwrap().try_collect().await.unwrap();
    assert_eq!(all.concat(), b"one, two");
}

#[tokio::test]
async fn a_reader_of_a_file_with_a_lost_write_gets_an_error_and_no_end() {
    let spill = PartdSpill::builder()
        .options(SegmentLog::options().segment_len_bytes(1 << 20).max_store_bytes(4 << 20))
        .build()
        .unwrap();
    let file = file(&spill);
    let mut writer = file.open_writer().unwrap();
    let error = (0..100).find_map(|_| writer.write_all(&[7; 300_000]).err()).expect("it is full");
    let error = DataFusionError::from(error);
    assert!(matches!(error.find_root(), DataFusionError::ResourcesExhausted(_)), "{error:?}");
    drop(writer);
    let read: Result<Vec<Bytes>> = file.read_stream().unwrap().try_collect().await;
    let error = read.expect_err("bytes are missing").to_string();
    assert!(error.contains("incomplete"), "{error}");
}

#[tokio::test]
async fn a_file_whose_key_somebody_removes_is_an_error() {
    let spill = PartdSpill::temporary().unwrap();
    let file = file(&spill);
    let mut writer = file.open_writer().unwrap();
    writer.write_all(&[7; 300_000]).unwrap();
    writer.finish().unwrap();
    spill.store().clear().unwrap();
    let read: Result<Vec<Bytes>> = file.read_stream().unwrap().try_collect().await;
    let error = read.expect_err("bytes are missing").to_string();
    assert!(error.contains("removed from the store"), "{error}");
}
