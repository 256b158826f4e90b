//! The element types of arrays, with their dtypes and their conversion to bytes.
//!
//! Elements are plain old data on a little-endian machine, so a contiguous array is written without
//! a copy. As in numpy, a `bool` is true if its byte is not zero.

use std::borrow::Cow;

use bytemuck::{NoUninit, Pod};
use half::f16;
use ndarray::{Array1, ArrayView1};
use num_complex::Complex;

/// An element type of numpy arrays: an integer, float, complex number or `bool`.
///
/// The trait is sealed, since numpy defines the list.
pub trait Element: Sealed + Copy + Default + Send + Sync + 'static {
    /// The dtype as numpy writes it, for example `<i8`.
    const DTYPE: &'static str;
}

mod sealed {
    pub trait Sealed: bytemuck::NoUninit {
        /// Converts bytes in pieces, which together hold `len` elements.
        fn from_pieces(pieces: &[&[u8]], len: usize) -> Vec<Self>;
        /// Reverses the bytes of the element.
        fn swap_bytes(&mut self);
    }
}

use sealed::Sealed;

fn pod_from_pieces<T: Pod>(pieces: &[&[u8]], len: usize) -> Vec<T> {
    let mut elements = vec![T::zeroed(); len];
    let mut rest: &mut [u8] = bytemuck::cast_slice_mut(&mut elements);
    for piece in pieces {
        let (start, end) = rest.split_at_mut(piece.len());
        start.copy_from_slice(piece);
        rest = end;
    }
    elements
}

macro_rules! numbers {
    ($($type:ty: $dtype:literal),*) => {$(
        impl Element for $type {
            const DTYPE: &'static str = $dtype;
        }
        impl Sealed for $type {
            fn from_pieces(pieces: &[&[u8]], len: usize) -> Vec<$type> {
                pod_from_pieces(pieces, len)
            }
            fn swap_bytes(&mut self) {
                *self = <$type>::from_be_bytes(self.to_le_bytes());
            }
        }
    )*};
}

numbers!(
    i8: "|i1", i16: "<i2", i32: "<i4", i64: "<i8",
    u8: "|u1", u16: "<u2", u32: "<u4", u64: "<u8",
    f16: "<f2", f32: "<f4", f64: "<f8"
);

macro_rules! complex_numbers {
    ($($type:ty: $dtype:literal),*) => {$(
        impl Element for Complex<$type> {
            const DTYPE: &'static str = $dtype;
        }
        impl Sealed for Complex<$type> {
            fn from_pieces(pieces: &[&[u8]], len: usize) -> Vec<Complex<$type>> {
                pod_from_pieces(pieces, len)
            }
            fn swap_bytes(&mut self) {
                self.re.swap_bytes();
                self.im.swap_bytes();
            }
        }
    )*};
}

complex_numbers!(f32: "<c8", f64: "<c16");

impl Element for bool {
    const DTYPE: &'static str = "|b1";
}

impl Sealed for bool {
    fn from_pieces(pieces: &[&[u8]], len: usize) -> Vec<bool> {
        let mut elements = Vec::with_capacity(len);
        elements.extend(pieces.iter().flat_map(|piece| piece.iter()).map(|&byte| byte != 0));
        elements
    }
    fn swap_bytes(&mut self) {}
}

/// Returns the bytes of an array in order, without a copy if the array is contiguous.
pub(super) fn to_bytes<'a, T: Element>(array: &'a ArrayView1<'_, T>) -> Cow<'a, [u8]> {
    match array.as_slice() {
        Some(elements) => Cow::Borrowed(as_bytes(elements)),
        None => {
            let elements: Vec<T> = array.iter().copied().collect();
            Cow::Owned(as_bytes(&elements).to_vec())
        }
    }
}

fn as_bytes<T: NoUninit>(elements: &[T]) -> &[u8] {
    bytemuck::cast_slice(elements)
}

/// Converts bytes in pieces to an array. The error is the number of excess bytes.
pub(super) fn from_bytes<T: Element>(pieces: &[&[u8]], swapped: bool) -> Result<Array1<T>, usize> {
    let bytes: usize = pieces.iter().map(|piece| piece.len()).sum();
    match bytes % size_of::<T>() {
        0 => {}
        over => return Err(over),
    }
    let mut elements = T::from_pieces(pieces, bytes / size_of::<T>());
    if swapped {
        elements.iter_mut().for_each(T::swap_bytes);
    }
    Ok(Array1::from_vec(elements))
}
