//! Finds out which processes hold a store, from `/proc/locks`.
//!
//! This takes no lock, not even to test one, so it disturbs no process. The lock of a store is an
//! `flock` on its directory. The others are open-file-description locks, each on a byte of the
//! control file; `/proc/locks` shows their ranges. For an `flock` it names the process, if that is
//! in the same PID namespace. For an open-file-description lock it names none, but shows the lock
//! to every namespace.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use partd_format::control::{
    COMPACTION_LOCK_AT, PRESENCE_LOCK_AT, SLOTS, SYNC_LOCK_AT, slot_lock_at,
};

use crate::control::WriterSlot;

/// Whether a lock is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Liveness {
    /// A process holds it.
    Alive,
    /// No process holds it.
    Dead,
    /// The system does not show its locks.
    Unknown,
}

impl Liveness {
    /// The word for it in tables and in JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Liveness::Alive => "alive",
            Liveness::Dead => "dead",
            Liveness::Unknown => "unknown",
        }
    }
}

/// The bytes that one read asks for. The kernel returns at most a page; if it was asked for less, it
/// would return less.
const ASKED: usize = 64 << 10;
/// A list that was not read at once is read again, this often.
const TRIES: usize = 50;
/// With at least this many bytes, the list did not fit in one page.
const PAGE: usize = 4096;
/// How many times to read a longer list. Odd, so that there is a median.
const READINGS: usize = 5;

/// The file locks of the system, as `/proc/locks` lists them.
///
/// One read returns about a page. In a longer list a lock may be missing or appear twice, since
/// others are taken and released between two reads. So a longer list is read several times. A lock
/// is held if any reading has it, so a held lock is hardly ever missed, but one that was released
/// just now may still appear as held.
#[derive(Clone, Debug)]
pub struct Locks(Option<Vec<Reading>>);

/// One reading of the list.
type Reading = Vec<Lock>;

/// One lock that is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Lock {
    kind: Kind,
    is_exclusive: bool,
    /// The process that took it; `None` if the system does not show it.
    pid: Option<u32>,
    device: u64,
    inode: u64,
    /// The first and the last byte that it covers.
    first: u64,
    last: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// `flock`, on a whole file.
    Flock,
    /// `F_OFD_SETLK`.
    OpenFileDescription,
}

impl Lock {
    /// Parses a line; `None` for locks of other kinds and for requests that still wait.
    fn parse(line: &str) -> Option<Lock> {
        // 1: FLOCK  ADVISORY  WRITE 1234 fd:01:131085 0 EOF
        // 2: OFDLCK ADVISORY  READ -1 fd:01:131086 1024 1024
        // 2: -> FLOCK  ADVISORY  WRITE 1234 fd:01:131085 0 EOF
        let mut words = line.split_ascii_whitespace().skip(1);
        let kind = match words.next()? {
            "FLOCK" => Kind::Flock,
            "OFDLCK" => Kind::OpenFileDescription,
            _ => return None,
        };
        let is_exclusive = words.nth(1)? == "WRITE";
        let pid = words.next()?.parse().ok().filter(|&pid| pid != 0);
        let mut file = words.next()?.split(':');
        let hex = |text: &str| u64::from_str_radix(text, 16).ok();
        let device = device(hex(file.next()?)?, hex(file.next()?)?);
        let inode = file.next()?.parse().ok()?;
        let first = words.next()?.parse().ok()?;
        let last = match words.next()? {
            "EOF" => u64::MAX,
            number => number.parse().ok()?,
        };
        Some(Lock { kind, is_exclusive, pid, device, inode, first, last })
    }

    fn is_flock(&self) -> bool {
        self.kind == Kind::Flock
    }

    fn is_on_byte(&self, at: u64) -> bool {
        self.kind == Kind::OpenFileDescription && (self.first..=self.last).contains(&at)
    }
}

/// Combines the two numbers of a device.
fn device(major: u64, minor: u64) -> u64 {
    major << 20 | minor
}

impl Locks {
    /// Reads `/proc/locks`.
    #[must_use]
    pub fn read() -> Locks {
        let mut readings = VecDeque::new();
        for _ in 0..TRIES {
            let Ok(List { text, at_once }) = List::read() else { return Locks(None) };
            if at_once {
                return Locks(Some(vec![parse(&text)]));
            }
            readings.push_back(parse(&text));
            if readings.len() > READINGS {
                readings.pop_front();
            }
            if readings.len() == READINGS && text.len() >= PAGE {
                break;
            }
        }
        Locks(Some(readings.into()))
    }

    /// Whether any process holds the lock of the store in `dir`, shared or exclusive.
    pub fn store(&self, dir: &Path) -> Liveness {
        self.any(dir, Lock::is_flock)
    }

    /// Whether a process holds the lock of the store in `dir` exclusively: the owner of a temporary
    /// store, or a process that opens, recovers or removes the store.
    #[must_use]
    pub fn store_exclusively(&self, dir: &Path) -> Liveness {
        self.any(dir, |lock| lock.is_flock() && lock.is_exclusive)
    }

    /// The processes that hold the lock of the store in `dir`, as far as the system shows them.
    #[must_use]
    pub fn store_pids(&self, dir: &Path) -> Vec<u32> {
        let locks = self.on(dir).unwrap_or_default().into_iter().flatten();
        let mut pids: Vec<u32> = locks.filter(Lock::is_flock).filter_map(|lock| lock.pid).collect();
        pids.sort_unstable();
        pids.dedup();
        pids
    }

    /// Whether an open handle holds the presence lock on the control file in `dir`. The handle of a
    /// temporary store need not hold it.
    #[must_use]
    pub fn presence(&self, dir: &Path) -> Liveness {
        self.byte(dir, PRESENCE_LOCK_AT)
    }

    /// How many handles hold the presence lock on the control file in `dir`, those of other containers
    /// included; `None` if the system does not show its locks.
    #[must_use]
    pub fn handles(&self, dir: &Path) -> Option<usize> {
        let readings = self.on(&dir.join("control"))?;
        let is_handle = |lock: &&Lock| lock.is_on_byte(PRESENCE_LOCK_AT);
        // A reading may list a lock twice or not at all, and duplicates cannot be removed, because
        // the presence locks of all handles look the same.
        Some(median(readings.iter().map(|locks| locks.iter().filter(is_handle).count()).collect()))
    }

    /// Whether the writer that leased a slot of the store in `dir` is alive.
    #[must_use]
    pub fn writer(&self, dir: &Path, slot: &WriterSlot) -> Liveness {
        match self.byte(dir, slot_lock_at(slot.slot.min(SLOTS - 1))) {
            Liveness::Unknown if Path::new(&format!("/proc/{}", slot.pid)).exists() => {
                Liveness::Alive
            }
            Liveness::Unknown => Liveness::Dead,
            liveness => liveness,
        }
    }

    /// Whether a process is syncing the store in `dir`.
    #[must_use]
    pub fn sync(&self, dir: &Path) -> Liveness {
        self.byte(dir, SYNC_LOCK_AT)
    }

    /// Whether a process is compacting the store in `dir`.
    #[must_use]
    pub fn compaction(&self, dir: &Path) -> Liveness {
        self.byte(dir, COMPACTION_LOCK_AT)
    }

    fn byte(&self, dir: &Path, at: u64) -> Liveness {
        self.any(&dir.join("control"), |lock| lock.is_on_byte(at))
    }

    fn any(&self, path: &Path, is_meant: impl Fn(&Lock) -> bool) -> Liveness {
        match self.on(path) {
            None => Liveness::Unknown,
            Some(readings) if readings.iter().flatten().any(is_meant) => Liveness::Alive,
            Some(_) => Liveness::Dead,
        }
    }

    /// The locks on a file in each reading; `None` if the system does not show its locks.
    fn on(&self, path: &Path) -> Option<Vec<Reading>> {
        let readings = self.0.as_ref()?;
        let Ok(metadata) = fs::metadata(path) else { return Some(Vec::new()) };
        let dev = metadata.dev();
        // The layout of glibc: 12 bits of the major number above 8 of the minor, the rest on top.
        let major = dev >> 8 & 0xFFF | dev >> 32 & 0xFFFF_F000;
        let minor = dev & 0xFF | dev >> 12 & 0xFFFF_FF00;
        let here = |lock: &&Lock| {
            // File systems without a single device may show another device number in /proc/locks;
            // its major number is 0, too.
            let is_same = lock.device == device(major, minor);
            lock.inode == metadata.ino() && (is_same || major == 0 && lock.device >> 20 == 0)
        };
        let on_file = |locks: &Reading| locks.iter().filter(here).copied().collect();
        Some(readings.iter().map(on_file).collect())
    }
}

/// The text of `/proc/locks`.
struct List {
    text: String,
    /// Whether one read returned all of it, as it was at one moment.
    at_once: bool,
}

impl List {
    /// Reads the list to its end. ([`fs::read_to_string`] begins with reads of 32 bytes, which return
    /// one lock each.)
    fn read() -> io::Result<List> {
        let mut file = File::open("/proc/locks")?;
        let (mut text, mut part, mut reads) = (Vec::new(), vec![0; ASKED], 0);
        loop {
            let len = file.read(&mut part)?;
            if len == 0 {
                let text = String::from_utf8_lossy(&text).into_owned();
                return Ok(List { text, at_once: reads <= 1 });
            }
            text.extend_from_slice(&part[..len]);
            reads += 1;
        }
    }
}

/// The median of the counts; 0 if there are none.
fn median(mut counts: Vec<usize>) -> usize {
    counts.sort_unstable();
    counts.get(counts.len() / 2).copied().unwrap_or(0)
}

fn parse(text: &str) -> Vec<Lock> {
    text.lines().filter_map(Lock::parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locks_are_parsed_with_their_ranges_and_waiting_requests_are_not_held() {
        let text = "1: FLOCK  ADVISORY  WRITE 13456 fe:00:5932254 0 EOF\n\
                    1: -> FLOCK  ADVISORY  WRITE 99 fe:00:5932254 0 EOF\n\
                    2: OFDLCK ADVISORY  READ -1 00:2f:17 0 0\n\
                    3: OFDLCK ADVISORY  WRITE -1 00:2f:17 1088 1088\n\
                    4: POSIX  ADVISORY  WRITE 7 00:2f:17 0 EOF\n\
                    5: LEASE  ACTIVE    READ  7 00:2f:17 0 EOF\n\
                    6: FLOCK  ADVISORY  READ 0 fe:00:5 0 EOF\n\
                    garbage\n";
        let locks = parse(text);
        let short = |lock: &Lock| (lock.kind, lock.is_exclusive, lock.pid, lock.inode);
        assert_eq!(
            locks.iter().map(short).collect::<Vec<_>>(),
            [
                (Kind::Flock, true, Some(13456), 5_932_254),
                (Kind::OpenFileDescription, false, None, 17),
                (Kind::OpenFileDescription, true, None, 17),
                (Kind::Flock, false, None, 5),
            ]
        );
        assert_eq!(locks[0].device, 0xFE << 20);
        assert!(locks[1].is_on_byte(0) && !locks[1].is_on_byte(1));
        assert!(locks[2].is_on_byte(slot_lock_at(1)) && !locks[2].is_on_byte(slot_lock_at(0)));
        assert!(!locks[0].is_on_byte(0) && locks[0].is_flock(), "an flock covers no byte");
    }

    #[test]
    fn a_lock_in_any_reading_is_held_and_the_handle_count_is_the_median() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("control"), "").unwrap();
        let metadata = fs::metadata(dir.path().join("control")).unwrap();
        let presence = Lock {
            kind: Kind::OpenFileDescription,
            is_exclusive: false,
            pid: None,
            device: 0,
            inode: metadata.ino(),
            first: PRESENCE_LOCK_AT,
            last: PRESENCE_LOCK_AT,
        };
        let (major, minor) = (metadata.dev() >> 8 & 0xFFF, metadata.dev() & 0xFF);
        let presence = Lock { device: device(major, minor), ..presence };
        let sync = Lock { first: SYNC_LOCK_AT, last: SYNC_LOCK_AT, ..presence };
        for (counts, expected) in
            [(&[3][..], 3), (&[3, 4, 2, 3, 3], 3), (&[0, 0, 1, 0, 0], 0), (&[0], 0)]
        {
            let mut readings: Vec<_> = counts.iter().map(|count| vec![presence; *count]).collect();
            let is_present = counts.iter().any(|count| *count > 0);
            assert_eq!(Locks(Some(readings.clone())).sync(dir.path()), Liveness::Dead);
            readings.last_mut().unwrap().push(sync);
            let locks = Locks(Some(readings));
            assert_eq!(locks.handles(dir.path()), Some(expected), "{counts:?}");
            assert_eq!(locks.presence(dir.path()) == Liveness::Alive, is_present, "{counts:?}");
            assert_eq!(locks.sync(dir.path()), Liveness::Alive);
        }
        assert_eq!(Locks(None).handles(dir.path()), None);
    }
}
