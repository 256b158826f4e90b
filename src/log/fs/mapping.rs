//! Memory-mapped files: the only place that turns offsets into pointers.
//!
//! **The safety sentence**, which the `SAFETY` comments on bytes cite: *published bytes never change,
//! and a file that may be mapped never shrinks.* Words that change (links, states, durable
//! watermarks, everything in the control file) are accessed only as atomics, and no slice covers
//! them. Every offset is first checked against the length of the mapping.

#![expect(unsafe_code, reason = "a mapping is reached through pointers")]

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicU64, Ordering};

use memmap2::{MmapMut, MmapOptions, MmapRaw};
use nix::libc;
use nix::unistd::SysconfVar;
use rustix::mm::Advice;

/// The size of a page of memory. (rustix finds it in a way that crashes under valgrind.)
fn page_bytes() -> u64 {
    let size = nix::unistd::sysconf(SysconfVar::PAGE_SIZE).ok().flatten();
    size.map_or(4096, |size| size as u64)
}

/// Begins to write the dirty pages of a range to disk, without waiting for them to be written; they
/// stay in memory. A hint, so errors are ignored: the sync reports what could not be written. (It is
/// here because rustix does not have the call.)
pub(super) fn begin_writeback(file: BorrowedFd<'_>, range: Range<u64>) {
    let (Ok(start), Ok(len)) =
        (range.start.try_into(), range.end.saturating_sub(range.start).try_into())
    else {
        return;
    };
    // SAFETY: the descriptor is open; the call reads and changes no memory of the process.
    unsafe {
        libc::sync_file_range(file.as_raw_fd(), start, len, libc::SYNC_FILE_RANGE_WRITE);
    }
}

/// Prepares the pages of memory that is about to be written, in one call instead of one fault per page
/// (`MADV_POPULATE_WRITE`). Skipped if the page in the middle is resident, as in reused memory: pages at
/// the ends may be shared with other memory. A hint.
pub(crate) fn populate<T>(memory: &mut [T]) {
    let (page, start) = (page_bytes() as usize, memory.as_mut_ptr().cast::<u8>());
    // The first page may begin before the memory, and the last one may end past it.
    let within = start.addr() % page;
    let (first, len) = (start.wrapping_sub(within), size_of_val(memory) + within);
    if len == within {
        return;
    }
    let (middle, mut residency) = (first.wrapping_add((len - 1) / 2 / page * page), 0);
    // SAFETY: the page has a byte of `memory`, so it is mapped, and one byte is written for one page.
    let asked = unsafe { libc::mincore(middle.cast(), 1, &raw mut residency) };
    if asked != 0 || residency & 1 == 0 {
        // SAFETY: each page of the range has a byte of `memory`, so it is mapped; the advice changes no
        // byte of it.
        let _ = unsafe { rustix::mm::madvise(first.cast(), len, Advice::LinuxPopulateWrite) };
    }
}

/// Memory shared with a file, or private anonymous memory.
#[derive(Debug)]
pub struct Mapping {
    raw: MmapRaw,
    writable: bool,
    /// Whether it is anonymous memory of this process.
    private: bool,
    /// Whether the kernel reports which pages are in memory. It does so only for a user who could
    /// write the file.
    reports_residency: bool,
}

impl Mapping {
    /// Maps the first `len` bytes of a file, which must be that long.
    pub fn of_file(file: &File, len: u64, writable: bool) -> io::Result<Mapping> {
        let len = usize::try_from(len).map_err(|_| io::ErrorKind::OutOfMemory)?;
        let mut options = MmapOptions::new();
        options.len(len);
        let raw = if writable { options.map_raw(file) } else { options.map_raw_read_only(file) }?;
        let reports_residency = writable || {
            let user = rustix::process::geteuid();
            user.is_root() || user.as_raw() == file.metadata()?.uid()
        };
        let mapping = Mapping { raw, writable, private: false, reports_residency };
        // Stores of short batches to fresh pages are faster without the hint.
        if !writable {
            mapping.expect_random_reads(true);
        }
        Ok(mapping)
    }

    /// Advises the kernel whether reads are random: a fault then loads only its own page, without
    /// the device's read-ahead. If the kernel ignores the hint, it only reads more.
    pub(crate) fn expect_random_reads(&self, random: bool) {
        self.advise(0, self.len(), if random { Advice::Random } else { Advice::Normal });
    }

    /// Maps zeroed anonymous memory, for fork marks and the simulated disks of tests.
    pub fn anonymous(len: u64) -> io::Result<Mapping> {
        let len = usize::try_from(len).map_err(|_| io::ErrorKind::OutOfMemory)?;
        let raw = MmapMut::map_anon(len)?.into();
        Ok(Mapping { raw, writable: true, private: true, reports_residency: false })
    }

    /// Zeroes the first `len` bytes of anonymous memory, so that it can be reused.
    ///
    /// # Panics
    /// If the mapping is of a file, or shorter.
    pub fn clear(&mut self, len: u64) {
        assert!(self.private, "a file is not cleared");
        let start = self.at(0, len);
        // SAFETY: `at` has checked the range; no other process shares this memory, and `&mut self`
        // excludes every reference into it in this process.
        unsafe { std::ptr::write_bytes(start, 0, len as usize) }
    }

    /// Asks the kernel to clear the memory in every child of `fork`. For anonymous memory only.
    pub(crate) fn wipe_in_children(&self) -> io::Result<()> {
        assert!(self.private, "a file is not cleared");
        let start = self.at(0, self.len()).cast();
        // SAFETY: the range is one whole private mapping. No code takes a slice of a mapping that
        // is wiped, and its words are accessed as atomics, which may change at any time.
        unsafe { rustix::mm::madvise(start, self.raw.len(), Advice::LinuxWipeOnFork) }?;
        Ok(())
    }

    /// The length in bytes.
    #[inline]
    #[must_use]
    pub fn len(&self) -> u64 {
        self.raw.len() as u64
    }

    /// Whether the mapping has no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether words and bytes may be stored.
    #[must_use]
    pub fn is_writable(&self) -> bool {
        self.writable
    }

    /// The address of `len` bytes at `offset`.
    ///
    /// # Panics
    /// If the range is not inside the mapping: that is a bug of the caller, never the result of bad
    /// input.
    #[inline]
    fn at(&self, offset: u64, len: u64) -> *mut u8 {
        let end = offset.checked_add(len);
        assert!(end.is_some_and(|end| end <= self.len()), "outside of the mapping");
        // In range, so the address is inside the mapping and cannot wrap.
        self.raw.as_mut_ptr().wrapping_add(offset as usize)
    }

    #[inline]
    fn word(&self, offset: u64) -> &AtomicU64 {
        assert!(offset.is_multiple_of(8), "words are aligned");
        let word = self.at(offset, 8).cast::<AtomicU64>();
        // SAFETY: `at` has checked the range, the mapping begins at a page boundary and lives as
        // long as `self`; a file that may be mapped never shrinks. An atomic may be changed by
        // others.
        unsafe { &*word }
    }

    /// Loads the word at `offset`, a multiple of 8.
    #[inline]
    #[must_use]
    pub fn load(&self, offset: u64, order: Ordering) -> u64 {
        self.word(offset).load(order)
    }

    /// Stores the word at `offset`, a multiple of 8.
    #[inline]
    pub fn store(&self, offset: u64, value: u64, order: Ordering) {
        assert!(self.writable, "the mapping is read-only");
        self.word(offset).store(value, order);
    }

    /// Replaces the word at `offset` if it is `current`; returns what was there.
    #[inline]
    pub fn compare_exchange(
        &self,
        offset: u64,
        current: u64,
        new: u64,
        success: Ordering,
        failure: Ordering,
    ) -> Result<u64, u64> {
        assert!(self.writable, "the mapping is read-only");
        self.word(offset).compare_exchange(current, new, success, failure)
    }

    /// Prepares the pages of a range for stores, in one call instead of one fault per page
    /// (`MADV_POPULATE_WRITE`). A hint: on failure, the stores fault the pages in.
    pub(crate) fn populate(&self, offset: u64, len: u64) {
        let _ = self.populate_write(offset, len);
    }

    /// Does the same as [`populate`](Self::populate) on a file system where the stores may need
    /// disk space: returns an error if the disk is full, where a store would raise SIGBUS.
    pub(crate) fn reserve(&self, offset: u64, len: u64) -> io::Result<()> {
        use rustix::io::Errno;
        match self.populate_write(offset, len) {
            Err(Errno::FAULT) => Err(io::ErrorKind::StorageFull.into()),
            Err(Errno::HWPOISON) => Err(io::Error::from_raw_os_error(Errno::IO.raw_os_error())),
            // Older kernels do not support the call.
            _ => Ok(()),
        }
    }

    /// Asks the kernel to read the pages of a range into memory, without waiting (`MADV_WILLNEED`).
    /// A hint.
    ///
    /// Each call covers at most 128 KiB: the kernel drops what exceeds the larger of the device's
    /// read-ahead and its largest request.
    pub(crate) fn fetch(&self, offset: u64, len: u64) {
        const CALL_BYTES: u64 = 128 << 10;
        let (mut offset, end) = (offset & !(page_bytes() - 1), (offset + len).min(self.len()));
        while offset < end {
            let len = (end - offset).min(CALL_BYTES);
            self.advise(offset, len, Advice::WillNeed);
            offset += len;
        }
    }

    /// Releases the pages that are wholly inside a range: they leave this mapping, and memory if
    /// nothing else uses them (`MADV_PAGEOUT`). Their contents do not change. Pages at the edges
    /// are kept for the values beside the range. A hint.
    pub(crate) fn release(&self, offset: u64, len: u64) {
        let end = (offset + len).min(self.len()) & !(page_bytes() - 1);
        let start = offset.next_multiple_of(page_bytes());
        if start < end {
            self.advise(start, end - start, Advice::LinuxPageOut);
        }
    }

    /// Gives a hint about a range that begins at a page.
    fn advise(&self, offset: u64, len: u64, advice: Advice) {
        if self.private || len == 0 {
            return;
        }
        let address = self.at(offset, len).cast();
        // SAFETY: `at` has checked the range. None of the callers' advice changes a byte of a
        // mapping that is shared with a file.
        let _ = unsafe { rustix::mm::madvise(address, len as usize, advice) };
    }

    /// Whether the page at an offset is in memory; false if the kernel does not report it.
    pub(crate) fn is_resident(&self, offset: u64) -> bool {
        self.are_resident(offset, 1, &mut [1])
    }

    /// Whether the pages of a range are in memory, as far as `pages` has a byte for each of them;
    /// false if the kernel does not report it.
    pub(crate) fn are_resident(&self, offset: u64, len: u64, pages: &mut [u8]) -> bool {
        if self.private || !self.reports_residency {
            return self.private;
        }
        let start = offset & !(page_bytes() - 1);
        let end = (offset + len).min(self.len());
        let len = end.saturating_sub(start).min(pages.len() as u64 * page_bytes());
        let address = self.at(start, len).cast();
        // SAFETY: `at` has checked the range, which begins at a page, and `pages` has a byte for
        // each page of it.
        let asked = unsafe { libc::mincore(address, len as usize, pages.as_mut_ptr()) };
        let count = len.div_ceil(page_bytes()) as usize;
        asked == 0 && pages[..count].iter().all(|page| page & 1 == 1)
    }

    fn populate_write(&self, offset: u64, len: u64) -> rustix::io::Result<()> {
        let start = offset & !(page_bytes() - 1);
        let len = (offset + len).min(self.len()).saturating_sub(start);
        let address = self.at(start, len).cast();
        // SAFETY: `at` has checked the range; the advice changes no byte of it.
        unsafe { rustix::mm::madvise(address, len as usize, Advice::LinuxPopulateWrite) }
    }

    /// Copies bytes out as atomic words; other threads and processes may change them meanwhile.
    pub fn copy_out(&self, offset: u64, out: &mut [u8]) {
        let (mut offset, mut out) = (offset, out);
        if offset.is_multiple_of(8) {
            let (words, rest) = out.as_chunks_mut();
            for word in words {
                *word = self.load(offset, Ordering::Relaxed).to_le_bytes();
                offset += 8;
            }
            out = rest;
        }
        while !out.is_empty() {
            let word = self.load(offset & !7, Ordering::Relaxed).to_le_bytes();
            let skip = (offset & 7) as usize;
            let (part, rest) = out.split_at_mut(out.len().min(8 - skip));
            part.copy_from_slice(&word[skip..skip + part.len()]);
            offset += part.len() as u64;
            out = rest;
        }
    }

    /// A slice of published bytes.
    ///
    /// # Safety
    /// The bytes in `range` are published: they do not change while the slice lives, and the range
    /// contains no word that changes.
    #[inline]
    pub(crate) unsafe fn bytes(&self, range: Range<u64>) -> &[u8] {
        let len = range.end.saturating_sub(range.start);
        let start = self.at(range.start, len);
        // SAFETY: `at` has checked the range; the caller guarantees that its bytes are published;
        // published bytes never change, and a file that may be mapped never shrinks.
        unsafe { std::slice::from_raw_parts(start, len as usize) }
    }

    /// Copies bytes into unpublished space.
    ///
    /// # Safety
    /// The range belongs to the caller alone, and no slice of it exists.
    #[inline]
    pub(crate) unsafe fn copy_in(&self, offset: u64, bytes: &[u8]) {
        assert!(self.writable, "the mapping is read-only");
        let to = self.at(offset, bytes.len() as u64);
        // SAFETY: `at` has checked the range; it belongs to the caller alone, so it does not
        // overlap the borrowed `bytes`; a file that may be mapped never shrinks.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) }
    }
}
