//! The way of record batches through a spill file and back, without any operator: DataFusion's own
//! files and partd, alternating. `cargo bench -p partd-datafusion --bench path`.
//!
//! Each round writes 24 files of 40 MB as operators do, and then reads and decodes them. Every value
//! that comes back is added up, and the sums are compared.

use std::fs;
use std::sync::Arc;
use std::time::Instant;

use datafusion_common::Result;
use datafusion_common::arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch};
use datafusion_common::arrow::buffer::Buffer;
use datafusion_common::arrow::datatypes::Int64Type;
use datafusion_common::arrow::ipc::reader::StreamDecoder;
use datafusion_common::arrow::ipc::writer::StreamWriter;
use datafusion_execution::SpillFile;
use datafusion_execution::disk_manager::{DiskManager, DiskManagerBuilder};
use futures::StreamExt;
use partd_datafusion::PartdSpill;

const ROUNDS: usize = 5;
const FILES: usize = 24;
const BATCHES: i64 = 60;
const ROWS: i64 = 8192;
const COLUMNS: i64 = 10;

/// Seconds to write, seconds to read, and descriptors between the two.
type Measured = (f64, f64, usize);

fn batch(number: i64) -> RecordBatch {
    let columns = (0..COLUMNS).map(|column| -> (String, ArrayRef) {
        let numbers = (0..ROWS).map(|row| (number * ROWS + row).wrapping_mul(column + 7));
        (format!("c{column}"), Arc::new(Int64Array::from_iter_values(numbers)))
    });
    RecordBatch::try_from_iter(columns).expect("the columns have one length")
}

fn sum(batch: &RecordBatch) -> i64 {
    let columns = batch.columns().iter();
    columns
        .flat_map(|column| column.as_primitive::<Int64Type>().values())
        .fold(0, |sum, n| sum.wrapping_add(*n))
}

fn write(disk: &Arc<DiskManager>, batches: &[RecordBatch]) -> Result<Arc<dyn SpillFile>> {
    let file = disk.create_tmp_file("a benchmark")?;
    let mut writer = StreamWriter::try_new(file.open_writer()?, &batches[0].schema())?;
    for batch in batches {
        writer.write(batch)?;
    }
    writer.finish()?;
    writer.into_inner()?.finish()?;
    Ok(file)
}

async fn read(file: &Arc<dyn SpillFile>) -> Result<i64> {
    let (mut decoder, mut total) = (StreamDecoder::new(), 0_i64);
    let mut chunks = file.read_stream()?;
    while let Some(chunk) = chunks.next().await {
        let mut buffer = Buffer::from(chunk?);
        while !buffer.is_empty() {
            if let Some(batch) = decoder.decode(&mut buffer)? {
                total = total.wrapping_add(sum(&batch));
            }
        }
    }
    decoder.finish()?;
    Ok(total)
}

async fn round(
    disk: &Arc<DiskManager>,
    batches: &[RecordBatch],
    expected: i64,
) -> Result<Measured> {
    let start = Instant::now();
    let files = (0..FILES).map(|_| write(disk, batches)).collect::<Result<Vec<_>>>()?;
    let written = start.elapsed().as_secs_f64();
    let descriptors = fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    let start = Instant::now();
    for file in &files {
        assert_eq!(read(file).await?, expected, "other values come back");
    }
    Ok((written, start.elapsed().as_secs_f64(), descriptors))
}

#[tokio::main(worker_threads = 2)]
async fn main() -> Result<()> {
    let load = || fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let batches: Vec<RecordBatch> = (0..BATCHES).map(batch).collect();
    let expected = batches.iter().map(sum).fold(0, i64::wrapping_add);
    let bytes = FILES as f64 * (BATCHES * ROWS * COLUMNS * 8) as f64;
    println!("{:.2} GB a round, load {}", bytes / 1e9, load().trim());
    let mut all = [Vec::new(), Vec::new()];
    for number in 0..ROUNDS {
        for side in [number % 2, (number + 1) % 2] {
            // Anew for each round, as for a query of its own.
            let builder = DiskManagerBuilder::default();
            let builder = match side {
                0 => builder,
                _ => builder.with_temp_file_factory(Arc::new(PartdSpill::temporary()?)),
            };
            all[side].push(round(&Arc::new(builder.build()?), &batches, expected).await?);
        }
    }
    for (name, rounds) in ["own files", "partd"].into_iter().zip(&mut all) {
        let median = |of: fn(&Measured) -> f64| {
            let mut figures: Vec<f64> = rounds.iter().map(of).collect();
            figures.sort_by(f64::total_cmp);
            figures[ROUNDS / 2]
        };
        let (written, read) = (median(|m| m.0), median(|m| m.1));
        let descriptors = median(|m| m.2 as f64);
        println!(
            "{name}: write {written:.2} s, {:.2} GB/s; read {read:.2} s, {:.2} GB/s; both {:.2} s; \
             {descriptors} descriptors",
            bytes / written / 1e9,
            bytes / read / 1e9,
            written + read,
        );
    }
    println!("load {}", load().trim());
    Ok(())
}
