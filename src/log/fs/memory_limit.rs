//! The memory limit of the process: that of its memory cgroup.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// cgroup v1 reports "no limit" as a number above this.
const NO_LIMIT_BYTES: u64 = 1 << 60;

/// Returns the memory limit of the process in bytes, as it was at the first call; `None` if there
/// is no limit or the system does not say.
pub(crate) fn memory_limit() -> Option<u64> {
    static LIMIT: OnceLock<Option<u64>> = OnceLock::new();
    let limit = LIMIT.get_or_init(|| {
        let cgroups = fs::read_to_string("/proc/self/cgroup").ok()?;
        let limit = |file: &PathBuf| fs::read_to_string(file).ok()?.trim().parse().ok();
        limit_files(&cgroups).iter().filter_map(limit).min()
    });
    limit.filter(|limit| *limit < NO_LIMIT_BYTES)
}

/// Returns the files that hold the limits of the process's memory cgroup and of its ancestors.
/// `cgroups` is what `/proc/self/cgroup` says; see cgroups(7).
fn limit_files(cgroups: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for line in cgroups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let (root, name) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.max"),
            _ if controllers.split(',').any(|controller| controller == "memory") => {
                ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
            }
            _ => continue,
        };
        for cgroup in Path::new(path.trim_start_matches('/')).ancestors() {
            files.push(Path::new(root).join(cgroup).join(name));
        }
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_files_of_a_cgroup_and_its_ancestors_are_found_in_v1_and_v2() {
        let files = limit_files("0::/user.slice/job\n");
        let v2 = ["user.slice/job/", "user.slice/", ""];
        assert_eq!(files, v2.map(|dir| PathBuf::from(format!("/sys/fs/cgroup/{dir}memory.max"))));
        let files = limit_files("5:cpu,cpuacct:/a\n4:memory:/a\n3:pids:/a:b\nnonsense\n");
        let v1 = ["a/", ""].map(|dir| format!("/sys/fs/cgroup/memory/{dir}memory.limit_in_bytes"));
        assert_eq!(files, v1.map(PathBuf::from));
        assert_eq!(limit_files("0::/\n"), [PathBuf::from("/sys/fs/cgroup/memory.max")]);
    }
}
