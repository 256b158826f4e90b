//! The control file as a handle found it that reads an unrecovered store. Every recovery since then
//! is noticed: it replaces the file, or overwrites its words if the disk is full.

use std::io;
use std::sync::atomic::Ordering;

use partd_format::control::SLOTS_AT;

use crate::error::Result;
use crate::log::fs::directory::Directory;
use crate::log::fs::names::CONTROL;
use crate::log::fs::{Access, Dir, Disk, DiskFile, FileId};

/// A control file, and its words at one moment.
#[derive(Debug)]
pub(crate) struct FoundControl<F> {
    file: F,
    /// The fixed fields and the words before the slots. A recovery, a new segment and a commit each
    /// change one of them. Empty if the file also has a name in another directory, whose users may
    /// store to it; a recovery never overwrites such a file.
    words: Vec<u64>,
}

impl<F: DiskFile> FoundControl<F> {
    /// Reads the control file, if there is one. The caller holds a lock that excludes recovery.
    pub(crate) fn read<D: Disk<File = F>>(
        directory: &Directory<D>,
    ) -> Result<Option<FoundControl<F>>> {
        let file = match directory.dir.open(CONTROL, Access::Read) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(|error| directory.error("open", CONTROL, error))?,
        };
        let links = directory.dir.links(CONTROL);
        let links = links.map_err(|error| directory.error("examine", CONTROL, error))?;
        let words = if links == 1 { words(&file).collect() } else { Vec::new() };
        Ok(Some(FoundControl { file, words }))
    }

    /// Whether the control file is `now` and has not been overwritten.
    pub(crate) fn is_unchanged(&self, now: FileId) -> bool {
        let is_same = || words(&self.file).zip(&self.words).all(|(now, then)| now == *then);
        self.file.id() == now && is_same()
    }
}

/// The words of a control file before the slots, as far as the file reaches.
fn words<F: DiskFile>(file: &F) -> impl Iterator<Item = u64> {
    let len = file.mapping().len().min(SLOTS_AT);
    file.loaded(0, len);
    (0..len / 8).map(|word| file.mapping().load(word * 8, Ordering::Acquire))
}
