//! What became of the requests of each session, for a client that sends them again.
//!
//! A client that lost its connection connects again, names its session, and sends again what was not
//! answered. What has been carried out is answered as before and not carried out twice. The answers
//! are kept until the client says that it has them, [`RETAINED`] after it has gone at the longest.
//!
//! Invariant: one request of a session is carried out at a time, whichever connection brought it.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::answer::Answer;
use super::records::REMEMBERED;
use crate::error::RemoteError;
use crate::wire::hello::SessionId;
use crate::wire::reply::Ack;

/// How long the answers of a client that has gone are kept.
pub(crate) const RETAINED: Duration = Duration::from_secs(600);
/// Sessions that are kept after their clients have gone.
const MAX_GONE: usize = 4096;

/// What a request came to.
#[derive(Clone, Debug)]
pub(crate) enum Outcome {
    Done(Ack),
    Failed(RemoteError),
    /// The values of a pop, which are nowhere else any more.
    Taken(Arc<Answer>),
}

/// A session.
#[derive(Debug, Default)]
pub(crate) struct Session {
    requests: Mutex<Requests>,
    /// Counts the connections that have named this session; only the last one is served.
    pub(crate) connection: AtomicU64,
}

/// The requests of a session whose outcome its client may not know.
#[derive(Debug, Default)]
pub(crate) struct Requests {
    outcomes: VecDeque<(u64, Outcome)>,
    /// The client has the answers of everything below.
    oldest: u64,
}

impl Session {
    pub(crate) fn requests(&self) -> MutexGuard<'_, Requests> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Requests {
    /// The client has the answers of everything below `oldest`.
    pub(crate) fn answered(&mut self, oldest: u64) {
        self.oldest = self.oldest.max(oldest);
        self.outcomes.retain(|(id, _)| *id >= oldest);
    }

    /// Whether the client has the answer of a request already. One that comes again then was sent
    /// over a connection that another has replaced, and its outcome is forgotten.
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
    /// When its last connection ended; none while there is one.
    gone: Option<Instant>,
}

impl Sessions {
    fn entries(&self) -> MutexGuard<'_, HashMap<SessionId, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection names its session: the session, the number of the connection in it, and whether
    /// it was known.
    pub(crate) fn join(&self, id: SessionId) -> (Arc<Session>, u64, bool) {
        let mut entries = self.entries();
        let is_known = entries.contains_key(&id);
        let new = || Entry { session: Arc::default(), gone: None };
        let entry = entries.entry(id).or_insert_with(new);
        entry.gone = None;
        let connection = entry.session.connection.fetch_add(1, Ordering::AcqRel) + 1;
        (Arc::clone(&entry.session), connection, is_known)
    }

    /// A connection has ended.
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

    /// A client has said good-bye.
    pub(crate) fn end(&self, id: &SessionId) {
        self.entries().remove(id);
    }

    /// Forgets those that have been gone for long; called now and then.
    pub(crate) fn tick(&self) {
        self.entries().retain(|_, entry| entry.gone.is_none_or(|gone| gone.elapsed() < RETAINED));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_known_until_it_ends_and_its_last_connection_counts() {
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
    fn of_sessions_without_clients_a_bounded_number_is_kept() {
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
