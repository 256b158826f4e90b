//! A view keeps only the segments of its extents open.

use crate::hooked::open;
use crate::sim::disk::SimDisk;
use crate::sim::image::Image;
use partd::Partd;

#[test]
fn a_view_keeps_only_the_segments_of_its_extents_open() {
    let process = SimDisk::unlogged(&Image::blank(), 1).new_process();
    let p = open(&process);
    for i in 0..20 {
        p.append([(format!("{i}"), [i; 40_000]), ("small".into(), [i; 40_000])]).expect("written");
    }
    let (one, many) =
        (p.view("7").expect("the view opens"), p.view("small").expect("the view opens"));
    p.delete((0..20).map(|i| i.to_string())).expect("the deletes succeed");
    p.delete(["small"]).expect("the delete succeeds");
    p.append([("left", "1")]).expect("the append succeeds");
    assert!(p.compact().expect("the compaction succeeds").segments_replaced >= 20);
    assert_eq!(p.get("left").expect("the read succeeds"), b"1");
    assert!(one.chunks().eq([&[7; 40_000][..]]));
    assert_eq!(many.len(), 20 * 40_000);
    let both = process.open_files();
    drop(many);
    let with_one = process.open_files();
    drop(one);
    let none = process.open_files();
    let pinned = (both - with_one, with_one - none);
    assert_eq!(
        pinned,
        (19, 1),
        "live is violated: the views keep the wrong number of segments open"
    );
}

#[test]
fn rebuilding_the_index_opens_only_segments_that_are_not_open() {
    let disk = SimDisk::unlogged(&Image::blank(), 1);
    let (p, q) = (open(&disk.new_process()), open(&disk.new_process()));
    // The segments of open writers are not compacted, so they stay, and their mappings with them.
    let writers: Vec<_> = (0..20).map(|_| open(&disk.new_process())).collect();
    for (i, writer) in writers.iter().enumerate() {
        writer.append([(i as u64, [i as u8; 40_000])]).expect("the append succeeds");
    }
    assert_eq!(p.keys().expect("the listing succeeds").len(), 20);
    for (key, value) in [("a", "1"), ("b", "2")] {
        open(&disk.new_process()).append([(key, value)]).expect("the append succeeds");
    }
    assert_eq!(p.get("a").expect("the read succeeds"), b"1");
    let report = q.compact().expect("the compaction succeeds");
    assert_eq!((report.runs, report.segments_replaced), (1, 2));
    let opens = || disk.counts().opens.load(std::sync::atomic::Ordering::Relaxed);
    let before = opens();
    assert_eq!(p.get("b").expect("the read succeeds"), b"2");
    let opened = opens() - before;
    println!("{opened} files opened");
    assert!(opened <= 2, "{opened} files were opened for one output");
    for i in 0..20_u64 {
        assert!(p.get(i).expect("the read succeeds") == [i as u8; 40_000]);
    }
}
