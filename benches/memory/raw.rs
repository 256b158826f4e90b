//! The random-read rate of the disk: extents of one size at random offsets, at several queue
//! depths.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::OFlags;

/// The duration of the measurement at each depth.
const TIME: Duration = Duration::from_millis(400);
const DEPTHS: [usize; 4] = [1, 8, 32, 64];

/// Writes a file and measures how fast its extents are read past the page cache, at the best depth,
/// in bytes per second.
pub(crate) fn random_reads(path: &Path, file_len: u64, extent: u64, pool: &[u8]) -> f64 {
    let mut file = File::create_new(path).unwrap();
    for at in (0..file_len).step_by(pool.len()) {
        file.write_all(&pool[..(file_len - at).min(pool.len() as u64) as usize]).unwrap();
    }
    file.sync_all().unwrap();
    drop(file);
    let direct = OFlags::DIRECT.bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(direct).open(path).unwrap();
    DEPTHS.map(|depth| at_depth(&file, file_len, extent, depth)).into_iter().fold(0.0, f64::max)
}

fn at_depth(file: &File, file_len: u64, extent: u64, depth: usize) -> f64 {
    let (read, start) = (AtomicU64::new(0), Instant::now());
    std::thread::scope(|scope| {
        for thread in 0..depth as u64 {
            let read = &read;
            scope.spawn(move || {
                // Direct reads need memory that is aligned to a block.
                let mut memory = vec![0; extent as usize + 4096];
                let skip = memory.as_ptr().align_offset(4096);
                let buffer = &mut memory[skip..skip + extent as usize];
                let mut random = thread.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
                while start.elapsed() < TIME {
                    random ^= random << 13;
                    random ^= random >> 7;
                    random ^= random << 17;
                    file.read_exact_at(buffer, random % (file_len / extent) * extent).unwrap();
                    read.fetch_add(extent, Ordering::Relaxed);
                }
            });
        }
    });
    read.into_inner() as f64 / start.elapsed().as_secs_f64()
}
