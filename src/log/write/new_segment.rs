//! Creates a writer's next segment: under a temporary name, then with a reserved id, then
//! published.

use crate::error::Result;
use crate::log::fs::names::{RESERVE, unfinished_of_writer};
use crate::log::fs::{Disk, is_full};
use crate::log::segment::claim::ActiveSegment;
use crate::log::segment::space::Space;
use crate::log::segment::unpublished::{NewSegment, Unpublished};
use crate::log::shared::control::{Control, ReservedFor};
use crate::log::store::Store;

/// Creates and publishes a segment for a writer.
pub(crate) fn make<D: Disk>(
    store: &Store<D>,
    space: &Space<D>,
    control: &Control<D>,
    slot: u16,
    len: u64,
) -> Result<ActiveSegment<D::File>> {
    let name = unfinished_of_writer(slot);
    let active = publish(control, slot, space.recycled_or_new(store, &name, len)?)?;
    space.count_new_segment(store, &name);
    Ok(active)
}

/// Does the same as [`make`], and uses the reserve if the disk is full.
pub(crate) fn make_on_a_full_disk<D: Disk>(
    store: &Store<D>,
    space: &Space<D>,
    control: &Control<D>,
    slot: u16,
    len: u64,
) -> Result<ActiveSegment<D::File>> {
    let error = match make(store, space, control, slot, len) {
        Err(error) => error,
        made => return made,
    };
    if !is_full(&error) {
        return Err(error);
    }
    match space.take_reserve(store, RESERVE, &unfinished_of_writer(slot), len)? {
        Some(new) => publish(control, slot, new),
        None => Err(error),
    }
}

fn publish<D: Disk>(
    control: &Control<D>,
    slot: u16,
    mut new: Unpublished<'_, D>,
) -> Result<ActiveSegment<D::File>> {
    let active = control.active_segment(slot);
    let id = control.reserve_segment_id(ReservedFor::Writer(slot))?;
    let made = new
        .begin(id, &NewSegment { store: control.fixed.store, slot, output: None })
        .and_then(|active| new.publish(id).map(|()| active));
    match &made {
        Ok(_) => control.raise_directory_epoch(),
        // The segment was not published: withdraw the reservation.
        Err(_) => control.set_active(slot, active),
    }
    made
}
