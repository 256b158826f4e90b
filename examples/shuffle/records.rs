//! Splits a CSV file into blocks of whole records, one after the other, for several readers.
//!
//! A record ends at a line feed that is not inside quotes. A scan of each block finds the last such end;
//! it tracks the quotes only if the block has some. The receiver parses the fields.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

/// The records of a file, handed out in blocks.
pub(crate) struct Records {
    file: File,
    header: Vec<u8>,
    header_len: u64,
    /// Bytes that were read after the end of the last block; `quotes` is their state.
    rest: Vec<u8>,
    quotes: Quotes,
    block_len: usize,
    rounds_left: usize,
}

/// The state of a scan with regard to quotes.
///
/// As in the csv crate, a quote opens only at the start of a field.
#[derive(Clone, Copy, PartialEq)]
enum Quotes {
    FieldStart,
    Unquoted,
    Quoted,
    /// After a quote inside quotes: the end of the field, or the first of two quotes.
    MaybeClosed,
}

impl Quotes {
    /// Scans the bytes; returns the end of the last complete record, if there is one.
    fn last_end(&mut self, bytes: &[u8]) -> Option<usize> {
        if !bytes.contains(&b'"') {
            // Either all of it is inside quotes, or every line feed ends a record.
            *self = match (*self, bytes.last()) {
                (Quotes::Quoted, _) | (_, None) => return None,
                (_, Some(b',' | b'\n')) => Quotes::FieldStart,
                (_, Some(_)) => Quotes::Unquoted,
            };
            return bytes.iter().rposition(|byte| *byte == b'\n').map(|at| at + 1);
        }
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
    /// Opens a file that starts with a header; its records are read `repeat` times.
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
        // The first record is the header; it is read byte by byte, since the file is at its start.
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
        // In a file with only a header, the line may lack its end.
        if !start.ends_with(b"\n") {
            start.push(b'\n');
        }
        records.header = start;
        Ok(records)
    }

    /// The header, including the end of its line.
    pub(crate) fn header(&self) -> &[u8] {
        &self.header
    }

    /// Replaces `block` by the next whole records; `false` if there are none left.
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
