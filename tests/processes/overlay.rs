//! A store in a container image, on overlayfs: the first writer copies its files up, and handles
//! that had them open before must not continue with the lower layer.
//!
//! The test needs root and loop devices; without them it is skipped, which is a failure with
//! CI=true.

use partd::{Options, Partd, SegmentLog};
use partd_testkit::children::skip;

use crate::full_file_systems::{Mounted, mount};

fn options() -> Options {
    SegmentLog::options().segment_len_bytes(64 << 10).compaction_dead_share(None)
}

/// A mounted overlay with a store in its lower layer.
fn with_a_store_below(writes: bool) -> Option<Mounted> {
    let mounted = match mount("overlay", &[]) {
        Ok(mounted) => mounted,
        Err(why) => {
            skip(&format!("an overlay cannot be mounted: {why}"));
            return None;
        }
    };
    mounted.unmount().expect("it is not in use");
    let p = options().open(mounted.layer("low").join("store")).expect("the open succeeds");
    p.append_durable([("k", "below")]).expect("the append succeeds");
    drop(p);
    mounted.lay_over(writes).expect("it was mounted before");
    Some(mounted)
}

#[test]
fn on_an_overlay_a_reader_older_than_the_first_writer_gets_an_error_and_a_newer_one_reads() {
    let Some(mounted) = with_a_store_below(true) else { return };
    let path = mounted.path().join("store");
    let early = options().open_read_only(&path).expect("the open succeeds");
    assert_eq!(early.get("k").expect("the read succeeds"), b"below");
    let mut late = None;
    for round in 1..4_usize {
        let writer = options().open(&path).expect("the open succeeds");
        writer.append([("k", "+above")]).expect("the append succeeds");
        let right = format!("below{}", "+above".repeat(round));
        assert_eq!(writer.get("k").expect("the read succeeds"), right.as_bytes());
        // The early reader has the lower layer open, to which the writer does not write.
        let told = early.get("k").expect_err("the reader would miss later writes").to_string();
        assert!(told.contains("opened it for writing since; open it again"), "{told}");
        let late =
            late.get_or_insert_with(|| options().open_read_only(&path).expect("the open succeeds"));
        // The same, while the writer is open and after it is closed.
        assert_eq!(late.get("k").expect("the read succeeds"), right.as_bytes(), "round {round}");
        writer.compact().expect("the compaction succeeds");
        drop(writer);
        assert_eq!(late.get("k").expect("the read succeeds"), right.as_bytes(), "round {round}");
    }
    drop((early, late));
    // The lower layer is unchanged.
    mounted.unmount().expect("it is not in use");
    let below =
        options().open_read_only(mounted.layer("low").join("store")).expect("the open succeeds");
    assert_eq!(below.get("k").expect("the read succeeds"), b"below");
}

#[test]
fn a_store_in_an_overlay_without_an_upper_layer_is_readable() {
    let Some(mounted) = with_a_store_below(false) else { return };
    let path = mounted.path().join("store");
    let reader = options().open_read_only(&path).expect("the open succeeds");
    assert_eq!(reader.get("k").expect("the read succeeds"), b"below");
    reader.verify().expect("the store is whole");
    let error = options().open(&path).and_then(|p| p.append([("k", "x")])).expect_err("no layer");
    assert!(error.to_string().contains("open_read_only"), "{error}");
}
