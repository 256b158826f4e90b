//! Sends values from the store's own memory, as far as the client takes them at once.
//!
//! The store may hold a lock while it lends values, so nothing here waits meanwhile: what the socket
//! does not take at once is copied, and sent after the lock is free. Short pieces are always copied,
//! since the kernel needs longer to look up a piece than to copy so few bytes.

use std::io::IoSlice;
use std::sync::Arc;

use partd::{Chunks, Error, Key};

use super::answer::{Answer, CHUNK_BYTES};
use super::budget::Charge;
use super::connection::{Connection, End};
use super::extended::send;
use crate::net::channel::{Channel, put_frame_header};
use crate::net::error::{ChannelError, ended};
use crate::net::socket::Stream;
use crate::wire::reply::{CHUNK_HEAD_BYTES, encode_chunk_head};

/// Pieces are lent only if their average length is at least this.
const LENT_MIN_BYTES: u64 = 1 << 10;

/// What is left to do when the store has got its memory back.
enum Left {
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
    channel.flush()?;
    let (memory_bytes, spool) = (shared.limits.answer_bytes, &*shared.spool);
    let mut left = None;
    let mut sent_bytes = 0;
    let visited = shared.store.visit(keys, &mut |values| {
        if !channel.encrypts() && is_worth_lending(values, memory_bytes) {
            let lens: Vec<[u8; 8]> =
                values.iter().map(|value| len_of(value).to_be_bytes()).collect();
            let heads = chunk_heads(id, total_bytes(values));
            let mut slices = wire_slices(values, &lens, &heads);
            let mut rest = &mut slices[..];
            match send_now(channel, &mut rest) {
                Ok(bytes) => sent_bytes = bytes,
                Err(error) => {
                    left = Some(Err(error));
                    return Ok(());
                }
            }
            left = Some(Ok(match rest.is_empty() {
                true => Left::Nothing,
                false => Left::End(copy(rest, channel.account(), memory_bytes, spool)?),
            }));
        } else {
            let answer = Answer::of_values(values, channel.account(), memory_bytes, spool)?;
            left = Some(Ok(Left::All(answer)));
        }
        Ok(())
    });
    match (visited, left) {
        (Err(error), _) if sent_bytes == 0 => Ok(Err(error)),
        (Err(error), _) => {
            tracing::warn!(error = %error, "an answer cannot be completed");
            Err(ended("the store failed after the answer had begun").into())
        }
        (Ok(()), None) => Ok(Err(Error::Invalid("the store returned no values".into()))),
        (Ok(()), Some(Err(error))) => Err(error.into()),
        (Ok(()), Some(Ok(Left::Nothing))) => Ok(Ok(())),
        (Ok(()), Some(Ok(Left::All(answer)))) => send(connection, id, &answer).map(Ok),
        (Ok(()), Some(Ok(Left::End(answer)))) => {
            let sent = answer.chunks(|bytes, _| channel.send_raw(bytes));
            let sent = sent.map_err(|error| End::Channel(ChannelError::Io(error)))?;
            Ok(Ok(sent?))
        }
    }
}

fn len_of(value: &Chunks<'_>) -> u64 {
    value.iter().map(|piece| piece.len() as u64).sum()
}

/// Returns the length of an answer: for each value, 8 bytes and the value.
fn total_bytes(values: &[Chunks<'_>]) -> u64 {
    values.iter().map(|value| 8 + len_of(value)).sum()
}

/// Whether the pieces are long enough, and the answer is one that would be kept in memory.
fn is_worth_lending(values: &[Chunks<'_>], memory_bytes: u64) -> bool {
    let pieces = values.iter().map(Vec::len).sum::<usize>() as u64;
    let bytes = total_bytes(values);
    pieces > 0 && bytes / pieces >= LENT_MIN_BYTES && bytes <= memory_bytes
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
fn wire_slices<'a>(
    values: &[Chunks<'a>],
    lens: &'a [[u8; 8]],
    heads: &'a [Vec<u8>],
) -> Vec<IoSlice<'a>> {
    let mut slices = Vec::new();
    let mut heads = heads.iter();
    let mut room = 0;
    let mut put = |mut bytes: &'a [u8]| {
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
    };
    for (value, len) in values.iter().zip(lens) {
        put(len);
        value.iter().for_each(|piece| put(piece));
    }
    slices
}

/// Sends slices as long as the socket takes bytes without waiting, and returns the number of bytes.
/// `slices` is then what is left.
fn send_now<S: Stream>(
    channel: &mut Channel<S, Charge>,
    slices: &mut &mut [IoSlice<'_>],
) -> Result<usize, ChannelError> {
    let mut sent = 0;
    while !slices.is_empty() {
        match channel.send_now(slices)? {
            0 => break,
            now => {
                IoSlice::advance_slices(slices, now);
                sent += now;
            }
        }
    }
    Ok(sent)
}

/// Copies slices into the memory of an answer.
fn copy(
    slices: &[IoSlice<'_>],
    charge: &Charge,
    memory_bytes: u64,
    spool: &std::path::Path,
) -> partd::Result<Answer> {
    let total = slices.iter().map(|slice| slice.len() as u64).sum();
    Answer::build(total, charge, memory_bytes, spool, |out| {
        slices.iter().try_for_each(|slice| out(slice))
    })
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
                    assert!(is_worth_lending(values, 8 << 20));
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
        for lens in [&[10; 500][..], &[9 << 20], &[]] {
            let (p, keys) = store(lens);
            let mut connection = connection(p, usize::MAX);
            assert!(matches!(read_and_send(&mut connection, 7, &keys), Ok(Ok(()))));
            connection.channel.flush().unwrap();
            let stream = connection.channel.stream();
            assert!(stream.written.len() > lens.iter().sum());
            assert_eq!(stream.room, usize::MAX, "{lens:?}");
        }
    }
}
