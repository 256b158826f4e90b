//! The shuffle example: every row of the input is in one output file, together with all other rows
//! of its key.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use partd_shuffle::job::{self, Job, Report};

/// The fields of a row.
type Row = Vec<String>;

/// Fields that are hard to parse.
const FIELDS: [&str; 12] = [
    "",
    "plain",
    "\"quoted\"",
    "\"with, comma\"",
    "\"two\nlines\"",
    "\"three\r\n\r\nlines\"",
    "\"a \"\"quote\"\" inside\"",
    "\"\"",
    "\"\"\"\"",
    " spaces ",
    "5\" wide",
    "\u{e4}\u{f6}\u{fc}",
];

/// A CSV text with a header and `rows` rows of four columns: n, key, a, b.
fn csv_text(rows: usize, line_end: &str, last_line_end: bool) -> String {
    let mut seed = 12_345_u64;
    let mut random = |below: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as usize % below
    };
    let mut text = format!("n,key,\"a, or\nso\",b{line_end}");
    for n in 0..rows {
        let key = match random(3) {
            0 => FIELDS[random(FIELDS.len())].to_owned(),
            _ => format!("key {}", random(40)),
        };
        let long = "x".repeat(if random(50) == 0 { random(3000) } else { 0 });
        let (a, b) = (FIELDS[random(FIELDS.len())], FIELDS[random(FIELDS.len())]);
        text.push_str(&format!("{n}{long},{key},{a},{b}{line_end}"));
    }
    if !last_line_end {
        text.truncate(text.len() - line_end.len());
    }
    text
}

/// The rows of a text without its header, as the csv crate reads them.
fn rows(text: &[u8]) -> Vec<Row> {
    let mut reader = csv::ReaderBuilder::new().from_reader(text);
    reader.records().map(|row| row.unwrap().iter().map(str::to_owned).collect()).collect()
}

struct Shuffled {
    report: Report,
    parts: Vec<Vec<Row>>,
    headers: Vec<String>,
}

fn job(dir: &Path) -> Job {
    Job {
        input: dir.join("input.csv"),
        by: "key".to_owned(),
        partitions: 7,
        out: dir.join("out"),
        memory_bytes: 256 << 10,
        threads: 1,
        repeat: 1,
    }
}

fn shuffle(text: &str, change: impl FnOnce(&mut Job)) -> Shuffled {
    let dir = tempfile::tempdir().unwrap();
    let mut job = job(dir.path());
    fs::write(&job.input, text).unwrap();
    change(&mut job);
    let told = AtomicU64::new(0);
    let report = job::run(&job, &|bytes| {
        told.fetch_add(bytes, Ordering::Relaxed);
    })
    .unwrap();
    assert_eq!(told.into_inner(), report.bytes * 2, "progress counts every byte, in and out");
    assert!(!report.append_time.is_zero() && !report.get_time.is_zero());
    let mut paths: Vec<PathBuf> =
        fs::read_dir(&job.out).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let expected: Vec<PathBuf> =
        (0..job.partitions).map(|part| job.out.join(format!("part-{part:04}.csv"))).collect();
    assert_eq!(paths, expected, "one file per partition and nothing else");
    let texts: Vec<Vec<u8>> = paths.iter().map(|path| fs::read(path).unwrap()).collect();
    let header = |text: &Vec<u8>| {
        let mut reader = csv::ReaderBuilder::new().from_reader(&text[..]);
        reader.headers().unwrap().iter().collect::<Vec<_>>().join("|")
    };
    Shuffled {
        report,
        parts: texts.iter().map(|text| rows(text)).collect(),
        headers: texts.iter().map(header).collect(),
    }
}

/// Checks that the parts hold the rows of the text, `repeat` times, each key in one part.
fn check(text: &str, shuffled: &Shuffled, repeat: usize) {
    let input = rows(text.as_bytes());
    assert_eq!(shuffled.report.rows as usize, input.len() * repeat);
    let mut counts = HashMap::<Row, isize>::new();
    for row in &input {
        *counts.entry(row.clone()).or_default() += repeat as isize;
    }
    let mut part_of = HashMap::<String, usize>::new();
    for (part, rows) in shuffled.parts.iter().enumerate() {
        for row in rows {
            *counts.entry(row.clone()).or_default() -= 1;
            let first = *part_of.entry(row[1].to_owned()).or_insert(part);
            assert_eq!(first, part, "rows of key {:?} are in two files", &row[1]);
        }
    }
    let wrong: Vec<_> = counts.iter().filter(|(_, count)| **count != 0).take(3).collect();
    assert!(wrong.is_empty(), "rows lost (+) or doubled (-): {wrong:?}");
    assert!(shuffled.headers.iter().all(|header| header == "n|key|a, or\nso|b"));
}

#[test]
fn with_one_thread_the_output_has_the_input_rows_in_order() {
    for (line_end, last_line_end) in [("\n", true), ("\n", false), ("\r\n", true), ("\r\n", false)]
    {
        let text = csv_text(20_000, line_end, last_line_end);
        let shuffled = shuffle(&text, |_| {});
        check(&text, &shuffled, 1);
        let mut place = HashMap::new();
        for (i, row) in rows(text.as_bytes()).into_iter().enumerate() {
            place.insert(row[0].to_owned(), i);
        }
        for part in &shuffled.parts {
            assert!(part.iter().map(|row| place[&row[0]]).is_sorted(), "rows are out of order");
        }
        assert_eq!(shuffled.report.log_bytes, shuffled.report.bytes, "{:?}", shuffled.report);
    }
}

#[test]
fn no_row_is_lost_or_doubled_with_several_threads_and_any_memory_limit() {
    let text = csv_text(20_000, "\n", false);
    for (memory_bytes, threads, repeat) in [(0, 3, 1), (300 << 10, 4, 3), (1 << 30, 2, 2)] {
        let shuffled = shuffle(&text, |job| {
            (job.memory_bytes, job.threads, job.repeat) = (memory_bytes, threads, repeat);
        });
        check(&text, &shuffled, repeat);
    }
}

#[test]
fn blocks_without_quotes_beside_fields_longer_than_a_block_lose_no_row() {
    let mut text = String::from("n,key,\"a, or\nso\",b\n");
    for n in 0..20_000 {
        let long = match n % 4_000 {
            // Longer than the blocks of 16 KiB, with line feeds and without another quote.
            999 => format!("\"{}\"", "line,\n".repeat(10_000)),
            1_999 => format!("\"{}\"\"\n\"", "x".repeat(n)),
            _ => "x".repeat(n % 37),
        };
        text.push_str(&format!("{n},key {},{long},b\n", n % 41));
    }
    for threads in [1, 3] {
        let shuffled = shuffle(&text, |job| job.threads = threads);
        check(&text, &shuffled, 1);
    }
}

#[test]
fn a_block_may_end_right_after_a_quote() {
    const BLOCK: usize = 16 << 10;
    let header = "n,key,\"a, or\nso\",b\n";
    for after in ["\n", ",b\n", "\"\",b\n", "\"\n\",b\n", "\r\n"] {
        let mut text = String::from(header);
        for n in 1..20 {
            // The quote is the last byte of a block.
            let start = format!("{n},key {n},{}\"", if after.contains(",b") { "" } else { "b," });
            let end = header.len() + n * BLOCK;
            let field = "y".repeat(end - text.len() - start.len() - 1);
            text.push_str(&start);
            text.push_str(&field);
            text.push('"');
            assert_eq!(text.len(), end);
            text.push_str(after);
            // No quote until far into the next block.
            (0..600).for_each(|i| text.push_str(&format!("{n}-{i},key {},a,b\n", i % 41)));
        }
        let shuffled = shuffle(&text, |_| {});
        check(&text, &shuffled, 1);
    }
}

#[test]
fn the_last_column_can_be_the_key_whatever_the_line_ending() {
    let text = "a,key\r\n1,x\r\n\r\n2,y\r\n3,\"x\"\r\n4,x";
    let shuffled = shuffle(text, |job| job.partitions = 50);
    let with_x = shuffled.parts.iter().find(|part| part.iter().any(|row| &row[1] == "x")).unwrap();
    let numbers: Vec<&str> =
        with_x.iter().filter(|row| &row[1] == "x").map(|row| row[0].as_str()).collect();
    assert_eq!(numbers, ["1", "3", "4"]);
    assert_eq!(shuffled.report.rows, 4);
}

#[test]
fn a_file_with_only_a_header_produces_files_with_only_a_header() {
    for text in ["n,key", "n,key\n"] {
        let shuffled = shuffle(text, |_| {});
        assert!(shuffled.headers.iter().all(|header| header == "n|key"));
        assert_eq!(shuffled.report.rows, 0);
    }
}

#[test]
fn each_failure_is_reported_in_one_sentence() {
    let dir = tempfile::tempdir().unwrap();
    let fails = |change: &dyn Fn(&mut Job)| {
        let mut job = job(dir.path());
        change(&mut job);
        let error = job::run(&job, &|_| {}).unwrap_err();
        error.replace(&dir.path().display().to_string(), "DIR")
    };
    assert_eq!(fails(&|_| {}), "cannot read DIR/input.csv: No such file or directory (os error 2)");
    fs::write(dir.path().join("input.csv"), "n,key,other\n1,2,3\n1,2\n").unwrap();
    assert_eq!(
        fails(&|job| job.by = "kee".to_owned()),
        "DIR/input.csv has no column \"kee\"; its columns are n, key, other"
    );
    assert_eq!(
        fails(&|job| job.input = dir.path().to_owned()),
        "DIR is a directory; name one CSV file"
    );
    assert_eq!(
        fails(&|job| job.out = dir.path().to_owned()),
        "the output directory DIR is not empty; empty it or name a new one"
    );
    assert_eq!(fails(&|_| {}), "DIR/input.csv: a row has 2 columns where the header has 3: 1,2");
}
