//! The hostile process: it performs random acts on the files of a store and on its directory.
//!
//! It does what a careless operator does with `rm`, `mv`, `cp`, `ln`, `mkdir` and a restored
//! backup. It never writes into an existing file and never truncates one, because no program that
//! maps files can withstand that.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use partd::{Partd, SegmentLog};
use partd_testkit::children::{Random, report};
use rustix::fs::{CWD, FileType, Mode, RenameFlags, mknodat, renameat_with};

use super::asked_to_end;

/// File names that a store uses.
const NAMES: [&str; 6] =
    ["control", "reserve", "reserve-output", "tmp-control", "tmp-output", "tmp-writer-0000"];
/// The maximum number of backups and of moved directories.
const KEPT: usize = 6;

/// An act with its name. It returns an error if another process was quicker.
type Act = (&'static str, fn(&mut Vandal) -> io::Result<()>);

/// The acts on files are listed twice, since they are the most likely ones in practice.
const ACTS: [Act; 19] = [
    ("a file removed", Vandal::remove_file),
    ("a file moved away", Vandal::move_file),
    ("a file renamed", Vandal::rename_file),
    ("two files exchanged", Vandal::exchange_files),
    ("a file copied", Vandal::copy_file),
    ("a file copied", Vandal::copy_file),
    ("a file linked", Vandal::link_file),
    ("a file restored by a rename", Vandal::restore_by_rename),
    ("a file restored by a rename", Vandal::restore_by_rename),
    ("a file restored by a link", Vandal::restore_by_link),
    ("a file restored by copying", Vandal::restore_by_copy),
    ("something put in the way", Vandal::put_in_the_way),
    ("the store moved away", Vandal::move_store),
    ("a store moved back", Vandal::move_store_back),
    ("a directory removed", Vandal::remove_directory),
    ("the store copied", Vandal::copy_store),
    ("a copy put in its place", Vandal::install_copy),
    ("a link put in its place", Vandal::install_link),
    ("an empty directory made", Vandal::make_empty),
];

#[derive(Debug)]
struct Vandal {
    random: Random,
    base: PathBuf,
    /// Files that were put aside, each with its former path.
    backups: Vec<(PathBuf, PathBuf)>,
    /// Directories that were moved or copied.
    directories: Vec<PathBuf>,
    made: u64,
}

/// The role of the process: tampers until it is asked to end.
pub(crate) fn play(arguments: &[String]) {
    let end = asked_to_end();
    let base = PathBuf::from(&arguments[0]);
    let seed = arguments[2].parse::<u64>().expect("a number");
    fs::create_dir(base.join("aside")).expect("it is new");
    let other = SegmentLog::options().segment_len_bytes(64 << 10).open(base.join("aside/other"));
    other
        .and_then(|other| other.append_durable([("all", "theirs")]))
        .expect("no process tampers with it");
    let (backups, directories) = (Vec::new(), Vec::new());
    let mut vandal = Vandal { random: Random(seed), base, backups, directories, made: 0 };
    let (mut counts, mut said) = (BTreeMap::<&str, u64>::new(), Instant::now());
    while !end.load(Ordering::Relaxed) {
        let (name, act) = ACTS[vandal.random.below(ACTS.len() as u64) as usize];
        if act(&mut vandal).is_ok() {
            *counts.entry(name).or_default() += 1;
        }
        // Restore a complete store now and then; otherwise no call would succeed any more.
        if vandal.random.below(10) == 0 {
            remove_all(&vandal.store());
            *counts.entry("the store removed").or_default() += 1;
        }
        vandal.forget_the_oldest();
        let most = [4, 4, 8, 50, 200][vandal.random.below(5) as usize];
        std::thread::sleep(Duration::from_millis(vandal.random.below(most)));
        if said.elapsed() > Duration::from_millis(200) {
            said = Instant::now();
            report("alive");
        }
    }
    counts.iter().for_each(|(name, count)| report(&format!("{count} act {name}")));
    let other = SegmentLog::open_read_only(vandal.base.join("aside/other"));
    let theirs = other.and_then(|other| other.get("all")).expect("no process tampers with it");
    assert_eq!(theirs, b"theirs", "the store without tampering is unchanged");
}

/// Removes a directory in which others create files meanwhile.
fn remove_all(path: &Path) {
    for _ in 0..50 {
        let removed = match fs::symlink_metadata(path) {
            Ok(found) if found.is_dir() => fs::remove_dir_all(path),
            Ok(_) => fs::remove_file(path),
            Err(_) => return,
        };
        if removed.is_ok() {
            return;
        }
    }
}

fn nothing() -> io::Error {
    io::ErrorKind::NotFound.into()
}

impl Vandal {
    fn store(&self) -> PathBuf {
        self.base.join("store")
    }

    /// An unused path.
    fn fresh(&mut self, kind: &str) -> PathBuf {
        self.made += 1;
        self.base.join("aside").join(format!("{kind}-{}", self.made))
    }

    fn one_of<T: Clone>(&mut self, all: &[T]) -> io::Result<T> {
        let chosen = self.random.below(all.len() as u64) as usize;
        all.get(chosen).cloned().ok_or_else(nothing)
    }

    /// The directory of a store: usually the shared one, otherwise a temporary one or a moved one.
    fn any_store(&mut self) -> io::Result<PathBuf> {
        if self.random.below(4) > 0 {
            return Ok(self.store());
        }
        let temporary = fs::read_dir(&self.base)?.filter_map(|entry| Some(entry.ok()?.path()));
        let mut all: Vec<PathBuf> = temporary.filter(|path| !path.ends_with("aside")).collect();
        all.extend(self.directories.iter().cloned());
        all.sort();
        self.one_of(&all)
    }

    fn any_file(&mut self) -> io::Result<PathBuf> {
        let dir = self.any_store()?;
        if self.random.below(4) == 0 {
            return Ok(dir.join("control"));
        }
        let entries = fs::read_dir(dir)?.filter_map(|entry| Some(entry.ok()?.path()));
        let mut files: Vec<PathBuf> = entries.collect();
        files.sort();
        self.one_of(&files)
    }

    fn remove_file(&mut self) -> io::Result<()> {
        let file = self.any_file()?;
        if file.is_dir() { fs::remove_dir(file) } else { fs::remove_file(file) }
    }

    fn rename_file(&mut self) -> io::Result<()> {
        let file = self.any_file()?;
        let name = format!("renamed-{}", self.random.below(4));
        fs::rename(&file, file.with_file_name(name))
    }

    fn exchange_files(&mut self) -> io::Result<()> {
        let (one, other) = (self.any_file()?, self.any_file()?);
        Ok(renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE)?)
    }

    fn move_file(&mut self) -> io::Result<()> {
        let (file, aside) = (self.any_file()?, self.fresh("moved"));
        fs::rename(&file, &aside)?;
        self.backups.push((aside, file));
        Ok(())
    }

    fn copy_file(&mut self) -> io::Result<()> {
        let (file, aside) = (self.any_file()?, self.fresh("copied"));
        if !file.symlink_metadata()?.is_file() {
            return Err(nothing());
        }
        fs::copy(&file, &aside)?;
        self.backups.push((aside, file));
        Ok(())
    }

    fn link_file(&mut self) -> io::Result<()> {
        let (file, aside) = (self.any_file()?, self.fresh("linked"));
        fs::hard_link(&file, &aside)?;
        self.backups.push((aside, file));
        Ok(())
    }

    /// A file that was put aside, and its former path.
    fn any_backup(&mut self) -> io::Result<(PathBuf, PathBuf)> {
        let all = self.backups.clone();
        self.one_of(&all)
    }

    fn restore_by_rename(&mut self) -> io::Result<()> {
        let (aside, file) = self.any_backup()?;
        let restored = self.fresh("restored");
        // The backup stays for another time.
        match self.random.below(2) {
            0 => fs::hard_link(&aside, &restored)?,
            _ if aside.is_file() => drop(fs::copy(&aside, &restored)?),
            _ => return Err(nothing()),
        }
        fs::rename(restored, file)
    }

    fn restore_by_link(&mut self) -> io::Result<()> {
        let (aside, file) = self.any_backup()?;
        let _ = fs::remove_file(&file);
        fs::hard_link(aside, file)
    }

    /// Restores a file under its name in steps, so that others see parts of it.
    fn restore_by_copy(&mut self) -> io::Result<()> {
        let (aside, file) = self.any_backup()?;
        let bytes = if aside.is_file() { fs::read(&aside)? } else { return Err(nothing()) };
        let _ = fs::remove_file(&file);
        let mut to = OpenOptions::new().write(true).create_new(true).open(file)?;
        bytes.chunks(bytes.len() / 3 + 1).try_for_each(|part| {
            std::thread::sleep(Duration::from_millis(1));
            to.write_all(part)
        })
    }

    fn put_in_the_way(&mut self) -> io::Result<()> {
        let dir = self.any_store()?;
        let name = match self.random.below(2) {
            0 => self.one_of(&NAMES)?.to_owned(),
            _ => {
                let highest = fs::read_dir(&dir)?.filter_map(|entry| {
                    let name = entry.ok()?.file_name().into_string().ok()?;
                    u64::from_str_radix(name.strip_suffix(".seg")?, 16).ok()
                });
                format!("{:016x}.seg", highest.max().unwrap_or(0) + self.random.below(3))
            }
        };
        let path = dir.join(name);
        let _ = fs::remove_file(&path);
        let create = || OpenOptions::new().write(true).create_new(true).open(&path);
        match self.random.below(6) {
            0 => fs::create_dir(&path),
            1 => Ok(mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?),
            2 => symlink("nowhere", &path),
            3 => create().map(drop),
            4 => {
                let len = [10, 4096, 65_536][self.random.below(3) as usize];
                let bytes: Vec<u8> = (0..len).map(|_| self.random.next() as u8).collect();
                create()?.write_all(&bytes)
            }
            _ => {
                let other = self.base.join("aside/other");
                let theirs = self.one_of(&["control", "0000000000000001.seg", "reserve"])?;
                create()?.write_all(&fs::read(other.join(theirs))?)
            }
        }
    }

    fn move_store(&mut self) -> io::Result<()> {
        let to = self.fresh("store");
        fs::rename(self.store(), &to)?;
        self.directories.push(to);
        Ok(())
    }

    fn move_store_back(&mut self) -> io::Result<()> {
        let all = self.directories.clone();
        let moved = self.one_of(&all)?;
        if self.random.below(2) == 0 {
            let _ = self.move_store();
        }
        Ok(renameat_with(CWD, moved, CWD, self.store(), RenameFlags::NOREPLACE)?)
    }

    fn remove_directory(&mut self) -> io::Result<()> {
        let dir = self.any_store()?;
        remove_all(&dir);
        Ok(())
    }

    fn copy_store(&mut self) -> io::Result<()> {
        let (from, to) = (self.any_store()?, self.fresh("copy"));
        fs::create_dir(&to)?;
        for entry in fs::read_dir(from)? {
            let path = entry?.path();
            if path.symlink_metadata().is_ok_and(|found| found.is_file()) {
                let _ = fs::copy(&path, to.join(path.file_name().unwrap_or_default()));
            }
        }
        self.directories.push(to);
        Ok(())
    }

    fn install_copy(&mut self) -> io::Result<()> {
        self.copy_store()?;
        self.move_store()?;
        let copy = self.directories.len().checked_sub(2).ok_or_else(nothing)?;
        fs::rename(&self.directories[copy], self.store())
    }

    fn install_link(&mut self) -> io::Result<()> {
        self.move_store()?;
        let all = self.directories.clone();
        symlink(self.one_of(&all)?, self.store())
    }

    fn make_empty(&mut self) -> io::Result<()> {
        if self.random.below(2) == 0 {
            self.move_store()?;
        }
        fs::create_dir(self.store())
    }

    fn forget_the_oldest(&mut self) {
        if self.backups.len() > 4 * KEPT {
            let _ = fs::remove_file(self.backups.remove(0).0);
        }
        if self.directories.len() > KEPT {
            remove_all(&self.directories.remove(0));
        }
    }
}
