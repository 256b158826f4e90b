//! The server and its clients, over real sockets and in real processes.
//!
//! | module | |
//! |---|---|
//! | `contract` | the suite of every `Partd`, over a client over a server |
//! | `extension` | what the extension promises beyond it |
//! | `wire` | the bytes of WIRE.md, and the old protocol byte by byte |
//! | `hostile` | limits, and clients that break them or the protocol |
//! | `safety` | who is let in, roles, CURVE, sockets of the dead |
//! | `faults` | servers and clients that die, and a network that does |
//! | `history` | what clients saw, as one linear history |
//! | `program` | the binary: signals, exit codes, status, metrics, systemd |
//! | `python` | Python's partd on either side |
//! | `leaks` | descriptors, threads and memory |

mod common;
mod contract;
mod extension;
mod faults;
mod history;
mod hostile;
mod leaks;
mod program;
mod proxy;
mod python;
mod safety;
mod wire;
