//! The engine on hostile stores: a control file and up to three segments from the input, on a disk
//! in memory, either raw or with their checks corrected after the mutation.
//!
//! Every operation succeeds or returns an error; none panics or allocates out of proportion to the
//! input. A store opened read-only shows the same data as after recovery; appended data is present,
//! and a compaction and a close change no value.
#![no_main]

use std::path::Path;
use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use partd::{Key, Partd, Result, SegmentLog};
use partd_fuzz::disk::{MemDisk, World};
use partd_fuzz::hostile::Hostile;
use partd_fuzz::limit::with_limit;

const DIR: &str = "/store";
/// New segments and control files, the threads that read in parallel, and the memory that recovery
/// and the index need for the smallest batches and entries: at most eight times the bytes of an
/// input as long as the seeds, which is little.
const CAP_BYTES: usize = 2 << 20;

type Log = SegmentLog<MemDisk>;
type Contents = Vec<(Key, Vec<u8>)>;

fuzz_target!(|data: &[u8]| {
    let Some(hostile) = Hostile::new(data) else { return };
    if hostile.control.is_none() && hostile.segments.is_empty() {
        // Opening would create a store.
        return;
    }
    let world = hostile.world(Path::new(DIR));
    with_limit(hostile.len(), CAP_BYTES, || open(&world, hostile.other));
});

/// The result; or `None` for an error, which must name the path.
fn told<T>(result: Result<T>) -> Option<T> {
    result.inspect_err(|error| assert!(error.to_string().contains(DIR), "no path: {error}")).ok()
}

fn open(world: &Arc<World>, ignore_damage: bool) {
    let options = SegmentLog::options().segment_len_bytes(64 << 10).compaction_dead_share(None);
    let reading = options.clone().ignore_damage(ignore_damage);
    let seen = reading.open_read_only_on(MemDisk::new(world), Path::new(DIR));
    let seen = told(seen).map(|log| read(&log));
    let open = |world| told(options.open_on(MemDisk::new(world), Path::new(DIR)));
    let Some(log) = open(world) else { return };
    let recovered = read(&log);
    if !ignore_damage {
        assert!(seen.is_some(), "a store that can be recovered cannot be read");
        let damaged = recovered.is_none() || seen == Some(None);
        assert!(damaged || seen == Some(recovered), "recovery changed the contents");
    }
    let added = b"added".as_slice();
    let keys = [Key::from("k"), Key::from("new")];
    let before = told(log.get("k"));
    if told(log.append([("k", added), ("new", added)])).is_some()
        && let (Some(before), Some(after)) = (before, told(log.get("k")))
    {
        assert!(after == [&before, added].concat(), "the appended value is not at the end");
    }
    told(log.iset("set", "once"));
    told(log.take(&keys[1..]));
    let kept = read(&log);
    told(log.compact());
    assert!(kept.is_none() || read(&log) == kept, "a compaction changes values");
    told(log.sync());
    drop(log);
    if let Some(kept) = kept {
        let again = open(world).and_then(|log| read(&log));
        assert!(again == Some(kept), "the store has changed after closing and reopening");
    }
    // Earlier damage can look like a torn tail now, so the store may have less.
    open(&world.after_power_cut(0)).map(|log| read(&log));
}

/// The contents of a store, if everything in it is whole.
fn read(log: &Log) -> Option<Contents> {
    let keys = told(log.keys())?;
    let lens = told(log.lens(&keys))?;
    let stats = told(log.stats())?;
    let live = lens.iter().map(|len| len.expect("a key has a length")).sum::<u64>();
    assert!(stats.keys == keys.len() as u64 && stats.live_bytes == live, "counts");
    let verified = told(log.verify());
    let values = told(log.read(&keys));
    assert!(verified.is_some() == values.is_some(), "verify and read do not agree");
    for (key, len) in keys.iter().zip(&lens) {
        let view = told(log.view(key));
        assert!(values.is_none() || view.is_some(), "a readable value cannot be viewed");
        let Some(view) = view else { continue };
        let bytes: usize = view.chunks().map(<[u8]>::len).sum();
        assert!(Some(bytes as u64) == *len && view.len() == bytes as u64, "lengths");
    }
    let values = values?;
    assert!(values.iter().zip(&lens).all(|(value, len)| Some(value.len() as u64) == *len));
    Some(keys.into_iter().zip(values).collect())
}
