//! This crate's `Buffer(Dict, SegmentLog)`.

use anyhow::Result;
use partd::{Buffer, Dict, SegmentLog};

use super::segment_log::Store;
use crate::engine::{Engine, MEMORY_BYTES, Setup};

pub(crate) fn open(setup: &Setup<'_>) -> Result<Box<dyn Engine>> {
    let log = SegmentLog::open(setup.dir.join("store"))?;
    let buffer = Buffer::new(Dict::new(), log, MEMORY_BYTES as u64);
    Ok(Box::new(Store::new(buffer, setup)))
}
