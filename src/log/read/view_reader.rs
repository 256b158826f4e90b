//! Reads a view as a stream of bytes: `Read` and `BufRead` over chunks that were already checked.

use std::io::{self, BufRead, Read};

use crate::log::fs::{Disk, OsDisk};
use crate::log::read::pieces::Pieces;

/// A reader of a [`View`](crate::View), created by [`View::reader`](crate::View::reader).
///
/// It implements [`Read`] and [`BufRead`]. The buffers of [`fill_buf`](BufRead::fill_buf) are
/// slices of the mapping, so it needs no [`BufReader`](std::io::BufReader) around it. The view has
/// checked the value, and reading it cannot fail.
#[derive(Debug)]
pub struct ViewReader<'v, D: Disk = OsDisk> {
    pieces: Pieces<'v, D::File>,
    /// The bytes of the current piece that were not read.
    current: &'v [u8],
    /// The bytes of the value that were not read.
    left: u64,
}

impl<'v, D: Disk> ViewReader<'v, D> {
    /// Creates a reader of pieces that have `len` bytes in total.
    pub(super) fn new(pieces: Pieces<'v, D::File>, len: u64) -> ViewReader<'v, D> {
        ViewReader { pieces, current: &[], left: len }
    }

    /// Returns the bytes of the current piece, or of the next one that has any.
    fn fill(&mut self) -> &'v [u8] {
        while self.current.is_empty()
            && let Some(piece) = self.pieces.next()
        {
            self.current = piece;
        }
        self.current
    }
}

impl<D: Disk> Read for ViewReader<'_, D> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let current = self.fill();
        let len = current.len().min(buffer.len());
        buffer[..len].copy_from_slice(&current[..len]);
        self.consume(len);
        Ok(len)
    }

    fn read_to_end(&mut self, buffer: &mut Vec<u8>) -> io::Result<usize> {
        let len = usize::try_from(self.left).map_err(|_| io::ErrorKind::OutOfMemory)?;
        buffer.try_reserve_exact(len)?;
        loop {
            let current = self.fill();
            if current.is_empty() {
                return Ok(len);
            }
            buffer.extend_from_slice(current);
            self.consume(current.len());
        }
    }
}

impl<D: Disk> BufRead for ViewReader<'_, D> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        Ok(self.fill())
    }

    fn consume(&mut self, len: usize) {
        // To consume more than was lent is a bug of the caller; skip no more than was lent.
        let len = len.min(self.current.len());
        self.current = &self.current[len..];
        self.left -= len as u64;
    }
}
