//! The native module `partd._core`: stores, codecs and keys for the Python package.
//!
//! | file | what it owns |
//! |---|---|
//! | `key` | Python keys as the engine's keys, and back |
//! | `value` | bytes that Python lends to the engine |
//! | `output` | `bytes` objects that the engine's bytes are written into |
//! | `stores` | the open stores of this process, one per directory |
//! | `log` | the class `Log`: a store on disk by its path |
//! | `view` | the class `View`: a stored value in the mapping, as a buffer |
//! | `codec` | the class `Codec`: a compression, and frames |
//! | `threads` | the thread pool after a fork, and long calls that Ctrl-C ends |
//! | `error` | errors of the engine as Python exceptions |
//!
//! Rules: no call into the engine happens with the interpreter attached, and no state is shared
//! with a forked child. What is cheap in Python stays in Python.

mod codec;
mod error;
mod key;
mod log;
mod output;
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
    use crate::key::{decode_key, encode_key, engine_tuple_key};
    #[pymodule_export]
    use crate::log::Log;
    #[pymodule_export]
    use crate::stores::{close_idle, open_stores};
    #[pymodule_export]
    use crate::view::View;
}
