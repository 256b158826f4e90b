//! Borrows bytes from Python for the time of a call into the engine.
//!
//! `bytes` and other read-only buffers are borrowed. A writable buffer is copied, because its owner
//! could change it while the interpreter is detached, and the checksum would then not match the
//! bytes.

use std::slice;

use pyo3::buffer::PyUntypedBuffer;
use pyo3::exceptions::{PyBufferError, PyTypeError};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::PyBytes;

/// The bytes of one value.
pub(crate) enum Value {
    Bytes(PyBackedBytes),
    Buffer(Lent),
    Copy(Vec<u8>),
}

/// A read-only, contiguous buffer, held until it is dropped.
pub(crate) struct Lent(PyUntypedBuffer);

impl Value {
    /// Borrows or copies the bytes of an object. For an object without bytes it raises the
    /// `TypeError` of Python's own files.
    pub(crate) fn of(object: &Bound<'_, PyAny>) -> PyResult<Value> {
        if let Ok(bytes) = object.cast::<PyBytes>() {
            return Ok(Value::Bytes(PyBackedBytes::from(bytes.clone())));
        }
        let Ok(buffer) = PyUntypedBuffer::get(object) else {
            let name = object.get_type().name()?;
            let sentence = format!("a bytes-like object is required, not '{name}'");
            return Err(PyTypeError::new_err(sentence));
        };
        if !buffer.is_c_contiguous() {
            let sentence = "the buffer of a value must be contiguous; copy it into `bytes` first";
            return Err(PyBufferError::new_err(sentence));
        }
        let lent = Lent(buffer);
        match lent.0.readonly() {
            true => Ok(Value::Buffer(lent)),
            false => Ok(Value::Copy(lent.bytes().to_vec())),
        }
    }

    /// Returns the bytes.
    #[inline]
    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Value::Bytes(bytes) => bytes,
            Value::Buffer(lent) => lent.bytes(),
            Value::Copy(bytes) => bytes,
        }
    }
}

impl Lent {
    fn bytes(&self) -> &[u8] {
        let len = self.0.len_bytes();
        if len == 0 {
            return &[];
        }
        // SAFETY: the exporter guarantees `len_bytes` contiguous bytes at `buf_ptr` while the
        // buffer is held, and `self` holds it.
        unsafe { slice::from_raw_parts(self.0.buf_ptr().cast::<u8>(), len) }
    }
}
