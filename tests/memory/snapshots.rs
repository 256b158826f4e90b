//! The resources that views and full segments pin, counted as descriptors and mappings of this
//! process and as disk space of unlinked files. The counts are for the whole process, so each test
//! runs alone.

use std::os::unix::fs::MetadataExt;

use partd::{Partd, SegmentLog};

#[derive(Clone, Copy, Debug, Default)]
struct Pinned {
    descriptors: usize,
    mappings: usize,
    unlinked_bytes: u64,
}

/// The resources of this process for segments.
fn pinned() -> Pinned {
    let mut pinned = Pinned::default();
    for entry in std::fs::read_dir("/proc/self/fd").expect("Linux lists descriptors") {
        let link = entry.expect("the listing succeeds").path();
        // The descriptor of the listing itself is closed by now.
        let Ok(target) = std::fs::read_link(&link) else { continue };
        pinned.descriptors += usize::from(target.to_string_lossy().contains(".seg"));
    }
    let maps = std::fs::read_to_string("/proc/self/maps").expect("Linux lists mappings");
    for line in maps.lines().filter(|line| line.contains(".seg")) {
        pinned.mappings += 1;
        let range = line.split(' ').next().expect("a range");
        if line.ends_with("(deleted)")
            && let Ok(file) = std::fs::metadata(format!("/proc/self/map_files/{range}"))
        {
            pinned.unlinked_bytes += file.blocks() * 512;
        }
    }
    pinned
}

#[test]
fn views_held_over_a_hundred_compactions_pin_only_their_own_segments() {
    let _alone = crate::alone();
    const SEGMENT: u64 = 1 << 20;
    let dir = tempfile::tempdir().expect("a directory");
    let p = SegmentLog::options()
        .segment_len_bytes(SEGMENT)
        .compaction_dead_share(None)
        .open(dir.path().join("store"))
        .expect("the open succeeds");
    p.append([("small", "x")]).expect("the append succeeds");
    let mut views = Vec::new();
    for round in 1..=100 {
        for i in 0..8 {
            p.append([(i, vec![round; 500_000])]).expect("the append succeeds");
        }
        views.push(p.view("small").expect("the view opens"));
        p.delete(0..8).expect("the deletes succeed");
        assert!(p.compact().expect("the compaction succeeds").runs > 0);
        assert_eq!(p.get("small").expect("the read succeeds"), b"x");
        let (now, views) = (pinned(), views.len());
        // In addition to the views: the index's segments, and the few that are being written and
        // synced.
        let most = views + 16;
        assert!(now.descriptors <= 2 * most && now.mappings <= 2 * most, "{views} views: {now:?}");
        // All views but the first show the output of a compaction, of a page or two.
        let bytes = SEGMENT + views as u64 * (64 << 10);
        assert!(now.unlinked_bytes <= bytes, "{views} views: {now:?}");
        if round % 25 == 0 {
            println!("{views} views: {now:?}");
        }
    }
    assert!(views.iter().all(|view| view.chunks().eq([b"x"])));
    drop(views);
    let now = pinned();
    println!("no view: {now:?}");
    assert!(now.mappings <= 24 && now.unlinked_bytes <= 16 * SEGMENT, "{now:?}");
}

#[test]
fn the_full_segments_of_a_temporary_store_keep_no_descriptor() {
    let _alone = crate::alone();
    let options = SegmentLog::options().segment_len_bytes(1 << 20).compaction_dead_share(None);
    let p = options.temporary().expect("the open succeeds");
    for _ in 0..20 {
        p.append([("k", vec![1; 700_000])]).expect("the append succeeds");
    }
    assert_eq!(p.get("k").expect("the read succeeds").len(), 14_000_000);
    assert_eq!(p.stats().expect("the read succeeds").segments(), 20);
    let now = pinned();
    // The segment that is being written.
    assert!(now.descriptors <= 1, "{now:?}");
}
