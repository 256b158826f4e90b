//! An answer of bytes: a small one in memory, a large one in a temporary file.
//!
//! An answer is a copy of what the store has, or of what the client did not take at once (`lend`), so
//! that a client that reads its answer slowly does not hold a lock of the store. The temporary file
//! bounds the memory of an answer, whatever the length of a value.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::ops::Deref;
use std::path::Path;
use std::time::Instant;

use partd::{Chunks, Result};

use super::budget::Charge;
use crate::error::io_error;
use crate::net::account::Account;

/// The most bytes in one chunk of an answer.
pub(crate) const CHUNK_BYTES: usize = 1 << 20;

/// An answer of bytes.
#[derive(Debug)]
pub(crate) struct Answer {
    bytes: Bytes,
    /// Accounts for the memory of the answer.
    charge: Option<Charge>,
}

#[derive(Debug)]
enum Bytes {
    Memory(Vec<u8>),
    File(File),
}

/// Returns the length of a value.
pub(crate) fn len_of(value: &Chunks<'_>) -> u64 {
    value.iter().map(|piece| piece.len() as u64).sum()
}

/// Returns the length of an answer: for each value, 8 bytes and the value.
pub(crate) fn total_bytes(values: &[Chunks<'_>]) -> u64 {
    values.iter().map(|value| 8 + len_of(value)).sum()
}

impl Answer {
    /// Copies the values, each preceded by its length.
    pub(crate) fn of_values(
        values: &[Chunks<'_>],
        charge: &Charge,
        memory_bytes: u64,
        spool: &Path,
    ) -> Result<Answer> {
        Answer::build(total_bytes(values), charge, memory_bytes, spool, |out| {
            values.iter().try_for_each(|value| {
                out(&len_of(value).to_be_bytes())?;
                value.iter().try_for_each(|piece| out(piece))
            })
        })
    }

    /// Builds an answer of `total` bytes, which `fill` passes in pieces to its argument.
    ///
    /// The answer is in memory if it has at most `memory_bytes` and `charge` has room for it, else
    /// in a file in `spool`.
    pub(crate) fn build(
        total: u64,
        charge: &Charge,
        memory_bytes: u64,
        spool: &Path,
        fill: impl FnOnce(&mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()>,
    ) -> Result<Answer> {
        let charge = if total <= memory_bytes { charge.answer(total) } else { None };
        if let Some(mut charge) = charge {
            let mut memory = charge.memory(total as usize);
            fill(&mut |bytes| {
                memory.extend_from_slice(bytes);
                Ok(())
            })?;
            return Ok(Answer { bytes: Bytes::Memory(memory), charge: Some(charge) });
        }
        let cannot = |error| io_error("keep a large answer in", spool, error);
        let file = tempfile::tempfile_in(spool).map_err(cannot)?;
        let mut writer = io::BufWriter::with_capacity(1 << 18, file);
        fill(&mut |bytes| writer.write_all(bytes).map_err(cannot))?;
        let mut file = writer.into_inner().map_err(|error| cannot(error.into_error()))?;
        file.rewind().map_err(cannot)?;
        Ok(Answer { bytes: Bytes::File(file), charge: None })
    }

    /// Copies slices to memory. `charge` accounts for at least as many bytes.
    pub(crate) fn of_slices<S: Deref<Target = [u8]>>(mut charge: Charge, slices: &[S]) -> Answer {
        let len = slices.iter().map(|slice| slice.len()).sum();
        // Reducing a charge never waits or fails.
        let _ = charge.hold(len as u64, Instant::now());
        let mut memory = charge.memory(len);
        slices.iter().for_each(|slice| memory.extend_from_slice(slice));
        Answer::in_memory(memory, Some(charge))
    }

    /// Makes an answer of bytes in memory; `charge` accounts for them.
    pub(crate) fn in_memory(bytes: Vec<u8>, charge: Option<Charge>) -> Answer {
        Answer { bytes: Bytes::Memory(bytes), charge }
    }

    /// Returns the bytes if they are in memory.
    pub(crate) fn memory(&self) -> Option<&[u8]> {
        match &self.bytes {
            Bytes::Memory(bytes) => Some(bytes),
            Bytes::File(_) => None,
        }
    }

    /// Passes the answer to `chunk` in pieces, at least one; the flag marks the last.
    ///
    /// The outer result is that of reading the file, the inner one that of `chunk`.
    pub(crate) fn chunks<E>(
        &self,
        mut chunk: impl FnMut(&[u8], bool) -> Result<(), E>,
    ) -> io::Result<Result<(), E>> {
        match &self.bytes {
            Bytes::Memory(bytes) => {
                let mut rest = &bytes[..];
                loop {
                    let (now, later) = rest.split_at(rest.len().min(CHUNK_BYTES));
                    if let Err(error) = chunk(now, later.is_empty()) {
                        return Ok(Err(error));
                    }
                    if later.is_empty() {
                        return Ok(Ok(()));
                    }
                    rest = later;
                }
            }
            Bytes::File(file) => {
                // The answer may have been sent before.
                let mut file = file;
                file.rewind()?;
                let mut left = file.metadata()?.len();
                let mut buffer = vec![0; CHUNK_BYTES];
                loop {
                    let len = left.min(CHUNK_BYTES as u64) as usize;
                    file.read_exact(&mut buffer[..len])?;
                    left -= len as u64;
                    match chunk(&buffer[..len], left == 0) {
                        Ok(()) if left == 0 => return Ok(Ok(())),
                        Ok(()) => {}
                        Err(error) => return Ok(Err(error)),
                    }
                }
            }
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if let (Bytes::Memory(memory), Some(charge)) = (&mut self.bytes, &self.charge) {
            charge.keep(std::mem::take(memory));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::budget::Budget;
    use super::*;

    #[test]
    fn the_memory_of_an_answer_serves_the_next_one_and_is_freed_when_there_is_none() {
        let budget = Budget::new(1 << 30);
        let charge = Charge::new(&budget, 1 << 30);
        let value = vec![7_u8; 1 << 20];
        let values: Vec<Chunks<'_>> = vec![vec![&value]];
        let answer = || Answer::of_values(&values, &charge, 8 << 20, Path::new("/none")).unwrap();
        let place = |answer: &Answer| answer.memory().unwrap().as_ptr();
        let (first, second) = (answer(), answer());
        let places = [place(&first), place(&second)];
        drop((first, second));
        let third = answer();
        assert!(places.contains(&place(&third)));
        assert_eq!(third.memory().unwrap().len(), 8 + value.len());
        drop(third);
        assert_eq!(budget.spare_bytes() >> 20, 2);
        budget.tick();
        budget.tick();
        assert_eq!(budget.spare_bytes(), 0);
        // Memory that no charge accounts for is not kept.
        drop(Answer::in_memory(vec![0; 1 << 20], None));
        assert_eq!(budget.spare_bytes(), 0);
        // A short answer in the memory of a long one counts as long.
        drop(Answer::in_memory(vec![0; 8 << 20], charge.answer(8 << 20)));
        let short: Vec<Chunks<'_>> = vec![vec![&value[..64 << 10]]];
        let short = Answer::of_values(&short, &charge, 8 << 20, Path::new("/none")).unwrap();
        assert_eq!(budget.held(), 8 << 20);
        drop(short);
        // More than the most is freed at once.
        let many: Vec<Answer> = (0..40).map(|_| answer()).collect();
        drop(many);
        assert!((8..=16).contains(&(budget.spare_bytes() >> 20)), "{}", budget.spare_bytes());
        assert_eq!(budget.held(), 0);
    }

    #[test]
    fn an_answer_is_the_same_from_memory_and_from_a_file() {
        let value = vec![7_u8; 3 * CHUNK_BYTES + 5];
        let values: Vec<Chunks<'_>> = vec![vec![&value[..10], &value[10..]], vec![], vec![b"end"]];
        let dir = tempfile::tempdir().unwrap();
        let charge = Charge::new(&Budget::new(1 << 30), 1 << 30);
        let expected = [
            &(value.len() as u64).to_be_bytes()[..],
            &value,
            &0_u64.to_be_bytes(),
            &3_u64.to_be_bytes(),
            b"end",
        ]
        .concat();
        for memory_bytes in [1 << 20, 1 << 30] {
            let answer = Answer::of_values(&values, &charge, memory_bytes, dir.path()).unwrap();
            assert_eq!(matches!(answer.bytes, Bytes::File(_)), memory_bytes == 1 << 20);
            let (mut found, mut ends) = (Vec::new(), 0);
            let sent = answer.chunks(|bytes, last| {
                assert!(bytes.len() <= CHUNK_BYTES);
                found.extend_from_slice(bytes);
                ends += usize::from(last);
                Ok::<(), ()>(())
            });
            sent.unwrap().unwrap();
            assert!(found == expected && ends == 1);
        }
        let mut ends = 0;
        let empty = Answer::in_memory(Vec::new(), None);
        empty
            .chunks(|bytes, last| {
                ends += usize::from(last && bytes.is_empty());
                Ok::<(), ()>(())
            })
            .unwrap()
            .unwrap();
        assert_eq!(ends, 1);
    }
}
