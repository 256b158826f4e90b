//! `Options::create(false)`: a mistyped path is an error, and creates nothing.

use partd::{ErrorKind, Partd, SegmentLog};

#[test]
fn a_store_that_may_not_be_created_is_an_error_that_names_the_path_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let existing = SegmentLog::options().create(false);
    let (mistyped, empty) = (dir.path().join("a/stroe"), dir.path().join("empty"));
    std::fs::create_dir(&empty).unwrap();
    for path in [&mistyped, &empty] {
        let error = existing.open(path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotAStore);
        let text = error.to_string();
        assert!(text.contains(path.to_str().unwrap()), "the path is not named: {text}");
        assert!(text.contains("check the path, or create one"), "no advice: {text}");
    }
    assert!(!dir.path().join("a").exists());
    assert_eq!(std::fs::read_dir(&empty).unwrap().count(), 0);
}

#[test]
fn an_existing_store_opens_for_writing_although_it_may_not_be_created() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    SegmentLog::open(&path).unwrap().append([("k", "Hello ")]).unwrap();
    let p = SegmentLog::options().create(false).open(&path).unwrap();
    p.append([("k", "world!")]).unwrap();
    assert_eq!(p.get("k").unwrap(), b"Hello world!");
    // Without its control file it is still a store.
    drop(p);
    std::fs::remove_file(path.join("control")).unwrap();
    let p = SegmentLog::options().create(false).open(&path).unwrap();
    assert_eq!(p.get("k").unwrap(), b"Hello world!");
}
