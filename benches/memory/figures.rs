//! The figures that a process measures about itself: times, bytes read, faults, memory.

use std::fs;
use std::time::{Duration, Instant};

/// The figures of one process. What was not measured is not a number.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Figures {
    /// GiB/s.
    pub(crate) append: f64,
    /// GiB/s.
    pub(crate) get: f64,
    /// Bytes that the get has read from disk per byte returned.
    pub(crate) amplification: f64,
    /// Major faults while reading.
    pub(crate) faults: f64,
    /// The peak memory while reading in MiB: the process's own, and that of mapped files.
    pub(crate) own_mib: f64,
    pub(crate) mapped_mib: f64,
}

const FIELDS: usize = 6;

impl Figures {
    pub(crate) const NONE: Figures = Figures {
        append: f64::NAN,
        get: f64::NAN,
        amplification: f64::NAN,
        faults: f64::NAN,
        own_mib: f64::NAN,
        mapped_mib: f64::NAN,
    };

    fn fields(&self) -> [f64; FIELDS] {
        let Figures { append, get, amplification, faults, own_mib, mapped_mib } = *self;
        [append, get, amplification, faults, own_mib, mapped_mib]
    }

    fn of_fields(fields: [f64; FIELDS]) -> Figures {
        let [append, get, amplification, faults, own_mib, mapped_mib] = fields;
        Figures { append, get, amplification, faults, own_mib, mapped_mib }
    }

    /// Prints the figures of a child.
    pub(crate) fn print(&self) {
        println!("{}", self.fields().map(|field| field.to_string()).join(" "));
    }

    /// Parses the output of [`print`](Figures::print).
    pub(crate) fn parse(text: &str) -> Option<Figures> {
        let fields: Vec<f64> =
            text.split_whitespace().map(str::parse).collect::<Result<_, _>>().ok()?;
        Some(Figures::of_fields(fields.try_into().ok()?))
    }

    /// The median of each field.
    pub(crate) fn median(all: &[Figures]) -> Figures {
        let mut fields = [0.0; FIELDS];
        for (i, field) in fields.iter_mut().enumerate() {
            let mut values: Vec<f64> = all.iter().map(|figures| figures.fields()[i]).collect();
            values.sort_by(f64::total_cmp);
            let middle = values.len() / 2;
            *field = match values.len() % 2 {
                0 => f64::midpoint(values[middle - 1], values[middle]),
                _ => values[middle],
            };
        }
        Figures::of_fields(fields)
    }

    /// The cells of a table, with the ratios to `rival` and the ratio of the get to the rate in
    /// `beside`.
    pub(crate) fn cells(&self, rival: Option<&Figures>, beside: Option<(f64, &str)>) -> String {
        let number = |figure: f64, decimals: usize| match figure {
            figure if figure.is_nan() => "–".to_owned(),
            figure => format!("{figure:.decimals$}"),
        };
        let ratio = |ours: f64, theirs: Option<f64>| {
            theirs.map_or(String::new(), |theirs| number(ours / theirs, 2))
        };
        let beside = beside.map_or(String::new(), |(get, what)| {
            format!("{} of {what}", number(self.get / get, 2))
        });
        [
            number(self.append, 2),
            ratio(self.append, rival.map(|rival| rival.append)),
            number(self.get, 3),
            ratio(self.get, rival.map(|rival| rival.get)),
            beside,
            number(self.amplification, 2),
            number(self.faults, 0),
            number(self.own_mib, 0),
            number(self.mapped_mib, 0),
        ]
        .join(" | ")
    }
}

/// The head of a table of such cells.
pub(crate) const HEAD: &str = "\
| | | append, GiB/s | ÷ ranges | get, GiB/s | ÷ ranges | get ÷ | read ÷ returned | major faults | own MiB | mapped MiB |
|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|";

/// Measures one part of a child's work.
pub(crate) struct Meter {
    start: Instant,
    read: u64,
    faults: u64,
}

impl Meter {
    pub(crate) fn start() -> Meter {
        Meter { read: read_bytes(), faults: major_faults(), start: Instant::now() }
    }

    /// The time, the bytes read from disk and the major faults since the start.
    pub(crate) fn stop(self) -> (Duration, u64, u64) {
        let time = self.start.elapsed();
        (time, read_bytes() - self.read, major_faults() - self.faults)
    }
}

pub(crate) fn rate(bytes: u64, time: Duration) -> f64 {
    bytes as f64 / time.as_secs_f64() / f64::from(1 << 30)
}

fn field(file: &str, name: &str) -> u64 {
    let text = fs::read_to_string(file).expect("the kernel reports on this process");
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|rest| rest.trim_start_matches(':').split_whitespace().next());
    number.and_then(|number| number.parse().ok()).expect("a field of the kernel's")
}

/// The number of bytes that this process has read from disk.
fn read_bytes() -> u64 {
    field("/proc/self/io", "read_bytes")
}

fn major_faults() -> u64 {
    let stat = fs::read_to_string("/proc/self/stat").expect("the kernel reports on this process");
    // The fields after the name, which can contain anything.
    let fields = stat.rsplit_once(')').map(|(_, fields)| fields.split_whitespace().nth(9));
    fields.flatten().and_then(|faults| faults.parse().ok()).expect("the field majflt")
}

/// The current memory in MiB: the process's own, and that of mapped files.
pub(crate) fn memory_mib() -> (f64, f64) {
    let kib = |name| field("/proc/self/status", name) as f64 / 1024.0;
    (kib("RssAnon"), kib("RssFile"))
}
