//! The only file of the tests that forks. The standard library can start programs but cannot copy
//! the current process.
//!
//! [`fork`] refuses if the process has threads other than the caller and the test harness, which
//! sleeps until the test ends. That makes it safe to continue after the fork: no lock is held by a
//! thread that is missing in the child.

#![expect(unsafe_code, reason = "every binding of fork is unsafe")]

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, Signal};

/// Forks. Returns the child's process id in the parent and `None` in the child.
pub fn fork() -> Option<u32> {
    let own = std::process::id();
    let threads = std::fs::read_dir("/proc/self/task").expect("Linux lists threads").count();
    assert!(threads <= 2, "a process with threads must not continue after a fork");
    // Wait for the harness thread to sleep, unless this is the only thread.
    while threads == 2 && super::state_of(own) != Some('S') {
        std::thread::yield_now();
    }
    // SAFETY: the one other thread waits for this one, so no lock is held and nothing is half done
    // by a thread that is not copied; the C library keeps its own locks in order.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "fork failed: {}", std::io::Error::last_os_error());
    (pid > 0).then_some(pid as u32)
}

/// Forks a process with other threads once all of them sleep, such as the idle workers of pools.
///
/// A thread that waits for work holds no lock, so this is as safe as [`fork`].
pub fn fork_beside_idle_threads() -> Option<u32> {
    let since = std::time::Instant::now();
    // Check twice: a thread that was seen asleep may have woken another one.
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
    threads.map(|thread| thread.expect("the listing succeeds")).all(|thread| {
        // A thread without a `stat` file has ended.
        let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
        own.file_name() == Some(&thread.file_name()) || matches!(state, Some('S') | None)
    })
}

/// Makes each child that this process forks from now on start a process namespace. The next child
/// is process 1 of the new namespace. Returns false if this process lacks the right.
pub fn children_begin_a_pid_namespace() -> bool {
    // SAFETY: it affects only children that are created later, and nothing in this process.
    unsafe { libc::unshare(libc::CLONE_NEWPID) == 0 }
}

/// Waits until a child has ended. Returns whether it exited by itself with success.
pub fn wait_for_success(pid: u32) -> bool {
    let since = std::time::Instant::now();
    let pid = Pid::from_raw(pid as i32).expect("a process id is positive");
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

/// In a forked child: runs `play`, then ends the process, with success if `play` did not panic.
pub fn end_after(play: impl FnOnce()) -> ! {
    let played = std::panic::catch_unwind(std::panic::AssertUnwindSafe(play));
    // SAFETY: `_exit` ends the process without running any of the parent's destructors or handlers.
    unsafe { libc::_exit(i32::from(played.is_err())) }
}

/// In a child of [`fork`]: keeps every inherited file open until the inherited standard input ends,
/// then ends the process without running anything else.
pub fn sleep_until_input_ends() -> ! {
    let nowhere = std::fs::File::options().write(true).open("/dev/null").expect("it is there");
    // Otherwise whoever reads the parent's output would wait for this process.
    rustix::stdio::dup2_stdout(&nowhere).expect("the output can be redirected");
    let input = std::io::stdin();
    // Poll only for the hang-up; any input is meant for the parent and is left for it.
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
