//! Allocates `bytes` objects without zeroing them, and writes them once.
//!
//! Invariant: other code sees the object of an [`Unwritten`] only after every byte of it was
//! written.

use std::hint::black_box;
use std::mem::MaybeUninit;
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::atomic::{AtomicUsize, Ordering};

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::threads::share;

/// Below this many bytes, the calling thread copies everything.
const PARALLEL_MIN_BYTES: usize = 2 << 20;
/// The bytes that a thread copies at a time, while it shares the work with others.
const PIECE_BYTES: usize = 256 << 10;

/// The smallest and about the largest block whose release raises glibc's thresholds.
const RAISING_MIN_BYTES: usize = 128 << 10;
const RAISING_MAX_BYTES: usize = 31 << 20;

/// A `bytes` object whose content is not written yet, and to which no other reference exists.
pub(crate) struct Unwritten {
    object: Py<PyBytes>,
    start: NonNull<MaybeUninit<u8>>,
    len: usize,
}

// SAFETY: this value has the only reference to the object, so only it accesses the object's memory;
// CPython neither moves nor reads that memory.
unsafe impl Send for Unwritten {}

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

    /// Adds the copies that write the concatenation of the pieces. None copies more than
    /// [`PIECE_BYTES`].
    ///
    /// # Errors
    /// The pieces do not have the length of the object. The object must then not be used.
    fn plan<'c>(
        &'c mut self,
        pieces: &[&'c [u8]],
        copies: &mut Vec<Copy<'c>>,
    ) -> Result<(), WrongLength> {
        if pieces.iter().map(|piece| piece.len()).sum::<usize>() != self.len {
            return Err(WrongLength);
        }
        // SAFETY: `start` and `len` describe the object's memory, which only this value accesses.
        let mut rest = unsafe { slice::from_raw_parts_mut(self.start.as_ptr(), self.len) };
        for piece in pieces {
            for from in piece.chunks(PIECE_BYTES) {
                let (to, behind) = rest.split_at_mut(from.len());
                copies.push((to, from));
                rest = behind;
            }
        }
        Ok(())
    }
}

/// Where to copy bytes, and the bytes. Both have the same length.
type Copy<'c> = (&'c mut [MaybeUninit<u8>], &'c [u8]);

/// The pieces of a value do not have the length of its object.
#[derive(Debug)]
pub(crate) struct WrongLength;

fn copy((to, from): Copy<'_>) {
    debug_assert_eq!(to.len(), from.len());
    // SAFETY: both slices are `from.len()` bytes long, because they were split at the same length.
    // One of them is borrowed mutably, so they do not overlap.
    unsafe { ptr::copy_nonoverlapping(from.as_ptr(), to.as_mut_ptr().cast::<u8>(), from.len()) };
}

/// Copies each value into a new `bytes` object. Must be called detached; it attaches to allocate.
pub(crate) fn write_values<C: AsRef<[P]> + Sync, P: AsRef<[u8]> + Sync>(
    values: &[C],
) -> PyResult<Vec<Py<PyBytes>>> {
    let pieces: Vec<Vec<&[u8]>> =
        values.iter().map(|value| value.as_ref().iter().map(AsRef::as_ref).collect()).collect();
    let lens: Vec<usize> =
        pieces.iter().map(|value| value.iter().map(|piece| piece.len()).sum()).collect();
    raise_trim_threshold(lens.iter().sum());
    let mut objects = Python::attach(|py| {
        lens.iter().map(|&len| Unwritten::new(py, len)).collect::<PyResult<Vec<_>>>()
    })?;
    let mut copies = Vec::new();
    let planned = objects
        .iter_mut()
        .zip(&pieces)
        .try_for_each(|(object, pieces)| object.plan(pieces, &mut copies));
    debug_assert!(planned.is_ok(), "the lengths were taken from the same pieces");
    if lens.iter().sum::<usize>() < PARALLEL_MIN_BYTES {
        copies.into_iter().for_each(copy);
    } else {
        share(grouped(copies), |group| group.into_iter().for_each(copy));
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

/// Groups copies, so that each group copies about [`PIECE_BYTES`].
fn grouped(copies: Vec<Copy<'_>>) -> Vec<Vec<Copy<'_>>> {
    let mut groups: Vec<Vec<Copy<'_>>> = Vec::new();
    let mut bytes = PIECE_BYTES;
    for copy in copies {
        if bytes >= PIECE_BYTES {
            groups.push(Vec::new());
            bytes = 0;
        }
        bytes += copy.1.len();
        if let Some(group) = groups.last_mut() {
            group.push(copy);
        }
    }
    groups
}
