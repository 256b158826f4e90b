#![doc = include_str!("../README.md")]

mod address;
mod client;
mod curve;
mod error;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod limits;
mod net;
mod role;
mod server;
mod wire;

pub use crate::address::Address;
pub use crate::client::{Client, ClientOptions, Pipeline};
pub use crate::curve::{AllowedKeys, KeyPair, PublicKey};
pub use crate::error::{ErrorKind, RemoteError};
pub use crate::limits::Limits;
pub use crate::role::Role;
pub use crate::server::{Server, ServerHandle, ServerOptions, Status};

/// Returns a random number from the operating system.
fn random_u64() -> partd::Result<u64> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes)
        .map_err(|error| error::io_error("get random bytes from", "the system", error.into()))?;
    Ok(u64::from_ne_bytes(bytes))
}
