//! Cuts a CSV file into blocks of whole records, one after the other, for several readers.
//!
//! A record ends at a line feed that is not inside quotes. One pass over the bytes, which keeps
//! the state of the quotes, finds the ends; the fields are left to whoever takes the block.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

/// The records of a file, handed out in blocks.
pub(crate) struct Records {
    file: File,
    header: Vec<u8>,
    header_len: u64,
    /// Bytes that were read behind the end of the last block; their quotes are in `quotes`.
    rest: Vec<u8>,
    quotes: Quotes,
    block_len: usize,
    rounds_left: usize,
}

/// Where a scan stands with regard to quotes.
///
/// As in the crate csv, a quote opens only at the start of a field.
#[derive(Clone, Copy, PartialEq)]
enum Quotes {
    FieldStart,
    Unquoted,
    Quoted,
    /// Behind a quote inside quotes: the end of the field, or the first of two.
    MaybeClosed,
}

impl Quotes {
    /// Goes over the bytes; where the last record in them ends, if one does.
    fn last_end(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut end = None;
        for (i, byte) in bytes.iter().enumerate() {
            *self = match (*self, byte) {
                (Quotes::Quoted, b'"') => Quotes::MaybeClosed,
                (Quotes::Quoted, _) => continue,
                (Quotes::FieldStart | Quotes::MaybeClosed, b'"') => Quotes::Quoted,
                (_, b'\n') => {
                    end = Some(i + 1);
                    Quotes::FieldStart
                }
                (_, b',') => Quotes::FieldStart,
                _ => Quotes::Unquoted,
            };
        }
        end
    }
}

impl Records {
    /// Opens a file that starts with a header; its records will be handed out `repeat` times.
    pub(crate) fn open(path: &Path, block_len: usize, repeat: usize) -> io::Result<Records> {
        let mut records = Records {
            file: File::open(path)?,
            header: Vec::new(),
            header_len: 0,
            rest: Vec::new(),
            quotes: Quotes::FieldStart,
            block_len,
            rounds_left: repeat,
        };
        // The first record is the header: byte for byte, since the file is at its start.
        let mut start = Vec::new();
        loop {
            let read = (&records.file).take(4096).read_to_end(&mut start)?;
            let mut quotes = Quotes::FieldStart;
            let mut ends =
                (1..=start.len()).filter(|end| quotes.last_end(&start[end - 1..*end]).is_some());
            if let Some(end) = ends.next() {
                start.truncate(end);
                break;
            }
            if read == 0 {
                break;
            }
        }
        records.file.seek(SeekFrom::Start(start.len() as u64))?;
        records.header_len = start.len() as u64;
        // A file of nothing but a header may lack the end of its line.
        if !start.ends_with(b"\n") {
            start.push(b'\n');
        }
        records.header = start;
        Ok(records)
    }

    /// The header, with the end of its line.
    pub(crate) fn header(&self) -> &[u8] {
        &self.header
    }

    /// Replaces `block` by the next whole records; `false` when there are none left.
    pub(crate) fn next_block(&mut self, block: &mut Vec<u8>) -> io::Result<bool> {
        block.clear();
        block.append(&mut self.rest);
        while self.rounds_left > 0 {
            let scanned = block.len();
            let read = (&self.file).take(self.block_len as u64).read_to_end(block)?;
            if read == 0 {
                self.rounds_left -= 1;
                self.quotes = Quotes::FieldStart;
                self.file.seek(SeekFrom::Start(self.header_len))?;
                if block.is_empty() {
                    continue;
                }
                // The last record of a file may lack its line feed.
                block.push(b'\n');
                return Ok(true);
            }
            if let Some(end) = self.quotes.last_end(&block[scanned..]) {
                self.rest = block.split_off(scanned + end);
                return Ok(true);
            }
        }
        Ok(false)
    }
}
