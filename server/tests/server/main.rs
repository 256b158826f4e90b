//! The server and its clients, over real sockets and in real processes.
//!
//! | module | |
//! |---|---|
//! | `contract` | the engine's contract tests of `Partd`, through a client and a server |
//! | `extension` | what the extension guarantees beyond the contract |
//! | `wire` | the bytes of WIRE.md, and the old protocol byte by byte |
//! | `hostile` | limits, and clients that violate them or the protocol |
//! | `safety` | access control, roles, CURVE, sockets of dead servers |
//! | `faults` | servers and clients that are killed, and a network that cuts connections |
//! | `history` | checks that recorded histories of clients are linear |
//! | `program` | the binary: signals, exit codes, status, metrics, systemd |
//! | `python` | Python's partd as client and as server |
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
