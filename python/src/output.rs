//! Allocates `bytes` objects without zeroing them, and writes them once.
//!
//! Invariant: other code sees the object of an [`Unwritten`] only after every byte of it was
//! written.

use std::hint::black_box;
use std::mem::{self, MaybeUninit};
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use partd::Unverified;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::stores::Fail;
use crate::threads;

/// Below this many bytes, the calling thread copies everything.
const PARALLEL_MIN_BYTES: usize = 3 << 20;
/// A thread takes about this many bytes at a time, while it shares the work with others.
const PART_BYTES: usize = 256 << 10;
/// Several threads copy a longer piece.
const WHOLE_MAX_BYTES: usize = 1 << 20;

/// The smallest and about the largest block whose release raises glibc's thresholds.
const RAISING_MIN_BYTES: usize = 128 << 10;
const RAISING_MAX_BYTES: usize = 31 << 20;

/// A `bytes` object whose content is not written yet, and to which no other reference exists. (The
/// empty one is shared, but has no content.)
pub(crate) struct Unwritten {
    object: Py<PyBytes>,
    start: NonNull<MaybeUninit<u8>>,
    len: usize,
}

impl Unwritten {
    /// Allocates an object of `len` bytes.
    pub(crate) fn new(py: Python<'_>, len: usize) -> PyResult<Unwritten> {
        let size = ffi::Py_ssize_t::try_from(len)?;
        // SAFETY: with a null pointer, CPython allocates an object with uninitialised content.
        let object = unsafe { ffi::PyBytes_FromStringAndSize(ptr::null(), size) };
        // SAFETY: `object` is a new reference, or null with an exception set.
        let object = unsafe { Bound::from_owned_ptr_or_err(py, object) }?;
        let object = object.cast_into::<PyBytes>()?;
        // SAFETY: the object is a `bytes`.
        let start = unsafe { ffi::PyBytes_AsString(object.as_ptr()) };
        let start = NonNull::new(start.cast()).ok_or_else(|| PyErr::fetch(py))?;
        Ok(Unwritten { object: object.unbind(), start, len })
    }

    /// Adds the tasks that write the concatenation of the pieces, which must have the length of the
    /// object. A piece longer than `max_bytes` becomes several tasks.
    fn plan<'c, P: Piece>(
        &'c mut self,
        pieces: &'c [P],
        max_bytes: usize,
        tasks: &mut Vec<Task<'c, P>>,
    ) {
        // SAFETY: `start` and `len` describe the object's memory, which only this value accesses.
        let mut rest = unsafe { slice::from_raw_parts_mut(self.start.as_ptr(), self.len) };
        for piece in pieces {
            let bytes = piece.bytes();
            let (mut to, behind) = rest.split_at_mut(bytes.len());
            rest = behind;
            if bytes.len() <= max_bytes {
                tasks.push(Task::Whole(to, piece));
                continue;
            }
            // It reads the disk ahead of the copies, if it must.
            tasks.push(Task::Verify(piece));
            for part in bytes.chunks(PART_BYTES) {
                let (start, behind) = to.split_at_mut(part.len());
                tasks.push(Task::Part(start, part));
                to = behind;
            }
            assert!(to.is_empty(), "a part of the piece would not be written");
        }
        assert!(rest.is_empty(), "a part of the object would not be written");
    }
}

/// A part of a value that is stored somewhere else.
pub(crate) trait Piece: Sync {
    fn bytes(&self) -> &[u8];

    /// Passes the bytes to `each`, in one part or several, and compares their checksum if there is one.
    fn verify(&self, mut each: impl FnMut(&[u8])) -> partd::Result<()> {
        each(self.bytes());
        Ok(())
    }
}

impl Piece for &[u8] {
    fn bytes(&self) -> &[u8] {
        self
    }
}

impl Piece for Vec<u8> {
    fn bytes(&self) -> &[u8] {
        self
    }
}

impl Piece for Unverified<'_> {
    fn bytes(&self) -> &[u8] {
        Unverified::bytes(self)
    }

    fn verify(&self, each: impl FnMut(&[u8])) -> partd::Result<()> {
        Unverified::verify(self, each)
    }
}

/// A piece of work.
enum Task<'c, P> {
    /// Copies and verifies a piece. Both have the same length.
    Whole(&'c mut [MaybeUninit<u8>], &'c P),
    /// Copies a part of a long piece. Both have the same length.
    Part(&'c mut [MaybeUninit<u8>], &'c [u8]),
    /// Verifies a long piece.
    Verify(&'c P),
}

impl<P: Piece> Task<'_, P> {
    fn run(self) -> partd::Result<()> {
        match self {
            Task::Whole(mut to, piece) => {
                piece.verify(|part| {
                    let (start, behind) = mem::take(&mut to).split_at_mut(part.len());
                    copy(start, part);
                    to = behind;
                })?;
                assert!(to.is_empty(), "a part of the object is not written");
                Ok(())
            }
            Task::Part(to, from) => {
                copy(to, from);
                Ok(())
            }
            Task::Verify(piece) => piece.verify(|_| {}),
        }
    }

    /// Returns the number of bytes that the task reads.
    fn bytes(&self) -> usize {
        match self {
            Task::Whole(to, _) | Task::Part(to, _) => to.len(),
            Task::Verify(piece) => piece.bytes().len(),
        }
    }
}

/// Copies bytes. Both slices must have the same length.
fn copy(to: &mut [MaybeUninit<u8>], from: &[u8]) {
    assert_eq!(to.len(), from.len());
    // SAFETY: both slices are `from.len()` bytes long. One of them is borrowed mutably, so they do not
    // overlap.
    unsafe { ptr::copy_nonoverlapping(from.as_ptr(), to.as_mut_ptr().cast::<u8>(), from.len()) };
}

fn total<P: Piece>(pieces: &[P]) -> usize {
    pieces.iter().map(|piece| piece.bytes().len()).sum()
}

/// Copies each value into a new `bytes` object, and compares the checksums of the pieces meanwhile. Call
/// it detached if there may be much to copy; it attaches to allocate.
pub(crate) fn write_values<V: AsRef<[P]>, P: Piece>(
    values: &[V],
) -> Result<Vec<Py<PyBytes>>, Fail> {
    let lens: Vec<usize> = values.iter().map(|value| total(value.as_ref())).collect();
    let bytes = lens.iter().sum();
    raise_trim_threshold(bytes);
    let mut objects = Python::attach(|py| {
        lens.iter().map(|&len| Unwritten::new(py, len)).collect::<PyResult<Vec<_>>>()
    })?;
    let is_parallel = bytes >= PARALLEL_MIN_BYTES && threads::count() > 1;
    let mut tasks = Vec::new();
    let max_bytes = if is_parallel { WHOLE_MAX_BYTES } else { usize::MAX };
    for (object, value) in objects.iter_mut().zip(values) {
        object.plan(value.as_ref(), max_bytes, &mut tasks);
    }
    if is_parallel {
        let has_failed = AtomicBool::new(false);
        let run = |group: Vec<Task<'_, P>>| {
            if has_failed.load(Ordering::Relaxed) {
                // The error is that of another group.
                return Ok(());
            }
            let done = group.into_iter().try_for_each(Task::run);
            done.inspect_err(|_| has_failed.store(true, Ordering::Relaxed))
        };
        threads::share(grouped(tasks), run).into_iter().collect::<partd::Result<()>>()?;
    } else {
        tasks.into_iter().try_for_each(Task::run)?;
    }
    Ok(objects.into_iter().map(|object| object.object).collect())
}

/// Makes glibc keep free memory for the next get, up to twice `bytes`.
///
/// glibc gives free memory at the end of a heap back to the system if it is more than a threshold, at
/// first 128 KiB. If a program drops the values of one get before the next, that get faults in each
/// page anew, which takes longer than the copy. glibc raises the threshold, for the whole process, to
/// twice the size of a mapped block that is freed (`M_MMAP_THRESHOLD` in mallopt(3)), at most to 64 MiB.
/// So this frees such a block whenever a get returns more than any before.
fn raise_trim_threshold(bytes: usize) {
    static RAISED: AtomicUsize = AtomicUsize::new(RAISING_MIN_BYTES);
    let bytes = bytes.min(RAISING_MAX_BYTES);
    if RAISED.fetch_max(bytes, Ordering::Relaxed) < bytes {
        // Nothing is written to the block, so this is cheap. If it cannot be allocated, the get is
        // only slower.
        let mut block = Vec::<u8>::new();
        let _ = block.try_reserve_exact(bytes);
        drop(black_box(block));
    }
}

/// Groups tasks, so that each group reads about [`PART_BYTES`], or begins with a longer task.
fn grouped<P: Piece>(tasks: Vec<Task<'_, P>>) -> Vec<Vec<Task<'_, P>>> {
    let mut groups: Vec<Vec<_>> = Vec::new();
    let mut bytes = PART_BYTES;
    for task in tasks {
        if bytes >= PART_BYTES || task.bytes() > PART_BYTES {
            groups.push(Vec::new());
            bytes = 0;
        }
        bytes += task.bytes();
        if let Some(group) = groups.last_mut() {
            group.push(task);
        }
    }
    groups
}
