//! A compaction at any of its operations, beside a reader that begins and a writer that helps: the
//! moments at which a file is gone that somebody was about to open.

use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::sim::disk::{Fate, SimDisk, SimFile, SimLock};
use crate::sim::image::Image;
use crate::sim::{STORE, options};
use partd::log::disk::Disk;
use partd::{Partd, SegmentLog};

type Meanwhile = Box<dyn FnOnce() + Send>;

/// A simulated disk on which something happens right before a file is opened or a directory listed.
#[derive(Clone)]
struct Hooked {
    disk: SimDisk,
    before_open: Arc<Mutex<Option<Meanwhile>>>,
    before_list: Arc<Mutex<Option<Meanwhile>>>,
}

impl Hooked {
    fn new(disk: SimDisk) -> Hooked {
        Hooked { disk, before_open: Arc::default(), before_list: Arc::default() }
    }
}

impl std::fmt::Debug for Hooked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hooked")
    }
}

/// Lets happen what was to happen once.
fn fire(hook: &Mutex<Option<Meanwhile>>) {
    let meanwhile = hook.lock().expect("no panic").take();
    if let Some(meanwhile) = meanwhile {
        meanwhile();
    }
}

impl Disk for Hooked {
    type File = SimFile;
    type Lock = SimLock;

    fn open(&self, path: &Path, writable: bool) -> io::Result<SimFile> {
        fire(&self.before_open);
        self.disk.open(path, writable)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<OsString>> {
        fire(&self.before_list);
        self.disk.list(dir)
    }
    fn create(&self, path: &Path, len: u64) -> io::Result<SimFile> {
        self.disk.create(path, len)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(from, to)
    }
    fn replace(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.replace(from, to)
    }
    fn unlink(&self, path: &Path) -> io::Result<()> {
        self.disk.unlink(path)
    }
    fn disk_bytes(&self, path: &Path) -> io::Result<u64> {
        self.disk.disk_bytes(path)
    }
    fn age(&self, dir: &Path) -> io::Result<Duration> {
        self.disk.age(dir)
    }
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.disk.create_dir(dir)
    }
    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        self.disk.remove_dir(dir)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.disk.sync_dir(dir)
    }
    fn try_lock(&self, path: &Path, exclusive: bool) -> io::Result<Option<SimLock>> {
        self.disk.try_lock(path, exclusive)
    }
    fn unfit(&self, dir: &Path) -> io::Result<Option<String>> {
        self.disk.unfit(dir)
    }
    fn boot_id(&self) -> io::Result<[u8; 16]> {
        self.disk.boot_id()
    }
    fn random(&self, bytes: &mut [u8]) -> io::Result<()> {
        self.disk.random(bytes)
    }
    fn now_unix_ms(&self) -> u64 {
        self.disk.now_unix_ms()
    }
}

fn blank() -> SimDisk {
    SimDisk::unlogged(&Image::blank(), 1)
}

fn open(disk: &SimDisk) -> SegmentLog<SimDisk> {
    options().open_on(disk.clone(), STORE).expect("it opens")
}

/// Runs a call of a process until its operation of this number; `None` if it has fewer.
fn stopped<T: Send + 'static>(
    process: &SimDisk,
    at: u64,
    call: impl FnOnce() -> T + Send + 'static,
) -> (Fate, JoinHandle<T>) {
    process.stop_at(at);
    let disk = process.clone();
    let thread = std::thread::spawn(move || {
        let value = call();
        disk.finished();
        value
    });
    (process.wait(), thread)
}

#[test]
fn a_reader_that_begins_at_any_operation_of_a_compaction_sees_all_of_the_store() {
    let mut operations = 0;
    for at in 1.. {
        let disk = blank();
        let compactor = disk.new_process();
        let c = Arc::new(open(&compactor));
        // An output, which says that another segment lay beside it; then both are to be replaced,
        // that segment first, since it holds less.
        let beside = open(&disk.new_process());
        beside.append([("small", "s")]).expect("it is appended");
        open(&disk.new_process()).append([("large", "l".repeat(100))]).expect("it is appended");
        assert_eq!(c.compact().expect("it compacts").runs, 1);
        drop(beside);
        let hooked = Hooked::new(disk.new_process());
        let reader = options().open_on(hooked.clone(), STORE).expect("it opens");
        let outcome = Arc::new(Mutex::new(None));
        let (its_outcome, its_process) = (Arc::clone(&outcome), compactor.clone());
        *hooked.before_list.lock().expect("no panic") = Some(Box::new(move || {
            let compact = move || c.compact().expect("it compacts").runs;
            *its_outcome.lock().expect("no panic") = Some(stopped(&its_process, at, compact));
        }));
        let values = reader.get_many(["small", "large"]);
        let values = values.unwrap_or_else(|error| panic!("operation {at}: {error}"));
        assert_eq!(values, [b"s".to_vec(), "l".repeat(100).into_bytes()], "operation {at}");
        let (fate, thread) = outcome.lock().expect("no panic").take().expect("it has listed");
        compactor.resume();
        assert_eq!(thread.join().expect("no panic"), 1);
        if fate == Fate::Finished {
            operations = at - 1;
            break;
        }
    }
    assert!(operations > 10, "only {operations} operations");
}

#[test]
fn a_writer_that_helps_another_whose_segment_is_compacted_away_meanwhile_appends_all_the_same() {
    let mut helped = 0;
    for at in 1.. {
        let disk = blank();
        let process = disk.new_process();
        let a = open(&process);
        a.append([("k", "1")]).expect("it is appended");
        let hooked = Hooked::new(disk.new_process());
        let b = options().open_on(hooked.clone(), STORE).expect("it opens");
        b.append([("k", "2")]).expect("it is appended");
        let c = open(&disk.new_process());
        let (fate, thread) = stopped(&process, at, move || {
            a.append([("k", "3")]).expect("it is appended");
            a
        });
        if fate == Fate::Finished {
            break;
        }
        // Right before the helper opens the segment, its owner goes on, ends and is compacted.
        let rest = Arc::new(Mutex::new(Some((process, thread))));
        let finish = {
            let rest = Arc::clone(&rest);
            move || {
                let rest = rest.lock().expect("no panic").take();
                if let Some((process, thread)) = rest {
                    process.resume();
                    drop(thread.join().expect("no panic"));
                }
            }
        };
        let before_open = finish.clone();
        *hooked.before_open.lock().expect("no panic") = Some(Box::new(move || {
            before_open();
            assert_eq!(c.compact().expect("it compacts").segments_replaced, 1);
        }));
        b.append([("k", "4")]).unwrap_or_else(|error| panic!("operation {at}: {error}"));
        let hook = hooked.before_open.lock().expect("no panic").take();
        helped += u32::from(hook.is_none());
        drop(hook);
        finish();
        let value = open(&disk.new_process()).get("k").expect("it is read");
        assert!([&b"1234"[..], b"1243"].contains(&&value[..]), "operation {at}: {value:?}");
    }
    assert!(helped > 0, "nobody had to help");
}

#[test]
fn a_pop_and_a_compaction_stopped_at_any_operation_of_each_lose_no_byte() {
    let (mut pops, mut overtaken) = (0, 0);
    let mut compactions = 0;
    for at in 1.. {
        let mut is_last = false;
        for pop_at in 1.. {
            let disk = blank();
            let (compactor, popper) = (disk.new_process(), disk.new_process());
            let (c, q) = (open(&compactor), open(&popper));
            q.append([("other", "o")]).expect("it is appended");
            for piece in ["1", "2"] {
                open(&disk.new_process()).append([("k", piece)]).expect("it is appended");
            }
            assert_eq!(q.get("k").expect("it is read"), b"12");
            let (fate, compacting) = stopped(&compactor, at, move || {
                c.compact().expect("it compacts");
            });
            is_last = fate == Fate::Finished;
            let (fate, popping) = stopped(&popper, pop_at, move || {
                let popped = q.pop(["k", "gone"]).expect("it is popped");
                assert!(!q.contains("k").expect("it is looked up"));
                popped
            });
            compactor.resume();
            // Unless it waits for the pop, which began before it asked.
            let end = std::time::Instant::now() + Duration::from_millis(5);
            while !compacting.is_finished() && std::time::Instant::now() < end {
                std::thread::yield_now();
            }
            overtaken += u32::from(compacting.is_finished() && fate == Fate::Stopped);
            popper.resume();
            let popped = popping.join().expect("no panic");
            assert_eq!(popped, [&b"12"[..], b""], "operations {at} and {pop_at}");
            compacting.join().expect("no panic");
            let fresh = open(&disk.new_process());
            assert_eq!(fresh.get_many(["k", "other"]).expect("they are read"), [&b""[..], b"o"]);
            if fate == Fate::Finished {
                pops = pop_at - 1;
                break;
            }
        }
        if is_last {
            compactions = at - 1;
            break;
        }
    }
    println!("{compactions} and {pops} operations; {overtaken} pops were overtaken");
    assert!(compactions > 10 && pops > 3 && overtaken > 20);
}
