//! Converts Python keys to the engine's keys, and back.
//!
//! A `str` becomes its UTF-8 bytes, and `bytes` stay as they are. Anything else except a tuple
//! becomes its `str()`, so `1` and `'1'` are one key. A tuple becomes its parts in the engine's
//! tuple encoding (see the table in `partd_format::tuple`), so `('a', 'b')` differs from every
//! string. A tuple of one string is the same key as that string.
//!
//! Zero bytes are escaped outside of tuples too; otherwise `'a\0\1b'` would be `('a', 'b')`.
//!
//! Other programs write keys that none of these stand for: tuples with typed integers, and bytes
//! that encode no tuple. They are instances of `partd.Key`, which holds the engine's bytes.

use partd::{Key, TupleInteger};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBool, PyBytes, PyInt, PyString, PyTuple, PyType};

const ESCAPED_ZERO: [u8; 2] = [0, 0xFF];
const NEXT_PART: [u8; 2] = [0, 1];
const NEST: [u8; 2] = [0, 3];
const UNNEST: [u8; 2] = [0, 0];
/// The deepest nesting of tuples in a key. The limit bounds the stack.
const MAX_DEPTH: usize = 64;

/// How integers in tuples are encoded.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Integers {
    /// As their text, like those outside of tuples.
    Text,
    /// As the engine's typed integers.
    Typed,
}

/// Returns the class `partd.Key`.
fn key_class(py: Python<'_>) -> PyResult<&Bound<'_, PyType>> {
    static CLASS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    CLASS.import(py, "partd._key", "Key")
}

/// Converts a Python key to the engine's key.
pub(crate) fn key_of(key: &Bound<'_, PyAny>) -> PyResult<Key> {
    if let Ok(text) = key.cast::<PyString>()
        && let Ok(text) = text.to_str()
        && !text.as_bytes().contains(&0)
    {
        return Ok(Key::from(text));
    }
    if let Ok(raw) = key.cast::<PyBytes>()
        && !raw.is_exact_instance_of::<PyBytes>()
        && raw.is_instance(key_class(key.py())?)?
    {
        return Ok(Key::from(raw.as_bytes()));
    }
    let mut bytes = Vec::new();
    match key.cast::<PyTuple>() {
        Ok(tuple) => write_parts(tuple, 0, Integers::Text, &mut bytes)?,
        Err(_) => write_part(key, 0, Integers::Text, &mut bytes)?,
    }
    Ok(Key::from(bytes))
}

fn write_parts(
    tuple: &Bound<'_, PyTuple>,
    depth: usize,
    integers: Integers,
    bytes: &mut Vec<u8>,
) -> PyResult<()> {
    if tuple.is_empty() {
        return Err(PyValueError::new_err(
            "the empty tuple is not a key; it needs at least one part",
        ));
    }
    if depth > MAX_DEPTH {
        let sentence = format!("a key may nest at most {MAX_DEPTH} tuples; this one nests more");
        return Err(PyValueError::new_err(sentence));
    }
    for (i, part) in tuple.iter().enumerate() {
        if i > 0 {
            bytes.extend_from_slice(&NEXT_PART);
        }
        write_part(&part, depth + 1, integers, bytes)?;
    }
    Ok(())
}

fn write_part(
    part: &Bound<'_, PyAny>,
    depth: usize,
    integers: Integers,
    bytes: &mut Vec<u8>,
) -> PyResult<()> {
    if let Ok(text) = part.cast::<PyString>() {
        write_text(text, bytes)
    } else if let Ok(raw) = part.cast::<PyBytes>() {
        escape(raw.as_bytes(), bytes);
        Ok(())
    } else if let Ok(tuple) = part.cast::<PyTuple>() {
        bytes.extend_from_slice(&NEST);
        write_parts(tuple, depth, integers, bytes)?;
        bytes.extend_from_slice(&UNNEST);
        Ok(())
    } else if integers == Integers::Typed && part.is_instance_of::<PyInt>() {
        if part.is_instance_of::<PyBool>() {
            return Err(PyValueError::new_err("a bool in a typed key; use an integer or a string"));
        }
        let integer = match part.extract::<i128>() {
            Ok(number) => TupleInteger::from(number),
            Err(_) => TupleInteger::from(part.extract::<u128>().map_err(|_| {
                PyValueError::new_err("an integer in a key must be from -2**127 to 2**128 - 1")
            })?),
        };
        let (encoded, len) = integer.encode();
        bytes.extend_from_slice(&encoded[..len]);
        Ok(())
    } else {
        write_text(&part.str()?, bytes)
    }
}

fn write_text(text: &Bound<'_, PyString>, bytes: &mut Vec<u8>) -> PyResult<()> {
    match text.to_str() {
        Ok(text) => escape(text.as_bytes(), bytes),
        Err(_) => {
            // The text has lone surrogates; `os.fsdecode` makes them from file names that are not
            // UTF-8.
            let encoded = text.call_method1("encode", ("utf-8", "surrogatepass"))?;
            escape(encoded.cast::<PyBytes>()?.as_bytes(), bytes);
        }
    }
    Ok(())
}

fn escape(raw: &[u8], bytes: &mut Vec<u8>) {
    for (i, run) in raw.split(|&byte| byte == 0).enumerate() {
        if i > 0 {
            bytes.extend_from_slice(&ESCAPED_ZERO);
        }
        bytes.extend_from_slice(run);
    }
}

/// Converts a stored key to a Python `str`, `bytes` or tuple, or to a `partd.Key` if it is the
/// encoding of none of them. `key_of` returns the same key for each.
pub(crate) fn to_python<'py>(py: Python<'py>, key: &[u8]) -> PyResult<Bound<'py, PyAny>> {
    let raw = || key_class(py)?.call1((PyBytes::new(py, key),));
    let mut rest = key;
    let Some(mut parts) = read_parts(py, &mut rest, 0)? else { return raw() };
    match &parts[..] {
        _ if !rest.is_empty() => raw(),
        [part] if !part.is_instance_of::<PyTuple>() => Ok(parts.swap_remove(0)),
        _ => Ok(PyTuple::new(py, parts)?.into_any()),
    }
}

/// Decodes the parts up to the end of the bytes or of the tuple. Returns `None` for an invalid
/// encoding.
fn read_parts<'py>(
    py: Python<'py>,
    rest: &mut &[u8],
    depth: usize,
) -> PyResult<Option<Vec<Bound<'py, PyAny>>>> {
    let mut parts = Vec::new();
    let mut text = Vec::new();
    let mut nested: Option<Bound<'py, PyAny>> = None;
    loop {
        let plain = rest.iter().position(|&byte| byte == 0).unwrap_or(rest.len());
        text.extend_from_slice(&rest[..plain]);
        *rest = &rest[plain..];
        let mark = match rest.split_first_chunk::<2>() {
            Some((mark, behind)) => {
                *rest = behind;
                Some(*mark)
            }
            None => None,
        };
        match mark {
            Some(ESCAPED_ZERO) => text.push(0),
            Some(NEST) if text.is_empty() && nested.is_none() && depth < MAX_DEPTH => {
                match read_parts(py, rest, depth + 1)? {
                    Some(inner) => nested = Some(PyTuple::new(py, inner)?.into_any()),
                    None => return Ok(None),
                }
            }
            Some(NEXT_PART) => parts.push(part(py, &mut text, &mut nested)?),
            Some(UNNEST) if depth > 0 => {
                parts.push(part(py, &mut text, &mut nested)?);
                return Ok(Some(parts));
            }
            None if depth == 0 && rest.is_empty() => {
                parts.push(part(py, &mut text, &mut nested)?);
                return Ok(Some(parts));
            }
            _ => return Ok(None),
        }
    }
}

fn part<'py>(
    py: Python<'py>,
    text: &mut Vec<u8>,
    nested: &mut Option<Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    if let Some(tuple) = nested.take() {
        return Ok(tuple);
    }
    let bytes = std::mem::take(text);
    match std::str::from_utf8(&bytes) {
        Ok(text) => Ok(PyString::new(py, text).into_any()),
        Err(_) => {
            let raw = PyBytes::new(py, &bytes).into_any();
            raw.call_method1("decode", ("utf-8", "surrogatepass")).or(Ok(raw))
        }
    }
}

/// Returns the bytes under which a store keeps a Python key.
#[pyfunction]
pub(crate) fn encode_key<'py>(key: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
    Ok(PyBytes::new(key.py(), key_of(key)?.as_bytes()))
}

/// Returns the bytes under which a store keeps a tuple whose integers are typed, as in Rust.
#[pyfunction]
pub(crate) fn encode_typed_key<'py>(key: &Bound<'py, PyTuple>) -> PyResult<Bound<'py, PyBytes>> {
    let mut bytes = Vec::new();
    write_parts(key, 0, Integers::Typed, &mut bytes)?;
    Ok(PyBytes::new(key.py(), &bytes))
}

/// Returns the Python key that a store keeps under these bytes.
#[pyfunction]
pub(crate) fn decode_key<'py>(py: Python<'py>, key: &[u8]) -> PyResult<Bound<'py, PyAny>> {
    to_python(py, key)
}

/// Returns the engine's key of two strings, for the test that compares this file with the engine.
#[pyfunction]
pub(crate) fn engine_tuple_key<'py>(py: Python<'py>, a: &str, b: &str) -> Bound<'py, PyBytes> {
    PyBytes::new(py, Key::from((a, b)).as_bytes())
}
