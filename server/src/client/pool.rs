//! The connections of a client. Each is used by one call or pipeline at a time.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use partd::log::fs::ForkMark;
use partd::{Error, Result};

use super::link::Link;
use super::options::Config;
use crate::error::{ErrorKind, RemoteError};

/// The connections of a client.
#[derive(Debug)]
pub(crate) struct Pool {
    config: Arc<Config>,
    links: Mutex<Links>,
    freed: Condvar,
    /// Marks the process that created the client. A forked child must not use the sockets of its
    /// parent, and may have the same process id in another namespace.
    mark: ForkMark,
}

#[derive(Debug, Default)]
struct Links {
    idle: Vec<Link>,
    used: usize,
}

impl Pool {
    pub(crate) fn new(config: &Arc<Config>) -> Result<Pool> {
        let path = || config.address.as_str().into();
        let mark = ForkMark::new();
        let mark =
            mark.map_err(|source| Error::Io { doing: "map a page for", path: path(), source })?;
        Ok(Pool {
            config: Arc::clone(config),
            links: Mutex::default(),
            freed: Condvar::new(),
            mark,
        })
    }

    fn links(&self) -> MutexGuard<'_, Links> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Checks that this process may use the client.
    ///
    /// # Errors
    /// The client was created before a `fork`, in the parent process.
    pub(crate) fn check(&self) -> Result<()> {
        match self.mark.is_forked() {
            false => Ok(()),
            true => Err(Error::Forked { path: self.config.address.as_str().into() }),
        }
    }

    /// Takes a connection from the pool. If all are in use, waits for one.
    pub(crate) fn take(&self, deadline: Instant) -> Result<Taken<'_>> {
        self.check()?;
        let mut links = self.links();
        loop {
            if let Some(link) = links.idle.pop() {
                links.used += 1;
                return Ok(Taken { pool: self, link: Some(link) });
            }
            if links.used < self.config.connections {
                let link = Link::new(&self.config)?;
                links.used += 1;
                return Ok(Taken { pool: self, link: Some(link) });
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let text = "all connections of this client are in use by other threads";
                let error = RemoteError::new(ErrorKind::TimedOut, text);
                return Err(error.into_error("use", self.config.address.as_str()));
            }
            let waited = self.freed.wait_timeout(links, left);
            links = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Runs `call` with a connection from the pool.
    pub(crate) fn with<T>(
        &self,
        time: Duration,
        call: impl FnOnce(&mut Link, Instant) -> T,
    ) -> Result<T> {
        let deadline = Instant::now() + time;
        let mut taken = self.take(deadline)?;
        match taken.link.as_mut() {
            Some(link) => Ok(call(link, deadline)),
            None => Err(Error::Invalid("a connection was used twice".into())),
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        if self.check().is_ok() {
            self.links().idle.iter_mut().for_each(Link::end);
        }
    }
}

/// A connection in use. It returns to the pool on drop.
#[derive(Debug)]
pub(crate) struct Taken<'a> {
    pool: &'a Pool,
    link: Option<Link>,
}

impl Taken<'_> {
    pub(crate) fn link(&mut self) -> Option<&mut Link> {
        self.link.as_mut()
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        if self.pool.check().is_err() {
            return;
        }
        let mut links = self.pool.links();
        links.used -= 1;
        if let Some(mut link) = self.link.take() {
            if link.unanswered().0 > 0 {
                // A panic occurred between a request and its answer.
                link.abandon();
            }
            links.idle.push(link);
        }
        drop(links);
        self.pool.freed.notify_one();
    }
}
