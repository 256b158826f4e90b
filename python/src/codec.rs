//! The class `Codec`: compresses and decompresses many values at once. Also frames.
//!
//! A frame is the length of its body as 8 bytes little-endian, then the body. The layer over a
//! store is in Python, because the store can be any Python object.

use partd::encode::{Codec as _, CodecError, Decoded};
use partd::{Blosc, Bz2, Dict, Encode, Lz4, Snappy, Zlib, Zstd};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList};

use crate::output::write_values;
use crate::threads::share;
use crate::value::Value;

const PREFIX_BYTES: usize = 8;
/// Below this many bytes, the calling thread does all the work.
const PARALLEL_MIN_BYTES: usize = 64 << 10;

/// The codecs. Each has the parameters of Python's partd by default.
enum Kind {
    Zlib(Zlib<Dict>),
    Bz2(Bz2<Dict>),
    Snappy(Snappy<Dict>),
    Blosc(Blosc<Dict>),
    Lz4(Lz4<Dict>),
    Zstd(Zstd<Dict>),
}

macro_rules! each {
    ($kind:expr, $layer:ident => $do:expr) => {
        match $kind {
            Kind::Zlib($layer) => $do,
            Kind::Bz2($layer) => $do,
            Kind::Snappy($layer) => $do,
            Kind::Blosc($layer) => $do,
            Kind::Lz4($layer) => $do,
            Kind::Zstd($layer) => $do,
        }
    };
}

impl Kind {
    fn encode(&self, value: &[u8], frame: &mut Vec<u8>) -> Result<(), CodecError> {
        each!(self, layer => layer.codec().encode(value, frame))
    }

    fn decode(
        &self,
        frames: &[&[u8]],
        max: usize,
    ) -> Result<Decoded<Vec<u8>>, (usize, CodecError)> {
        each!(self, layer => layer.codec().decode_run(frames, max))
    }
}

/// A codec, by its name: zlib, bz2, snappy, blosc, lz4 or zstd.
///
/// Several threads encode or decode many values, while the interpreter is detached.
#[pyclass(frozen, module = "partd._core")]
pub(crate) struct Codec {
    name: String,
    kind: Kind,
}

#[pymethods]
impl Codec {
    #[new]
    #[pyo3(signature = (name, *, level = None, element_bytes = None))]
    fn new(name: &str, level: Option<i32>, element_bytes: Option<usize>) -> PyResult<Codec> {
        let store = Dict::new();
        let kind = match (name, level) {
            ("zlib", None) => Ok(Kind::Zlib(Encode::<partd::encode::ZlibCodec, _>::new(store))),
            ("zlib", Some(level)) => Zlib::with_level(store, level).map(Kind::Zlib),
            ("bz2", None) => Ok(Kind::Bz2(Bz2::new(store))),
            ("bz2", Some(level)) => Bz2::with_level(store, level).map(Kind::Bz2),
            ("snappy", None) => Ok(Kind::Snappy(Snappy::new(store))),
            ("lz4", None) => Ok(Kind::Lz4(Lz4::new(store))),
            ("zstd", None) => Ok(Kind::Zstd(Zstd::new(store))),
            ("zstd", Some(level)) => Zstd::with_level(store, level).map(Kind::Zstd),
            ("blosc", level) => {
                let blosc = match level {
                    Some(level) => Blosc::with_level(store, level),
                    None => Ok(Blosc::new(store)),
                };
                blosc
                    .and_then(|b| b.with_element_bytes(element_bytes.unwrap_or(8)))
                    .map(Kind::Blosc)
            }
            _ => {
                let sentence = format!(
                    "there is no codec {name:?} with this level; choose zlib, bz2, zstd or blosc, \
                     or snappy or lz4 without a level"
                );
                return Err(PyValueError::new_err(sentence));
            }
        };
        let kind = kind.map_err(|error| PyValueError::new_err(error.to_string()))?;
        Ok(Codec { name: name.to_owned(), kind })
    }

    /// The name of the codec.
    #[getter]
    fn name(&self) -> &str {
        &self.name
    }

    /// Compresses a value.
    fn compress<'py>(&self, value: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
        let py = value.py();
        let value = Value::of(value)?;
        let encoded = py.detach(|| {
            let mut frame = Vec::new();
            self.kind.encode(value.bytes(), &mut frame).map(|()| frame).map_err(|e| e.to_string())
        });
        Ok(PyBytes::new(py, &encoded.map_err(|e| self.error(&e))?))
    }

    /// Decompresses a value.
    fn decompress<'py>(&self, value: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
        let py = value.py();
        let value = Value::of(value)?;
        let decoded = py.detach(|| self.decode(&[value.bytes()]));
        Ok(PyBytes::new(py, &decoded.map_err(|e| self.error(&e))?.concat()))
    }

    /// Compresses each value and returns it as one frame.
    fn encode_many<'py>(&self, values: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyList>> {
        let py = values.py();
        let values: Vec<Value> =
            values.try_iter()?.map(|value| Value::of(&value?)).collect::<PyResult<_>>()?;
        let encode = |value: &Value| -> Result<[Vec<u8>; 1], String> {
            let mut frame = vec![0; PREFIX_BYTES];
            self.kind.encode(value.bytes(), &mut frame).map_err(|error| error.to_string())?;
            let len = (frame.len() - PREFIX_BYTES) as u64;
            frame[..PREFIX_BYTES].copy_from_slice(&len.to_le_bytes());
            Ok([frame])
        };
        let frames = py.detach(|| -> PyResult<_> {
            let bytes: usize = values.iter().map(|value| value.bytes().len()).sum();
            let frames: Result<Vec<_>, String> = if bytes < PARALLEL_MIN_BYTES {
                values.iter().map(encode).collect()
            } else {
                share(values.iter().collect(), encode).into_iter().collect()
            };
            Ok(write_values(&frames.map_err(|e| self.error(&e))?)?)
        })?;
        PyList::new(py, frames)
    }

    /// Decompresses the frames of each chunk, and joins them into one value.
    fn decode_many<'py>(&self, chunks: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyList>> {
        let py = chunks.py();
        let chunks: Vec<Value> =
            chunks.try_iter()?.map(|value| Value::of(&value?)).collect::<PyResult<_>>()?;
        let decode =
            |chunk: &Value| -> Result<Vec<Vec<u8>>, String> { self.decode(&split(chunk.bytes())?) };
        let values = py.detach(|| -> PyResult<_> {
            let bytes: usize = chunks.iter().map(|value| value.bytes().len()).sum();
            let values: Result<Vec<_>, String> = if bytes < PARALLEL_MIN_BYTES {
                chunks.iter().map(decode).collect()
            } else {
                share(chunks.iter().collect(), decode).into_iter().collect()
            };
            Ok(write_values(&values.map_err(|e| self.error(&e))?)?)
        })?;
        PyList::new(py, values)
    }
}

impl Codec {
    fn decode(&self, frames: &[&[u8]]) -> Result<Vec<Vec<u8>>, String> {
        let max = partd::encode::DEFAULT_MAX_DECODED_BYTES;
        match self.kind.decode(frames, max) {
            Ok(decoded) => Ok(decoded.parts),
            Err((frame, error)) => Err(format!("frame {frame}: {error}")),
        }
    }

    fn error(&self, reason: &str) -> PyErr {
        crate::error::DamageError::new_err(format!("{}: {reason}", self.name))
    }
}

/// Splits a value into the bodies of its frames.
fn split(mut value: &[u8]) -> Result<Vec<&[u8]>, String> {
    let mut frames = Vec::new();
    while !value.is_empty() {
        let Some((prefix, rest)) = value.split_first_chunk::<PREFIX_BYTES>() else {
            return Err(format!(
                "frame {}: {} bytes are left, but the length of a frame needs 8",
                frames.len(),
                value.len()
            ));
        };
        let len = u64::from_le_bytes(*prefix);
        let cut = usize::try_from(len).ok().and_then(|len| rest.split_at_checked(len));
        let Some((body, behind)) = cut else {
            return Err(format!(
                "frame {}: it should have {len} bytes, but {} are left",
                frames.len(),
                rest.len()
            ));
        };
        frames.push(body);
        value = behind;
    }
    Ok(frames)
}

/// Returns the bytes as one frame: their length as 8 bytes little-endian, then the bytes.
#[pyfunction]
pub(crate) fn frame<'py>(bytes: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
    let py = bytes.py();
    let value = Value::of(bytes)?;
    let prefix = (value.bytes().len() as u64).to_le_bytes();
    let mut written = write_values(&[[&prefix[..], value.bytes()]])?;
    let frame = written.pop().ok_or_else(|| PyValueError::new_err("no frame was written"))?;
    Ok(frame.into_bound(py))
}

/// Returns the bodies of the frames in a value, as a list.
#[pyfunction]
pub(crate) fn framesplit<'py>(bytes: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyList>> {
    let value = Value::of(bytes)?;
    let frames = split(value.bytes()).map_err(crate::error::DamageError::new_err)?;
    PyList::new(bytes.py(), frames.into_iter().map(|frame| PyBytes::new(bytes.py(), frame)))
}
