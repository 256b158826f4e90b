//! Searches one segment for what is still readable, and corrects single flipped bits.

use std::io;

use byteorder::{ByteOrder, LittleEndian as Le};
use partd_format::batch::{HEAD_LEN, WORDS_LEN};
use partd_format::segment::{HEADER_LEN, Output};
use partd_format::word::STATE_AT;
use partd_format::{Batch, Ending, Error, Link, Salt, SegmentHeader, State};

use crate::repair;
use crate::source::Window;
use crate::walk::{BatchInfo, Lists, Segment};

/// How many bytes to search at once.
const SEARCHED: u64 = 1 << 20;
/// The limit on bytes read in vain as batch headers, as a multiple of the bytes that the file
/// system stores for the file.
const FALSE_HEADS: u64 = 16;

/// The findings of a rescue in one segment.
#[derive(Debug, Default)]
pub(super) struct SegmentRescue {
    /// Batches of the chain that are readable after a correction, with their index.
    pub(super) repaired: Vec<(usize, BatchInfo)>,
    /// Batches after a break in the chain.
    pub(super) after_break: Vec<BatchInfo>,
    /// The offsets of corrected link words.
    pub(super) links: Vec<u64>,
    /// The unreadable bytes between batches, as start and end offset.
    pub(super) gaps: Vec<(u64, u64)>,
}

impl Segment {
    /// Reads a segment with a damaged header, if batches verify with a corrected or guessed one.
    /// Returns what was corrected.
    pub(super) fn rescue_header(&mut self, store: Option<[u8; 16]>) -> Option<&'static str> {
        let mut done = None;
        let before = self.header;
        self.with_own_source(|segment, window| {
            let file_len = window.source().len();
            if file_len < HEADER_LEN {
                return Ok(());
            }
            let bytes = window.get(0, HEADER_LEN as usize)?.to_vec();
            if let Some(header) = repair::header(&bytes, file_len) {
                segment.begin_again(&header, window)?;
                done = Some("header");
                return Ok(());
            }
            for header in segment.guesses(&bytes, file_len, store) {
                segment.begin_again(&header, window)?;
                let is_good = |batch: &BatchInfo| batch.good_head().is_some();
                let after_break = segment.search_with(header.salt, window)?.after_break;
                let good = segment.batches.iter().chain(&after_break).find(|batch| is_good(batch));
                let Some((batch, head)) = good.and_then(|batch| Some((batch, batch.good_head()?)))
                else {
                    continue;
                };
                if head.sequences && header.output.is_none() {
                    // Only a compaction writes such a batch, with the `max_seq` of its output as
                    // its number.
                    let max_seq = batch.sequence().unwrap_or(0);
                    let output = Output { max_seq, inputs: 0, retained: 0, lists_checksum: 0 };
                    segment.header = Ok(SegmentHeader { output: Some(output), ..header });
                    segment.lists = before.map(|_| Lists::default());
                }
                done = Some("salt in the header");
                return Ok(());
            }
            segment.forget();
            segment.header = before;
            Ok(())
        });
        done
    }

    /// Guesses the original of a damaged header. The guesses use the salt as found.
    fn guesses(&self, bytes: &[u8], len: u64, store: Option<[u8; 16]>) -> Vec<SegmentHeader> {
        let number = |at: usize| Le::read_u64(&bytes[at..]);
        let short = |at: usize| Le::read_u32(&bytes[at..]);
        let found = <[u8; 16]>::try_from(&bytes[16..32]).unwrap_or_default();
        let plain = SegmentHeader {
            store: store.unwrap_or(found),
            id: self.name_id.unwrap_or(number(32)),
            len,
            salt: Salt(number(48)),
            output: None,
            data_start: HEADER_LEN,
            created_unix_ms: number(80),
            pid: short(88),
            slot: short(92),
        };
        let (inputs, retained, lists_checksum) = (short(64), short(68), short(120));
        let output = Output { max_seq: number(56), inputs, retained, lists_checksum };
        let data_start = HEADER_LEN + output.lists_len();
        let output = SegmentHeader { output: Some(output), data_start, ..plain };
        if output.data_start > HEADER_LEN && output.data_start <= len {
            vec![output, plain]
        } else {
            vec![plain]
        }
    }

    /// Walks the segment from its beginning, with the given header.
    fn begin_again(&mut self, header: &SegmentHeader, window: &mut Window<'_>) -> io::Result<()> {
        self.forget();
        self.header = Ok(*header);
        self.enter(header, window)?;
        self.ending = self.follow(header, window)?;
        Ok(())
    }

    /// Searches for batches that the walk could not read.
    pub(super) fn search(&mut self) -> SegmentRescue {
        let mut finds = SegmentRescue::default();
        let Some(salt) = self.salt().filter(|_| self.io.is_none()) else { return finds };
        self.with_own_source(|segment, window| {
            finds = segment.search_with(salt, window)?;
            finds.repaired = segment.repair(salt, window)?;
            Ok(())
        });
        finds
    }

    /// Corrects the batches of the chain with a damaged state word or header, if possible.
    fn repair(
        &mut self,
        salt: Salt,
        window: &mut Window<'_>,
    ) -> io::Result<Vec<(usize, BatchInfo)>> {
        let mut repaired = Vec::new();
        for i in 0..self.batches.len() {
            let is_damaged =
                self.batches[i].state.is_err() || matches!(self.batches[i].head, Some(Err(_)));
            if is_damaged {
                let old = self.batches[i].clone();
                let new = self.repair_batch(salt, &old, window)?;
                repaired.extend(new.map(|new| (i, new)));
            }
        }
        Ok(repaired)
    }

    fn repair_batch(
        &mut self,
        salt: Salt,
        old: &BatchInfo,
        window: &mut Window<'_>,
    ) -> io::Result<Option<BatchInfo>> {
        let (offset, len) = (old.offset, old.len);
        let word = Le::read_u64(window.get(offset + STATE_AT, 8)?);
        let mut state = old.state;
        if state.is_err() {
            state = repair::state(salt, offset, word).map_or(state, Ok);
            let output = self.header.as_ref().ok().and_then(|header| header.output);
            state = state.or(output.map_or(state, |output| Ok(State::Committed(output.max_seq))));
        }
        if matches!(state, Ok(State::Void | State::Pending)) {
            return Ok(None);
        }
        let mut head = match &old.head {
            Some(head) => head.clone(),
            None => self.head(salt, offset, len, window)?,
        };
        if head.is_err() {
            let given = repair::head_len(len);
            let body =
                window.get(offset, given + WORDS_LEN as usize)?[WORDS_LEN as usize..].to_vec();
            if let Some(body) = repair::head(salt, offset, len, &body) {
                let (what, bytes) = ("entries and bytes of keys", body.len() as u64);
                let afforded = self.afford(window.source(), offset, what, bytes);
                head = afforded.and_then(|()| self.take_head(salt, offset, len, &body));
            }
        }
        Ok(head.is_ok().then_some(BatchInfo { state, head: Some(head), ..*old }))
    }

    /// Searches after the end of the chain, and follows the chain again from each batch found.
    fn search_with(&mut self, salt: Salt, window: &mut Window<'_>) -> io::Result<SegmentRescue> {
        let Ok(header) = self.header else { return Ok(SegmentRescue::default()) };
        let (chain, end, ending) = (self.batches.len(), self.end, self.ending);
        let mut finds = SegmentRescue::default();
        let mut budget = window.source().stored().saturating_mul(FALSE_HEADS);
        let mut now = ending;
        while now != Ending::Sealed {
            let from = self.end;
            let found = match self.corrected_link(salt, header.len, window)? {
                Some(len) => {
                    finds.links.push(from);
                    Some((from, len))
                }
                None => self.next_batch(salt, &header, window, &mut budget)?,
            };
            let Some((offset, len)) = found else {
                if matches!(now, Ending::Broken(_)) {
                    finds.gaps.push((from, header.len));
                }
                break;
            };
            if offset > from {
                finds.gaps.push((from, offset));
            }
            self.take_batch(salt, offset, len, window)?;
            now = self.follow(&header, window)?;
        }
        finds.after_break = self.batches.split_off(chain);
        (self.end, self.ending) = (end, ending);
        for batch in &mut finds.after_break {
            if batch.state.is_err() || matches!(batch.head, Some(Err(_))) {
                let repaired = self.repair_batch(salt, batch, window)?;
                *batch = repaired.unwrap_or_else(|| batch.clone());
            }
        }
        Ok(finds)
    }

    /// The length of the batch at the break, if one bit of its link word is wrong and a valid link
    /// word or the end of the segment follows the batch.
    fn corrected_link(
        &mut self,
        salt: Salt,
        limit: u64,
        w: &mut Window<'_>,
    ) -> io::Result<Option<u64>> {
        let offset = self.end;
        if limit.saturating_sub(offset) < HEAD_LEN {
            return Ok(None);
        }
        let word = Le::read_u64(w.get(offset, 8)?);
        let Some(len) = repair::link(salt, offset, word, limit) else { return Ok(None) };
        let next = offset + len;
        let goes_on = next + 8 > limit
            || Link::decode(salt, next, Le::read_u64(w.get(next, 8)?), limit).is_ok();
        Ok(Some(len).filter(|_| goes_on))
    }

    /// Finds the next offset at which a link word and the header of its batch verify.
    fn next_batch(
        &mut self,
        salt: Salt,
        header: &SegmentHeader,
        window: &mut Window<'_>,
        budget: &mut u64,
    ) -> io::Result<Option<(u64, u64)>> {
        let mut at = self.end + 8;
        while let Some(stored) = window.source().stored_from(at) {
            at = at.max(stored & !7);
            let take = SEARCHED.min(header.len.saturating_sub(at)) & !7;
            if take < HEAD_LEN {
                break;
            }
            let piece = window.get(at, take as usize)?;
            let links = piece.chunks_exact(8).enumerate().filter_map(|(i, word)| {
                let (offset, word) = (at + i as u64 * 8, Le::read_u64(word));
                match Link::decode(salt, offset, word, header.len) {
                    Ok(Link::Batch(len)) => Some((offset, len)),
                    _ => None,
                }
            });
            for (offset, len) in links.collect::<Vec<_>>() {
                match self.check_head(salt, offset, len, window)? {
                    Ok(()) => return Ok(Some((offset, len))),
                    Err(_) if *budget == 0 => return Ok(None),
                    Err(read) => *budget = budget.saturating_sub(read),
                }
            }
            at += take;
        }
        Ok(None)
    }

    /// Checks the batch header at `offset`. The inner error is the number of bytes read in vain.
    fn check_head(
        &mut self,
        salt: Salt,
        offset: u64,
        len: u64,
        window: &mut Window<'_>,
    ) -> io::Result<Result<(), u64>> {
        let fixed = &window.get(offset, HEAD_LEN as usize)?[WORDS_LEN as usize..];
        let Ok(values) = Batch::values_start(offset, len, fixed) else { return Ok(Err(HEAD_LEN)) };
        if !window.source().affordable(values) {
            return Ok(Err(HEAD_LEN));
        }
        let body = &window.get(offset, values as usize)?[WORDS_LEN as usize..];
        let parsed: Result<_, Error> = Batch::parse_head(salt, offset, len, body);
        Ok(parsed.map(drop).map_err(|_| values))
    }
}
