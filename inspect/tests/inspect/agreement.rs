//! The inspector and the engine read a store with different code. The values that one lists and the
//! other restores must be the same, on crash images and on damaged copies.
//!
//! An image of a power cut combines two copies of a store, one taken right after a sync, so that
//! all of it is durable, and a later one. Each sector that differs comes from either copy, new
//! files exist up to some point, and the control file may hold anything. `PARTD_IMAGES=100000 cargo
//! test -p partd-inspect --test inspect agreement -- --nocapture` tries more images.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use partd::{Partd, SegmentLog};

use crate::support::{Rng, adopt, copy, reboot};
use partd_inspect::history::{Rule, value_checksum};
use partd_inspect::index::Index;
use partd_inspect::problem::Severity;
use partd_inspect::store::{Refusal, Store};

/// Each key's value, or the error that reading it gives.
type Values = BTreeMap<Vec<u8>, Result<Vec<u8>, String>>;

/// The values that the inspector lists.
pub(crate) fn values(store: &Store) -> Values {
    let index = Index::build(&store.segments, &store.history, &[]);
    let mut values = Values::new();
    for (key, held) in index.sorted() {
        let mut value = Ok(Vec::new());
        for at in &held.extents {
            let segment = &store.segments[at.segment as usize];
            let entry = &segment.entries[at.entry as usize];
            let found = value_checksum(&segment.source, segment.salt().unwrap(), entry).unwrap();
            if found != entry.value_checksum {
                value = Err("checksum".to_owned());
            }
            if let Ok(bytes) = &mut value {
                let mut piece = vec![0; entry.value_len as usize];
                segment.source.read_exact(&mut piece, entry.value_offset).unwrap();
                bytes.extend_from_slice(&piece);
            }
        }
        values.insert(key.to_vec(), value);
    }
    values
}

/// The values that the engine restores.
fn restored(log: &SegmentLog) -> Result<Values, String> {
    let keys = log.keys().map_err(|error| error.to_string())?;
    let get = |key: &partd::Key| log.get(key).map_err(|_| "checksum".to_owned());
    Ok(keys.iter().map(|key| (key.as_bytes().to_vec(), get(key))).collect())
}

/// A directory for images, in memory if possible.
pub(crate) fn workshop() -> tempfile::TempDir {
    let shm = Path::new("/dev/shm");
    let made = shm.is_dir().then(|| tempfile::tempdir_in(shm).ok()).flatten();
    made.unwrap_or_else(|| tempfile::tempdir().unwrap())
}

fn plain_op(log: &SegmentLog, rng: &mut Rng, step: u64) {
    // Three letters, each alone and followed by an `x`.
    let letter = |rng: &mut Rng| b'a' + rng.below(3) as u8;
    let key = |rng: &mut Rng| match rng.chance(50) {
        true => vec![letter(rng)],
        false => vec![letter(rng), b'x'],
    };
    let value = |rng: &mut Rng| {
        let len = if rng.chance(5) { 20_000 } else { rng.below(400) };
        (0..len).map(|i| (step + i) as u8).collect::<Vec<u8>>()
    };
    match rng.below(20) {
        0 => log.delete([key(rng)]).unwrap(),
        1 => log.iset(key(rng), value(rng)).unwrap(),
        2 if rng.chance(20) => log.clear().unwrap(),
        3 if rng.chance(50) => log.delete_prefix([letter(rng)]).unwrap(),
        4 if rng.chance(50) => log.delete_prefix([letter(rng), b'x']).unwrap(),
        _ => {
            let pairs: Vec<_> = (0..=rng.below(3)).map(|_| (key(rng), value(rng))).collect();
            log.append(pairs).unwrap();
        }
    }
}

/// Makes a durable copy and a later copy of an open store, and returns their paths.
fn two_copies(dir: &Path, rng: &mut Rng) -> (PathBuf, PathBuf) {
    let store = dir.join("store");
    let options = SegmentLog::options().segment_len_bytes(64 << 10);
    let handles = [options.open(&store).unwrap(), options.open(&store).unwrap()];
    let op = |rng: &mut Rng, step| {
        let handle = rng.below(2) as usize;
        plain_op(&handles[handle], rng, step);
    };
    for step in 0..rng.below(60) {
        op(rng, step);
        if rng.chance(5) {
            handles[0].sync().unwrap();
        }
    }
    if rng.chance(30) {
        handles[1].compact().unwrap();
    }
    handles[0].sync().unwrap();
    let (durable, later) = (dir.join("durable"), dir.join("later"));
    copy(&store, &durable);
    for step in 0..rng.below(60) {
        op(rng, 1000 + step);
    }
    copy(&store, &later);
    drop(handles);
    (durable, later)
}

/// Builds the image of a power cut between the two copies.
fn power_cut(durable: &Path, later: &Path, image: &Path, rng: &mut Rng) {
    fs::create_dir_all(image).unwrap();
    let mut names: Vec<_> =
        fs::read_dir(later).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    let is_new = |name: &std::ffi::OsString| !durable.join(name).exists();
    let new_there = rng.below(1 + names.iter().filter(|name| is_new(name)).count() as u64);
    let keep = rng.below(101);
    let mut new_seen = 0;
    for name in names {
        let new = fs::read(later.join(&name)).unwrap();
        let mut bytes = fs::read(durable.join(&name)).unwrap_or_else(|_| vec![0; new.len()]);
        if is_new(&name) {
            new_seen += 1;
            if new_seen > new_there {
                continue;
            }
        }
        for (old, new) in bytes.chunks_mut(512).zip(new.chunks(512)) {
            if old != new && rng.chance(keep) {
                old.copy_from_slice(new);
            }
        }
        fs::write(image.join(&name), bytes).unwrap();
    }
    if image.join("control").exists() {
        reboot(image);
        adopt(image);
        let path = image.join("control");
        match rng.below(6) {
            0 => fs::remove_file(&path).unwrap(),
            1 => fs::write(&path, vec![0; 66_560]).unwrap(),
            2 => {
                let random: Vec<u8> = (0..66_560).map(|_| rng.next() as u8).collect();
                fs::write(&path, random).unwrap();
            }
            _ => {}
        }
    }
}

/// The result of a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Same,
    BothDamaged,
}

/// Compares the inspector's and the engine's view of an image: before recovery, after it, and after
/// a second one.
pub(crate) fn compare(image: &Path) -> Result<Outcome, String> {
    let seen = match Store::read(image) {
        // A power cut may leave no store; then the engine finds none either, and creates one.
        Err(Refusal::NoStore(..)) => {
            return match (SegmentLog::open_read_only(image), SegmentLog::open(image)) {
                (Err(_), Ok(log)) if log.keys().is_ok_and(|keys| keys.is_empty()) => {
                    Ok(Outcome::Same)
                }
                opened => Err(format!("the inspector alone sees no store: {opened:?}")),
            };
        }
        seen => seen.map_err(|refusal| refusal.to_string())?,
    };
    let listed = values(&seen);
    let problems = || {
        let problems: Vec<String> = seen.history.problems.iter().map(ToString::to_string).collect();
        format!("rule {:?}, last {}, {problems:#?}", seen.history.rule, seen.history.last)
    };
    let log = SegmentLog::open_read_only(image);
    let engine = log.map_err(|error| error.to_string()).and_then(|log| restored(&log));
    match (&engine, seen.is_damaged()) {
        (Err(_), true) => return Ok(Outcome::BothDamaged),
        (Err(error), false) => {
            return Err(format!("the engine alone sees damage: {error}; {}", problems()));
        }
        (Ok(values), _) if *values != listed => {
            return Err(format!(
                "the values differ; {}; {}",
                difference(values, &listed),
                problems()
            ));
        }
        (Ok(values), true)
            if values.values().all(Result::is_ok) && !only_the_commit_word(&seen) =>
        {
            return Err(format!("the inspector alone sees damage; {}", problems()));
        }
        _ => {}
    }
    for _ in 0..2 {
        let log = SegmentLog::open(image).map_err(|error| format!("cannot be opened: {error}"))?;
        let recovered = restored(&log)?;
        if recovered != listed {
            return Err(format!("recovery differs; {}", difference(&recovered, &listed)));
        }
        drop(log);
        let after = Store::read(image).map_err(|refusal| refusal.to_string())?;
        let listed_after = values(&after);
        if listed_after != listed {
            return Err(format!("after recovery; {}", difference(&listed, &listed_after)));
        }
    }
    Ok(Outcome::Same)
}

/// If the writers are dead and the last batch they counted is unreadable, the engine goes by the
/// batches that it can read. The inspector does the same and also reports the problem.
fn only_the_commit_word(seen: &Store) -> bool {
    let problems = seen.history.problems.iter();
    let mut damage = problems.filter(|problem| problem.severity == Severity::Damage);
    seen.history.rule == Rule::Numbers && damage.all(|problem| problem.what == "commit word")
}

fn difference(engine: &Values, inspector: &Values) -> String {
    let keys: std::collections::BTreeSet<_> = engine.keys().chain(inspector.keys()).collect();
    let len = |values: &Values, key: &Vec<u8>| match values.get(key) {
        None => "missing".to_owned(),
        Some(Ok(value)) => format!("{} bytes", value.len()),
        Some(Err(error)) => error.clone(),
    };
    let differ = keys.into_iter().filter(|key| engine.get(*key) != inspector.get(*key));
    let each = differ.map(|key| {
        let (one, other) = (len(engine, key), len(inspector, key));
        format!("{}: engine {one}, inspector {other}", key.escape_ascii())
    });
    each.collect::<Vec<_>>().join("; ")
}

pub(crate) fn images(default: u64) -> u64 {
    std::env::var("PARTD_IMAGES").map_or(default, |text| text.parse().expect("a number"))
}

#[test]
fn inspector_and_engine_agree_on_a_thousand_images_of_crashes() {
    let (seed, wanted) = (20_261_122, images(1000));
    println!("seed {seed}, {wanted} images");
    let (mut same, mut made) = (0, 0);
    let mut rng = Rng::new(seed);
    while made < wanted {
        let dir = workshop();
        let (durable, later) = two_copies(dir.path(), &mut rng);
        for number in 0..25 {
            let image = dir.path().join(format!("image-{number}"));
            if number == 0 {
                // All processes were killed at once: everything in memory survives.
                copy(&later, &image);
                // Half of the images are adopted as the original; the others count as copies that
                // were made while the store was in use.
                if rng.chance(50) {
                    adopt(&image);
                }
            } else {
                power_cut(&durable, &later, &image, &mut rng);
            }
            made += 1;
            match compare(&image) {
                Ok(Outcome::Same) => same += 1,
                Ok(Outcome::BothDamaged) => {
                    panic!("image {made}, seed {seed}: a crash must not look like damage")
                }
                Err(why) => {
                    let kept = dir.keep();
                    panic!("image {made}, seed {seed}, in {}: {why}", kept.display());
                }
            }
            fs::remove_dir_all(&image).unwrap();
        }
    }
    assert_eq!(same, made);
}

#[test]
fn inspector_and_engine_agree_on_the_damage() {
    let (seed, wanted) = (4711, images(1000) / 2);
    println!("seed {seed}, {wanted} images");
    let mut rng = Rng::new(seed);
    let (mut damaged, mut made) = (0, 0);
    let mut apart = Vec::new();
    while made < wanted {
        let dir = workshop();
        let (_, later) = two_copies(dir.path(), &mut rng);
        for number in 0..25 {
            let image = dir.path().join(format!("image-{number}"));
            copy(&later, &image);
            adopt(&image);
            if rng.chance(50) {
                reboot(&image);
            }
            let mut segments: Vec<_> = fs::read_dir(&image)
                .unwrap()
                .map(|entry| entry.unwrap().path())
                .filter(|path| path.extension().is_some_and(|extension| extension == "seg"))
                .collect();
            segments.sort();
            if segments.is_empty() {
                break;
            }
            made += 1;
            let path = &segments[rng.below(segments.len() as u64) as usize];
            let mut bytes = fs::read(path).unwrap();
            let used = bytes.iter().rposition(|&byte| byte != 0).unwrap_or(0) as u64 + 1;
            let (at, bit) = (rng.below(used) as usize, rng.below(8));
            match rng.below(10) {
                0 => fs::remove_file(path).unwrap(),
                _ => {
                    bytes[at] ^= 1 << bit;
                    fs::write(path, &bytes).unwrap();
                }
            }
            match compare(&image) {
                Ok(Outcome::Same) => {}
                Ok(Outcome::BothDamaged) => damaged += 1,
                Err(why) => apart.push(format!("{} at {at} bit {bit}: {why}", path.display())),
            }
            fs::remove_dir_all(&image).unwrap();
        }
    }
    assert!(apart.is_empty(), "{} of {made} apart:\n{}", apart.len(), apart.join("\n"));
    assert!(damaged > made / 10, "{damaged} of {made} were damaged");
}
