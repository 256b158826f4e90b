//! What can still be read where a chain, a header or a table is damaged: for salvage alone.
//!
//! One flipped bit is put right (see [`repair`]). Behind a break the file is searched for a link word
//! whose batch has a good head; a header that is beyond repair is trusted
//! as far as batches verify under its salt. What is found counts only where the history has a hole
//! for its number, so that nothing comes back that was given up, and nothing counts twice.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;

use byteorder::{ByteOrder, LittleEndian as Le};
use partd_format::batch::{HEAD_LEN, WORDS_LEN};
use partd_format::segment::{HEADER_LEN, Output};
use partd_format::word::STATE_AT;
use partd_format::{Batch, Ending, Error, Link, Salt, SegmentHeader, State};

use super::repair;
use crate::history::{History, Place, Rule, gaps, whole, whole_batch};
use crate::source::Window;
use crate::store::Store;
use crate::walk::{BatchInfo, Segment};

/// How much is searched at once.
const SEARCHED: u64 = 1 << 20;
/// How many times its own size may be read of a file in heads that turn out to be none.
const FALSE_HEADS: u64 = 16;

/// What came of a rescue.
#[derive(Debug, Default)]
pub struct Rescue {
    /// What was put right: file, what, offset.
    pub mended: Vec<(PathBuf, &'static str, u64)>,
    /// Batches that were found behind a break.
    pub found: u64,
    /// Outputs that are damaged, and whose sources are all there and whole: those count instead.
    pub set_aside: Vec<PathBuf>,
    /// Numbers that are missing all the same, as first and last of each gap.
    pub missing: Vec<(u64, u64)>,
    /// Parts of segments that could not be read, where no missing number tells of it.
    pub lost: Vec<Lost>,
}

/// A part of a segment that could not be read.
#[derive(Clone, Debug)]
pub struct Lost {
    /// The file of the segment.
    pub path: PathBuf,
    /// Where the part begins in it.
    pub offset: u64,
    /// Its length; to the next batch that was found or to the end of the file.
    pub bytes: u64,
    /// No number above this one is lost with it; `None`: nothing is known of the numbers.
    pub max_seq: Option<u64>,
}

/// What was found in one segment beside its chain.
#[derive(Debug, Default)]
struct Finds {
    /// Batches of the chain that can be read after all, by their place among the others.
    mended: Vec<(usize, BatchInfo)>,
    /// Batches behind a break.
    behind: Vec<BatchInfo>,
    /// Link words that were put right.
    links: Vec<u64>,
    /// What lies between, as first and last offset.
    gaps: Vec<(u64, u64)>,
}

impl Store {
    /// Takes in whatever can still be read. The problems and the missing numbers stay those of the
    /// store as it is.
    pub fn rescue(&mut self) -> Rescue {
        let mut rescue = Rescue::default();
        let (store, missing) = (self.uuid(), self.history.missing.clone());
        for segment in &mut self.segments {
            let is_ours = segment.io.is_none() && segment.header.is_err();
            if is_ours && let Some(what) = segment.rescue_header(store) {
                rescue.mended.push((segment.path().to_owned(), what, 0));
            }
        }
        let mut finds: Vec<Finds> = self.segments.iter_mut().map(Segment::search).collect();
        let aside: Vec<usize> =
            (0..finds.len()).filter(|&i| self.can_do_without(i, &finds[i])).collect();
        for &i in aside.iter().rev() {
            finds.remove(i);
            rescue.set_aside.push(self.segments.remove(i).path().to_owned());
        }
        if !rescue.mended.is_empty() || !aside.is_empty() {
            let control = self.control().cloned();
            let found = History::find(&self.path, &self.segments, control.as_ref(), self.around);
            let problems = std::mem::take(&mut self.history.problems);
            self.history = History { problems, ..found };
        }
        self.take_in(finds, &mut rescue);
        rescue.missing = std::mem::replace(&mut self.history.missing, missing);
        rescue
    }

    /// Whether an output has lost something that its sources still have.
    fn can_do_without(&self, number: usize, finds: &Finds) -> bool {
        let segment = &self.segments[number];
        let Ok(lists) = &segment.lists else { return false };
        // A source need never have come to the disk as a whole, so an open end says nothing.
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
        let mended: BTreeSet<usize> = finds.mended.iter().map(|(batch, _)| *batch).collect();
        let heads = segment.batches.iter().enumerate();
        let lost = heads.filter(|(i, b)| b.good_head().is_none() && !mended.contains(i)).count();
        let is_hurt = segment.is_output() && (lost > 0 || !finds.gaps.is_empty());
        let source = |id: &u64| self.segments.iter().any(|s| s.id() == *id && is_whole(s));
        is_hurt && !lists.inputs.is_empty() && lists.inputs.iter().all(source)
    }

    /// Gives each batch that was found its place in the history, where that has a hole for it.
    fn take_in(&mut self, finds: Vec<Finds>, rescue: &mut Rescue) {
        let retained: BTreeMap<u64, u64> =
            self.history.retained.iter().map(|keep| (keep.id, keep.end)).collect();
        let max_seq = self.history.max_seq;
        let mut candidates = Vec::new();
        for (i, (segment, finds)) in self.segments.iter_mut().zip(finds).enumerate() {
            let (is_output, chain) = (segment.is_output(), segment.batches.len());
            if !self.history.counts[i] {
                continue;
            }
            let path = segment.path().to_owned();
            rescue.mended.extend(finds.links.iter().map(|at| (path.clone(), "link word", *at)));
            for (batch, info) in finds.mended {
                rescue.mended.push((segment.path().to_owned(), "batch", info.offset));
                segment.batches[batch] = info;
            }
            if is_output {
                rescue.found += finds.behind.len() as u64;
            }
            segment.batches.extend(finds.behind);
            let kept = retained.get(&segment.id()).copied().unwrap_or(0);
            // Where numbers tell what is missing, nothing else needs to be said.
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
            rescue.lost.extend(lost.into_iter().map(|(first, end)| Lost {
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
                // Below an `max_seq` numbers tell nothing: an entry may be dead and gone.
                if sequence > max_seq || end <= kept || batch < chain {
                    candidates.push((
                        sequence,
                        batch >= chain,
                        Place { sequence, segment: i, batch },
                    ));
                }
            }
        }
        candidates.sort_unstable();
        let history = &self.history;
        let known = history.batches.iter().chain(&history.beyond);
        let mut known: BTreeSet<u64> = known.map(|place| place.sequence).collect();
        let (mut inside, mut beyond) = (Vec::new(), Vec::new());
        for (sequence, is_found, place) in candidates {
            if known.contains(&sequence) {
                continue;
            }
            if history.rule == Rule::Alone || sequence <= history.last {
                inside.push(place);
            } else if history.rule == Rule::Recovery && whole(&self.segments, place) {
                beyond.push(place);
            } else {
                continue;
            }
            rescue.found += u64::from(is_found);
            known.insert(sequence);
        }
        inside.extend(self.only_one_without_number(&known));
        self.history.fill(&inside, &beyond);
    }

    /// If one number is missing, and one whole batch has a state word that cannot be read, the number
    /// is that batch's.
    fn only_one_without_number(&mut self, known: &BTreeSet<u64>) -> Option<Place> {
        let holes = self.history.missing.iter().flat_map(|&(first, last)| first..=last);
        let mut holes = holes.filter(|number| !known.contains(number));
        let sequence = holes.next().filter(|_| holes.next().is_none())?;
        let counts = &self.history.counts;
        let segments = self.segments.iter().enumerate();
        let segments = segments.filter(|(i, segment)| counts[*i] && !segment.is_output());
        let mut places = segments.flat_map(|(segment, info)| {
            let batches = info.batches.iter().enumerate();
            let nameless = batches.filter(|(_, b)| b.state.is_err() && b.good_head().is_some());
            nameless.map(move |(batch, _)| Place { sequence, segment, batch })
        });
        let place = places.next().filter(|_| places.next().is_none())?;
        drop(places);
        whole(&self.segments, place).then(|| {
            self.segments[place.segment].batches[place.batch].state =
                Ok(State::Committed(sequence));
            place
        })
    }
}

impl History {
    /// Adds batches that were found, each under a number that had none.
    fn fill(&mut self, inside: &[Place], beyond: &[Place]) {
        self.batches.extend(inside);
        self.batches.sort_unstable();
        self.beyond.extend(beyond);
        self.beyond.sort_unstable();
        let numbers: BTreeSet<u64> = self.batches.iter().map(|place| place.sequence).collect();
        let holes = std::mem::take(&mut self.missing);
        self.missing = holes
            .into_iter()
            .flat_map(|(first, last)| gaps(numbers.range(first..=last).copied(), first - 1, last))
            .collect();
    }
}

impl Segment {
    /// Reads a segment whose header is damaged, if batches verify under what it says. Returns what was
    /// done.
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
                let behind = segment.search_with(header.salt, window)?.behind;
                let good = segment.batches.iter().chain(&behind).find(|batch| is_good(batch));
                let Some((batch, head)) = good.and_then(|batch| Some((batch, batch.good_head()?)))
                else {
                    continue;
                };
                if head.sequences && header.output.is_none() {
                    // Only a compaction writes such a batch, under the `max_seq` of its output.
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

    /// Headers that may have stood where a damaged one stands. The salt is taken as it is.
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

    /// Walks the segment from its beginning, under this header.
    fn begin_again(&mut self, header: &SegmentHeader, window: &mut Window<'_>) -> io::Result<()> {
        self.forget();
        self.header = Ok(*header);
        self.enter(header, window)?;
        self.ending = self.follow(header, window)?;
        Ok(())
    }

    /// Looks for what can be read beside the good batches of the chain.
    fn search(&mut self) -> Finds {
        let mut finds = Finds::default();
        let Some(salt) = self.salt().filter(|_| self.io.is_none()) else { return finds };
        self.with_own_source(|segment, window| {
            finds = segment.search_with(salt, window)?;
            finds.mended = segment.mend(salt, window)?;
            Ok(())
        });
        finds
    }

    /// Reads what can be read of the batches of the chain with a damaged state word or head.
    fn mend(&mut self, salt: Salt, window: &mut Window<'_>) -> io::Result<Vec<(usize, BatchInfo)>> {
        let mut mended = Vec::new();
        for i in 0..self.batches.len() {
            let is_damaged =
                self.batches[i].state.is_err() || matches!(self.batches[i].head, Some(Err(_)));
            if is_damaged {
                let old = self.batches[i].clone();
                let new = self.mend_batch(salt, &old, window)?;
                mended.extend(new.map(|new| (i, new)));
            }
        }
        Ok(mended)
    }

    fn mend_batch(
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

    /// Searches behind the end of the chain, and follows it again from each batch that is found.
    fn search_with(&mut self, salt: Salt, window: &mut Window<'_>) -> io::Result<Finds> {
        let Ok(header) = self.header else { return Ok(Finds::default()) };
        let (chain, end, ending) = (self.batches.len(), self.end, self.ending);
        let mut finds = Finds::default();
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
        finds.behind = self.batches.split_off(chain);
        (self.end, self.ending) = (end, ending);
        for batch in &mut finds.behind {
            if batch.state.is_err() || matches!(batch.head, Some(Err(_))) {
                let mended = self.mend_batch(salt, batch, window)?;
                *batch = mended.unwrap_or_else(|| batch.clone());
            }
        }
        Ok(finds)
    }

    /// The length of the batch where the chain breaks, if one bit of its link word is wrong and either
    /// its head is good or a link word stands behind it.
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

    /// The next place where a link word and the head of its batch verify.
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
                match self.costs(salt, offset, len, window)? {
                    Ok(()) => return Ok(Some((offset, len))),
                    Err(_) if *budget == 0 => return Ok(None),
                    Err(read) => *budget = budget.saturating_sub(read),
                }
            }
            at += take;
        }
        Ok(None)
    }

    /// Whether a good head stands at `offset`; if none does, how many bytes were read to know it.
    fn costs(
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
