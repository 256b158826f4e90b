//! The outcomes of each session's requests, for a client that resends them.
//!
//! A client that lost its connection reconnects, names its session, and resends its unanswered
//! requests. The server answers those that it has already carried out as before, and does not carry
//! them out again. It keeps the answers until the client confirms them, or until [`RETAINED`] after
//! the client has disconnected.
//!
//! Invariant: at most one request of a session that changes the store is carried out at a time,
//! even if several connections name the session.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::answer::Answer;
use super::records::REMEMBERED;
use crate::error::RemoteError;
use crate::wire::hello::SessionId;
use crate::wire::reply::Ack;

/// How long a session without a connection is kept.
pub(crate) const RETAINED: Duration = Duration::from_secs(600);
/// How many sessions without a connection are kept.
const MAX_GONE: usize = 4096;

/// The outcome of a request that changes the store.
#[derive(Clone, Debug)]
pub(crate) enum Outcome {
    Done(Ack),
    Failed(RemoteError),
    /// The values of a pop, which the store no longer has.
    Taken(Arc<Answer>),
}

/// The state of a session.
#[derive(Debug, Default)]
pub(crate) struct Session {
    requests: Mutex<Requests>,
    /// The number of connections that have named this session. Only the last of them is served.
    pub(crate) connection: AtomicU64,
}

/// The outcomes of a session's requests that the client has not confirmed.
#[derive(Debug, Default)]
pub(crate) struct Requests {
    outcomes: VecDeque<(u64, Outcome)>,
    /// The client has the answers to all requests with lower ids.
    oldest: u64,
}

impl Session {
    pub(crate) fn requests(&self) -> MutexGuard<'_, Requests> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Requests {
    /// Forgets the outcomes below `oldest`: the client has those answers.
    pub(crate) fn answered(&mut self, oldest: u64) {
        self.oldest = self.oldest.max(oldest);
        self.outcomes.retain(|(id, _)| *id >= oldest);
    }

    /// Returns whether the client already has the answer to a request.
    ///
    /// Such a request arrived late, over a connection that another has replaced. Its outcome is
    /// forgotten, so it must be refused.
    pub(crate) fn is_answered(&self, id: u64) -> bool {
        id < self.oldest
    }

    pub(crate) fn outcome(&self, id: u64) -> Option<&Outcome> {
        self.outcomes.iter().find(|(known, _)| *known == id).map(|(_, outcome)| outcome)
    }

    pub(crate) fn is_full(&self) -> bool {
        self.outcomes.len() as u64 >= REMEMBERED
    }

    pub(crate) fn remember(&mut self, id: u64, outcome: Outcome) {
        self.outcomes.push_back((id, outcome));
    }
}

/// All sessions.
#[derive(Debug, Default)]
pub(crate) struct Sessions(Mutex<HashMap<SessionId, Entry>>);

#[derive(Debug)]
struct Entry {
    session: Arc<Session>,
    /// When the last connection ended, or `None` while there is one.
    gone: Option<Instant>,
}

impl Sessions {
    fn entries(&self) -> MutexGuard<'_, HashMap<SessionId, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a connection to its session. Returns the session, the number of the connection in it,
    /// and whether the session was known.
    pub(crate) fn join(&self, id: SessionId) -> (Arc<Session>, u64, bool) {
        let mut entries = self.entries();
        let is_known = entries.contains_key(&id);
        let new = || Entry { session: Arc::default(), gone: None };
        let entry = entries.entry(id).or_insert_with(new);
        entry.gone = None;
        let connection = entry.session.connection.fetch_add(1, Ordering::AcqRel) + 1;
        (Arc::clone(&entry.session), connection, is_known)
    }

    /// Removes a connection that has ended from its session.
    pub(crate) fn leave(&self, id: &SessionId, connection: u64) {
        let mut entries = self.entries();
        if let Some(entry) = entries.get_mut(id)
            && entry.session.connection.load(Ordering::Acquire) == connection
        {
            entry.gone = Some(Instant::now());
        }
        let gone = entries.values().filter(|entry| entry.gone.is_some()).count();
        if gone > MAX_GONE {
            let oldest = entries.iter().filter_map(|(id, entry)| Some((entry.gone?, *id))).min();
            if let Some((_, id)) = oldest {
                entries.remove(&id);
            }
        }
    }

    /// Forgets the session of a client that said good-bye.
    pub(crate) fn end(&self, id: &SessionId) {
        self.entries().remove(id);
    }

    /// Forgets sessions that have had no connection for [`RETAINED`]. Called about once a second.
    pub(crate) fn tick(&self) {
        self.entries().retain(|_, entry| entry.gone.is_none_or(|gone| gone.elapsed() < RETAINED));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_known_until_it_ends_and_only_its_last_connection_can_leave_it() {
        let sessions = Sessions::default();
        let (session, first, known) = sessions.join([1; 16]);
        assert!(!known);
        session.requests().remember(5, Outcome::Done(Ack::default()));
        let (again, second, known) = sessions.join([1; 16]);
        assert!(known && second > first);
        assert!(again.requests().outcome(5).is_some());
        again.requests().answered(6);
        assert!(again.requests().is_answered(5) && !again.requests().is_answered(6));
        assert!(again.requests().outcome(5).is_none());
        sessions.leave(&[1; 16], first);
        sessions.tick();
        assert!(sessions.join([1; 16]).2);
        sessions.end(&[1; 16]);
        assert!(!sessions.join([1; 16]).2);
    }

    #[test]
    fn a_bounded_number_of_sessions_without_clients_is_kept() {
        let sessions = Sessions::default();
        for n in 0..MAX_GONE + 10 {
            let mut id = [0; 16];
            id[..8].copy_from_slice(&n.to_be_bytes());
            let (_, connection, _) = sessions.join(id);
            sessions.leave(&id, connection);
        }
        assert_eq!(sessions.entries().len(), MAX_GONE);
    }
}
