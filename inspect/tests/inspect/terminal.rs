//! A terminal gets colours, unless `NO_COLOR` is set, a line of rates that is refreshed in place,
//! and a progress bar. A pipe gets none of these. Tables fit the available width.

use std::ffi::OsStr;
use std::path::Path;

use crate::support::build::{Control, Item, STORE, Segment};
use crate::support::{boot, command, in_terminal, on, sample_store, write_store};

fn shown(path: &Path, args: &[&str], environment: &[(&str, &str)]) -> String {
    let mut all: Vec<&OsStr> = args.iter().map(OsStr::new).collect();
    let behind = usize::from(args.first().is_some_and(|first| !first.starts_with('-')));
    all.insert(behind, path.as_os_str());
    let (text, code) = in_terminal(&all, environment);
    assert_eq!(code, 0, "{args:?}: {text}");
    text
}

#[test]
fn colours_appear_only_in_a_terminal_and_never_with_no_color() {
    let dir = tempfile::tempdir().unwrap();
    let store = sample_store(dir.path());
    let colored = |text: &str| text.contains("\u{1b}[");
    for args in [&[][..], &["segments"], &["map"]] {
        assert!(colored(&shown(&store, args, &[])), "{args:?} in a terminal");
        assert!(!colored(&on(&store, args).text()), "{args:?} in a pipe");
        for more in [&[][..], &["--color", "always"]] {
            let args = [args, more].concat();
            assert!(
                !colored(&shown(&store, &args, &[("NO_COLOR", "1")])),
                "{args:?} with NO_COLOR"
            );
        }
        assert!(colored(&shown(&store, args, &[("NO_COLOR", "")])), "{args:?}: empty is unset");
        assert!(!colored(&shown(&store, args, &[("TERM", "dumb")])), "{args:?} in a dumb terminal");
        let never = [args, &["--color", "never"]].concat();
        assert!(!colored(&shown(&store, &never, &[])), "{never:?}");
    }
    let always = on(&store, &["segments", "--color", "always"]);
    assert!(colored(&always.text()), "who asks for colours in a pipe gets them");
    let mut refused = command();
    refused.args(["map", "--color", "always"]).arg(&store).env("NO_COLOR", "1");
    let refused = refused.output().unwrap();
    assert!(!colored(&String::from_utf8_lossy(&refused.stdout)));
}

#[test]
fn watch_refreshes_one_line_in_a_terminal_and_writes_lines_elsewhere() {
    let dir = tempfile::tempdir().unwrap();
    let store = sample_store(dir.path());
    let args = ["watch", "--interval", "0.01", "--count", "3"];
    let text = shown(&store, &args, &[("NO_COLOR", "1")]);
    assert_eq!(text.matches('\n').count(), 2, "the headings, and the end: {text:?}");
    assert_eq!(text.matches("\u{1b}[K").count(), 3, "{text:?}");
    let lines = on(&store, &args).text();
    assert_eq!((lines.lines().count(), lines.contains('\r')), (4, false), "{lines:?}");
}

#[test]
fn verify_shows_its_progress_only_in_a_terminal() {
    let dir = tempfile::tempdir().unwrap();
    let store = sample_store(dir.path());
    let text = shown(&store, &["verify"], &[]);
    assert!(text.contains("every checksum is right"), "{text:?}");
    let piped = on(&store, &["verify"]);
    assert_eq!((piped.code, &piped.stderr[..]), (0, ""));
}

/// A store with large numbers everywhere: sparse segments of 1 GiB and high sequence numbers.
fn large_numbers(dir: &Path) -> std::path::PathBuf {
    let mut segments = Vec::new();
    let (first, len) = (1_234_567_890_123, 1_u64 << 30);
    for id in 1..=3 {
        let mut segment = Segment::new(STORE, id, 8192);
        segment.header.len = len;
        let header = segment.header.encode();
        segment.bytes[..header.len()].copy_from_slice(&header);
        for i in 0..3 {
            let key = format!("a rather long key of a customer in a far away country, number {i}");
            segment.commit(first + id * 3 + i, &[Item::append(key, [7; 1500])]);
        }
        segments.push(segment);
    }
    let control =
        Control { next_segment: 4, clean: true, ..Control::open(STORE, boot(), first + 11) };
    let store = write_store(dir, &segments.iter().collect::<Vec<_>>(), Some(&control));
    for segment in &segments {
        let file = std::fs::File::options().write(true).open(store.join(segment.name())).unwrap();
        file.set_len(len).unwrap();
    }
    store
}

#[test]
fn tables_of_large_numbers_fit_eighty_columns_and_lose_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = large_numbers(dir.path());
    let commands: [&[&str]; 6] = [
        &["segments", "--exact"],
        &["segments"],
        &["batches", "--exact"],
        &["keys", "--exact"],
        &["map"],
        &["--exact"],
    ];
    for args in commands {
        let text = on(&store, args).text();
        let wide = text.lines().find(|line| line.chars().count() > 80 && !line.contains('/'));
        assert_eq!(wide, None, "{args:?}:\n{text}");
    }
    let text = on(&store, &["segments", "--exact"]).text();
    for number in ["1,073,741,824", "1,234,567,890,126-1,234,567,890,128"] {
        assert!(text.contains(number), "{number} is missing:\n{text}");
    }
    // With enough room, each segment takes one line.
    let wide = on(&store, &["segments", "--exact", "--wide"]).text();
    assert_eq!(wide.lines().filter(|line| line.contains("1,073,741,824")).count(), 3);
    assert!(wide.lines().any(|line| line.chars().count() > 80), "{wide}");

    let temp = dir.path().join("a directory of temporary stores with quite a long name of its own");
    std::fs::create_dir(&temp).unwrap();
    for name in ["partd-tmp-0123456789abcdef", "partd-tmp-fedcba9876543210"] {
        crate::support::copy(&sample_store(&dir.path().join(name)), &temp.join(name));
    }
    let strange = "x".repeat(200);
    std::fs::write(temp.join("partd-tmp-0123456789abcdef").join(strange), "").unwrap();
    let text = on(&temp, &["sweep", "--exact"]).text();
    let wide = text.lines().find(|line| line.chars().count() > 80);
    assert_eq!(wide, None, "{text}");
    assert!(text.contains("abandoned") && text.contains("holds xxx"), "{text}");
}
