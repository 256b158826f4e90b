//! A disk in memory below the engine's file-system abstraction that can lose its power, and the
//! check of what the store must have kept. It implements the crash model: dirty pages, sectors and
//! words, the lengths of files, and the names in directories can each be lost or kept.
//!
//! | file | contents |
//! |---|---|
//! | `disk` | the disk: files, names, locks, a log of every operation; stops and deaths |
//! | `faults` | injected failures of disk calls |
//! | `memory` | the memory of its files |
//! | `image` | the state of a disk after a power cut |
//! | `names` | the names in directories, and changes of them that are not durable yet |
//! | `files` | its files: which stores are durable, and which a power cut may lose |
//! | `timeline` | the log up to a moment: what is durable by then, and what may be lost |
//! | `cuts` | enumerates which of the pending changes are lost |
//! | `oracle` | what the store must hold after each batch of the history |
//! | `script` | workloads as data, and how they run on a disk |
//! | `backups` | backups in an image: complete or refused, and harmless to the store: I10 |
//! | `power` | power cuts throughout a workload, and the invariants I1 to I5 on each image |
//! | `corruption` | other control files and flipped bits: I6 and I9 |
//! | `damage` | every store with one damaged file: I9 |
//! | `repeated_recovery` | interrupted recoveries, and appends to a recovered store: I7 and I8 |
//! | `workloads` | the workloads |

mod backup_dirs;
pub mod backups;
pub mod corruption;
pub mod cuts;
pub mod damage;
pub mod disk;
pub mod faults;
mod files;
pub mod image;
pub mod memory;
pub mod names;
pub mod oracle;
pub mod power;
pub mod repeated_recovery;
pub mod script;
pub mod timeline;
pub mod workloads;

use std::path::Path;

use partd::{Options, SegmentLog};

/// The path of the store in every simulated test.
pub const STORE: &str = "/store";

/// Whether a path is that of the store's control file.
fn is_control(path: &Path) -> bool {
    path.parent() == Some(Path::new(STORE)) && path.ends_with("control")
}

/// The options of every simulated test: small segments, and no background compaction.
pub fn options() -> Options {
    SegmentLog::options().segment_len_bytes(64 << 10).compaction_dead_share(None)
}

/// A violation of an invariant of the crash model.
#[derive(Clone, Debug)]
pub struct Violation {
    /// `I1` to `I10`, or `live` for a store that was wrong before any crash.
    pub invariant: &'static str,
    pub text: String,
}

impl Violation {
    pub fn new(invariant: &'static str, text: impl Into<String>) -> Violation {
        Violation { invariant, text: text.into() }
    }
}

/// A seeded generator of random numbers (splitmix64).
#[derive(Clone, Debug)]
pub struct Rng(pub u64);

impl Rng {
    #[inline]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `limit`, which must not be 0.
    #[inline]
    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}
