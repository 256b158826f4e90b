//! The class `View`: a piece of a stored value in the mapping, as a buffer without a copy.

use std::ffi::{c_int, c_void};
use std::sync::Arc;

use pyo3::exceptions::PyBufferError;
use pyo3::ffi;
use pyo3::prelude::*;

/// Bytes of a store in its mapped file. They stay mapped and unchanged as long as the object or a
/// `memoryview` of it exists.
#[pyclass(frozen, module = "partd._core")]
pub(crate) struct View {
    value: Arc<partd::View>,
    chunk: usize,
}

impl View {
    /// Returns a view of each chunk of a value.
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

    /// Exports the bytes as a read-only buffer.
    ///
    /// # Safety
    /// `view` must be null or point to a `Py_buffer` that may be filled, as when `CPython` calls
    /// this.
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
        // SAFETY: `view` is not null and may be filled. The buffer holds a reference to the object,
        // which keeps the bytes mapped. The read-only flag makes CPython refuse a request to write.
        let filled = unsafe { ffi::PyBuffer_FillInfo(view, slf.as_ptr(), start, len, 1, flags) };
        if filled == 0 { Ok(()) } else { Err(PyErr::fetch(slf.py())) }
    }
}
