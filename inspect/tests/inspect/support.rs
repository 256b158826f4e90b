//! Shared by the tests of `partd-inspect`: builds stores by hand and with the engine, runs the
//! binary, and compares its output with files.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use partd_format::segment::Retained;
use partd_format::{State, control};
pub(crate) use partd_testkit::build;
use partd_testkit::build::{Control, Item, STORE, Segment};

/// The result of a run of the binary.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl Ran {
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.stdout.clone()).expect("the output is UTF-8")
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// The binary, without environment variables that would change its output.
pub(crate) fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_partd-inspect"));
    command.env_remove("NO_COLOR").env("COLUMNS", "80").stdin(Stdio::null());
    command
}

/// Runs the binary, which must not panic on any input.
pub(crate) fn inspect<S: AsRef<std::ffi::OsStr>>(args: impl IntoIterator<Item = S>) -> Ran {
    let output = command().args(args).output().expect("the binary runs");
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!stderr.contains("panicked"), "{stderr}");
    let code = output.status.code().expect("it was not killed");
    assert!((0..=2).contains(&code), "exit code {code}: {stderr}");
    Ran { code, stdout: output.stdout, stderr }
}

/// Runs the binary in a terminal of 100 columns. Returns its output and exit code.
pub(crate) fn in_terminal(
    args: &[&std::ffi::OsStr],
    environment: &[(&str, &str)],
) -> (String, i32) {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap();
    let slave = fs::File::options().read(true).write(true).open(name.to_str().unwrap()).unwrap();
    let size = rustix::termios::Winsize { ws_row: 40, ws_col: 100, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(&slave, size).unwrap();
    let mut command = command();
    command.env_remove("COLUMNS").env("TERM", "xterm").args(args);
    command.envs(environment.iter().copied());
    command.stdout(slave.try_clone().unwrap()).stderr(slave);
    let mut child = command.spawn().unwrap();
    // The command holds this process's last copies of the terminal's other end.
    drop(command);
    let (mut master, mut text) = (fs::File::from(master), Vec::new());
    // Reading at the end of a terminal gives an error.
    let _ = std::io::Read::read_to_end(&mut master, &mut text);
    let code = child.wait().unwrap().code().expect("it was not killed");
    (String::from_utf8(text).unwrap(), code)
}

/// Runs a subcommand on a path.
pub(crate) fn on(path: &Path, args: &[&str]) -> Ran {
    let mut all: Vec<&std::ffi::OsStr> = args.iter().map(std::ffi::OsStr::new).collect();
    all.insert(all.len().min(1), path.as_os_str());
    inspect(all)
}

/// Creates a directory with the files of a store.
pub(crate) fn write_store(dir: &Path, segments: &[&Segment], control: Option<&Control>) -> PathBuf {
    let store = dir.join("store");
    fs::create_dir_all(&store).unwrap();
    for segment in segments {
        fs::write(store.join(segment.name()), &segment.bytes).unwrap();
    }
    if let Some(control) = control {
        fs::write(store.join("control"), control.encode()).unwrap();
        adopt(&store);
    }
    store
}

/// Changes the fixed fields of the control file in `store`. Returns false if it has no readable
/// control file.
fn change_control(store: &Path, change: impl FnOnce(&mut control::Fixed)) -> bool {
    let path = store.join("control");
    let Ok(mut bytes) = fs::read(&path) else { return false };
    let Ok(mut fixed) = control::Fixed::decode(&bytes) else { return false };
    change(&mut fixed);
    bytes[..control::FIXED_LEN].copy_from_slice(&fixed.encode());
    // Write to the same file, because its inode number is one of the fields.
    fs::write(&path, bytes).unwrap();
    true
}

/// Makes the control file in `store`, if it is readable, count as the original, as if the engine
/// had created it there.
pub(crate) fn adopt(store: &Path) {
    use std::os::unix::fs::MetadataExt;
    let Ok(metadata) = fs::metadata(store.join("control")) else { return };
    change_control(store, |fixed| {
        (fixed.device, fixed.inode) = (metadata.dev(), metadata.ino());
    });
}

/// Marks the store as temporary in its control file.
pub(crate) fn make_temporary(store: &Path) {
    assert!(change_control(store, |fixed| fixed.temporary = true));
}

/// Takes an open-file-description lock on a byte of the control file, as the engine does.
pub(crate) fn lock_byte(store: &Path, at: u64, exclusive: bool) -> fs::File {
    use nix::fcntl::{FcntlArg, fcntl};
    use nix::libc::{F_RDLCK, F_WRLCK, SEEK_SET, c_short, flock};
    let file = fs::File::options().read(true).write(true).open(store.join("control")).unwrap();
    let lock = flock {
        l_type: if exclusive { F_WRLCK } else { F_RDLCK } as c_short,
        l_whence: SEEK_SET as c_short,
        l_start: at as i64,
        l_len: 1,
        l_pid: 0,
    };
    fcntl(&file, FcntlArg::F_OFD_SETLK(&lock)).unwrap();
    file
}

/// The boot id of this machine.
pub(crate) fn boot() -> [u8; 16] {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let hex: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    let bytes: Vec<u8> = hex.chunks(2).map(byte).collect();
    bytes.try_into().unwrap()
}

/// A cleanly closed store with a bit of everything: segments of two writers, an output and its
/// replaced input, all kinds of entries, and keys with arbitrary bytes.
pub(crate) fn sample() -> (Vec<Segment>, Control) {
    let mut old = Segment::new(STORE, 1, 4096);
    old.commit(1, &[Item::append("old", "gone"), Item::append("apple", "red ")]);
    old.commit(2, &[Item::delete("old")]);
    old.seal();
    let mut first = Segment::new(STORE, 2, 8192);
    first.commit(3, &[Item::append("apple", "green "), Item::append(b"\x00\xff", "bytes")]);
    first.commit(5, &[Item::set("pear", "yellow"), Item::append("tmp", [b'x'; 1500])]);
    first.batch(State::Void, 0, &[Item::append("apple", "never")]);
    first.batch(State::Committed(7), 4, &[Item::delete("tmp"), Item::set("pear", "void")]);
    first.set_durable_end(first.offset);
    first.seal();
    let mut second = Segment::new(STORE, 3, 8192);
    second.commit(4, &[Item::append("apple", "brown "), Item::append("", "empty key")]);
    second.commit(6, &[Item::append("empty value", ""), Item::append("apple", [b'.'; 700])]);
    second.claim(256);
    second.batch(State::Committed(8), 5, &[Item::append("key with \"quotes\"\n", "q")]);
    let retained =
        [Retained { id: 2, end: first.offset }, Retained { id: 3, end: second.offset - 88 }];
    let mut output = Segment::output(STORE, 4, 4096, 2, &[1], &retained);
    output.commit(2, &[Item::append("apple", "red ").at(1), Item::delete("old").at(2)]);
    output.seal();
    let mut control = Control::open(STORE, boot(), 8);
    control.next_segment = 5;
    control.directory_epoch = 7;
    control.durable_seq = 6;
    control.clean = true;
    (vec![old, first, second, output], control)
}

/// Writes the sample below `dir`.
pub(crate) fn sample_store(dir: &Path) -> PathBuf {
    let (segments, control) = sample();
    write_store(dir, &segments.iter().collect::<Vec<_>>(), Some(&control))
}

/// The values in the sample.
pub(crate) fn sample_values() -> BTreeMap<Vec<u8>, Vec<u8>> {
    let apple = [&b"red green brown "[..], &[b'.'; 700]].concat();
    let pairs: [(&[u8], &[u8]); 6] = [
        (b"", b"empty key"),
        (b"\x00\xff", b"bytes"),
        (b"apple", &apple),
        (b"empty value", b""),
        (b"key with \"quotes\"\n", b"q"),
        (b"pear", b"yellow"),
    ];
    pairs.into_iter().map(|(key, value)| (key.to_vec(), value.to_vec())).collect()
}

/// Changes the boot id in the control file of `store`, as if the machine had rebooted since.
pub(crate) fn reboot(store: &Path) {
    assert!(change_control(store, |fixed| fixed.boot[0] ^= 0xFF));
}

/// Copies the files of a directory into a new one.
pub(crate) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// Compares a text with the file of its name in `tests/inspect/snapshots`. `PARTD_SNAPSHOTS=write`
/// rewrites the files.
pub(crate) fn snapshot(name: &str, text: &str) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/inspect/snapshots");
    let path = folder.join(name);
    if std::env::var_os("PARTD_SNAPSHOTS").is_some_and(|value| value == "write") {
        fs::create_dir_all(&folder).unwrap();
        fs::write(&path, text).unwrap();
    }
    let expected = fs::read_to_string(&path).unwrap_or_else(|error| {
        panic!("{}: {error}; PARTD_SNAPSHOTS=write makes it", path.display())
    });
    assert!(text == expected, "{name} differs; found:\n{text}\nexpected:\n{expected}");
}

/// A small random number generator. The tests print its seed, so that a run can be repeated.
#[derive(Debug)]
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Rng {
        Rng(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ mixed >> 31
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit.max(1)
    }

    pub(crate) fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}
