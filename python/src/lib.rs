//! The native module `partd._core`: stores, codecs and keys for the Python package.
//!
//! | file | |
//! |---|---|
//! | `key` | converts Python keys to the engine's keys, and back |
//! | `value` | borrows values from Python for the engine |
//! | `output` | writes the engine's bytes into new `bytes` objects |
//! | `stores` | the open stores of this process, one per directory |
//! | `log` | the class `Log`: a store on disk by its path |
//! | `view` | the class `View`: a stored value in the mapping, as a buffer |
//! | `codec` | the class `Codec`: compression, and frames |
//! | `threads` | the thread pool after a fork, and long calls that Ctrl-C interrupts |
//! | `error` | converts errors of the engine to Python exceptions |
//!
//! Rules: calls into the engine run with the interpreter detached, and a forked child shares no
//! state with its parent. Anything that is cheap in Python stays in Python.

mod codec;
mod error;
mod key;
mod log;
mod output;
mod pieces;
mod stores;
mod threads;
mod value;
mod view;

/// The native part of partd.
#[pyo3::pymodule(gil_used = false)]
mod _core {
    #[pymodule_export]
    use crate::codec::{Codec, frame, framesplit};
    #[pymodule_export]
    use crate::error::{DamageError, StoreError};
    #[pymodule_export]
    use crate::key::{decode_key, encode_key, encode_typed_key, engine_tuple_key};
    #[pymodule_export]
    use crate::log::Log;
    #[pymodule_export]
    use crate::stores::{close_idle, open_stores};
    #[pymodule_export]
    use crate::view::View;
}
