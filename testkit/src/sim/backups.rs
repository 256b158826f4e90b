//! Backups on a disk whose power failed: each is complete, as of one sequence number, or it is
//! refused as unfinished. It shares files with the store by hard links, yet neither harms the other,
//! whichever is recovered first and whatever is appended to both (I10).

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use partd::{ErrorKind, SegmentLog};

use super::backup_dirs::{check_finished, violation};
use super::disk::SimDisk;
use super::image::Image;
use super::oracle::Oracle;
use super::power::{Search, open};
use super::repeated_recovery::append;
use super::{Rng, STORE, Violation, options};

/// A store or a backup that is open, and its history.
struct Opened {
    path: PathBuf,
    log: SegmentLog<SimDisk>,
    oracle: Oracle,
}

impl Opened {
    /// Checks that the contents are those at the end of the history.
    fn check(&self) -> Result<(), Violation> {
        let (path, len) = (self.path.display(), self.oracle.len());
        let judged = self.oracle.judge(&self.log, len, len);
        judged.map_err(|v| violation(format!("{path}: {}", v.text)))?;
        self.log.verify().map(drop).map_err(|error| violation(format!("{path}: {error}")))
    }

    /// Appends a batch that only this store has.
    fn append(&mut self, disk: &SimDisk, rng: &mut Rng) -> Result<(), Violation> {
        let appended = append(disk, &self.log, self.oracle.clone(), &[true], rng);
        let path = self.path.display();
        self.oracle = appended.map_err(|v| violation(format!("{path}: {}", v.text)))?;
        Ok(())
    }
}

impl Search<'_> {
    /// Opens the store of an image, which holds `found` batches, and its backups, with the store
    /// first or last at random, and appends to each. Returns the complete backups; fails unless
    /// they include all of `finished`.
    pub(super) fn check_backups(
        &mut self,
        image: &Image,
        found: u64,
        finished: &BTreeMap<PathBuf, u64>,
        hash: u64,
    ) -> Result<BTreeSet<PathBuf>, Violation> {
        let is_backup = |dir: &&PathBuf| {
            let has_files = || image.files.keys().any(|path| path.parent() == Some(dir));
            dir.parent() == Some(Path::new("/")) && dir.as_path() != Path::new(STORE) && has_files()
        };
        let dirs: Vec<&PathBuf> = image.dirs.iter().filter(is_backup).collect();
        let mut complete = BTreeSet::new();
        if !dirs.is_empty() {
            let mut rng = Rng(hash);
            let disk = SimDisk::boot(image, hash ^ self.seed, self.defect);
            let is_store_first = rng.below(2) == 0;
            let mut all = Vec::new();
            if is_store_first {
                all.push(self.store(&disk, found, &mut rng)?);
            }
            for dir in dirs {
                if let Some(mut copy) = self.backup(&disk, dir, finished.get(dir).copied())? {
                    complete.insert(dir.clone());
                    copy.append(&disk, &mut rng)?;
                    all.push(copy);
                }
            }
            if !is_store_first {
                all.push(self.store(&disk, found, &mut rng)?);
            }
            all.iter().try_for_each(Opened::check)?;
            self.boot_once_more(&disk, all, hash)?;
        }
        check_finished(&complete, finished)?;
        Ok(complete)
    }

    fn store(&self, disk: &SimDisk, found: u64, rng: &mut Rng) -> Result<Opened, Violation> {
        let log = open(disk).map_err(|v| violation(format!("beside its backups: {}", v.text)))?;
        let oracle = self.oracle.cut(found);
        let mut store = Opened { path: STORE.into(), log, oracle };
        store.check()?;
        store.append(disk, rng)?;
        Ok(store)
    }

    /// Opens a backup, as of a given sequence number if it was finished; `None` if it is refused as
    /// unfinished.
    fn backup(
        &self,
        disk: &SimDisk,
        dir: &Path,
        sequence: Option<u64>,
    ) -> Result<Option<Opened>, Violation> {
        let path = dir.display();
        let log = match options().open_on(disk.clone(), dir) {
            Ok(log) => log,
            Err(error) if is_unfinished(&error) => return Ok(None),
            Err(error) => return Err(violation(format!("{path}: {error}"))),
        };
        let held = log.stats().map_err(|error| violation(format!("{path}: {error}")))?.sequence;
        if held > self.oracle.len() || sequence.is_some_and(|sequence| sequence != held) {
            let text = format!(
                "{path} holds {held} batches, of {}; it was made as of {sequence:?}",
                self.oracle.len()
            );
            return Err(violation(text));
        }
        let copy = Opened { path: dir.to_owned(), log, oracle: self.oracle.cut(held) };
        copy.check()?;
        Ok(Some(copy))
    }

    /// Boots the machine again, with everything in place that was appended.
    fn boot_once_more(&self, disk: &SimDisk, all: Vec<Opened>, hash: u64) -> Result<(), Violation> {
        let mut image = disk.snapshot();
        image.boot += 1;
        let disk = SimDisk::boot(&image, hash ^ self.seed, self.defect);
        all.into_iter().rev().try_for_each(|Opened { path, log, oracle }| {
            drop(log);
            let log = options().open_on(disk.clone(), &path);
            let log = log.map_err(|error| violation(format!("{}: {error}", path.display())))?;
            Opened { path, log, oracle }.check()
        })
    }
}

/// Whether a directory was refused because it holds an unfinished backup.
pub fn is_unfinished(error: &partd::Error) -> bool {
    error.kind() == ErrorKind::NotAStore && error.to_string().contains("unfinished backup")
}
