//! A view can be read as a stream, in steps of any size.

use std::io::{BufRead, Read};

use partd::{Partd, SegmentLog, View};

/// A view of a value of several chunks, some of them empty and one longer than a piece.
fn view() -> (View, Vec<u8>) {
    let log = SegmentLog::temporary().unwrap();
    for (i, len) in [0, 1, 0, 0, 4096, 3_000_001, 7, 0].into_iter().enumerate() {
        let piece: Vec<u8> = (0..len).map(|at| (at * 31 + i * 7) as u8).collect();
        log.append([("k", piece)]).unwrap();
    }
    (log.view("k").unwrap(), log.get("k").unwrap())
}

#[test]
fn a_view_is_read_to_its_end_in_steps_of_any_size() {
    let (view, value) = view();
    for step in [1, 13, 4096, 1 << 20, 10 << 20] {
        let mut reader = view.reader();
        let (mut read, mut buffer) = (Vec::new(), vec![0; step]);
        loop {
            let len = reader.read(&mut buffer).unwrap();
            if len == 0 {
                break;
            }
            read.extend_from_slice(&buffer[..len]);
        }
        assert!(read == value, "steps of {step}");
        assert_eq!(reader.read(&mut buffer).unwrap(), 0, "the end stays the end");
    }
    let mut reader = view.reader();
    let mut first = [0; 5];
    reader.read_exact(&mut first).unwrap();
    let mut all = first.to_vec();
    assert_eq!(reader.read_to_end(&mut all).unwrap(), value.len() - 5);
    assert!(all == value);
    assert!(reader.read_exact(&mut [0]).is_err());
}

#[test]
fn the_buffers_of_a_view_are_slices_of_its_chunks() {
    let (view, value) = view();
    let mut reader = view.reader();
    let mut chunks = view.chunks().filter(|chunk| !chunk.is_empty()).map(<[u8]>::as_ptr_range);
    let mut chunk = chunks.next().unwrap();
    let mut seen = 0;
    loop {
        let buffer = reader.fill_buf().unwrap().as_ptr_range();
        let len = buffer.end as usize - buffer.start as usize;
        if len == 0 {
            break;
        }
        if buffer.start >= chunk.end || buffer.start < chunk.start {
            chunk = chunks.next().unwrap();
        }
        assert!(chunk.start <= buffer.start && buffer.end <= chunk.end, "a copy");
        // Sometimes only a part of the buffer is consumed.
        let consumed = if seen % 2 == 0 { len.div_ceil(2) } else { len };
        reader.consume(consumed);
        seen += consumed;
    }
    assert_eq!(seen, value.len());
    let empty = SegmentLog::temporary().unwrap().view("missing").unwrap();
    assert!(empty.reader().lines().next().is_none());
}
