//! A process at its limit of memory maps (`vm.max_map_count`) gets errors that say so, and loses
//! nothing.
//!
//! The limit counts the maps of one process, so a child takes all of its own. The setting of the
//! machine, which other processes share, stays as it is.

use std::path::Path;

use memmap2::{Mmap, MmapMut};
use partd::{Options, Partd, SegmentLog};
use partd_testkit::children::{Start, directory, report, skip, start_with_channel};

/// How many segments the store has.
const SEGMENTS: u32 = 40;
/// How many maps are given back before each new attempt.
const STEP: usize = 4;

fn options() -> Options {
    SegmentLog::options().segment_len_bytes(64 << 10).compaction_dead_share(None)
}

fn value(i: u32) -> Vec<u8> {
    vec![i as u8; 50_000]
}

/// Maps of single pages. Two neighbours never have the same rights, since the kernel would count
/// them as one map.
struct Maps {
    writable: Vec<MmapMut>,
    read_only: Vec<Mmap>,
}

impl Maps {
    /// Takes maps until there are no more; `None` if the kernel sets no limit.
    fn all() -> Option<Maps> {
        let limit = std::fs::read_to_string("/proc/sys/vm/max_map_count").ok()?;
        let limit: usize = limit.trim().parse().ok()?;
        let mut maps =
            Maps { writable: Vec::with_capacity(limit), read_only: Vec::with_capacity(limit) };
        for _ in 0..limit {
            let Ok(page) = MmapMut::map_anon(4096) else { return Some(maps) };
            maps.writable.push(page);
            let page = MmapMut::map_anon(4096).and_then(MmapMut::make_read_only);
            let Ok(page) = page else { return Some(maps) };
            maps.read_only.push(page);
        }
        None
    }

    fn give_back(&mut self, pairs: usize) {
        self.writable.truncate(self.writable.len().saturating_sub(pairs));
        self.read_only.truncate(self.read_only.len().saturating_sub(pairs));
    }
}

/// The child's work: repeats calls on the store, with a few maps more each time, until all succeed.
pub(crate) fn exhaust(arguments: &[String]) {
    let path = Path::new(&arguments[0]);
    let early = options().open(path).expect("there are maps");
    assert!(early.get(0).expect("there are maps") == value(0));
    let Some(mut maps) = Maps::all() else { return report("no limit") };
    let mut refused = 0;
    let mut check = |what: &str, error: partd::Error| {
        let text = error.to_string();
        match text.contains("vm.max_map_count") {
            true => refused += 1,
            false => report(&format!("{what}: {text}")),
        }
    };
    let mut appended = 0;
    for _ in 0..1000 {
        let before = appended;
        let mut failures = 0;
        let mut tried = |what: &str, result: partd::Result<()>| {
            if let Err(error) = result {
                failures += 1;
                check(what, error);
            }
        };
        let read_all = |p: &SegmentLog| {
            (0..SEGMENTS).try_for_each(|i| {
                assert!(p.get(i)? == value(i), "a wrong value");
                Ok(())
            })
        };
        tried("a read of an open handle", read_all(&early));
        tried("a read-only handle", options().open_read_only(path).and_then(|p| read_all(&p)));
        tried("a new handle", options().open(path).and_then(|p| read_all(&p)));
        // Every second append needs a new segment.
        let append = early.append([("more", value(1))]);
        appended += u64::from(append.is_ok());
        tried("an append", append);
        tried("a compaction", early.compact().map(drop));
        let popped = early.pop(["more"]);
        if let Ok(popped) = &popped {
            assert_eq!(popped[0].len() as u64, 50_000 * appended, "a pop lost bytes");
            appended = 0;
        }
        tried("a pop", popped.map(drop));
        if failures == 0 && before == 0 {
            report(&format!("refused {refused}"));
            return report("done");
        }
        maps.give_back(STEP);
    }
    report("it does not recover");
}

#[test]
fn a_process_without_memory_maps_gets_errors_that_name_the_limit_and_loses_nothing() {
    let (_dir, path) = directory();
    let p = options().open(&path).expect("the open succeeds");
    (0..SEGMENTS).for_each(|i| p.append([(i, value(i))]).expect("the append succeeds"));
    drop(p);
    let arguments = [path.display().to_string()];
    let (mut child, said) = start_with_channel(&Start::default(), "maps", &arguments);
    let status = child.wait();
    let said: Vec<String> = said.iter().collect();
    assert!(status.success(), "{status}: {said:?}");
    if said == ["no limit"] {
        return skip("the kernel does not limit the memory maps of a process");
    }
    let [refused, done] = &said[..] else { panic!("{said:#?}") };
    assert_eq!(done, "done");
    let refused: u64 = refused.strip_prefix("refused ").expect("a count").parse().unwrap();
    assert!(refused > 0, "no call met the limit");
    let p = options().open(&path).expect("the open succeeds");
    (0..SEGMENTS).for_each(|i| assert!(p.get(i).unwrap() == value(i)));
    assert_eq!(p.len_of("more").unwrap(), 0);
    p.verify().expect("the store is whole");
}
