//! Walks the chain of batches of a segment at rest, given all its bytes.
//!
//! It serves tools, tests and fuzzing. The engine walks live mappings word by word, with the same
//! decoders.

use byteorder::{ByteOrder, LittleEndian as Le};

use crate::batch::{Batch, WORDS_LEN};
use crate::error::Error;
use crate::segment::SegmentHeader;
use crate::word::{Link, STATE_AT, Salt, State};

/// Walks the chain of batches of one segment.
///
/// ```
/// use partd_format::{Ending, Scanner};
/// let bytes = include_bytes!("../golden/v1/kinds.seg");
/// let mut scanner = Scanner::new(bytes)?;
/// let committed = scanner.by_ref().filter(|found| matches!(found.batch, Some(Ok(_)))).count();
/// assert_eq!(committed, 3);
/// assert_eq!(scanner.ending(), Some(Ending::Sealed));
/// # Ok::<(), partd_format::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Scanner<'a> {
    bytes: &'a [u8],
    header: SegmentHeader,
    offset: u64,
    ending: Option<Ending>,
}

/// A batch that a scan found in the chain.
#[derive(Clone, Debug)]
pub struct ScannedBatch<'a> {
    /// Its offset in the segment.
    pub offset: u64,
    /// Its length in bytes, link and state words included.
    pub len: u64,
    /// Its state word, decoded.
    pub state: Result<State, Error>,
    /// Its contents if it is committed; the values are not checked.
    pub batch: Option<Result<Batch<'a>, Error>>,
}

/// How the chain of a segment ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Free space follows; batches may still be added.
    Open,
    /// The segment is sealed.
    Sealed,
    /// The chain is broken: a link word is damaged, or a power cut tore it.
    Broken(Error),
}

impl<'a> Scanner<'a> {
    /// Begins a scan; `bytes` is the whole file.
    ///
    /// # Errors
    /// If the header of the segment violates the format.
    pub fn new(bytes: &'a [u8]) -> Result<Scanner<'a>, Error> {
        let header = SegmentHeader::decode(bytes, bytes.len() as u64)?;
        Ok(Scanner { bytes, header, offset: header.data_start, ending: None })
    }

    /// The header of the segment.
    #[must_use]
    pub fn header(&self) -> &SegmentHeader {
        &self.header
    }

    /// The offset of the next link word: the end of the last batch that it returned.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// How the chain ends; `None` until the scan gets there.
    #[must_use]
    pub fn ending(&self) -> Option<Ending> {
        self.ending
    }

    fn word(&self, offset: u64) -> Option<u64> {
        let at = usize::try_from(offset).ok()?;
        Some(Le::read_u64(self.bytes.get(at..at.checked_add(8)?)?))
    }

    fn salt(&self) -> Salt {
        self.header.salt
    }
}

impl<'a> Iterator for Scanner<'a> {
    type Item = ScannedBatch<'a>;

    fn next(&mut self) -> Option<ScannedBatch<'a>> {
        if self.ending.is_some() {
            return None;
        }
        let offset = self.offset;
        let limit = self.bytes.len() as u64;
        // A chain that fills the segment to its end counts as sealed.
        let Some(word) = self.word(offset) else {
            self.ending = Some(Ending::Sealed);
            return None;
        };
        let len = match Link::decode(self.salt(), offset, word, limit) {
            Ok(Link::Batch(len)) => len,
            Ok(Link::End) => {
                self.ending = Some(Ending::Open);
                return None;
            }
            Ok(Link::Sealed) => {
                self.ending = Some(Ending::Sealed);
                return None;
            }
            Err(error) => {
                self.ending = Some(Ending::Broken(error));
                return None;
            }
        };
        self.offset = offset + len;
        let state_word = self.word(offset + STATE_AT).unwrap_or(0);
        let state = State::decode(self.salt(), offset, state_word);
        let batch = match state {
            Ok(State::Committed(_)) => {
                let body = &self.bytes[(offset + WORDS_LEN) as usize..(offset + len) as usize];
                Some(Batch::parse(self.salt(), offset, body))
            }
            _ => None,
        };
        Some(ScannedBatch { offset, len, state, batch })
    }
}
