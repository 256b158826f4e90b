//! The read-ahead of a directory's device, set temporarily.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A changed read-ahead that is restored when this value is dropped, and also if this process is
/// interrupted or killed: a shell in its own process group waits for the end of a pipe and then
/// restores it.
pub(crate) struct ReadAhead {
    watcher: Child,
}

impl ReadAhead {
    /// Sets the read-ahead of the device of `dir`, in KiB.
    pub(crate) fn set(dir: &Path, kib: u64) -> Result<ReadAhead, String> {
        let file = file_of(dir).map_err(|error| error.to_string())?;
        let say = |error: io::Error| format!("{}: {error}", file.display());
        let before = fs::read_to_string(&file).map_err(say)?;
        let watcher = Command::new("sh")
            .args(["-c", "cat > /dev/null; echo \"$1\" > \"$2\"", "sh", before.trim()])
            .arg(&file)
            .stdin(Stdio::piped())
            .process_group(0)
            .spawn()
            .map_err(say)?;
        let set = ReadAhead { watcher };
        fs::write(&file, kib.to_string()).map_err(say)?;
        Ok(set)
    }
}

impl Drop for ReadAhead {
    fn drop(&mut self) {
        drop(self.watcher.stdin.take());
        if let Err(error) = self.watcher.wait() {
            let _ = writeln!(io::stderr(), "the read-ahead may not be restored: {error}");
        }
    }
}

/// The file that sets the read-ahead of a directory's device.
fn file_of(dir: &Path) -> io::Result<PathBuf> {
    let device = fs::metadata(dir)?.dev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let device = fs::canonicalize(format!("/sys/dev/block/{major}:{minor}"))?;
    // A partition does not have its own.
    let own = device.join("queue/read_ahead_kb");
    Ok(if own.exists() { own } else { device.join("../queue/read_ahead_kb") })
}
