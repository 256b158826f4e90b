//! State shared by a handle and its background thread.

use crate::log::fs::{Dir, Disk};
use crate::log::maintain::sync::Syncer;
use crate::log::open::sweep::{give_back, remove};
use crate::log::read::reader::Reader;
use crate::log::store::Store;
use crate::log::write::Writer;

/// The parts of a handle, lowest layer first.
#[derive(Debug)]
pub(crate) struct Engine<D: Disk> {
    pub(crate) store: Store<D>,
    pub(crate) writer: Writer<D>,
    pub(crate) reader: Reader<D>,
    pub(crate) syncer: Syncer<D>,
}

impl<D: Disk> Engine<D> {
    pub(crate) fn new(store: Store<D>, reader: Reader<D>) -> Engine<D> {
        let writer = Writer::new(&store.options, store.directory.disk.now_unix_ms());
        Engine { store, writer, reader, syncer: Syncer::new() }
    }

    /// Seals the handle's active segment. The last handle on a store also marks it as closed, or
    /// removes it if it is temporary.
    pub(crate) fn close(&mut self) {
        let Some(control) = self.store.shared().filter(|_| !self.store.is_read_only) else {
            return;
        };
        self.writer.close(control);
        if self.store.is_temporary {
            match remove(&self.store.directory, Some(self.store.uuid), None) {
                Ok(Some(files)) => {
                    let reader = std::mem::replace(&mut self.reader, Reader::new());
                    let writer =
                        std::mem::replace(&mut self.writer, Writer::new(&self.store.options, 0));
                    give_back(files, (reader, writer));
                }
                Ok(None) => {}
                // A later sweep removes the rest.
                Err(error) => self.store.background_error("removal of the temporary store", &error),
            }
            return;
        }
        self.store.unlock();
        let Some(control) = self.store.shared() else { return };
        // Only the last handle gets the exclusive lock. After that, no process changes the store.
        if let Ok(Some(_alone)) = self.store.directory.dir.try_lock(true)
            && control.is_in_place().unwrap_or(false)
            && control.reserve().is_ok()
        {
            control.set_clean();
        }
    }
}
