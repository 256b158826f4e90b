//! Bytes that Python lends to the engine for the time of a call.
//!
//! `bytes` are immutable and lent as they are. Of other buffers those that nobody can write are
//! lent too; a writable one is copied, because its owner may change it while the interpreter is
//! detached, and a checksum would then not fit its bytes.

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
    /// Takes what is given as a value, with the error that Python's own files give.
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

    /// The bytes.
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
        // SAFETY: the exporter promises `len_bytes` contiguous bytes at `buf_ptr` for as long as
        // the buffer is held, which is as long as `self` lives.
        unsafe { slice::from_raw_parts(self.0.buf_ptr().cast::<u8>(), len) }
    }
}
