//! The one place in the tests that forks: std can start programs, but not copy this one.
//!
//! [`fork`] refuses where the process has threads beside this one and that of the test harness, which
//! sleeps until this one ends. That is what makes it safe to go on after the fork: no lock is held
//! by a thread that the child does not have.

#![expect(unsafe_code, reason = "fork is unsafe wherever it is offered")]

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, Signal};

/// Forks: the child's process id in the parent, `None` in the child.
pub fn fork() -> Option<u32> {
    let own = std::process::id();
    let threads = std::fs::read_dir("/proc/self/task").expect("Linux lists threads").count();
    assert!(threads <= 2, "a process with threads must not go on after a fork");
    // The first thread, if it is not this one.
    while threads == 2 && super::state_of(own) != Some('S') {
        std::thread::yield_now();
    }
    // SAFETY: the one other thread waits for this one, so no lock is held and nothing is half done
    // by a thread that is not copied; the C library keeps its own locks in order.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "fork failed: {}", std::io::Error::last_os_error());
    (pid > 0).then_some(pid as u32)
}

/// Forks a process that has other threads, once all of them sleep: the idle workers of pools.
///
/// A thread that waits for work holds no lock, so this is as safe as [`fork`].
pub fn fork_beside_idle_threads() -> Option<u32> {
    let since = std::time::Instant::now();
    // Twice: one that was seen asleep may have woken another.
    while !(others_sleep() && others_sleep()) {
        assert!(since.elapsed() < super::PATIENCE, "the other threads do not come to rest");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    // SAFETY: the other threads wait, so no lock is held and nothing is half done by a thread that
    // is not copied; the C library keeps its own locks in order.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "fork failed: {}", std::io::Error::last_os_error());
    (pid > 0).then_some(pid as u32)
}

fn others_sleep() -> bool {
    let own = std::fs::read_link("/proc/thread-self").expect("Linux names threads");
    let threads = std::fs::read_dir("/proc/self/task").expect("Linux lists threads");
    threads.map(|thread| thread.expect("it is listed")).all(|thread| {
        // One that has ended meanwhile does nothing any more.
        let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
        own.file_name() == Some(&thread.file_name()) || matches!(state, Some('S') | None)
    })
}

/// Lets the children that this process forks from now on begin a process namespace: each of the
/// first is process 1 of its own. False where this process may not do that.
pub fn children_begin_a_pid_namespace() -> bool {
    // SAFETY: it changes where later children are counted, and nothing of this process.
    unsafe { libc::unshare(libc::CLONE_NEWPID) == 0 }
}

/// Waits until a child of this process has ended; whether it ended by itself with success.
pub fn wait_for_success(pid: u32) -> bool {
    let since = std::time::Instant::now();
    let pid = Pid::from_raw(pid as i32).expect("a process has a number");
    loop {
        let options = rustix::process::WaitOptions::NOHANG;
        match rustix::process::waitpid(Some(pid), options).expect("a child can be waited for") {
            Some((_, status)) => return status.exit_status() == Some(0),
            None if since.elapsed() > super::PATIENCE => {
                rustix::process::kill_process(pid, Signal::KILL).expect("it is a child");
                return false;
            }
            None => std::thread::sleep(std::time::Duration::from_millis(2)),
        }
    }
}

/// In a child of a fork: ends the process, with success if `play` came to its end without a panic.
pub fn end_after(play: impl FnOnce()) -> ! {
    let played = std::panic::catch_unwind(std::panic::AssertUnwindSafe(play));
    // SAFETY: it ends the process without running anything of the parent's.
    unsafe { libc::_exit(i32::from(played.is_err())) }
}

/// In a child of [`fork`]: lives on until the standard input that it has inherited ends, holding
/// every file that the parent had open; then is gone without running anything else.
pub fn sleep_until_input_ends() -> ! {
    let nowhere = std::fs::File::options().write(true).open("/dev/null").expect("it is there");
    // Else the reader of the parent's output would wait for this process.
    rustix::stdio::dup2_stdout(&nowhere).expect("the output can be redirected");
    let input = std::io::stdin();
    // Waits for the other end to be closed; what comes is for the parent and is left to it.
    let mut watched = [PollFd::new(&input, PollFlags::empty())];
    while let Ok(0) | Err(rustix::io::Errno::INTR) = poll(&mut watched, None) {}
    vanish()
}

/// Ends this process at once.
pub fn vanish() -> ! {
    let own: Pid = rustix::process::getpid();
    rustix::process::kill_process(own, Signal::KILL).expect("a process can kill itself");
    unreachable!("SIGKILL returns");
}
