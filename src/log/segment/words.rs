//! Implements the words of the commit protocol in the control file and the segments.

use partd_format::control as layout;

use crate::error::{Error, Result};
use crate::log::fs::{Access, Disk, DiskFile};
use crate::log::segment::Segment;
use crate::log::shared::commit::{Position, Words};
use crate::log::shared::control::{Control, ControlWord};

impl<D: Disk> Words for Control<D> {
    type Word<'a> = ControlWord<'a, D::File>;
    type Error = Error;

    #[inline]
    fn commit(&self) -> ControlWord<'_, D::File> {
        self.word(layout::COMMIT_AT)
    }

    #[inline]
    fn position(&self, slot: u16) -> (ControlWord<'_, D::File>, ControlWord<'_, D::File>) {
        (
            self.slot_word(slot, layout::SLOT_SEGMENT_AT),
            self.slot_word(slot, layout::SLOT_OFFSET_AT),
        )
    }

    fn mark_committed(&self, position: Position, sequence: u64) -> Result<()> {
        // Rare: a process was stopped or died in the middle of a commit. A cache is not worth
        // having.
        let uuid = Some(&self.fixed.store);
        let segment = Segment::open(&self.directory, position.segment, uuid, Access::Write)?;
        segment
            .file()
            .reserve(position.offset, 16)
            .map_err(|error| Error::io("store to the segment", segment.path(), error))?;
        segment.mark_committed(position.offset, sequence)
    }
}

/// The words as one writer accesses them: it reaches its own segment without opening it.
#[derive(Debug)]
pub(crate) struct OwnWords<'a, D: Disk> {
    pub(crate) control: &'a Control<D>,
    pub(crate) own: &'a Segment<D::File>,
}

impl<D: Disk> Words for OwnWords<'_, D> {
    type Word<'a>
        = ControlWord<'a, D::File>
    where
        Self: 'a;
    type Error = Error;

    #[inline]
    fn commit(&self) -> ControlWord<'_, D::File> {
        self.control.commit()
    }

    #[inline]
    fn position(&self, slot: u16) -> (ControlWord<'_, D::File>, ControlWord<'_, D::File>) {
        self.control.position(slot)
    }

    fn mark_committed(&self, position: Position, sequence: u64) -> Result<()> {
        if position.segment == self.own.id() {
            self.own.mark_committed(position.offset, sequence)
        } else {
            self.control.mark_committed(position, sequence)
        }
    }
}
