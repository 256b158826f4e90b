//! Links `partd-format` into a program without `std` or an allocator, with a panic handler of its own,
//! to prove that the crate needs none of them. If any dependency used `std`, the build would fail:
//! there would be two panic handlers.
//!
//! `cargo build --release --manifest-path format/no_std_check/Cargo.toml` is the check. `format/no_std_check/run`
//! also runs the program; it exits with 1 if everything it wrote could be read.
#![no_std]
#![no_main]

use partd_format::batch::Layout;
use partd_format::segment::HEADER_LEN;
use partd_format::{Salt, Scanner, SegmentHeader, control};

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// Encodes a segment header, a batch and a control file, decodes them, and scans the segment.
fn batches() -> usize {
    let mut bytes = [0; 512];
    let header = SegmentHeader {
        store: [1; 16],
        id: 1,
        len: 512,
        salt: Salt(7),
        output: None,
        data_start: HEADER_LEN,
        created_unix_ms: 0,
        pid: 0,
        slot: 0,
    };
    bytes[..HEADER_LEN as usize].copy_from_slice(&header.encode());
    let mut head = [0; 32];
    let written = Layout::new().encode(header.salt, HEADER_LEN, 0, [], &mut head).is_ok();
    let fixed = control::Fixed {
        store: [1; 16],
        boot: [2; 16],
        created_unix_ms: 0,
        device: 0,
        inode: 0,
        temporary: false,
    };
    let read = control::Fixed::decode(&fixed.encode()).is_ok();
    Scanner::new(&bytes).map_or(0, Iterator::count) + usize::from(written && read)
}

/// The entry point that the C runtime calls.
#[unsafe(no_mangle)]
pub extern "C" fn main() -> i32 {
    batches() as i32
}
