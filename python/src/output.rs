//! Allocates `bytes` objects without zeroing them, and writes them once.
//!
//! Invariant: other code sees the object of an [`Unwritten`] only after every byte of it was
//! written.

use std::mem::MaybeUninit;
use std::ptr::{self, NonNull};
use std::slice;

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use rayon::prelude::*;

/// Below this many bytes, the calling thread copies everything.
const PARALLEL_MIN_BYTES: usize = 1 << 20;
/// Several threads copy a longer value, in pieces of at most this length.
const PIECE_BYTES: usize = 1 << 20;

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

    /// Writes the concatenation of the pieces.
    ///
    /// # Errors
    /// The pieces do not have the length of the object. The object must then not be used.
    fn write(&mut self, pieces: &[&[u8]]) -> Result<(), WrongLength> {
        let total: usize = pieces.iter().map(|piece| piece.len()).sum();
        if total != self.len {
            return Err(WrongLength);
        }
        // SAFETY: `start` and `len` describe the object's memory, which only this value accesses.
        let mut rest = unsafe { slice::from_raw_parts_mut(self.start.as_ptr(), self.len) };
        let mut copies = Vec::with_capacity(pieces.len());
        for mut from in pieces.iter().copied() {
            while !from.is_empty() {
                let len = if total < PARALLEL_MIN_BYTES { from.len() } else { PIECE_BYTES };
                let (head, tail) = from.split_at(len.min(from.len()));
                let (to, behind) = rest.split_at_mut(head.len());
                copies.push((to, head));
                (from, rest) = (tail, behind);
            }
        }
        if total < PARALLEL_MIN_BYTES {
            copies.into_iter().for_each(copy);
        } else {
            copies.into_par_iter().for_each(copy);
        }
        Ok(())
    }
}

/// The pieces of a value do not have the length of its object.
#[derive(Debug)]
pub(crate) struct WrongLength;

fn copy((to, from): (&mut [MaybeUninit<u8>], &[u8])) {
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
    let mut objects = Python::attach(|py| {
        lens.iter().map(|&len| Unwritten::new(py, len)).collect::<PyResult<Vec<_>>>()
    })?;
    let write = |(object, pieces): (&mut Unwritten, &Vec<&[u8]>)| object.write(pieces);
    let written: Result<(), WrongLength> = if lens.iter().sum::<usize>() < PARALLEL_MIN_BYTES {
        objects.iter_mut().zip(&pieces).try_for_each(write)
    } else {
        objects.par_iter_mut().zip(&pieces).try_for_each(write)
    };
    debug_assert!(written.is_ok(), "the lengths were taken from the same pieces");
    Ok(objects.into_iter().map(|object| object.object).collect())
}
