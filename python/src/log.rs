//! The class `Log`: a store on disk by its path.
//!
//! A `Log` is cheap. It opens its store at the first call that needs it, and shares the store with
//! every other `Log` of the process. Each call checks that the path still leads to the same
//! directory.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use partd::{Batch, Durability, Key, Op, Options, Partd, SegmentLog};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PyTuple};

use crate::key::{key_of, to_python};
use crate::output::write_values;
use crate::pieces;
use crate::stores::{self, Fail, Store};
use crate::threads::interruptible;
use crate::value::Value;
use crate::view::View;

/// A signal can interrupt a call that moves at least this many bytes.
const LONG_CALL_BYTES: u64 = 128 << 20;
/// The name of the lock file, which exists once any process has taken the store's lock.
const LOCK_FILE: &str = ".lock";

/// A store on disk.
///
/// This class does not create the directory. Calls raise `FileNotFoundError` while it is missing.
#[pyclass(frozen, module = "partd._core")]
pub(crate) struct Log {
    path: PathBuf,
    options: Options,
    current: ArcSwapOption<Store>,
}

impl Log {
    /// Returns the store to which the path leads now. Must be called detached.
    fn store(&self) -> Result<Arc<Store>, Fail> {
        if let Some(store) = self.current.load_full()
            && store.is_current(&self.path)?
        {
            return Ok(store);
        }
        let store = stores::open(&self.path, &self.options)?;
        if let Some(old) = self.current.swap(Some(Arc::clone(&store))) {
            stores::release(old);
        }
        Ok(store)
    }

    /// Runs `call` on the store, detached.
    fn call<T: Send>(
        &self,
        py: Python<'_>,
        call: impl FnOnce(&SegmentLog) -> partd::Result<T> + Send,
    ) -> PyResult<T> {
        Ok(py.detach(|| {
            let store = self.store()?;
            call(&store.log).map_err(Fail::from)
        })?)
    }

    /// Runs `call`, which may take long, on the store in another thread.
    fn long_call<T: Send + 'static>(
        &self,
        py: Python<'_>,
        call: impl FnOnce(&SegmentLog) -> partd::Result<T> + Send + 'static,
    ) -> PyResult<T> {
        let store = py.detach(|| self.store())?;
        let result = interruptible(py, move || call(&store.log));
        result?.map_err(|error| Fail::from(error).into())
    }

    fn write(
        py: Python<'_>,
        store: Arc<Store>,
        keys: Vec<Key>,
        values: Vec<Value>,
        durability: Durability,
    ) -> PyResult<()> {
        let bytes: u64 = values.iter().map(|value| value.bytes().len() as u64).sum();
        let write = move |log: &SegmentLog, keys: Vec<Key>, values: &[Value]| {
            let mut batch = Batch::with_capacity(keys.len());
            for (key, value) in keys.into_iter().zip(values) {
                batch.push(Op::Append(key, value.bytes()));
            }
            log.write(&batch, durability)
        };
        let written = if bytes < LONG_CALL_BYTES {
            py.detach(|| write(&store.log, keys, &values))
        } else {
            interruptible(py, move || {
                let written = write(&store.log, keys, &values);
                // Drop the values here, because a signal may have interrupted the caller.
                let _ = Python::try_attach(|_| drop(values));
                written
            })?
        };
        written.map_err(|error| Fail::from(error).into())
    }

    /// Returns the store, or `None` if `unless_locked` is set and the lock file exists. Must be
    /// called detached.
    fn unlocked(&self, unless_locked: bool) -> Result<Option<Arc<Store>>, Fail> {
        let store = self.store()?;
        Ok((!unless_locked || !store.has_file(LOCK_FILE)).then_some(store))
    }
}

#[pymethods]
impl Log {
    #[new]
    #[pyo3(signature = (path, *, segment_len_bytes = None, compacts = true))]
    fn new(path: PathBuf, segment_len_bytes: Option<u64>, compacts: bool) -> PyResult<Log> {
        let mut options = SegmentLog::options();
        if let Some(bytes) = segment_len_bytes {
            options = options.segment_len_bytes(bytes);
        }
        if !compacts {
            options = options.compaction_dead_share(None);
        }
        Ok(Log { path: std::path::absolute(path)?, options, current: ArcSwapOption::empty() })
    }

    /// The directory of the store, absolute.
    #[getter]
    fn path(&self) -> &OsStr {
        self.path.as_os_str()
    }

    /// Opens the store now.
    fn open(&self, py: Python<'_>) -> PyResult<()> {
        Ok(py.detach(|| self.store().map(drop))?)
    }

    /// Releases the store, and closes it if no other `Log` of the process uses it.
    fn close(&self, py: Python<'_>) {
        py.detach(|| {
            if let Some(store) = self.current.swap(None) {
                stores::close(store);
            }
        });
    }

    /// Appends the values of a mapping: all of them or none.
    ///
    /// With `unless_locked`, does nothing and returns False if the lock file exists.
    #[pyo3(signature = (data, durable = false, unless_locked = false))]
    fn append(
        &self,
        data: &Bound<'_, PyAny>,
        durable: bool,
        unless_locked: bool,
    ) -> PyResult<bool> {
        let py = data.py();
        let (keys, values) = pairs_of(data)?;
        let Some(store) = py.detach(|| self.unlocked(unless_locked))? else { return Ok(false) };
        let durability = if durable { Durability::Durable } else { Durability::Plain };
        Log::write(py, store, keys, values, durability)?;
        Ok(true)
    }

    /// Appends to each key of a dictionary the pieces of its list, several keys at a time. Returns
    /// the keys whose pieces are stored, and the exception that the others met, if any.
    ///
    /// With `unless_locked`, does nothing and returns None if the lock file exists.
    #[pyo3(signature = (data, unless_locked = false))]
    fn append_pieces<'py>(
        &self,
        data: &Bound<'py, PyDict>,
        unless_locked: bool,
    ) -> PyResult<Option<(Bound<'py, PyList>, Option<PyErr>)>> {
        let py = data.py();
        let mut values = Vec::with_capacity(data.len());
        let names = data.keys();
        for pair in data.items() {
            let pair = pair.cast::<PyTuple>()?;
            let pieces = pair.get_item(1)?.try_iter()?.map(|piece| Value::of(&piece?));
            values.push((key_of(&pair.get_item(0)?)?, pieces.collect::<PyResult<Vec<Value>>>()?));
        }
        let Some(store) = py.detach(|| self.unlocked(unless_locked))? else { return Ok(None) };
        let (stored, error) = py.detach(|| pieces::append(&store.log, &values));
        let keys =
            names.iter().zip(stored).filter_map(|(name, is_stored)| is_stored.then_some(name));
        let error = error.map(|error| Fail::from(error).into());
        Ok(Some((PyList::new(py, keys.collect::<Vec<_>>())?, error)))
    }

    /// Returns whether the lock file exists: whether any process has ever taken the store's lock.
    fn has_lock_file(&self, py: Python<'_>) -> PyResult<bool> {
        Ok(py.detach(|| self.store().map(|store| store.has_file(LOCK_FILE)))?)
    }

    /// Returns the values of the keys at a single moment; `b''` for missing keys.
    ///
    /// With `unless_locked`, reads nothing and returns None if the lock file exists.
    #[pyo3(signature = (keys, unless_locked = false))]
    fn get<'py>(
        &self,
        keys: &Bound<'py, PyAny>,
        unless_locked: bool,
    ) -> PyResult<Option<Bound<'py, PyList>>> {
        let py = keys.py();
        let keys = keys_of(keys)?;
        let read = |store: &Store, keys: &[Key]| -> Result<Vec<Py<PyBytes>>, Fail> {
            store.log.visit_unverified(keys, |stored| write_values(stored))
        };
        let found = py.detach(|| {
            let Some(store) = self.unlocked(unless_locked)? else { return Ok(None) };
            let lens = store.log.lens(&keys)?;
            Ok::<_, Fail>(Some((store, lens.into_iter().flatten().sum::<u64>())))
        })?;
        let Some((store, bytes)) = found else { return Ok(None) };
        let values = if bytes < LONG_CALL_BYTES {
            py.detach(|| read(&store, &keys))?
        } else {
            interruptible(py, move || read(&store, &keys))??
        };
        PyList::new(py, values).map(Some)
    }

    /// Sets a key, unless it has been set since its last delete.
    fn iset(
        &self,
        py: Python<'_>,
        key: &Bound<'_, PyAny>,
        value: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let (key, value) = (key_of(key)?, Value::of(value)?);
        self.call(py, |log| log.write(Batch::new().set(key, value.bytes()), Durability::Plain))
    }

    /// Removes keys. Missing keys are ignored.
    fn delete(&self, py: Python<'_>, keys: &Bound<'_, PyAny>) -> PyResult<()> {
        let keys = keys_of(keys)?;
        self.call(py, |log| log.delete(keys))
    }

    /// Gets and removes keys in one step.
    fn pop<'py>(&self, py: Python<'py>, keys: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyList>> {
        let keys = keys_of(keys)?;
        let values = self.call(py, |log| log.take(&keys))?;
        let values = py.detach(|| {
            let pieces: Vec<[&[u8]; 1]> = values.iter().map(|value| [&value[..]]).collect();
            write_values(&pieces)
        })?;
        PyList::new(py, values)
    }

    /// Removes every key in one step.
    fn clear(&self, py: Python<'_>) -> PyResult<()> {
        self.call(py, Partd::clear)
    }

    /// Returns every key, in the order of their bytes.
    fn keys<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let keys = self.call(py, Partd::keys)?;
        let keys = keys.iter().map(|key| to_python(py, key.as_bytes()));
        PyList::new(py, keys.collect::<PyResult<Vec<_>>>()?)
    }

    /// Returns the length of each key's value in bytes, without reading it; None if the key is
    /// missing.
    fn lens(&self, py: Python<'_>, keys: &Bound<'_, PyAny>) -> PyResult<Vec<Option<u64>>> {
        let keys = keys_of(keys)?;
        self.call(py, |log| log.lens(&keys))
    }

    /// Syncs everything that any process has written before to stable storage.
    fn sync(&self, py: Python<'_>) -> PyResult<()> {
        self.long_call(py, Partd::sync)
    }

    /// Rewrites live values and frees dead space; returns counts of the work done.
    fn compact<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let done = self.long_call(py, SegmentLog::compact)?;
        let counts = PyDict::new(py);
        counts.set_item("runs", done.runs)?;
        counts.set_item("segments_replaced", done.segments_replaced)?;
        counts.set_item("bytes_rewritten", done.bytes_rewritten)?;
        counts.set_item("bytes_freed", done.bytes_freed)?;
        Ok(counts)
    }

    /// Returns counts of what the store holds.
    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let stats = self.call(py, SegmentLog::stats)?;
        let counts = PyDict::new(py);
        for (name, count) in [
            ("keys", stats.keys),
            ("extents", stats.extents),
            ("live_bytes", stats.live_bytes),
            ("dead_bytes", stats.dead_bytes),
            ("batches", stats.batches),
            ("segments", stats.segments()),
            ("segment_bytes", stats.segment_bytes),
            ("disk_bytes", stats.disk_bytes),
            ("compactions", stats.compactions),
            ("index_bytes", stats.index_bytes),
            ("mapped_bytes", stats.mapped_bytes),
            ("sequence", stats.sequence),
        ] {
            counts.set_item(name, count)?;
        }
        Ok(counts)
    }

    /// Checks every checksum of stored values; returns counts of what was checked.
    fn verify<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let verified = self.long_call(py, SegmentLog::verify)?;
        let counts = PyDict::new(py);
        counts.set_item("segments", verified.segments)?;
        counts.set_item("extents", verified.extents)?;
        counts.set_item("bytes", verified.bytes)?;
        Ok(counts)
    }

    /// Returns the chunks of a key's value in the mapping, which support the buffer protocol.
    fn chunks(&self, py: Python<'_>, key: &Bound<'_, PyAny>) -> PyResult<Vec<View>> {
        let key = key_of(key)?;
        let view = self.call(py, |log| log.view(key))?;
        Ok(View::of(view))
    }

    fn __repr__(&self) -> String {
        format!("Log({})", self.path.display())
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        if let Some(store) = self.current.swap(None) {
            stores::release(store);
        }
    }
}

/// Converts the pairs of a mapping, or of any object with `items()`.
fn pairs_of(data: &Bound<'_, PyAny>) -> PyResult<(Vec<Key>, Vec<Value>)> {
    let (mut keys, mut values) = (Vec::new(), Vec::new());
    if let Ok(dict) = data.cast_exact::<PyDict>() {
        keys.reserve(dict.len());
        values.reserve(dict.len());
        // Converting a key may run Python code that changes the mapping, so iterate over a list.
        for pair in dict.items() {
            push_pair(&pair, &mut keys, &mut values)?;
        }
    } else {
        for pair in data.call_method0("items")?.try_iter()? {
            push_pair(&pair?, &mut keys, &mut values)?;
        }
    }
    Ok((keys, values))
}

fn push_pair(
    pair: &Bound<'_, PyAny>,
    keys: &mut Vec<Key>,
    values: &mut Vec<Value>,
) -> PyResult<()> {
    let pair = pair.cast::<PyTuple>()?;
    keys.push(key_of(&pair.get_item(0)?)?);
    values.push(Value::of(&pair.get_item(1)?)?);
    Ok(())
}

fn keys_of(keys: &Bound<'_, PyAny>) -> PyResult<Vec<Key>> {
    if keys.is_instance_of::<pyo3::types::PyString>() || keys.is_instance_of::<PyBytes>() {
        return Err(PyTypeError::new_err("a list of keys is required, not one key"));
    }
    keys.try_iter()?.map(|key| key_of(&key?)).collect()
}
