//! Reads what is still readable of damaged chains, headers and tables; used by salvage only.
//!
//! It corrects a single flipped bit (see [`repair`]). After a break in a chain it searches the file for a
//! link word whose batch has a good header. It trusts a segment header beyond repair as long as batches
//! verify with its salt. A batch found this way counts only if its number is missing in the history:
//! nothing that was given up comes back, and nothing counts twice.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;

use byteorder::{ByteOrder, LittleEndian as Le};
use partd_format::batch::{HEAD_LEN, WORDS_LEN};
use partd_format::segment::{HEADER_LEN, Output};
use partd_format::word::STATE_AT;
use partd_format::{Batch, Ending, Error, Link, Salt, SegmentHeader, State};

use crate::history::{BatchRef, History, Rule, gaps, whole, whole_batch};
use crate::repair;
use crate::source::Window;
use crate::store::Store;
use crate::walk::{BatchInfo, Segment};

/// How many bytes to search at once.
const SEARCHED: u64 = 1 << 20;
/// The limit of bytes read in vain as batch headers, as a multiple of what the file system stores of
/// the file.
const FALSE_HEADS: u64 = 16;

/// The result of a rescue.
#[derive(Debug, Default)]
pub struct Rescue {
    /// The corrections made: file, what, offset.
    pub repaired: Vec<(PathBuf, &'static str, u64)>,
    /// The number of batches found after a break in a chain.
    pub found: u64,
    /// Damaged outputs whose inputs are all present and whole: the inputs count instead.
    pub set_aside: Vec<PathBuf>,
    /// The numbers that are still missing, as the first and last of each gap.
    pub missing: Vec<(u64, u64)>,
    /// The unreadable parts of segments that no missing number accounts for.
    pub lost: Vec<LostPart>,
}

/// An unreadable part of a segment.
#[derive(Clone, Debug)]
pub struct LostPart {
    /// The file of the segment.
    pub path: PathBuf,
    /// The offset of the part in the file.
    pub offset: u64,
    /// Its length in bytes: up to the next batch found, or to the end of the file.
    pub bytes: u64,
    /// No sequence number above this one is lost with it; `None` if nothing is known about the numbers.
    pub max_seq: Option<u64>,
}

/// The findings of a rescue in one segment.
#[derive(Debug, Default)]
struct SegmentRescue {
    /// Batches of the chain that are readable after a correction, with their index.
    repaired: Vec<(usize, BatchInfo)>,
    /// Batches after a break in the chain.
    after_break: Vec<BatchInfo>,
    /// The offsets of corrected link words.
    links: Vec<u64>,
    /// The unreadable bytes between batches, as start and end offset.
    gaps: Vec<(u64, u64)>,
}

impl Store {
    /// Adds everything that is still readable to the history. The problems and missing numbers remain
    /// those of the store as it is on disk.
    pub fn rescue(&mut self) -> Rescue {
        let mut rescue = Rescue::default();
        let (store, missing) = (self.uuid(), self.history.missing.clone());
        for segment in &mut self.segments {
            let is_ours = segment.io.is_none() && segment.header.is_err();
            if is_ours && let Some(what) = segment.rescue_header(store) {
                rescue.repaired.push((segment.path().to_owned(), what, 0));
            }
        }
        let mut finds: Vec<SegmentRescue> = self.segments.iter_mut().map(Segment::search).collect();
        let aside: Vec<usize> =
            (0..finds.len()).filter(|&i| self.is_replaceable_by_inputs(i, &finds[i])).collect();
        for &i in aside.iter().rev() {
            finds.remove(i);
            rescue.set_aside.push(self.segments.remove(i).path().to_owned());
        }
        if !rescue.repaired.is_empty() || !aside.is_empty() {
            let control = self.control().cloned();
            let found =
                History::find(&self.path, &self.segments, control.as_ref(), self.environment);
            let problems = std::mem::take(&mut self.history.problems);
            self.history = History { problems, ..found };
        }
        self.take_in(finds, &mut rescue);
        rescue.missing = std::mem::replace(&mut self.history.missing, missing);
        rescue
    }

    /// Whether an output has lost something that its inputs still have.
    fn is_replaceable_by_inputs(&self, number: usize, finds: &SegmentRescue) -> bool {
        let segment = &self.segments[number];
        let Ok(lists) = &segment.lists else { return false };
        // The end of an input need never have reached the disk, so only a sealed chain is complete.
        let is_whole = |segment: &Segment| {
            segment.header.is_ok()
                && segment.io.is_none()
                && matches!(segment.ending, Ending::Sealed)
                && segment.batches.iter().all(|b| match b.state {
                    Ok(State::Committed(_)) => whole_batch(segment, b),
                    Ok(State::Void) => true,
                    Ok(State::Pending) | Err(_) => false,
                })
        };
        let repaired: BTreeSet<usize> = finds.repaired.iter().map(|(batch, _)| *batch).collect();
        let heads = segment.batches.iter().enumerate();
        let lost = heads.filter(|(i, b)| b.good_head().is_none() && !repaired.contains(i)).count();
        let is_damaged = segment.is_output() && (lost > 0 || !finds.gaps.is_empty());
        let has_whole_input = |id: &u64| self.segments.iter().any(|s| s.id() == *id && is_whole(s));
        is_damaged && !lists.inputs.is_empty() && lists.inputs.iter().all(has_whole_input)
    }

    /// Adds each batch found to the history if its number is missing there.
    fn take_in(&mut self, finds: Vec<SegmentRescue>, rescue: &mut Rescue) {
        let retained: BTreeMap<u64, u64> =
            self.history.retained.iter().map(|keep| (keep.id, keep.end)).collect();
        let max_seq = self.history.max_seq;
        let mut candidates = Vec::new();
        for (i, (segment, finds)) in self.segments.iter_mut().zip(finds).enumerate() {
            let (is_output, chain) = (segment.is_output(), segment.batches.len());
            if !self.history.included[i] {
                continue;
            }
            let path = segment.path().to_owned();
            rescue.repaired.extend(finds.links.iter().map(|at| (path.clone(), "link word", *at)));
            for (batch, info) in finds.repaired {
                rescue.repaired.push((segment.path().to_owned(), "batch", info.offset));
                segment.batches[batch] = info;
            }
            if is_output {
                rescue.found += finds.after_break.len() as u64;
            }
            segment.batches.extend(finds.after_break);
            let kept = retained.get(&segment.id()).copied().unwrap_or(0);
            // If missing numbers account for the loss, the part need not be reported as well.
            let mut lost = finds.gaps;
            if self.history.rule != Rule::Alone && !is_output {
                lost.retain(|&(first, _)| first < kept);
            }
            let unread = segment.batches.iter().filter(|batch| batch.good_head().is_none());
            let unread = unread.filter(|batch| match batch.state {
                Ok(State::Committed(_)) => is_output,
                Ok(_) => false,
                Err(_) => is_output || batch.offset < kept || self.history.rule == Rule::Alone,
            });
            lost.extend(unread.map(|batch| (batch.offset, batch.offset + batch.len)));
            lost.sort_unstable();
            let numbers = match segment.header.as_ref().ok().and_then(|header| header.output) {
                Some(output) => Some(output.max_seq),
                None => Some(max_seq).filter(|_| self.history.rule != Rule::Alone),
            };
            rescue.lost.extend(lost.into_iter().map(|(first, end)| LostPart {
                path: segment.path().to_owned(),
                offset: first,
                bytes: end - first,
                max_seq: numbers,
            }));
            if is_output {
                continue;
            }
            for (batch, info) in segment.batches.iter().enumerate() {
                let end = info.offset + info.len;
                let (Some(sequence), Some(_)) = (info.sequence(), info.good_head()) else {
                    continue;
                };
                // Up to `max_seq` a missing number reveals nothing: its entries may be dead.
                if sequence > max_seq || end <= kept || batch < chain {
                    candidates.push((
                        sequence,
                        batch >= chain,
                        BatchRef { sequence, segment: i, batch },
                    ));
                }
            }
        }
        candidates.sort_unstable();
        let history = &self.history;
        let known = history.batches.iter().chain(&history.beyond);
        let mut known: BTreeSet<u64> = known.map(|batch_ref| batch_ref.sequence).collect();
        let (mut inside, mut beyond) = (Vec::new(), Vec::new());
        for (sequence, is_found, batch_ref) in candidates {
            if known.contains(&sequence) {
                continue;
            }
            if history.rule == Rule::Alone || sequence <= history.last {
                inside.push(batch_ref);
            } else if history.rule == Rule::Recovery && whole(&self.segments, batch_ref) {
                beyond.push(batch_ref);
            } else {
                continue;
            }
            rescue.found += u64::from(is_found);
            known.insert(sequence);
        }
        inside.extend(self.only_batch_without_number(&known));
        self.history.fill(&inside, &beyond);
    }

    /// Assigns the missing number to a whole batch with an unreadable state word, if there is exactly
    /// one of each.
    fn only_batch_without_number(&mut self, known: &BTreeSet<u64>) -> Option<BatchRef> {
        let holes = self.history.missing.iter().flat_map(|&(first, last)| first..=last);
        let mut holes = holes.filter(|number| !known.contains(number));
        let sequence = holes.next().filter(|_| holes.next().is_none())?;
        let included = &self.history.included;
        let segments = self.segments.iter().enumerate();
        let segments = segments.filter(|(i, segment)| included[*i] && !segment.is_output());
        let mut batch_refs = segments.flat_map(|(segment, info)| {
            let batches = info.batches.iter().enumerate();
            let unnumbered = batches.filter(|(_, b)| b.state.is_err() && b.good_head().is_some());
            unnumbered.map(move |(batch, _)| BatchRef { sequence, segment, batch })
        });
        let batch_ref = batch_refs.next().filter(|_| batch_refs.next().is_none())?;
        drop(batch_refs);
        whole(&self.segments, batch_ref).then(|| {
            self.segments[batch_ref.segment].batches[batch_ref.batch].state =
                Ok(State::Committed(sequence));
            batch_ref
        })
    }
}

impl History {
    /// Adds batches, each with a number that was missing.
    fn fill(&mut self, inside: &[BatchRef], beyond: &[BatchRef]) {
        self.batches.extend(inside);
        self.batches.sort_unstable();
        self.beyond.extend(beyond);
        self.beyond.sort_unstable();
        let numbers: BTreeSet<u64> =
            self.batches.iter().map(|batch_ref| batch_ref.sequence).collect();
        let holes = std::mem::take(&mut self.missing);
        self.missing = holes
            .into_iter()
            .flat_map(|(first, last)| gaps(numbers.range(first..=last).copied(), first - 1, last))
            .collect();
    }
}

impl Segment {
    /// Reads a segment with a damaged header, if batches verify with a corrected or guessed one.
    /// Returns what was corrected.
    fn rescue_header(&mut self, store: Option<[u8; 16]>) -> Option<&'static str> {
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
                    // Only a compaction writes such a batch, with the `max_seq` of its output as its number.
                    let max_seq = batch.sequence().unwrap_or(0);
                    let output = Output { max_seq, inputs: 0, retained: 0, lists_checksum: 0 };
                    segment.header = Ok(SegmentHeader { output: Some(output), ..header });
                    segment.lists = before.map(|_| super::walk::Lists::default());
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

    /// Guesses what a damaged header was. The guesses use the salt as found.
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
    fn search(&mut self) -> SegmentRescue {
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

    /// The length of the batch at the break, if one bit of its link word is wrong and a valid link word
    /// or the end of the segment follows the batch.
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
