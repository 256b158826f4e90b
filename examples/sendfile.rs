//! Sends a key's value over a TCP socket with `sendfile`: the bytes go from the page cache to the
//! socket inside the kernel, and never through the memory of the sender.
//!
//! This is the pattern of a shuffle server: a task asks for a partition, and the server sends the
//! byte ranges of its files. Here the key is deleted and the store compacted in the middle of the
//! transfer; the extents keep their bytes. The receiver compares the checksum of each range with
//! the one that the store had computed when the bytes were appended.
//!
//! ```text
//! cargo run --release --example sendfile -- [MIB]
//! ```

use std::env;
use std::error::Error;
use std::io::{BufReader, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::ExitCode;
use std::thread;
use std::time::Instant;

use partd::{FileExtents, Partd, SegmentLog};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

const KEY: (&str, u64) = ("partition", 7);
/// The length of one append, in bytes.
const PIECE_LEN: usize = 1 << 20;
/// The receiver reads ranges in buffers of this length.
const BUFFER_LEN: usize = 256 << 10;

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let mib: Result<u64> = match &arguments[..] {
        [] => Ok(256),
        [mib] => mib.parse().map_err(|_| format!("{mib:?} is not a whole number").into()),
        _ => Err("usage: sendfile [MIB]".into()),
    };
    match mib.and_then(run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(mib: u64) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let store = SegmentLog::open(dir.path().join("store"))?;
    // What the receiver must get, as one checksum over the value.
    let mut expected = crc32fast::Hasher::new();
    for piece in 0..mib {
        let bytes: Vec<u8> = (0..PIECE_LEN).map(|at| (at as u64 * 7 + piece) as u8).collect();
        expected.update(&bytes);
        store.append([(KEY, bytes)])?;
    }
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let extents = store.extents(KEY)?;
    let since = Instant::now();
    let (sent, received) = thread::scope(|scope| {
        let receiver = scope.spawn(move || receive(TcpStream::connect(address)?));
        let (socket, _) = listener.accept()?;
        let sent = send(socket, &extents, || {
            // Whatever happens to the key now, the extents keep its bytes.
            store.delete([KEY])?;
            store.compact()?;
            Ok(())
        });
        // The socket is closed, so the receiver ends too.
        let received = receiver.join().unwrap_or_else(|_| Err("the receiver panicked".into()));
        sent.and_then(|sent| Ok((sent, received?)))
    })?;
    let seconds = since.elapsed().as_secs_f64();
    let (bytes, checksum) = received;
    if (bytes, checksum) != (extents.len(), expected.finalize()) {
        return Err(format!("{bytes} bytes arrived of {}, or other bytes", extents.len()).into());
    }
    if store.contains(KEY)? {
        return Err("the key was not deleted".into());
    }
    println!("{sent} bytes in {} ranges were sent in {seconds:.2} s,", extents.iter().len());
    println!(
        "and each range has arrived with its checksum, although the key was deleted meanwhile"
    );
    Ok(())
}

/// Sends each range: its length and its CRC-32, then its bytes. Calls `halfway` in the middle.
fn send(
    mut socket: TcpStream,
    extents: &FileExtents,
    halfway: impl FnOnce() -> Result<()>,
) -> Result<u64> {
    let mut halfway = Some(halfway);
    let mut sent = 0;
    for extent in extents.iter() {
        if sent >= extents.len() / 2
            && let Some(halfway) = halfway.take()
        {
            halfway()?;
        }
        socket.write_all(&extent.len().to_le_bytes())?;
        socket.write_all(&extent.crc32().to_le_bytes())?;
        let (mut at, end) = (extent.offset(), extent.offset() + extent.len());
        while at < end {
            // `sendfile` advances `at`, not the position of the file, which other ranges use too.
            let left = usize::try_from(end - at)?;
            match rustix::fs::sendfile(&socket, extent.file(), Some(&mut at), left) {
                Ok(0) => return Err("the file is shorter than its range".into()),
                Ok(some) => sent += some as u64,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(sent)
}

/// Receives all ranges, and compares the checksum of each. Returns the number of bytes and the
/// checksum of all of them together.
fn receive(socket: TcpStream) -> Result<(u64, u32)> {
    let mut socket = BufReader::with_capacity(BUFFER_LEN, socket);
    let mut whole = crc32fast::Hasher::new();
    let mut bytes = 0;
    let mut buffer = vec![0; BUFFER_LEN];
    loop {
        let (mut len, mut checksum) = ([0; 8], [0; 4]);
        match socket.read_exact(&mut len) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => break,
            read => read?,
        }
        socket.read_exact(&mut checksum)?;
        let mut left = u64::from_le_bytes(len);
        let mut range = crc32fast::Hasher::new();
        while left > 0 {
            let part = &mut buffer[..usize::try_from(left)?.min(BUFFER_LEN)];
            socket.read_exact(part)?;
            range.update(part);
            left -= part.len() as u64;
        }
        if range.clone().finalize() != u32::from_le_bytes(checksum) {
            return Err(format!("the range after {bytes} bytes has arrived damaged").into());
        }
        bytes += u64::from_le_bytes(len);
        whole.combine(&range);
    }
    Ok((bytes, whole.finalize()))
}
