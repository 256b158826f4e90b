//! A file per key, each behind a `BufWriter` that stays open.

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write};
use std::os::unix::fs::FileExt;

use anyhow::Result;
use rustix::process::{Resource, getrlimit, setrlimit};

use crate::child::Unsupported;
use crate::engine::{Engine, Setup};
use crate::workload::{Piece, thousands};

const BUFFER_BYTES: usize = 64 << 10;
/// Descriptors besides those of the keys.
const OTHERS: u64 = 64;

pub(crate) struct Files(Vec<BufWriter<File>>);

pub(crate) fn open(setup: &Setup<'_>) -> Result<Box<dyn Engine>> {
    let needed = setup.workload.keys as u64 + OTHERS;
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current.is_some_and(|current| current < needed) {
        if let Some(maximum) = limit.maximum.filter(|&maximum| maximum < needed) {
            let (needed, maximum) = (thousands(needed as usize), thousands(maximum as usize));
            let why = format!("needs {needed} descriptors, a process may have {maximum}");
            return Err(Unsupported(why).into());
        }
        limit.current = Some(needed);
        setrlimit(Resource::Nofile, limit)?;
    }
    let create = |name: String| -> Result<BufWriter<File>> {
        let path = setup.dir.join(name);
        let file = OpenOptions::new().read(true).append(true).create_new(true).open(path)?;
        Ok(BufWriter::with_capacity(BUFFER_BYTES, file))
    };
    Ok(Box::new(Files(setup.names().into_iter().map(create).collect::<Result<_>>()?)))
}

impl Engine for Files {
    fn append(&mut self, batch: &[Piece<'_>]) -> Result<()> {
        batch.iter().try_for_each(|piece| Ok(self.0[piece.key].write_all(piece.value)?))
    }

    fn finish_appends(&mut self) -> Result<()> {
        self.0.iter_mut().try_for_each(|writer| Ok(writer.flush()?))
    }

    fn get(&self, key: usize) -> Result<Vec<u8>> {
        let file = self.0[key].get_ref();
        let mut value = vec![0; file.metadata()?.len() as usize];
        file.read_exact_at(&mut value, 0)?;
        Ok(value)
    }
}
