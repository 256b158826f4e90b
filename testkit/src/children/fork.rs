//! The one place in the tests that forks: std can start programs, but not copy this one.
//!
//! It refuses where the process has threads beside this one and that of the test harness, which
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
