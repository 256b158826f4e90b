//! Stores that are corrupted beyond a crash: with another control file they are unchanged (I6), and
//! damage at or below the durable sequence number is an error, never a shorter history or wrong
//! bytes (I9).

use std::path::{Path, PathBuf};

use partd::{Partd, SegmentLog};
use partd_format::control::{DURABLE_SEQ_AT, FIXED_LEN, Fixed, decode_durable_seq};
use partd_format::segment::id_of_file_name;
use partd_format::word::durable_end;
use partd_format::{Batch, Link, SegmentHeader, State};

use super::disk::{Defect, SimDisk};
use super::image::{FileImage, Image};
use super::oracle::Oracle;
use super::power::{Kind, Search, open};
use super::repeated_recovery::append;
use super::timeline::{Choice, Timeline, Unit};
use super::{Rng, STORE, Violation, options};

/// Every image is checked with one other control file and with one flipped bit. One in this many is
/// checked with all kinds of control files, and one with several bits, flipped one at a time.
const MORE_ONE_OF: u64 = 30;
const FLIPS: usize = 4;
/// The number of earlier control files that are kept.
const CONTROLS_MAX: usize = 32;

/// Checks a store and returns its number of batches.
type Judge<'a> = dyn Fn(&SegmentLog<SimDisk>, &Oracle) -> Result<u64, Violation> + 'a;

impl Search<'_> {
    /// Boots an image that holds `found` batches in corrupted states.
    pub fn check_corruption(
        &mut self,
        image: &Image,
        found: u64,
        hash: u64,
    ) -> Result<(), Violation> {
        let is_found = |log: &_, oracle: &Oracle| oracle.judge(log, found, found);
        let mut rng = Rng(hash);
        let all = hash % MORE_ONE_OF == 1;
        self.other_controls(image, &is_found, all, &mut rng)?;
        let flips = if hash % MORE_ONE_OF == 2 { FLIPS } else { 1 };
        self.flipped(image, found, flips, &mut rng)
    }

    /// Kills every process at this moment and checks the store with its control file and with
    /// others.
    pub fn killed(
        &mut self,
        timeline: &Timeline<'_>,
        units: &[Unit],
        rng: &mut Rng,
    ) -> Result<(), Violation> {
        let names = vec![true; timeline.pending_names()].into();
        let versions = units.iter().map(|unit| unit.versions).collect();
        let mut image = timeline.image(units, &Choice { versions, names });
        // The machine does not reboot.
        image.boot -= 1;
        let (visible, ceiling) = (timeline.visible(), timeline.ceiling());
        let is_found = |log: &_, oracle: &Oracle| oracle.judge(log, visible, ceiling);
        let checked = self.other_controls(&image, &is_found, true, rng);
        if let Some(control) = timeline.live_control() {
            if self.controls.len() == CONTROLS_MAX {
                self.controls.remove(rng.below(CONTROLS_MAX as u64) as usize);
            }
            self.controls.push(control);
        }
        checked
    }

    /// Boots an image with its control file zeroed, random or outdated; with `all`, with each of
    /// these and unchanged. A batch appended afterwards must get an unused sequence number.
    fn other_controls(
        &mut self,
        image: &Image,
        is_found: &Judge<'_>,
        all: bool,
        rng: &mut Rng,
    ) -> Result<(), Violation> {
        let path = Path::new(STORE).join("control");
        let Some(control) = image.files.get(&path).cloned() else { return Ok(()) };
        let len = control.len as usize;
        let zeroed = || FileImage::of(&vec![0; len]);
        let random = |rng: &mut Rng| {
            let words = (0..len.div_ceil(8)).map(|_| rng.next().to_le_bytes());
            FileImage::of(&words.collect::<Vec<_>>().as_flattened()[..len])
        };
        let stale = match self.controls.len() as u64 {
            0 => None,
            len => Some(self.controls[rng.below(len) as usize].clone()),
        };
        let others = if all {
            let stale = stale.map(|stale| ("stale", stale));
            let always = [("zeroed", zeroed()), ("random", random(rng)), ("as it was", control)];
            always.into_iter().chain(stale).collect()
        } else {
            vec![match rng.below(if stale.is_some() { 3 } else { 2 }) {
                0 => ("zeroed", zeroed()),
                1 => ("random", random(rng)),
                _ => ("stale", stale.unwrap_or(control)),
            }]
        };
        for (what, other) in others {
            let mut image = image.clone();
            image.files.insert(path.clone(), other);
            let hash = image.hash().rotate_left(image.boot as u32);
            let looked_at = self.with_control(&image, is_found, all, hash, rng);
            looked_at.map_err(|v| {
                Violation::new("I6", format!("{} (with a control file {what})", v.text))
            })?;
            self.tally.count(hash, Kind::Control);
        }
        Ok(())
    }

    /// Boots an image and appends a batch; with `again`, boots the result once more.
    fn with_control(
        &self,
        image: &Image,
        is_found: &Judge<'_>,
        again: bool,
        hash: u64,
        rng: &mut Rng,
    ) -> Result<(), Violation> {
        let disk = SimDisk::boot(image, hash ^ self.seed, self.defect);
        let log = open(&disk)?;
        let found = is_found(&log, &self.oracle)?;
        let oracle = append(&disk, &log, self.oracle.cut(found), &[true], rng)?;
        if !again {
            return oracle.judge(&log, found + 1, found + 1).map(drop);
        }
        let mut image = disk.snapshot();
        drop(log);
        image.boot += 1;
        let log = open(&SimDisk::boot(&image, hash, self.defect))?;
        oracle.judge(&log, found + 1, found + 1).map(drop)
    }

    /// Flips bits whose damage must be detected.
    fn flipped(
        &mut self,
        image: &Image,
        found: u64,
        flips: usize,
        rng: &mut Rng,
    ) -> Result<(), Violation> {
        let places = below_the_mark(image);
        for _ in 0..if places.is_empty() { 0 } else { flips } {
            let (path, start, end) = &places[rng.below(places.len() as u64) as usize];
            let (at, bit) = (start + rng.below(end - start), rng.below(8));
            let mut image = image.clone();
            image.files.get_mut(path).expect("a file").flip(at, 1 << bit);
            let hash = image.hash();
            self.tally.count(hash, Kind::Flipped);
            let disk = SimDisk::boot(&image, hash ^ self.seed, self.defect);
            let Ok(log) = options().open_on(disk, STORE) else { continue };
            let whole = log.stats().map(|stats| stats.sequence);
            let violation = |text: String| {
                let text = format!("bit {bit} at {at} of {}: {text}", path.display());
                Err(Violation::new("I9", text))
            };
            match whole {
                Ok(sequence) if sequence != found => {
                    return violation(format!("{sequence} of {found} batches are present"));
                }
                Ok(_) => {}
                Err(_) => continue,
            }
            let content = self.oracle.after(found).expect("it was there before");
            let Ok(keys) = log.keys() else { continue };
            if !keys.iter().map(partd::Key::as_bytes).eq(content.keys().map(str::as_bytes)) {
                return violation(format!("keys are {keys:?}"));
            }
            for key in content.keys() {
                if log.get(key).is_ok_and(|value| value != content.get(key)) {
                    return violation(format!("{key} has wrong bytes"));
                }
            }
        }
        Ok(())
    }
}

/// Creates a store whose files reuse the space of another store's files, so that the other store's
/// bytes follow its batches. Returns its number of batches, and the number with which it opens.
pub fn in_the_place_of_another(defect: Option<Defect>) -> (u64, partd::Result<u64>) {
    let store = |seed, batches: u8| {
        let disk = SimDisk::boot(&Image::blank(), seed, defect);
        let log = options().open_on(disk.clone(), STORE).expect("a new store");
        (0..batches).for_each(|i| log.append([("k", [i; 40])]).expect("the write succeeds"));
        log.sync().expect("the sync succeeds");
        // The handle is never closed.
        disk.snapshot()
    };
    let (old, mut new) = (store(1, 6), store(2, 3));
    for (path, file) in new.files.iter_mut().filter(|(path, _)| !path.ends_with("control")) {
        let mut bytes = file.bytes();
        let end = bytes.iter().rposition(|&byte| byte != 0).map_or(0, |at| at + 1);
        bytes[end..].copy_from_slice(&old.files[path].bytes()[end..]);
        *file = FileImage::of(&bytes);
    }
    new.boot += 1;
    let log = options().open_on(SimDisk::boot(&new, 3, defect), STORE);
    (3, log.and_then(|log| Ok(log.stats()?.sequence)))
}

/// A segment of an image, read with `partd-format` alone.
pub struct Walked {
    path: PathBuf,
    pub header: SegmentHeader,
    inputs: Vec<u64>,
    durable_end: u64,
    /// For each committed batch: its start, its end, its sequence number, and the `durable_seq` in
    /// its head.
    pub batches: Vec<(u64, u64, u64, u64)>,
}

/// Reads a segment; `None` if the file is not one.
pub fn walk(path: &Path, bytes: &[u8]) -> Option<Walked> {
    let name = path.file_name()?.as_encoded_bytes();
    id_of_file_name(name)?;
    let header = SegmentHeader::decode(bytes.get(..128)?, bytes.len() as u64).ok()?;
    let word = |at: u64| {
        let word = bytes.get(at as usize..at as usize + 8)?;
        Some(u64::from_le_bytes(word.try_into().ok()?))
    };
    let inputs = header.lists(bytes).ok()?.0.collect();
    let durable_end = durable_end::decode(header.salt, word(128)?).unwrap_or(0);
    let (mut at, mut batches) = (header.data_start, Vec::new());
    while let Some(Ok(Link::Batch(len))) =
        word(at).map(|link| Link::decode(header.salt, at, link, header.len))
    {
        let end = at + len;
        if let Ok(State::Committed(sequence)) = State::decode(header.salt, at, word(at + 8)?)
            && let Ok(batch) = Batch::parse(header.salt, at, &bytes[at as usize + 16..end as usize])
        {
            batches.push((at, end, sequence, batch.durable_seq()));
        }
        at = end;
    }
    Some(Walked { path: path.to_owned(), header, inputs, durable_end, batches })
}

/// The byte ranges whose damage must be detected: the batches up to the newest `durable_seq` that
/// is recorded outside of them, and the links of the batches before the `durable_end` of their
/// segment.
fn below_the_mark(image: &Image) -> Vec<(PathBuf, u64, u64)> {
    let files = image.files.iter().filter(|(path, _)| path.starts_with(STORE));
    let segments: Vec<Walked> =
        files.filter_map(|(path, file)| walk(path, &file.bytes())).collect();
    let replaced: Vec<u64> = segments.iter().flat_map(|s| s.inputs.iter().copied()).collect();
    let control = image.files.get(&Path::new(STORE).join("control")).map(FileImage::bytes);
    let of_control = control.and_then(|bytes| {
        let fixed = Fixed::decode(bytes.get(..FIXED_LEN)?).ok()?;
        let word = bytes.get(DURABLE_SEQ_AT as usize..DURABLE_SEQ_AT as usize + 8)?;
        decode_durable_seq(&fixed.store, u64::from_le_bytes(word.try_into().ok()?)).ok()
    });
    let present = || segments.iter().filter(|s| !replaced.contains(&s.header.id));
    let plain = || present().filter(|s| s.header.output.is_none());
    let mut places = Vec::new();
    for segment in present() {
        let marks = |except: &Walked| {
            let others = plain().filter(|other| other.header.id != except.header.id);
            others.flat_map(|other| other.batches.iter().map(|batch| batch.3)).max().unwrap_or(0)
        };
        let mut mark = of_control.unwrap_or(0).max(marks(segment));
        for &(start, end, sequence, repeated) in &segment.batches {
            mark = mark.max(repeated);
            let is_output = segment.header.output.is_some();
            if is_output || sequence <= mark {
                places.push((segment.path.clone(), start, end));
            } else if end <= segment.durable_end {
                places.push((segment.path.clone(), start, start + 8));
            }
        }
    }
    places
}
