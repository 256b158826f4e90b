//! Chunks that are lent before their checksums are compared are exactly the value, and damage is found
//! when they are copied.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use partd::{Error, ErrorKind, Key, Options, Partd, Result, SegmentLog, Unverified};

fn options() -> Options {
    SegmentLog::options().segment_len_bytes(64 << 10).compaction_dead_share(None)
}

/// Copies the values, chunk by chunk.
fn copies(p: &SegmentLog, keys: &[Key]) -> Result<Vec<Vec<u8>>> {
    p.visit_unverified(keys, |values| {
        let copy = |chunks: &Vec<Unverified<'_>>| {
            let mut value = Vec::new();
            for chunk in chunks {
                chunk.verify(|bytes| value.extend_from_slice(bytes))?;
                assert!(value.ends_with(chunk.bytes()));
            }
            Ok(value)
        };
        values.iter().map(copy).collect()
    })
}

/// Returns the segment that holds these bytes, and their offset in it.
fn place(path: &Path, bytes: &[u8]) -> (PathBuf, usize) {
    for entry in fs::read_dir(path).unwrap() {
        let name = entry.unwrap().path();
        let content = fs::read(&name).unwrap();
        let found = content.windows(bytes.len()).position(|window| window == bytes);
        if let Some(at) = found {
            return (name, at);
        }
    }
    panic!("no segment holds the bytes");
}

/// Flips a bit of the first of these bytes; returns the segment that holds them.
fn damage(path: &Path, bytes: &[u8]) -> PathBuf {
    let (name, at) = place(path, bytes);
    let file = fs::File::options().write(true).open(&name).unwrap();
    file.write_all_at(&[bytes[0] ^ 1], at as u64).unwrap();
    name
}

#[test]
fn verified_copies_are_the_values_before_and_after_a_compaction() {
    let p = options().temporary().unwrap();
    for i in 0..200_u64 {
        p.append([(i % 7, vec![i as u8; (i * 31) as usize])]).unwrap();
    }
    p.delete(["2"]).unwrap();
    let keys = ["3", "missing", "0", "2", "3"].map(Key::from);
    for _ in 0..2 {
        let expected = p.read(&keys).unwrap();
        assert!(copies(&p, &keys).unwrap() == expected, "I1 is violated: other bytes");
        assert_eq!((expected[1].len(), expected[3].len()), (0, 0));
        p.compact().unwrap();
    }
    assert!(copies(&p, &[]).unwrap().is_empty());
}

#[test]
fn chunks_keep_their_bytes_if_the_visitor_deletes_and_compacts() {
    let p = options().temporary().unwrap();
    for i in 0..100_u8 {
        p.append([("k", vec![i; 3000])]).unwrap();
    }
    let same = p.visit_unverified(&["k".into()], |values| {
        p.delete(["k"]).unwrap();
        p.compact().unwrap();
        p.append((0..100).map(|i: u64| (i, vec![0xFF; 3000]))).unwrap();
        let same = values[0].iter().zip(0..).all(|(chunk, i)| {
            chunk.verify(|_| {}).unwrap();
            chunk.bytes() == vec![i; 3000]
        });
        Ok::<_, Error>(same)
    });
    assert!(same.unwrap());
    assert_eq!(p.len_of("k").unwrap(), 0);
}

#[test]
fn a_damaged_chunk_is_an_error_of_its_own_copy_that_names_its_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let p = options().open(&path).unwrap();
    p.append([("x", b"first of x"), ("y", b"first of y"), ("x", b"later of x")]).unwrap();
    let file = damage(&path, b"later of x");
    let keys = ["x", "y"].map(Key::from);
    p.visit_unverified(&keys, |values| {
        let [x, y] = values else { panic!("{} values", values.len()) };
        y[0].verify(|_| {}).unwrap();
        x[0].verify(|_| {}).unwrap();
        match x[1].verify(|_| {}) {
            Err(Error::Damage { path, .. }) => assert_eq!(path, file),
            result => panic!("I9 is violated: {result:?}"),
        }
        Ok::<(), Error>(())
    })
    .unwrap();
    let trusting = options().verify_on_read(false).open(&path).unwrap();
    assert_eq!(copies(&trusting, &keys).unwrap()[0].len(), 20);
}

#[test]
fn damage_in_any_part_of_a_chunk_of_any_length_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let p = SegmentLog::options().segment_len_bytes(8 << 20).open(&path).unwrap();
    let lens = [1000, 64 << 10, (64 << 10) + 1, 3 << 20];
    let value = |len: usize| (0..len).map(|i| (i * i / 7 + i) as u8).collect::<Vec<u8>>();
    for len in lens {
        p.append([(len as u64, value(len))]).unwrap();
    }
    let places: Vec<(PathBuf, usize)> = lens.map(|len| place(&path, &value(len))).into();
    for (len, (file, start)) in lens.into_iter().zip(&places) {
        let keys = [Key::from(len as u64)];
        let copied = copies(&p, &keys);
        assert!(copied.is_ok_and(|values| values[0] == value(len)), "I1 is violated: {len} bytes");
        let file = fs::File::options().write(true).open(file).unwrap();
        for at in [0, len / 2, len - 1] {
            let byte = value(len)[at];
            file.write_all_at(&[byte ^ 1], (start + at) as u64).unwrap();
            let kind = copies(&p, &keys).map_err(|error| error.kind()).map(drop);
            assert_eq!(kind, Err(ErrorKind::Corrupt), "I9 is violated: byte {at} of {len}");
            file.write_all_at(&[byte], (start + at) as u64).unwrap();
        }
    }
}
