//! The account that a channel asks before it keeps bytes in memory.

use std::time::Instant;

use super::error::ChannelError;

/// Grants a channel the memory for what it has received.
pub(crate) trait Account {
    /// Sets the channel's total to `bytes`. If it grows, waits for room until `deadline`.
    ///
    /// # Errors
    /// There is no room in time, or `bytes` exceeds the limit of the account.
    fn hold(&mut self, bytes: u64, deadline: Instant) -> Result<(), ChannelError>;
}

/// An account without a limit, for a client. The limit of a message still applies.
#[derive(Debug)]
pub(crate) struct Unlimited;

impl Account for Unlimited {
    fn hold(&mut self, _: u64, _: Instant) -> Result<(), ChannelError> {
        Ok(())
    }
}
