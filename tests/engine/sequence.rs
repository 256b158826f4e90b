//! Sequence numbers: what a commit returns, up to where the history is durable, and syncs up to a
//! number.

use partd::{Batch, Durability, ErrorKind, Partd, SegmentLog, Seq};

#[test]
fn commits_of_all_handles_are_numbered_densely_from_one() {
    let dir = tempfile::tempdir().unwrap();
    let open = || SegmentLog::open(dir.path().join("store")).unwrap();
    let (p, other) = (open(), open());
    assert_eq!(p.last_seq().unwrap(), Seq::default());
    for round in 0..10_u64 {
        let mut batch = Batch::new();
        batch.append("k", b"1").append("l", b"2");
        assert_eq!(p.commit(&batch, Durability::Plain).unwrap().get(), 2 * round + 1);
        let removal = other.commit(Batch::new().delete("k"), Durability::Plain).unwrap();
        assert_eq!(u64::from(removal), 2 * round + 2);
        assert_eq!(p.last_seq().unwrap(), removal);
        assert_eq!(p.commit(&Batch::new(), Durability::Plain).unwrap(), removal);
    }
    drop((p, other));
    assert_eq!(open().last_seq().unwrap().get(), 20);
    let reader = SegmentLog::open_read_only(dir.path().join("store")).unwrap();
    assert_eq!(reader.last_seq().unwrap().get(), 20);
}

#[test]
fn a_sync_up_to_a_number_makes_that_batch_durable_and_one_beyond_the_history_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let p = SegmentLog::open(dir.path().join("store")).unwrap();
    let first = p.commit(Batch::new().append("k", b"1"), Durability::Plain).unwrap();
    let second = p.commit(Batch::new().append("k", b"2"), Durability::Plain).unwrap();
    assert!(p.durable_seq().unwrap() < first);
    p.sync_to(first).unwrap();
    assert!(p.durable_seq().unwrap() >= first);
    p.sync_to(second).unwrap();
    assert_eq!(p.durable_seq().unwrap(), second);
    p.sync_to(Seq::default()).unwrap();
    let durable = p.commit(Batch::new().append("k", b"3"), Durability::Durable).unwrap();
    assert_eq!(p.durable_seq().unwrap(), durable);
    let error = p.sync_to(Seq::from(durable.get() + 1)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("the last batch of the store is 3"), "{error}");
}

#[test]
fn one_key_is_appended_to_and_deleted_without_a_list() {
    let p = SegmentLog::temporary().unwrap();
    p.append_one("k", "Hello ").unwrap();
    p.append_one("k", b"world!").unwrap();
    p.append_one(("t", 1), vec![1]).unwrap();
    assert_eq!(p.get("k").unwrap(), b"Hello world!");
    p.delete_one("k").unwrap();
    p.delete_one("missing").unwrap();
    assert_eq!(p.keys().unwrap(), [("t", 1).into()]);
}
