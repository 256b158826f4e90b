//! A memory limit for test and benchmark processes, page cache included: a memory cgroup, version 1
//! or 2.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// A memory cgroup that is removed when this value is dropped, and also if this process is
/// interrupted or killed: a shell in its own process group waits for the end of a pipe and then
/// removes it.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
    is_v2: bool,
    watcher: Child,
}

/// `rmdir` fails until the kernel has released the last process, so the shell retries.
const REMOVE: &str =
    "cat > /dev/null; for i in $(seq 100); do rmdir \"$1\" && exit; sleep 0.05; done";

impl Cgroup {
    /// Creates a cgroup whose processes together can use `limit` bytes of memory, page cache
    /// included.
    ///
    /// # Errors
    /// A sentence that names the obstacle: usually that the process does not run as root.
    pub fn new(limit: u64) -> Result<Cgroup, String> {
        let mounts = fs::read_to_string("/proc/mounts").map_err(|error| error.to_string())?;
        static MADE: AtomicU32 = AtomicU32::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let name = format!("partd-{}-{number}", std::process::id());
        let mut why = "no memory cgroup is mounted".to_owned();
        for mount in mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>()) {
            let [_, path, kind, options, ..] = mount[..] else { continue };
            let is_v2 = kind == "cgroup2";
            if !(is_v2 || kind == "cgroup" && options.split(',').any(|o| o == "memory")) {
                continue;
            }
            match Cgroup::make(Path::new(path), &name, is_v2, limit) {
                Ok(cgroup) => return Ok(cgroup),
                Err(error) => why = error,
            }
        }
        Err(format!("{why}; run it as root, where memory cgroups can be created"))
    }

    fn make(mount: &Path, name: &str, is_v2: bool, limit: u64) -> Result<Cgroup, String> {
        let say = |path: &Path| {
            let path = path.display().to_string();
            move |error: std::io::Error| format!("{path}: {error}")
        };
        if is_v2 {
            let control = mount.join("cgroup.subtree_control");
            fs::write(&control, "+memory").map_err(say(&control))?;
        }
        let path = mount.join(name);
        fs::create_dir(&path).map_err(say(&path))?;
        let watcher = Command::new("sh")
            .args(["-c", REMOVE, "sh"])
            .arg(&path)
            .stdin(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .map_err(say(&path))?;
        let cgroup = Cgroup { path, is_v2, watcher };
        let file = cgroup.path.join(if is_v2 { "memory.max" } else { "memory.limit_in_bytes" });
        fs::write(&file, limit.to_string()).map_err(say(&file))?;
        Ok(cgroup)
    }

    /// The cgroup version.
    pub fn kind(&self) -> &'static str {
        if self.is_v2 { "cgroup v2" } else { "cgroup v1" }
    }

    /// The cgroup's directory, for [`join`].
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        drop(self.watcher.stdin.take());
        let _ = self.watcher.wait();
    }
}

/// Moves this process into a cgroup.
///
/// # Panics
/// Panics if the cgroup is gone.
pub fn join(path: &Path) {
    fs::write(path.join("cgroup.procs"), "0").expect("the cgroup accepts this process");
}
