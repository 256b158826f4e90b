//! Readers of one value and iterators over entries show what `get` shows, at one moment.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, BufRead, Read, Seek, SeekFrom};
use std::path::Path;

use partd::{Error, Key, Options, Partd, SegmentLog};

fn options() -> Options {
    SegmentLog::options().segment_len_bytes(64 << 10).compaction_dead_share(None)
}

/// A generator of numbers below a bound.
fn random(seed: u32) -> impl FnMut(usize) -> usize {
    let mut state = seed;
    move |n| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as usize % n
    }
}

/// Flips a bit of the byte at `at` in the only place where the segments hold `bytes`.
fn damage(store: &Path, bytes: &[u8], at: usize) {
    let mut places = 0;
    for entry in fs::read_dir(store).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "seg") {
            continue;
        }
        let mut file = fs::read(&path).unwrap();
        if let Some(place) = file.windows(bytes.len()).position(|window| window == bytes) {
            file[place + at] ^= 4;
            fs::write(&path, file).unwrap();
            places += 1;
        }
    }
    assert_eq!(places, 1, "the value lies in {places} segments");
}

/// The error of the store inside an I/O error.
fn inner(error: &io::Error) -> &Error {
    error.get_ref().and_then(|inner| inner.downcast_ref()).expect("an error of the store")
}

/// Reads a value in every way that a reader offers, and compares it with what it must be.
fn check_reader(
    p: &SegmentLog,
    key: usize,
    value: &[u8],
    as_read: bool,
    random: &mut dyn FnMut(usize) -> usize,
) {
    let reader = || match as_read {
        true => p.reader(key as u64).unwrap().check_as_read(),
        false => p.reader(key as u64).unwrap().release_behind(),
    };
    let mut whole = Vec::new();
    assert_eq!(reader().len(), value.len() as u64);
    assert_eq!(reader().read_to_end(&mut whole).unwrap(), value.len());
    assert!(whole == value, "read_to_end");

    let (mut bytes, mut lent) = (reader(), Vec::new());
    loop {
        let piece = bytes.fill_buf().unwrap();
        if piece.is_empty() {
            break;
        }
        let len = 1 + random(piece.len());
        lent.extend_from_slice(&piece[..len]);
        bytes.consume(len);
        assert_eq!(bytes.position(), lent.len() as u64);
    }
    assert!(lent == value, "fill_buf");

    let mut jumping = reader();
    for _ in 0..50 {
        let at = random(value.len() + 100) as u64;
        let here = jumping.position();
        let to = match random(3) {
            0 => SeekFrom::Start(at),
            1 => SeekFrom::End(at as i64 - value.len() as i64),
            _ => SeekFrom::Current(at as i64 - here as i64),
        };
        assert_eq!(jumping.seek(to).unwrap(), at);
        let mut read = vec![0; random(3000)];
        let len = jumping.read(&mut read).unwrap();
        let expected = value.get(at as usize..).unwrap_or(&[]);
        assert_eq!(len, expected.len().min(read.len()), "at {at} of {}", value.len());
        assert!(read[..len] == expected[..len], "at {at} of {}", value.len());
        assert_eq!(jumping.stream_position().unwrap(), at + len as u64);
    }
    let error = jumping.seek(SeekFrom::Start(0)).and_then(|_| jumping.seek(SeekFrom::Current(-1)));
    assert_eq!(error.unwrap_err().kind(), io::ErrorKind::InvalidInput);
    assert_eq!(jumping.position(), 0, "a seek that fails moves nothing");
}

#[test]
fn a_reader_returns_what_get_returns_whatever_was_appended_and_compacted() {
    for seed in 0..8 {
        println!("seed {seed}");
        let mut random = random(seed);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store");
        let handles = [options().open(&path).unwrap(), options().open(&path).unwrap()];
        for round in 0..4 {
            for _ in 0..100 {
                let p = &handles[random(2)];
                let len = [0, 5, 300, 5000][random(4)];
                let value: Vec<u8> = (0..len).map(|_| random(256) as u8).collect();
                p.append([(random(3) as u64, value)]).unwrap();
            }
            if random(2) == 0 {
                handles[random(2)].compact().unwrap();
            }
            for key in 0..4 {
                let value = handles[0].get(key as u64).unwrap();
                check_reader(&handles[1], key, &value, round % 2 == 0, &mut random);
            }
        }
    }
}

#[test]
fn a_reader_shows_one_moment_and_outlives_its_handle() {
    let dir = tempfile::tempdir().unwrap();
    let p = options().open(dir.path().join("store")).unwrap();
    p.append([("x", "one "), ("x", "two")]).unwrap();
    let (mut appended, mut deleted) = (p.reader("x").unwrap(), p.reader("x").unwrap());
    let mut text = String::new();
    p.append([("x", " three")]).unwrap();
    appended.read_to_string(&mut text).unwrap();
    assert_eq!(text, "one two");
    p.delete(["x"]).unwrap();
    p.compact().unwrap();
    assert!(p.reader("x").unwrap().is_empty() && p.reader("x").unwrap().began().is_none());
    drop(p);
    text.clear();
    deleted.read_to_string(&mut text).unwrap();
    assert_eq!(text, "one two");
}

#[test]
fn a_position_in_a_value_stays_valid_while_it_grows_and_is_compacted() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let p = options().open(&path).unwrap();
    let (mut whole, mut read, mut at, mut began) = (Vec::new(), Vec::new(), 0, None);
    for round in 0_u8..30 {
        let value = vec![round; 1000 + 700 * usize::from(round)];
        p.append([("x", &value[..]), ("y", &value[..])]).unwrap();
        whole.extend(value);
        if round % 3 == 0 {
            p.compact().unwrap();
        }
        let other = options().open(&path).unwrap();
        for handle in [&p, &other] {
            let mut reader = handle.reader("x").unwrap();
            assert_eq!(*began.get_or_insert(reader.began()), reader.began());
            reader.seek(SeekFrom::Start(at)).unwrap();
            (&mut reader).take(900).read_to_end(&mut read).unwrap();
            at = reader.position();
        }
        assert!(whole.starts_with(&read) && at == read.len() as u64, "round {round}");
    }
    assert!(read.len() > 25_000);
    p.delete(["x"]).unwrap();
    p.append([("x", &whole)]).unwrap();
    assert!(p.reader("x").unwrap().began() > began.unwrap());
}

#[test]
fn a_damaged_piece_is_an_error_and_the_pieces_around_it_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let p = options().open(&path).unwrap();
    let pieces: Vec<Vec<u8>> = (1..=3).map(|i| vec![i; 1000]).collect();
    p.append(pieces.iter().map(|piece| ("x", piece))).unwrap();
    drop(p);
    damage(&path, &pieces[1], 999);
    let p = options().open(&path).unwrap();
    let mut reader = p.reader("x").unwrap();
    let mut read = Vec::new();
    for _ in 0..2 {
        let error = reader.read_to_end(&mut read).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert!(inner(&error).is_corruption() && error.to_string().contains(".seg"), "{error}");
        assert!(read == pieces[0], "the first piece, and nothing of the second");
    }
    reader.seek(SeekFrom::Start(1500)).unwrap();
    assert!(reader.fill_buf().is_err());
    reader.seek(SeekFrom::Start(2000)).unwrap();
    assert_eq!(reader.fill_buf().unwrap(), pieces[2]);
    // `read` returns what it has before it reports an error.
    reader.rewind().unwrap();
    let mut buffer = [0; 3000];
    assert_eq!(reader.read(&mut buffer).unwrap(), 1000);
    assert!(reader.read(&mut buffer).is_err());
}

#[test]
fn a_reader_that_checks_as_it_reads_reports_damage_before_the_end_of_the_piece() {
    const LEN: usize = 3 << 20;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let mut random = random(1);
    let value: Vec<u8> = (0..LEN).map(|_| random(256) as u8).collect();
    let options = SegmentLog::options().segment_len_bytes(4 << 20);
    let p = options.open(&path).unwrap();
    p.append([("x", &value)]).unwrap();
    drop(p);
    damage(&path, &value[..100], 7);
    let p = options.open(&path).unwrap();
    let mut at_once = p.reader("x").unwrap();
    assert!(at_once.fill_buf().is_err(), "no byte of a damaged piece");
    let mut as_read = p.reader("x").unwrap().check_as_read();
    let mut read = Vec::new();
    let error = as_read.read_to_end(&mut read).unwrap_err();
    assert!(inner(&error).is_corruption());
    assert!((LEN / 2..LEN).contains(&read.len()), "{} bytes before the error", read.len());
    assert!(as_read.fill_buf().is_err(), "the error stays");
    as_read.seek(SeekFrom::Start(100)).unwrap();
    assert!(as_read.fill_buf().is_err(), "a jump into a piece checks all of it");
}

#[test]
fn entries_show_one_moment_in_key_order_from_both_ends() {
    let dir = tempfile::tempdir().unwrap();
    let p = options().open(dir.path().join("store")).unwrap();
    let mut model: BTreeMap<Key, Vec<u8>> = BTreeMap::new();
    let mut random = random(3);
    for _ in 0..500 {
        let key = Key::from((["a", "b"][random(2)], random(40) as u64));
        let value = vec![random(256) as u8; random(900)];
        p.append([(&key, &value)]).unwrap();
        model.entry(key).or_default().extend(value);
    }
    let prefix = Key::tuple_prefix("b");
    let (all, of_b) = (p.entries().unwrap(), p.entries_with_prefix(&prefix).unwrap());
    let reversed = p.entries().unwrap().rev();
    assert_eq!(all.len(), model.len());
    p.append([(("b", 3), "later"), (("c", 1), "later")]).unwrap();
    p.delete_prefix(Key::tuple_prefix("a")).unwrap();
    p.compact().unwrap();
    let read = |entry: partd::Result<(Key, partd::View)>| {
        let (key, view) = entry.unwrap();
        (key, view.chunks().collect::<Vec<_>>().concat())
    };
    assert!(all.map(read).eq(model.clone()));
    assert!(reversed.map(read).eq(model.clone().into_iter().rev()));
    let of_b: Vec<_> = of_b.map(read).collect();
    model.retain(|key, _| key.as_bytes().starts_with(prefix.as_bytes()));
    assert!(of_b.len() > 10 && of_b.into_iter().eq(model));
    assert_eq!(p.entries_with_prefix("no key").unwrap().count(), 0);
}

#[test]
fn a_damaged_value_is_one_error_among_the_entries() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let p = options().open(&path).unwrap();
    p.append((0_u8..5).map(|i| (u64::from(i), vec![i + 1; 1000]))).unwrap();
    drop(p);
    damage(&path, &[3; 1000], 500);
    let p = options().open(&path).unwrap();
    let entries: Vec<_> = p.entries().unwrap().collect();
    for (i, entry) in entries.iter().enumerate() {
        match (i, entry) {
            (2, Err(error)) => assert!(error.is_corruption()),
            (i, Ok((key, view))) => {
                assert!(i != 2 && *key == Key::from(i as u64) && view.len() == 1000);
            }
            (i, Err(error)) => panic!("{i}: {error}"),
        }
    }
    assert_eq!(entries.len(), 5);
}
