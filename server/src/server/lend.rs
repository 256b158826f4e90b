//! Sends values from the store's own memory, as far as the client takes them at once.
//!
//! The store may hold a lock while it lends values, so nothing here waits for the client meanwhile: what
//! the socket does not take at once is copied, and sent after the lock is free. Short pieces are always
//! copied, since the kernel needs longer to look up a piece than to copy so few bytes.

use std::io::IoSlice;
use std::sync::Arc;

use partd::{Chunks, Error, Key};

use super::answer::{Answer, CHUNK_BYTES, len_of, total_bytes};
use super::connection::{Connection, End};
use super::extended::send;
use super::stats::count;
use crate::net::channel::put_frame_header;
use crate::net::error::ended;
use crate::net::socket::Stream;
use crate::wire::reply::{CHUNK_HEAD_BYTES, encode_chunk_head};

/// Pieces are lent only if their average length, with that of the lengths before the values, is at
/// least this.
const LENT_MIN_BYTES: usize = 1 << 10;

/// What remains to be done after the store's `visit` has returned.
enum Left {
    /// To read the values again: there is no room in memory for an answer.
    Read,
    /// To send the answer.
    All(Answer),
    /// To send the end of an answer, as it is on the wire.
    End(Answer),
    Nothing,
}

/// Reads values and sends them. The inner error is that of the store; nothing was sent then.
pub(super) fn read_and_send<S: Stream>(
    connection: &mut Connection<S>,
    id: u64,
    keys: &[Key],
) -> Result<Result<(), Error>, End> {
    let shared = Arc::clone(&connection.shared);
    let channel = &mut connection.channel;
    let (memory_bytes, spool) = (shared.limits.answer_bytes, &*shared.spool);
    let mut left = None;
    let visited = shared.store.visit(keys, &mut |values| {
        let total = total_bytes(values);
        if total > memory_bytes {
            let answer = Answer::of_values(values, channel.account(), memory_bytes, spool)?;
            left = Some(Ok(Left::All(answer)));
            return Ok(());
        }
        let heads = chunk_heads(id, total);
        let wire_bytes = total + heads.iter().map(|head| head.len() as u64).sum::<u64>();
        let Some(charge) = channel.account().answer(wire_bytes) else {
            left = Some(Ok(Left::Read));
            return Ok(());
        };
        let lens = lens_of(values);
        let plain = plain_slices(values, &lens);
        if channel.encrypts() || !is_worth_lending(&plain) {
            left = Some(Ok(Left::All(Answer::of_slices(charge, &plain))));
            return Ok(());
        }
        let mut slices = wire_slices(&plain, &heads);
        let mut rest = &mut slices[..];
        left = Some(loop {
            if rest.is_empty() {
                break Ok(Left::Nothing);
            }
            match channel.send_now(rest) {
                Ok(0) => break Ok(Left::End(Answer::of_slices(charge, rest))),
                Ok(sent) => IoSlice::advance_slices(&mut rest, sent),
                Err(error) => break Err(error),
            }
        });
        Ok(())
    });
    let answer = match (visited, left.transpose()?) {
        (Ok(()), Some(Left::Nothing)) => return Ok(Ok(())),
        (Ok(()), Some(Left::End(answer))) => {
            let bytes = answer.memory().unwrap_or_default();
            bytes.chunks(CHUNK_BYTES).try_for_each(|bytes| channel.send_raw(bytes))?;
            return Ok(Ok(()));
        }
        (Ok(()), Some(Left::All(answer))) => Ok(answer),
        (Ok(()), Some(Left::Read)) => shared.store.read(keys).and_then(|values| {
            let values: Vec<Chunks<'_>> = values.iter().map(|value| vec![&value[..]]).collect();
            Answer::of_values(&values, channel.account(), memory_bytes, spool)
        }),
        (Ok(()), None) => Err(Error::Invalid("the store returned no values".into())),
        (Err(error), Some(Left::Nothing | Left::End(_))) => {
            count(&shared.stats.errors_total);
            tracing::debug!(error = %error, "the store failed after it had lent its values");
            return Err(ended("the store failed after the answer had begun").into());
        }
        (Err(error), _) => Err(error),
    };
    match answer {
        Ok(answer) => send(connection, id, &answer).map(Ok),
        Err(error) => Ok(Err(error)),
    }
}

/// Whether the slices of an answer are long enough to be lent.
fn is_worth_lending(slices: &[&[u8]]) -> bool {
    let bytes: usize = slices.iter().map(|slice| slice.len()).sum();
    bytes > 0 && bytes >= slices.len() * LENT_MIN_BYTES
}

/// Returns the length of each value as it is in the answer.
fn lens_of(values: &[Chunks<'_>]) -> Vec<[u8; 8]> {
    values.iter().map(|value| len_of(value).to_be_bytes()).collect()
}

/// Returns an answer: each value after its length.
fn plain_slices<'a>(values: &[Chunks<'a>], lens: &'a [[u8; 8]]) -> Vec<&'a [u8]> {
    let each = values.iter().zip(lens);
    each.flat_map(|(value, len)| [&len[..]].into_iter().chain(value.iter().copied())).collect()
}

/// Returns the head of each chunk of an answer: the header of its frame, its kind and the request id.
fn chunk_heads(id: u64, total: u64) -> Vec<Vec<u8>> {
    let mut heads = Vec::new();
    let mut left = total;
    loop {
        let now = left.min(CHUNK_BYTES as u64);
        left -= now;
        let mut head = Vec::new();
        put_frame_header(&mut head, false, CHUNK_HEAD_BYTES + now as usize);
        head.extend_from_slice(&encode_chunk_head(id, left == 0));
        heads.push(head);
        if left == 0 {
            return heads;
        }
    }
}

/// Returns an answer as it is on the wire: its chunks, each after its head.
fn wire_slices<'a>(plain: &[&'a [u8]], heads: &'a [Vec<u8>]) -> Vec<IoSlice<'a>> {
    let mut slices = Vec::with_capacity(plain.len() + 2 * heads.len());
    let mut heads = heads.iter();
    let mut room = 0;
    for &slice in plain {
        let mut bytes = slice;
        while !bytes.is_empty() {
            if room == 0 {
                slices.extend(heads.next().map(|head| IoSlice::new(head)));
                room = CHUNK_BYTES;
            }
            let (now, later) = bytes.split_at(bytes.len().min(room));
            slices.push(IoSlice::new(now));
            room -= now.len();
            bytes = later;
        }
    }
    slices
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::time::Instant;

    use omq_proto::MechanismSetup;
    use partd::{Dict, Partd};

    use super::super::shared::Shared;
    use super::super::stats::MemoryGauge;
    use super::*;
    use crate::net::channel::ChannelOptions;
    use crate::{Limits, Role};

    /// A stream that takes `room` bytes without waiting, and any number if the caller waits.
    struct Output {
        room: usize,
        written: Vec<u8>,
    }

    impl Stream for Output {
        fn read(&mut self, _: &mut Vec<u8>, _: usize, _: Instant) -> io::Result<usize> {
            Ok(0)
        }

        fn write(&mut self, slices: &[IoSlice<'_>], _: Instant) -> io::Result<usize> {
            slices.iter().for_each(|slice| self.written.extend_from_slice(slice));
            Ok(slices.iter().map(|slice| slice.len()).sum())
        }

        fn write_now(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
            // At most a few slices at a time, as the system does.
            let bytes: Vec<u8> = slices.iter().take(3).flat_map(|slice| slice.to_vec()).collect();
            let now = bytes.len().min(self.room);
            self.room -= now;
            self.written.extend_from_slice(&bytes[..now]);
            Ok(now)
        }
    }

    fn connection(store: Dict, room: usize) -> Connection<Output> {
        let limits = Limits::default();
        let options = ChannelOptions {
            is_server: true,
            mechanism: MechanismSetup::Null,
            message_bytes: limits.message_bytes,
            frames: limits.frames,
            handshake: limits.handshake,
            message: limits.message,
        };
        let gauge = MemoryGauge::default();
        let shared = Shared::new(Arc::new(store), gauge, limits, std::env::temp_dir(), 1).unwrap();
        let output = Output { room, written: Vec::new() };
        Connection::new(output, &Arc::new(shared), options, Role::ALL)
    }

    fn store(lens: &[usize]) -> (Dict, Vec<Key>) {
        let p = Dict::new();
        for (key, &len) in lens.iter().enumerate() {
            let value: Vec<u8> = (0..len).map(|at| (at / 7 + key) as u8).collect();
            p.append([(key, value)]).unwrap();
        }
        (p, (0..lens.len() + 1).map(Key::from).collect())
    }

    #[test]
    fn an_answer_is_the_same_wherever_the_socket_stops_taking_it() {
        let many = vec![4096; 700];
        for lens in [&[5000][..], &[3 * CHUNK_BYTES + 5, 70_000], &[CHUNK_BYTES - 16], &many] {
            let (p, keys) = store(lens);
            let mut copying = connection(p, 0);
            let shared = Arc::clone(&copying.shared);
            let mut answer = None;
            let charge = copying.channel.account();
            shared
                .store
                .visit(&keys, &mut |values| {
                    assert!(is_worth_lending(&plain_slices(values, &lens_of(values))));
                    answer = Some(Answer::of_values(values, charge, 8 << 20, &shared.spool)?);
                    Ok(())
                })
                .unwrap();
            assert!(send(&mut copying, 7, &answer.unwrap()).is_ok());
            copying.channel.flush().unwrap();
            let expected = copying.channel.stream().written.clone();
            let rooms = [0, 1, 9, 18, 19, 27, 4000, CHUNK_BYTES, CHUNK_BYTES + 40, usize::MAX];
            for room in rooms {
                let (p, keys) = store(lens);
                let mut lending = connection(p, room);
                let sent = read_and_send(&mut lending, 7, &keys);
                assert!(matches!(sent, Ok(Ok(()))), "{lens:?}, {room}");
                let stream = lending.channel.stream();
                assert!(stream.written == expected, "{lens:?}, room for {room}");
                assert_eq!(lending.channel.sent_bytes, expected.len() as u64);
                drop(lending);
            }
        }
    }

    #[test]
    fn short_pieces_and_answers_that_memory_has_no_room_for_are_copied() {
        for (lens, missing) in [(&[10; 500][..], 0), (&[9 << 20], 0), (&[1024], 5000), (&[], 0)] {
            let (p, mut keys) = store(lens);
            keys.extend((0..missing).map(|key| Key::from(("missing", key))));
            let mut connection = connection(p, usize::MAX);
            assert!(matches!(read_and_send(&mut connection, 7, &keys), Ok(Ok(()))));
            connection.channel.flush().unwrap();
            let stream = connection.channel.stream();
            assert!(stream.written.len() > lens.iter().sum());
            assert_eq!(stream.room, usize::MAX, "{lens:?}");
        }
    }

    #[test]
    fn a_read_of_no_keys_has_an_answer() {
        let (p, _) = store(&[5000]);
        let mut connection = connection(p, usize::MAX);
        assert!(matches!(read_and_send(&mut connection, 7, &[]), Ok(Ok(()))));
        connection.channel.flush().unwrap();
        let head = encode_chunk_head(7, true);
        assert_eq!(connection.channel.stream().written, [&[0, 9], &head[..]].concat());
    }

    #[test]
    fn answers_reuse_the_memory_of_others_and_all_of_it_is_returned() {
        // Copied, lent in part, and lent but for the end.
        for (lens, room) in
            [(vec![1000; 200], 0), (vec![4096; 700], 0), (vec![4096; 700], 2_000_000)]
        {
            let (p, keys) = store(&lens);
            let mut connection = connection(p, 0);
            for _ in 0..5 {
                connection.channel.stream_mut().room = room;
                assert!(matches!(read_and_send(&mut connection, 7, &keys), Ok(Ok(()))));
                assert_eq!(connection.shared.budget.held(), 0);
            }
        }
    }

    #[test]
    fn an_answer_without_room_in_memory_goes_through_a_file() {
        let (p, keys) = store(&[4096; 700]);
        let mut connection = connection(p, usize::MAX);
        let all = connection.channel.account().answer(connection.shared.limits.in_flight_bytes);
        assert!(matches!(read_and_send(&mut connection, 7, &keys), Ok(Ok(()))));
        connection.channel.flush().unwrap();
        assert!(connection.channel.stream().written.len() > 700 * 4096);
        drop(all);
    }
}
