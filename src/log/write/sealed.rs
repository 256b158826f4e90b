//! The full segments of a handle that are not synced yet. Their files stay open, because the kernel
//! reports a writeback error to the files that are open at that time.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::log::fs::{Disk, DiskFile};
use crate::log::segment::Segment;
use crate::log::segment::claim::ActiveSegment;
use crate::log::shared::control::Control;

/// Full segments that a handle keeps open until they are synced. The number is small because a
/// segment that is compacted away meanwhile keeps its disk space. A writeback error in other
/// segments, or after the handle is closed, is still reported to the next process that opens the
/// file, unless the kernel was short of memory.
const SEALED_MAX: usize = 8;

/// The segments, oldest first.
#[derive(Debug)]
pub(super) struct SealedSegments<F>(Mutex<VecDeque<SealedSegment<F>>>);

#[derive(Debug)]
struct SealedSegment<F> {
    segment: Arc<Segment<F>>,
    /// No batch in the segment has a larger number. `None` while a batch is being written.
    max_seq: Option<u64>,
}

impl<F: DiskFile> SealedSegments<F> {
    pub(super) fn new() -> SealedSegments<F> {
        SealedSegments(Mutex::new(VecDeque::new()))
    }

    fn list(&self) -> MutexGuard<'_, VecDeque<SealedSegment<F>>> {
        // Poisoning is harmless: the list is consistent between any two statements.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends a segment, and keeps its file open while a sync may need it.
    pub(super) fn seal<D: Disk<File = F>>(&self, control: &Control<D>, active: ActiveSegment<F>) {
        if control.fixed.temporary {
            // Nothing in a temporary store is ever synced.
            active.close();
            return;
        }
        let segment = Arc::clone(active.segment());
        active.close();
        let mut list = self.list();
        list.push_back(SealedSegment { segment, max_seq: None });
        let durable_seq = control.durable_seq();
        list.retain_mut(|sealed| {
            // An in-flight append holds an `Arc` to the segment; a unique `Arc` means that none is
            // left.
            if sealed.max_seq.is_none() && Arc::get_mut(&mut sealed.segment).is_some() {
                sealed.max_seq = Some(control.visible());
            }
            sealed.max_seq.is_none_or(|max_seq| max_seq > durable_seq)
        });
        if list.len() > SEALED_MAX {
            list.pop_front();
        }
    }

    /// Drops the references to segments that a compaction has replaced.
    pub(super) fn forget(&self, ids: &[u64]) {
        self.list().retain(|sealed| !ids.contains(&sealed.segment.id()));
    }
}
