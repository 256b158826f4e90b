//! The straightforward program: the csv crate, and one `BufWriter` for each partition.

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hasher};
use std::io::BufWriter;
use std::path::Path;

use anyhow::{Context, Result};
use csv::{ByteRecord, ReaderBuilder, Writer, WriterBuilder};

use super::{BY, PARTITIONS};

/// Shuffles a file on one thread.
pub(crate) fn shuffle(input: &Path, out: &Path) -> Result<()> {
    fs::create_dir(out)?;
    let mut reader = ReaderBuilder::new().buffer_capacity(1 << 20).from_path(input)?;
    let header = reader.byte_headers()?.clone();
    let column = header.iter().position(|name| name == BY.as_bytes()).context("no such column")?;
    let create = |partition: usize| -> Result<Writer<BufWriter<File>>> {
        let file = File::create_new(out.join(format!("{partition:02}.csv")))?;
        let mut writer = WriterBuilder::new().from_writer(BufWriter::with_capacity(64 << 10, file));
        writer.write_byte_record(&header)?;
        Ok(writer)
    };
    let mut writers: Vec<_> = (0..PARTITIONS).map(create).collect::<Result<_>>()?;
    let mut record = ByteRecord::new();
    while reader.read_byte_record(&mut record)? {
        let mut hasher = DefaultHasher::new();
        hasher.write(&record[column]);
        let partition = hasher.finish() as usize % PARTITIONS;
        writers[partition].write_byte_record(&record)?;
    }
    writers.iter_mut().try_for_each(|writer| Ok(writer.flush()?))
}
