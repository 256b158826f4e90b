//! Values read and followed by asynchronous programs, and an executor that keeps running meanwhile.

use std::io::SeekFrom;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_core::Stream;
use partd::{
    AsyncUpdate, AsyncValueReader, FollowStream, Options, Partd, Position, SegmentLog, ValueStream,
};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncSeekExt};

fn options() -> Options {
    SegmentLog::options().segment_len_bytes(1 << 20).compaction_dead_share(None)
}

fn bytes(len: usize, seed: u32) -> Vec<u8> {
    let mut state = seed;
    let next = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 16) as u8
    };
    (0..len).map(next).collect()
}

/// A store whose key `x` has a value of some appends.
fn filled(dir: &tempfile::TempDir) -> (Arc<SegmentLog>, Vec<u8>) {
    let p = options().open(dir.path().join("store")).unwrap();
    let mut value = Vec::new();
    for (i, len) in [10, 100_000, 0, 700_000, 3, 260_000, 262_144].into_iter().enumerate() {
        let piece = bytes(len, i as u32);
        p.append([("x", &piece)]).unwrap();
        value.extend(piece);
    }
    (Arc::new(p), value)
}

#[tokio::test]
async fn tokio_reads_seeks_and_streams_what_get_returns() {
    let dir = tempfile::tempdir().unwrap();
    let (p, value) = filled(&dir);
    for window in [1000, 256 << 10, 10 << 20] {
        if window == 256 << 10 {
            p.compact().unwrap();
        }
        let mut reader = AsyncValueReader::open(&p, "x").await.unwrap().window(window);
        assert_eq!(reader.len(), value.len() as u64);
        let mut read = Vec::new();
        reader.read_to_end(&mut read).await.unwrap();
        assert!(read == value, "window {window}");
        for at in [0, 5, 99_999, 1_000_000, 999_990, value.len() - 1, 3] {
            assert_eq!(reader.seek(SeekFrom::Start(at as u64)).await.unwrap(), at as u64);
            let mut some = vec![0; 2000.min(value.len() - at)];
            reader.read_exact(&mut some).await.unwrap();
            assert!(some == value[at..at + some.len()], "at {at}, window {window}");
        }
        assert!(reader.seek(SeekFrom::Current(-10_000_000)).await.is_err());
        reader.seek(SeekFrom::End(5)).await.unwrap();
        assert_eq!(reader.read(&mut [0; 10]).await.unwrap(), 0);
        reader.seek(SeekFrom::End(-5)).await.unwrap();
        assert_eq!(reader.fill_buf().await.unwrap(), &value[value.len() - 5..]);

        let mut stream = ValueStream::open(&p, "x").await.unwrap().window(window);
        let mut streamed = Vec::new();
        while let Some(item) = stream.next().await {
            let item = item.unwrap();
            assert!(!item.is_empty() && item.len() <= window);
            streamed.extend(item);
        }
        assert!(streamed == value, "window {window}");
        assert!(stream.next().await.is_none());
    }
    assert!(ValueStream::open(&p, "missing").await.unwrap().next().await.is_none());
}

#[tokio::test]
async fn tokio_gets_damage_as_an_error_after_the_bytes_before_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let p = options().open(&path).unwrap();
    p.append([("x", [1; 1000]), ("x", [2; 1000]), ("x", [3; 1000])]).unwrap();
    drop(p);
    let file = path.join("0000000000000001.seg");
    let mut damaged = std::fs::read(&file).unwrap();
    let at = damaged.windows(1000).position(|window| window == [2; 1000]).unwrap();
    damaged[at] ^= 1;
    std::fs::write(&file, damaged).unwrap();
    let p = Arc::new(options().open(&path).unwrap());
    let mut reader = AsyncValueReader::open(&p, "x").await.unwrap();
    let mut read = Vec::new();
    let error = reader.read_to_end(&mut read).await.unwrap_err();
    assert_eq!((read, error.kind()), (vec![1; 1000], std::io::ErrorKind::InvalidData));
    reader.seek(SeekFrom::Start(2000)).await.unwrap();
    let mut rest = Vec::new();
    reader.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest, [3; 1000]);
    let mut stream = ValueStream::open(&p, "x").await.unwrap();
    let (least, most) = Stream::size_hint(&stream);
    assert!(least <= 2 && most.is_none_or(|most| 2 <= most), "two items: bytes and an error");
    assert_eq!(stream.next().await.unwrap().unwrap(), &[1; 1000][..]);
    assert!(stream.next().await.unwrap().unwrap_err().is_corruption());
    assert!(stream.next().await.is_none(), "an error ends the stream");
    let mut stream = FollowStream::new(&p, "x", Position::default());
    assert_eq!(
        stream.next().await.unwrap().unwrap(),
        AsyncUpdate::Appended([1; 1000].to_vec().into())
    );
    assert!(stream.next().await.unwrap().unwrap_err().is_corruption());
    assert!(stream.next().await.is_none(), "an error ends the stream");
}

#[tokio::test]
async fn tokio_follows_appends_of_another_thread_beside_compactions() {
    const APPENDS: u32 = 1500;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let p = Arc::new(options().open(&path).unwrap());
    let other = options().open(&path).unwrap();
    let writer = std::thread::spawn(move || {
        for i in 0..APPENDS {
            other.append([("x", bytes(i as usize % 2000, i))]).unwrap();
            if i % 300 == 0 {
                other.compact().unwrap();
            }
        }
        other.delete(["x"]).unwrap();
        other.append([("x", "anew")]).unwrap();
    });
    let expected: Vec<u8> = (0..APPENDS).flat_map(|i| bytes(i as usize % 2000, i)).collect();
    let mut stream = FollowStream::new(&p, "x", Position::default());
    let mut copy = Vec::new();
    loop {
        match stream.next().await.unwrap().unwrap() {
            AsyncUpdate::Appended(bytes) => copy.extend(bytes),
            AsyncUpdate::Removed => copy.clear(),
        }
        // The last bytes before the delete may not have been seen.
        assert!(expected.starts_with(&copy) || copy == b"anew");
        if copy == b"anew" {
            break;
        }
    }
    writer.join().unwrap();
    let more = tokio::time::timeout(Duration::from_millis(50), stream.next()).await;
    assert!(more.is_err(), "a stream waits for more");
}

/// While a stream waits for its blocking calls, the one thread of the executor runs other tasks.
#[tokio::test(flavor = "current_thread")]
async fn tokio_runs_other_tasks_while_a_value_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let p = SegmentLog::open(dir.path().join("store")).unwrap();
    let value = bytes(48 << 20, 1);
    p.append([("x", &value)]).unwrap();
    let p = Arc::new(p);
    static TURNS: AtomicU64 = AtomicU64::new(0);
    let ticker = tokio::spawn(async {
        loop {
            tokio::task::yield_now().await;
            TURNS.fetch_add(1, Ordering::Relaxed);
        }
    });
    // The first window checks all 48 MiB, which takes milliseconds: the executor must not.
    let mut stream = ValueStream::open(&p, "x").await.unwrap();
    let before = TURNS.load(Ordering::Relaxed);
    let first = stream.next().await.unwrap().unwrap();
    let turns = TURNS.load(Ordering::Relaxed) - before;
    assert!(value.starts_with(&first));
    assert!(turns > 50, "only {turns} turns of another task while the first window was read");
    let mut len = first.len();
    while let Some(item) = stream.next().await {
        len += item.unwrap().len();
    }
    assert_eq!(len, value.len());
    ticker.abort();
}

#[test]
fn tokio_types_return_an_error_outside_of_a_runtime() {
    let p = SegmentLog::temporary().unwrap();
    p.append([("x", "value")]).unwrap();
    let mut stream = ValueStream::new(p.reader("x").unwrap());
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    let polled = std::pin::pin!(stream.next()).poll(&mut context);
    let std::task::Poll::Ready(Some(Err(error))) = polled else { panic!("no error") };
    assert_eq!(error.kind(), partd::ErrorKind::Io);

    // A reader goes on once it is in a runtime.
    let mut reader = AsyncValueReader::new(p.reader("x").unwrap());
    let polled = std::pin::pin!(reader.read_u8()).poll(&mut context);
    assert!(matches!(polled, std::task::Poll::Ready(Err(_))), "{polled:?}");
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let mut value = String::new();
    runtime.block_on(reader.read_to_string(&mut value)).unwrap();
    assert_eq!(value, "value");
}
