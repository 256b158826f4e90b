//! A reused builder allocates nothing, whatever keys and values pass through it, and neither does a
//! recycled batch.

use partd::{Batch, BatchBuilder, Durability, Key, Partd, Result, SegmentLog};

/// A store that keeps nothing, so that all allocations are those of the batch.
struct Nowhere;

impl Partd for Nowhere {
    fn write(&self, batch: &Batch<'_>, _: Durability) -> Result<()> {
        assert_eq!(batch.ops().len(), 66);
        Ok(())
    }
    fn read(&self, keys: &[Key]) -> Result<Vec<Vec<u8>>> {
        Ok(vec![Vec::new(); keys.len()])
    }
    fn take(&self, keys: &[Key]) -> Result<Vec<Vec<u8>>> {
        self.read(keys)
    }
    fn lens(&self, keys: &[Key]) -> Result<Vec<Option<u64>>> {
        Ok(vec![None; keys.len()])
    }
    fn keys(&self) -> Result<Vec<Key>> {
        Ok(Vec::new())
    }
    fn sync(&self) -> Result<()> {
        Ok(())
    }
}

/// Fills a builder with short and long keys and values of 10 to 500 bytes.
fn fill(builder: &mut BatchBuilder, round: u64) {
    for i in 0..64 {
        let value = [7; 500];
        let len = 10 + (i as usize * 37 + round as usize) % 490;
        builder.append(("a job with a long name", round, i, "partition"), &value[..len]);
    }
    builder.delete(round).set("short", b"value");
}

/// Returns how many times the calling thread allocates in `work`.
fn allocations(work: impl FnOnce()) -> usize {
    let before = crate::allocations();
    work();
    crate::allocations() - before
}

#[test]
fn a_reused_builder_allocates_nothing_per_batch() {
    let _alone = crate::alone();
    let mut builder = BatchBuilder::new();
    let mut write = |round| {
        fill(&mut builder, round);
        builder.write(&Nowhere, Durability::Plain).expect("it keeps nothing");
    };
    assert!(allocations(|| (0..20).for_each(&mut write)) > 64, "the first batches allocate");
    assert_eq!(allocations(|| (20..200).for_each(&mut write)), 0);
}

#[test]
fn a_recycled_batch_allocates_nothing() {
    let _alone = crate::alone();
    let mut empty = Batch::new();
    let mut write = |i: u8| {
        let value = [i; 100];
        let mut batch = std::mem::take(&mut empty).recycle();
        for part in 0..66_u8 {
            batch.append(("stage", part), &value[..usize::from(part)]);
        }
        Nowhere.write(&batch, Durability::Plain).expect("it keeps nothing");
        empty = batch.recycle();
    };
    write(0);
    assert_eq!(allocations(|| (1..100).for_each(&mut write)), 0);
}

#[test]
fn a_segment_log_takes_batches_of_a_builder_with_few_allocations() {
    let _alone = crate::alone();
    let p = SegmentLog::temporary().expect("a temporary store opens");
    let mut builder = BatchBuilder::new();
    let mut write = |round| {
        fill(&mut builder, round);
        builder.write(&p, Durability::Plain).expect("the write succeeds");
    };
    (0..20).for_each(&mut write);
    let count = allocations(|| (20..120).for_each(&mut write));
    println!("{count} allocations for 100 batches");
    assert!(count <= 100, "{count} allocations for 100 batches of 66 operations");
}
