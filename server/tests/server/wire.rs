//! The bytes of `WIRE.md`, and the old protocol as Python's client uses it.

use partd::{Key, Partd};

use crate::common::{Raw, Served, until};

/// Parses the frames of a line of an example; `None` for a frame that may be anything.
fn frames(text: &str) -> Vec<Option<Vec<u8>>> {
    let mut frames = vec![Some(Vec::new())];
    let mut rest = text.trim();
    while let Some(first) = rest.chars().next() {
        let last = frames.last_mut().unwrap();
        match first {
            '"' => {
                let end = rest[1..].find('"').unwrap() + 1;
                last.as_mut().unwrap().extend_from_slice(&rest.as_bytes()[1..end]);
                rest = &rest[end + 1..];
            }
            // A `|` within a quoted key does not reach this arm.
            '|' => {
                frames.push(Some(Vec::new()));
                rest = &rest[1..];
            }
            '*' => {
                *last = None;
                rest = &rest[1..];
            }
            ' ' => rest = &rest[1..],
            _ => {
                let byte = u8::from_str_radix(&rest[..2], 16).unwrap();
                last.as_mut().unwrap().push(byte);
                rest = &rest[2..];
            }
        }
    }
    frames
}

#[test]
fn a_server_answers_as_the_examples_of_the_document_say() {
    let document = include_str!("../../WIRE.md");
    let served = Served::dict();
    let mut lines = 0;
    for example in document.split("```wire\n").skip(1) {
        let example = example.split("```").next().unwrap();
        let mut raw = served.raw();
        for line in example.lines() {
            lines += 1;
            let expected = frames(&line[1..]);
            if line.starts_with('>') {
                let sent: Vec<Vec<u8>> = expected.into_iter().map(Option::unwrap).collect();
                let sent: Vec<&[u8]> = sent.iter().map(Vec::as_slice).collect();
                raw.send(&sent);
                continue;
            }
            let found = raw.receive().unwrap_or_else(|| panic!("closed instead of {line}"));
            assert_eq!(found.len(), expected.len(), "{line}");
            for (found, expected) in found.iter().zip(expected) {
                if let Some(expected) = expected {
                    let text = String::from_utf8_lossy(found);
                    assert_eq!(*found, expected, "{line}: {text}");
                }
            }
        }
    }
    assert!(lines > 30, "{lines}");
}

#[test]
fn tuples_of_the_old_protocol_are_tuple_keys() {
    let served = Served::dict();
    let mut raw = served.raw();
    raw.old(&[b"append", b"a-|-b-|-1", b"v", b"x", b"w"]);
    let client = served.client();
    assert_eq!(client.get(("a", "b", "1")).unwrap(), b"v");
    client.append([(("a", "b", "1"), "w")]).unwrap();
    raw.send(&[b"get", b"a-|-b-|-1"]);
    assert_eq!(raw.receive().unwrap(), [b"vw"]);
    assert_eq!(raw.receive().unwrap(), [b"ack"]);
    assert_eq!(client.keys().unwrap(), [Key::from(("a", "b", "1")), Key::from("x")]);
}

#[test]
fn an_old_client_may_send_without_syn_and_without_waiting_for_answers() {
    let served = Served::dict();
    let mut raw = served.raw();
    for _ in 0..100 {
        raw.send(&[b"append", b"x", b"1"]);
    }
    for _ in 0..100 {
        assert_eq!(raw.receive().unwrap(), [b"ack"]);
    }
    raw.send(&[b"get", b"x"]);
    assert_eq!(raw.receive().unwrap(), [vec![b'1'; 100]]);
    assert_eq!(raw.receive().unwrap(), [b"ack"]);
    raw.send(&[b"get"]);
    assert_eq!(raw.receive().unwrap(), [b""]);
    assert_eq!(raw.receive().unwrap(), [b"ack"]);
    raw.old(&[b"append"]);
    raw.old(&[b"drop"]);
    raw.send(&[b"get", b"x"]);
    assert_eq!(raw.receive().unwrap(), [b""]);
}

#[test]
fn a_close_is_acknowledged_and_ends_the_wait_of_the_server() {
    let served = Served::dict();
    let mut raw = served.raw();
    raw.old(&[b"append", b"x", b"1"]);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| served.server.wait());
        raw.old(&[b"close"]);
        waiting.join().unwrap();
    });
    assert_eq!(served.server.status().health, "stopping");
}

#[test]
fn large_and_small_frames_arrive_whole_wherever_they_are_split() {
    let served = Served::dict();
    let value: Vec<u8> = (0..3_000_000_u32).map(|n| (n * 7) as u8).collect();
    let message = Raw::message(&[b"append", b"big", &value, b"small", b"s", b"none", b""]);
    use std::io::Write;
    for cut in [1, 2, 9, 70, 300, 65536, 1_000_000] {
        let mut raw = served.raw();
        raw.old(&[b"drop"]);
        raw.0.write_all(&message[..cut]).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(5));
        raw.0.write_all(&message[cut..]).unwrap();
        assert_eq!(raw.receive().unwrap(), [b"ack"]);
        raw.send(&[b"get", b"small", b"big", b"none"]);
        let values = raw.receive().unwrap();
        assert!(values[0] == b"s" && values[1] == value && values[2].is_empty(), "{cut}");
        assert_eq!(raw.receive().unwrap(), [b"ack"]);
    }
    until("connections end", || served.server.status().connections == 0);
}
