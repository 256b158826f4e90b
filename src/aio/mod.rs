//! Values for asynchronous programs that run on tokio.
//!
//! A value lies in mapped files, and touching a page that is not in memory blocks the thread until
//! the disk has delivered it. `madvise` cannot prevent this: it is advice, the pages may arrive
//! late or leave again before they are touched, and a fault on one blocks as before. So every touch
//! of a value happens on a thread of tokio's blocking pool, one window at a time, and the executor
//! sees only copies in memory. A copy of 256 KiB takes some 20 µs, about as long as the hand-over
//! to the pool.

mod follow;
mod reader;
mod stream;
mod window;

pub use self::follow::{AsyncUpdate, FollowStream};
pub use self::reader::AsyncValueReader;
pub use self::stream::ValueStream;
