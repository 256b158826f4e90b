//! The names on a simulated disk, and the changes of them that a power cut may lose.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The directories, and the files that have names.
#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    pub(super) dirs: BTreeSet<PathBuf>,
    pub(super) files: BTreeMap<PathBuf, u32>,
}

/// A change of names that is not durable yet.
#[derive(Clone, Debug)]
pub(super) enum Change {
    Create(PathBuf, u32),
    Rename(PathBuf, PathBuf, u32),
    Unlink(PathBuf, u32),
    MakeDir(PathBuf),
}

impl Change {
    /// The directory whose sync makes the change durable.
    pub(super) fn dir(&self) -> Option<&Path> {
        match self {
            Change::Create(path, _)
            | Change::Rename(_, path, _)
            | Change::Unlink(path, _)
            | Change::MakeDir(path) => path.parent(),
        }
    }
}

impl Names {
    pub(super) fn apply(&mut self, change: &Change) {
        match change {
            Change::Create(path, inode) => {
                self.files.insert(path.clone(), *inode);
            }
            Change::Rename(from, to, inode) => {
                if self.files.get(from) == Some(inode) {
                    self.files.remove(from);
                }
                self.files.insert(to.clone(), *inode);
            }
            Change::Unlink(path, inode) => {
                if self.files.get(path) == Some(inode) {
                    self.files.remove(path);
                }
            }
            Change::MakeDir(path) => {
                self.dirs.insert(path.clone());
            }
        }
    }
}
