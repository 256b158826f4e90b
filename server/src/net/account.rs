//! Who is asked before a channel keeps bytes in memory.

use std::time::Instant;

use super::error::ChannelError;

/// Who is asked before a channel keeps bytes in memory.
pub(crate) trait Account {
    /// Keeps `bytes` in memory altogether from now on; waits for room, or says why there is none.
    fn hold(&mut self, bytes: u64, deadline: Instant) -> Result<(), ChannelError>;
}

/// An account without limit, for a client; its message limit still holds.
#[derive(Debug)]
pub(crate) struct Unlimited;

impl Account for Unlimited {
    fn hold(&mut self, _: u64, _: Instant) -> Result<(), ChannelError> {
        Ok(())
    }
}
