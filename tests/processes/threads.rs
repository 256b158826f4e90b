//! Parallel work with few or no threads: no thread can be started, or a `fork` has left the
//! parent's threads behind; and the pools that normally do the work.

use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use partd::{Buffer, Dict, Error, Options, Partd, SegmentLog, Snappy};
use partd_testkit::children::{Start, directory, fork, report, skip, start_with_channel};

/// Long enough for every operation to use several threads.
const LONG: usize = 3 << 20;
const MANY: u32 = 10_000;

/// The entry point of the children of this file.
pub(crate) fn play(arguments: &[String]) {
    let path = Path::new(&arguments[1]);
    match arguments[0].as_str() {
        "starts no thread" => start_no_thread(path),
        "forks with warm pools" => fork_with_warm_pools(path),
        "forks into namespaces" => fork_into_namespaces(path),
        "forks with a view" => fork_with_a_view(path),
        other => panic!("there is no {other}"),
    }
}

/// The reports of a child in a role, with a path.
fn told(role: &str, path: &Path) -> Vec<String> {
    let arguments = [role.to_owned(), path.display().to_string()];
    let (child, said) = start_with_channel(&Start::default(), "threads", &arguments);
    let said = said.iter().take_while(|line| line != "done").collect();
    child.finish();
    said
}

fn options() -> Options {
    SegmentLog::options().segment_len_bytes(1 << 20)
}

fn value(seed: u8) -> Vec<u8> {
    (0..LONG).map(|i| seed ^ (i >> 3) as u8).collect()
}

/// Performs every operation that uses several threads if there are any.
fn use_all(path: &Path) {
    let p = options().open(path).expect("the open succeeds");
    for seed in 1..4 {
        p.append([(format!("long {seed}"), value(seed))]).expect("the append succeeds");
    }
    let short: Vec<_> = (0..MANY).map(|i| (i, [7_u8; 100])).collect();
    p.append(short).expect("the appends succeed");
    assert!(p.get("long 1").expect("the read succeeds") == value(1));
    let many = p.get_many(["long 1", "long 2"]).expect("the reads succeed");
    assert!(many == [value(1), value(2)]);
    let many = p.get_many(0..MANY).expect("the reads succeed");
    assert!(many.iter().all(|value| *value == [7; 100]));
    assert_eq!(p.view("long 2").expect("the view opens").len(), LONG as u64);
    // And the dead ones of an earlier call.
    assert!(p.verify().expect("the store is whole").extents >= u64::from(MANY) + 3);
    assert_eq!(p.keys().expect("the listing succeeds").len(), MANY as usize + 3);
    let compactions = || p.stats().expect("there are").compactions;
    let before = compactions();
    let popped = p.pop(["long 3", "long 2"]).expect("the pops succeed");
    assert!(popped == [value(3), value(2)]);
    // The background thread may be compacting already.
    let since = Instant::now();
    while p.compact().expect("the compaction succeeds").runs == 0 && compactions() == before {
        assert!(since.elapsed().as_secs() < 20, "no compaction within 20 s");
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(p.get("long 1").expect("the read succeeds") == value(1));
    let encoded = Snappy::new(p);
    encoded
        .append([("e", value(4)), ("e", value(5)), ("f", value(6))])
        .expect("the append succeeds");
    let many = encoded.get_many(["e", "f"]).expect("the reads succeed");
    assert!(many == [[value(4), value(5)].concat(), value(6)]);
    assert!(encoded.pop(["f"]).expect("the pop succeeds") == [value(6)]);
    let buffer = Buffer::new(Dict::new(), encoded, 16 << 20);
    buffer.append([("e", value(6)), ("b", value(7))]).expect("the buffer accepts it");
    buffer.flush().expect("the flush succeeds");
    assert!(buffer.get("b").expect("the read succeeds") == value(7));
    assert!(buffer.pop(["b"]).expect("the pop succeeds") == [value(7)]);
    buffer.delete(["e"]).expect("the delete succeeds");
    buffer.slow().inner().clear().expect("the clear succeeds");
}

fn start_no_thread(path: &Path) {
    use rustix::process::{Resource, Rlimit, getuid, setrlimit};
    // The limit does not apply to root; another user's process limit counts only that user's
    // threads.
    if getuid().is_root() {
        let nobody = 65_534;
        std::fs::create_dir(path).expect("the creation succeeds");
        std::os::unix::fs::chown(path, Some(nobody), Some(nobody)).expect("it is root's");
        std::os::unix::fs::chown(path.parent().expect("it has one"), Some(nobody), None)
            .expect("it is root's");
        rustix::thread::set_thread_uid(rustix::process::Uid::from_raw(nobody)).expect("it is root");
    }
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    setrlimit(Resource::Nproc, none).expect("a limit can be lowered");
    let thread = std::thread::Builder::new().spawn(|| ());
    assert!(thread.is_err(), "a thread can be started");
    use_all(path);
    // A lack of threads must not have a lasting effect.
    use_all(path);
    report("done");
}

#[test]
fn everything_works_on_the_calling_thread_if_no_thread_can_be_started() {
    let (_dir, path) = directory();
    assert!(told("starts no thread", &path).is_empty());
}

/// Checks that the parent's handle returns errors, and that no call hangs.
fn check_inherited(p: &SegmentLog) {
    let forked = |error: Option<Error>| matches!(error, Some(Error::Forked { .. }));
    assert!(forked(p.get("long").err()));
    assert!(forked(p.view("long").err()));
    assert!(forked(p.verify().err()));
    assert!(forked(p.stats().err()));
    assert!(forked(p.keys().err()));
    assert!(forked(p.pop(["long"]).err()));
    assert!(forked(p.append([("long", "more")]).err()));
    assert!(forked(p.compact().err()));
    assert!(forked(p.sync().err()));
}

fn fork_with_warm_pools(path: &Path) {
    let lent = rayon::ThreadPoolBuilder::new().num_threads(2).build().expect("the pool is built");
    let with_pool = options().thread_pool(Arc::new(lent));
    let p = with_pool.open(path).expect("the open succeeds");
    p.append([("long", value(1))]).expect("the append succeeds");
    let q = options().open(path).expect("the open succeeds");
    // Rayon's global pool, the lent pool, the process's own pool, and that of a buffer.
    rayon::scope(|scope| scope.spawn(|_| ()));
    while p.get("long").expect("the read succeeds") != value(1) {}
    assert!(q.get("long").expect("the read succeeds") == value(1));
    let view = p.view("long").expect("the view opens");
    let buffer = Buffer::new(Dict::new(), Dict::new(), 16 << 20);
    buffer.append([("b", value(2))]).expect("the buffer accepts it");
    buffer.flush().expect("the flush succeeds");
    let other = path.with_file_name("other");
    let Some(pid) = fork::fork_beside_idle_threads() else {
        fork::end_after(|| {
            check_inherited(&p);
            check_inherited(&q);
            assert!(view.chunks().collect::<Vec<_>>().concat() == value(1));
            let mine = with_pool.open(path).expect("the open succeeds");
            assert!(mine.get("long").expect("the read succeeds") == value(1));
            drop((p, q, view, mine));
            use_all(&other);
            assert!(buffer.get("b").expect("the read succeeds") == value(2));
            buffer.append([("b", value(3))]).expect("the buffer accepts it");
            buffer.flush().expect("the flush succeeds");
            let both = [value(2), value(3)].concat();
            assert!(buffer.pop(["b"]).expect("the pop succeeds") == [both]);
            drop((buffer, with_pool));
        });
    };
    assert!(fork::wait_for_success(pid), "the child failed or hangs");
    assert!(p.pop(["long"]).expect("the pop succeeds") == [value(1)]);
    report("done");
}

/// The child keeps a view of a temporary store to which the parent continues to write.
fn fork_with_a_view(_: &Path) {
    let options = SegmentLog::options().segment_len_bytes(4 << 20).compaction_dead_share(None);
    let p = options.temporary().expect("the creation succeeds");
    let fill = |seed| {
        for _ in 0..3 {
            p.append([("long", value(seed))]).expect("the append succeeds");
        }
    };
    fill(0);
    p.clear().expect("the clear succeeds");
    p.compact().expect("the compaction succeeds");
    assert!(p.stats().expect("there are").segments_recycled > 0);
    fill(1);
    let view = p.view("long").expect("the view opens");
    let (mut read, write) = std::io::pipe().expect("there is a pipe");
    let Some(pid) = fork::fork_beside_idle_threads() else {
        fork::end_after(|| {
            drop(write);
            // Until the parent closes the other end.
            assert_eq!(read.read(&mut [0]).expect("the read succeeds"), 0);
            assert!(view.chunks().all(|chunk| chunk == value(1)), "other bytes");
        });
    };
    drop(view);
    for seed in 2..6 {
        p.clear().expect("the clear succeeds");
        p.compact().expect("the compaction succeeds");
        fill(seed);
    }
    drop(write);
    assert!(fork::wait_for_success(pid), "I4 is violated: the child saw other bytes");
    report("done");
}

#[test]
fn a_view_in_a_forked_child_keeps_its_bytes_while_the_parent_writes_to_its_temporary_store() {
    let (_dir, path) = directory();
    assert!(told("forks with a view", &path).is_empty());
}

#[test]
fn a_forked_child_reads_verifies_pops_and_compacts_although_its_parent_had_warm_pools() {
    let (_dir, path) = directory();
    assert!(told("forks with warm pools", &path).is_empty());
}

fn fork_into_namespaces(path: &Path) {
    if !fork::children_begin_a_pid_namespace() {
        report("no namespaces");
        report("done");
        return;
    }
    let child = fork::fork_beside_idle_threads();
    let Some(pid) = child else {
        fork::end_after(|| {
            assert_eq!(std::process::id(), 1);
            let p = options().open(path).expect("the open succeeds");
            p.append([("long", value(1))]).expect("the append succeeds");
            assert!(p.get("long").expect("the read succeeds") == value(1));
            assert!(fork::children_begin_a_pid_namespace());
            let Some(grandchild) = fork::fork_beside_idle_threads() else {
                fork::end_after(|| {
                    // By its process id, the child is its own parent.
                    assert_eq!(std::process::id(), 1);
                    check_inherited(&p);
                    drop(p);
                    let own = options().open(path).expect("the open succeeds");
                    assert!(own.get("long").expect("the read succeeds") == value(1));
                    drop(own);
                    use_all(&path.with_file_name("other"));
                });
            };
            assert!(fork::wait_for_success(grandchild), "the grandchild failed or hangs");
            // Dropping the inherited handle in the child released nothing: the store is still held
            // open here.
            p.append([("long", "more")]).expect("the append succeeds");
            assert_eq!(p.len_of("long").expect("the read succeeds"), LONG as u64 + 4);
        });
    };
    report(if fork::wait_for_success(pid) { "it went well" } else { "it failed" });
    report("done");
}

#[test]
fn a_handle_belongs_to_its_parent_although_the_child_has_the_same_process_id() {
    let (_dir, path) = directory();
    match &told("forks into namespaces", &path)[..] {
        [one] if one == "no namespaces" => skip("process namespaces need CAP_SYS_ADMIN"),
        said => assert_eq!(said, ["it went well"]),
    }
}

/// The threads of this process whose names have a prefix.
fn threads_named(prefix: &str) -> usize {
    let threads = std::fs::read_dir("/proc/self/task").expect("Linux lists threads");
    let name = |thread: std::io::Result<std::fs::DirEntry>| {
        std::fs::read_to_string(thread.expect("the listing succeeds").path().join("comm"))
            .unwrap_or_default()
    };
    threads.map(name).filter(|name| name.starts_with(prefix)).count()
}

#[test]
fn a_buffer_called_from_rayon_tasks_builds_one_pool_and_keeps_it() {
    let buffer = Buffer::new(Dict::new(), Dict::new(), 16 << 20);
    let tasks = rayon::ThreadPoolBuilder::new().num_threads(3).build().expect("the pool is built");
    let mut seen = Vec::new();
    for round in 0..20 {
        let (flushed, popped) = tasks.install(|| {
            rayon::join(
                || buffer.append([("a", value(round))]).and_then(|()| buffer.flush()),
                || buffer.get("a").and_then(|_| buffer.pop(["b"])),
            )
        });
        flushed.expect("the flush succeeds");
        assert!(popped.expect("the pop succeeds") == [b""]);
        seen.push(threads_named("partd-buffer"));
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    assert!(seen.iter().all(|&threads| threads == cores.min(4)), "{seen:?}");
    assert_eq!(buffer.len_of("a").expect("the read succeeds"), 20 * LONG as u64);
}
