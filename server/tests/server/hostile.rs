//! Limits, and clients that violate them or the protocol: other clients are still served, and
//! memory stays bounded.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use partd::{Buffer, Dict, Partd};
use partd_server::{Client, Limits, Server};

use crate::common::{PATIENCE, Raw, Served, random, until};

/// Returns whether the server closes the connection.
fn is_closed(raw: &mut Raw) -> bool {
    let mut rest = Vec::new();
    raw.0.read_to_end(&mut rest).is_ok_and(|_| true)
}

fn works(served: &Served) {
    let client = served.client();
    client.delete(["works"]).unwrap();
    client.append([("works", "yes")]).unwrap();
    assert_eq!(client.get("works").unwrap(), b"yes");
}

#[test]
fn a_frame_that_announces_more_than_the_limit_closes_the_connection_before_it_takes_memory() {
    let served = Served::dict();
    for len in [u64::MAX, 1 << 63, (256 << 20) + 1000, 1 << 40] {
        let mut raw = served.raw();
        raw.0.write_all(&[2]).unwrap();
        raw.0.write_all(&len.to_be_bytes()).unwrap();
        assert!(is_closed(&mut raw), "{len}");
    }
    assert_eq!(served.server.status().dropped_total, 4);
    works(&served);
}

#[test]
fn a_message_whose_frames_together_exceed_the_limit_closes_the_connection() {
    let mut limits = Limits::default();
    limits.message_bytes = 100_000;
    limits.frames = 50;
    let served = Served::limited(limits);
    let mut raw = served.raw();
    // The server may close the connection before everything is written.
    let _ = raw.0.write_all(&Raw::message(&[b"append", b"k", &[1; 60_000], b"l", &[2; 60_000]]));
    assert_eq!(raw.receive(), None);
    let mut raw = served.raw();
    let frames: Vec<&[u8]> = vec![b"get"; 51];
    let _ = raw.0.write_all(&Raw::message(&frames));
    assert_eq!(raw.receive(), None);
    // Empty frames need memory as well.
    let mut raw = served.raw();
    let _ = raw.0.write_all(&[1, 0].repeat(10_000));
    assert_eq!(raw.receive(), None);
    works(&served);
}

#[test]
fn an_invalid_command_closes_only_its_connection() {
    let served = Served::dict();
    let wrong: [&[&[u8]]; 7] = [
        &[b"unknown"],
        &[b""],
        &[b"append", b"key"],
        &[b"iset", b"key"],
        &[b"drop", b"now"],
        &[b"get", b"\x00\xFEpartd-server\x00\x00\x01"],
        &[b"syn", b"partd/2", b"session=short"],
    ];
    for message in wrong {
        let mut raw = served.raw();
        raw.send(message);
        assert_eq!(raw.receive(), None, "{message:?}");
    }
    // A ZMTP command instead of a message, and reserved flags.
    for bytes in [&b"\x04\x06\x05READY"[..], b"\xF8\x01a"] {
        let mut raw = served.raw();
        raw.0.write_all(bytes).unwrap();
        assert_eq!(raw.receive(), None);
    }
    works(&served);
}

#[test]
fn a_malformed_request_of_the_extension_is_answered_and_closes_the_connection() {
    let served = Served::dict();
    let session: &[&[u8]] = &[b"syn", b"partd/2", b"session=00000000000000000000000000000001"];
    let head = |opcode: u8| [&[opcode][..], &[0, 0, 0, 0, 0, 0, 0, 1].repeat(2)].concat();
    let mut longer = head(0x08);
    longer.push(0);
    for request in [head(0x02), longer, [head(0x01), vec![7; 40]].concat()] {
        let mut raw = served.raw();
        raw.send(session);
        assert_eq!(raw.receive().unwrap()[1], b"partd/2");
        raw.send(&[&request]);
        let answer = raw.receive().unwrap();
        assert_eq!((answer[0][0], &answer[0][9..11]), (0xFF, &[0, 13][..]));
        assert_eq!(raw.receive(), None);
    }
    for request in [&[][..], &[1, 2, 3]] {
        let mut raw = served.raw();
        raw.send(session);
        raw.receive().unwrap();
        raw.send(&[request]);
        assert_eq!(raw.receive(), None);
    }
    works(&served);
}

#[test]
fn slow_and_silent_clients_are_dropped_in_time_and_others_do_not_wait() {
    let mut limits = Limits::default();
    limits.handshake = Duration::from_millis(200);
    limits.message = Duration::from_millis(300);
    limits.idle = Duration::from_millis(600);
    let served = Served::limited(limits);
    let path = served.dir.join("socket");
    let start = Instant::now();
    let mut silent = Raw::connect(&path);
    let mut half_greeting = Raw::connect(&path);
    half_greeting.0.write_all(&Raw::hello()[..30]).unwrap();
    let mut half_message = served.raw();
    half_message.0.write_all(&Raw::message(&[b"append", b"x", b"1"])[..10]).unwrap();
    let mut half_body = served.raw();
    half_body.0.write_all(&[2, 0, 0, 0, 0, 0, 1, 0, 0, 1, 2, 3]).unwrap();
    let mut idle = served.raw();
    works(&served);
    for raw in [&mut silent, &mut half_greeting, &mut half_message, &mut half_body, &mut idle] {
        assert!(is_closed(raw));
    }
    assert!(start.elapsed() < PATIENCE);
    // A client that sends a byte now and then gets no extra time.
    let mut dripping = served.raw();
    let start = Instant::now();
    while dripping.0.write_all(&[1]).is_ok() && start.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(start.elapsed() < PATIENCE / 2);
    until("all are gone", || served.server.status().connections == 0);
    // A client of this crate reconnects.
    let client = served.client();
    client.append([("x", "1")]).unwrap();
    until("the idle connection is closed", || served.server.status().connections == 0);
    client.append([("x", "2")]).unwrap();
    assert_eq!(client.get("x").unwrap(), b"12");
}

#[test]
fn a_client_that_never_reads_its_answers_is_dropped_and_holds_no_lock() {
    let mut limits = Limits::default();
    limits.message = Duration::from_millis(500);
    limits.answer_bytes = 1 << 20;
    let served = Served::limited(limits);
    let client = served.client();
    client.append([("big", vec![7; 20 << 20])]).unwrap();
    let mut raw = served.raw();
    let start = Instant::now();
    for _ in 0..10 {
        // The server stops reading if the client does not read its answers.
        let _ = raw.0.write_all(&Raw::message(&[b"get", b"big"]));
    }
    client.append([("x", "1")]).unwrap();
    assert_eq!(client.get("x").unwrap(), b"1");
    until("it is dropped", || served.server.status().connections == 1);
    assert!(start.elapsed() < PATIENCE);
    assert_eq!(served.server.status().in_flight_bytes, 0);
}

#[test]
fn a_client_that_stops_reading_a_lent_answer_holds_no_lock_and_gets_the_rest_when_it_reads_on() {
    let served = Served::of(Buffer::new(Dict::new(), Dict::new(), 64 << 20), Server::options());
    let client = served.client();
    let value: Vec<u8> = (0..4_u32 << 20).map(|at| (at / 5) as u8).collect();
    client.append([("big", &value)]).unwrap();
    let mut raw = served.raw();
    raw.send(&[b"syn", b"partd/2", b"session=0123456789abcdef0123456789abcdef"]);
    raw.receive().unwrap();
    // A read of one key, with the number 1.
    raw.send(&[b"\x02\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x01\0\0\0\x01\0\0\0\x03big"]);
    let mut begin = [0; 100];
    raw.0.read_exact(&mut begin).unwrap();
    // These need the locks of both stores.
    client.append([("big", "more")]).unwrap();
    client.sync().unwrap();
    client.delete(["big"]).unwrap();
    // Four chunks of 1 MiB with heads of 18 bytes, and one of 8 bytes with a head of 11.
    let mut answer = vec![0; value.len() + 8 + 4 * 18 + 11];
    let (first, rest) = answer.split_at_mut(begin.len());
    first.copy_from_slice(&begin);
    raw.0.read_exact(rest).unwrap();
    let (chunks, last) = answer.split_at(4 * ((1 << 20) + 18));
    let mut read: Vec<u8> =
        chunks.chunks((1 << 20) + 18).flat_map(|chunk| &chunk[18..]).copied().collect();
    read.extend_from_slice(&last[11..]);
    assert_eq!(read[..8], (value.len() as u64).to_be_bytes());
    assert!(read[8..] == value);
    assert_eq!(client.get("big").unwrap(), b"");
    until("the memory is free", || served.server.status().in_flight_bytes == 0);
}

#[test]
fn connections_beyond_the_limit_are_refused_until_others_end() {
    let mut limits = Limits::default();
    limits.connections = 3;
    let served = Served::limited(limits);
    let kept: Vec<Raw> = (0..3).map(|_| served.raw()).collect();
    let mut fourth = Raw::connect(&served.dir.join("socket"));
    // A refused connection may also be reset.
    let _ = fourth.0.write_all(&Raw::hello());
    let mut greeting = [0; 64];
    assert!(fourth.0.read_exact(&mut greeting).is_err());
    assert!(served.server.status().refused_total >= 1);
    drop(kept);
    works(&served);
}

#[test]
fn messages_of_many_clients_stay_within_the_shared_memory_limit() {
    let mut limits = Limits::default();
    limits.message_bytes = 8 << 20;
    limits.client_bytes = 8 << 20;
    limits.in_flight_bytes = 12 << 20;
    let served = Served::limited(limits);
    let value = vec![3; 6 << 20];
    // Half a message from each client: more than there is room for.
    let message = Raw::message(&[b"append", b"x", &value]);
    let half = message.len() / 2;
    let most = std::sync::atomic::AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let mut raw = served.raw();
                raw.0.write_all(&message[..half]).unwrap();
                std::thread::sleep(Duration::from_millis(50));
                let now = served.server.status().in_flight_bytes;
                most.fetch_max(now, std::sync::atomic::Ordering::Relaxed);
                raw.0.write_all(&message[half..]).unwrap();
                assert_eq!(raw.receive().unwrap(), [b"ack"]);
            });
        }
    });
    let most = most.into_inner();
    assert!(most > 0 && most <= 20 << 20, "{most}");
    assert_eq!(served.client().len_of("x").unwrap(), 8 * (6 << 20));
    until("all memory is released", || served.server.status().in_flight_bytes == 0);
}

#[test]
fn random_bytes_do_not_disturb_the_server() {
    let mut limits = Limits::default();
    limits.handshake = Duration::from_millis(500);
    limits.message = Duration::from_millis(500);
    let served = Served::limited(limits);
    let mut random = random();
    for round in 0..200 {
        let mut raw = match round % 3 {
            0 => Raw::connect(&served.dir.join("socket")),
            _ => served.raw(),
        };
        let len = random.below(3000) as usize;
        let mut bytes: Vec<u8> = (0..len).map(|_| random.below(256) as u8).collect();
        if round % 3 == 2 {
            // A valid session with a few bytes changed.
            bytes = [
                Raw::message(&[b"syn", b"partd/2", b"session=00000000000000000000000000000009"]),
                Raw::message(&[&[[2; 17].as_slice(), &[0, 0, 0, 1, 0, 0, 0, 1, b'x']].concat()]),
                Raw::message(&[b"append", b"k", b"v"]),
            ]
            .concat();
            for _ in 0..=random.below(4) {
                let place = random.below(bytes.len() as u64) as usize;
                bytes[place] = random.below(256) as u8;
            }
        }
        let _ = raw.0.write_all(&bytes);
        if random.below(2) == 0 {
            let _ = raw.0.shutdown(std::net::Shutdown::Write);
            let mut rest = Vec::new();
            let _ = raw.0.read_to_end(&mut rest);
        }
    }
    works(&served);
    until("all are gone", || served.server.status().connections == 0);
    assert_eq!(served.server.status().in_flight_bytes, 0);
}

#[test]
fn a_panic_in_the_store_closes_one_connection_and_not_the_server() {
    struct Panics(Dict);
    impl Partd for Panics {
        fn write(&self, batch: &partd::Batch<'_>, d: partd::Durability) -> partd::Result<()> {
            assert!(batch.ops().iter().all(|op| op.value() != b"panic"), "a test's panic");
            self.0.write(batch, d)
        }
        fn read(&self, keys: &[partd::Key]) -> partd::Result<Vec<Vec<u8>>> {
            self.0.read(keys)
        }
        fn take(&self, keys: &[partd::Key]) -> partd::Result<Vec<Vec<u8>>> {
            self.0.take(keys)
        }
        fn lens(&self, keys: &[partd::Key]) -> partd::Result<Vec<Option<u64>>> {
            self.0.lens(keys)
        }
        fn keys(&self) -> partd::Result<Vec<partd::Key>> {
            self.0.keys()
        }
        fn sync(&self) -> partd::Result<()> {
            self.0.sync()
        }
    }
    let served = Served::of(Panics(Dict::new()), Server::options());
    let mut raw = served.raw();
    raw.send(&[b"append", b"x", b"panic"]);
    assert_eq!(raw.receive(), None);
    works(&served);
    until("the connection is removed", || served.server.status().connections == 0);
}

#[test]
fn the_status_contains_nothing_that_another_client_sent() {
    let served = Served::dict();
    let mut raw = served.raw();
    raw.send(&[b"secret-command", b"secret-key"]);
    assert_eq!(raw.receive(), None);
    let client = Client::connect(served.server.address()).unwrap();
    let status = format!("{:?}", client.status().unwrap());
    assert!(!status.contains("secret"), "{status}");
}

#[test]
fn many_small_operations_count_with_their_memory() {
    let mut limits = Limits::default();
    limits.message_bytes = 4 << 20;
    limits.client_bytes = 4 << 20;
    limits.in_flight_bytes = 4 << 20;
    let served = Served::limited(limits);
    let mut raw = served.raw();
    raw.send(&[b"syn", b"partd/2", b"session=00000000000000000000000000000001"]);
    raw.receive().unwrap();
    let clears = |id: u64, count: u32| {
        let mut request = vec![1];
        request.extend_from_slice(&id.to_be_bytes());
        request.extend_from_slice(&id.to_be_bytes());
        request.push(0);
        request.extend_from_slice(&count.to_be_bytes());
        request.resize(request.len() + count as usize, 4);
        request
    };
    raw.send(&[&clears(1, 10_000)]);
    assert_eq!(raw.receive().unwrap()[0][0], 0x80);
    // A hundred thousand operations need more memory than a client may have.
    raw.send(&[&clears(2, 100_000)]);
    let answer = raw.receive().unwrap();
    assert_eq!((answer[0][0], &answer[0][9..11]), (0xFF, &[0, 11][..]));
    raw.send(&[&clears(3, 10_000)]);
    assert_eq!(raw.receive().unwrap()[0][0], 0x80);
    // A message of the old protocol with endless empty frames.
    let mut raw = served.raw();
    let _ = raw.0.write_all(&[1, 0].repeat(100_000));
    assert_eq!(raw.receive(), None);
}
