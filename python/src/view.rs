//! The class `View`: a piece of a stored value in the mapping, as a buffer without a copy.

use std::ffi::{c_int, c_void};
use std::sync::Arc;

use pyo3::exceptions::PyBufferError;
use pyo3::ffi;
use pyo3::prelude::*;

/// Bytes of a store, where they lie in its mapped file. They stay as they are, and stay mapped, for
/// as long as the object or a `memoryview` of it lives.
#[pyclass(frozen, module = "partd._core")]
pub(crate) struct View {
    value: Arc<partd::View>,
    chunk: usize,
}

impl View {
    /// The chunks of a value.
    pub(crate) fn of(value: partd::View) -> Vec<View> {
        let value = Arc::new(value);
        (0..value.chunks().len()).map(|chunk| View { value: Arc::clone(&value), chunk }).collect()
    }

    fn bytes(&self) -> &[u8] {
        self.value.chunks().nth(self.chunk).unwrap_or(&[])
    }
}

#[pymethods]
impl View {
    fn __len__(&self) -> usize {
        self.bytes().len()
    }

    /// Lends the bytes, for reading.
    ///
    /// # Safety
    /// `CPython` calls it with a `Py_buffer` that may be filled.
    unsafe fn __getbuffer__(
        slf: Bound<'_, Self>,
        view: *mut ffi::Py_buffer,
        flags: c_int,
    ) -> PyResult<()> {
        if view.is_null() {
            return Err(PyBufferError::new_err("there is no buffer to fill"));
        }
        let (start, len) = {
            let bytes = slf.get().bytes();
            (bytes.as_ptr().cast_mut().cast::<c_void>(), bytes.len() as ffi::Py_ssize_t)
        };
        // SAFETY: `view` is CPython's to fill; the bytes stay mapped while the object lives, which
        // the buffer holds a reference to; a request to write is refused by the read-only flag.
        let filled = unsafe { ffi::PyBuffer_FillInfo(view, slf.as_ptr(), start, len, 1, flags) };
        if filled == 0 { Ok(()) } else { Err(PyErr::fetch(slf.py())) }
    }
}
