//! The operations of the public API in which calls fail.

use super::{Log, append};
use crate::lent_files::read_extents;
use crate::sim::oracle::{Content, Op, batch};
use partd::{Durability, Error, Partd};

/// An operation of the public API.
pub(super) struct Operation {
    pub(super) name: &'static str,
    /// The operations of the batch that it writes.
    pub(super) ops: fn() -> Option<Vec<Op>>,
    pub(super) durable: bool,
    pub(super) call: fn(&Log, &Content) -> Result<(), Error>,
}

fn appends(len: usize) -> Option<Vec<Op>> {
    Some(vec![append("a", len), append("new", 1)])
}

fn written(log: &Log, ops: Option<Vec<Op>>, durability: Durability) -> Result<(), Error> {
    log.write(&batch(&ops.expect("the write succeeds")), durability)
}

const NONE: fn() -> Option<Vec<Op>> = || None;

pub(super) const OPERATIONS: [Operation; 22] = [
    Operation {
        name: "append",
        ops: || appends(30),
        durable: false,
        call: |log, _| written(log, appends(30), Durability::Plain),
    },
    Operation {
        name: "append through the file",
        ops: || appends(5000),
        durable: false,
        call: |log, _| written(log, appends(5000), Durability::Plain),
    },
    Operation {
        name: "append more than a segment",
        ops: || appends(70_000),
        durable: false,
        call: |log, _| written(log, appends(70_000), Durability::Plain),
    },
    Operation {
        name: "append durably",
        ops: || appends(40),
        durable: true,
        call: |log, _| written(log, appends(40), Durability::Durable),
    },
    Operation {
        name: "iset",
        ops: || Some(vec![Op::Set("b".into(), b"of b".to_vec())]),
        durable: false,
        call: |log, _| log.iset("b", "of b"),
    },
    Operation {
        name: "delete",
        ops: || Some(vec![Op::Delete("a".into()), Op::Delete("b".into())]),
        durable: false,
        call: |log, _| log.delete(["a", "b"]),
    },
    Operation {
        name: "clear",
        ops: || Some(vec![Op::Clear]),
        durable: false,
        call: |log, _| log.clear(),
    },
    Operation {
        name: "pop",
        ops: || Some(vec![Op::Delete("a".into()), Op::Delete("c".into())]),
        durable: false,
        call: |log, content| {
            let popped = log.pop(["a", "c"])?;
            assert!(popped == [content.get("a"), content.get("c")], "other bytes");
            Ok(())
        },
    },
    Operation {
        name: "get",
        ops: NONE,
        durable: false,
        call: |log, content| {
            assert!(log.get("a")? == content.get("a"), "other bytes");
            Ok(())
        },
    },
    Operation {
        name: "get_many",
        ops: NONE,
        durable: false,
        call: |log, content| {
            let found = log.get_many(["c", "gone", "b"])?;
            assert!(found == [content.get("c"), b"", content.get("b")], "other bytes");
            Ok(())
        },
    },
    Operation {
        name: "keys",
        ops: NONE,
        durable: false,
        call: |log, content| {
            let keys = log.keys()?;
            assert!(keys.iter().map(partd::Key::as_bytes).eq(content.keys().map(str::as_bytes)));
            Ok(())
        },
    },
    Operation {
        name: "contains",
        ops: NONE,
        durable: false,
        call: |log, _| {
            assert!(log.contains("set")? && !log.contains("gone")?);
            Ok(())
        },
    },
    Operation {
        name: "len_of",
        ops: NONE,
        durable: false,
        call: |log, content| {
            assert_eq!(log.len_of("a")?, content.get("a").len() as u64);
            Ok(())
        },
    },
    Operation {
        name: "view",
        ops: NONE,
        durable: false,
        call: |log, content| {
            let view = log.view("a")?;
            assert!(view.chunks().collect::<Vec<_>>().concat() == content.get("a"));
            Ok(())
        },
    },
    Operation {
        name: "view_many",
        ops: NONE,
        durable: false,
        call: |log, content| {
            for (key, view) in ["a", "b"].into_iter().zip(log.view_many(["a", "b"])?) {
                assert!(view.chunks().collect::<Vec<_>>().concat() == content.get(key));
            }
            Ok(())
        },
    },
    Operation {
        name: "extents",
        ops: NONE,
        durable: false,
        call: |log, content| {
            assert!(read_extents(&log.extents("a")?) == content.get("a"));
            Ok(())
        },
    },
    Operation {
        name: "verify",
        ops: NONE,
        durable: false,
        call: |log, _| {
            assert!(log.verify()?.extents > 4);
            Ok(())
        },
    },
    Operation {
        name: "stats",
        ops: NONE,
        durable: false,
        call: |log, content| {
            assert_eq!(log.stats()?.keys, content.keys().count() as u64);
            Ok(())
        },
    },
    Operation {
        name: "compact",
        ops: NONE,
        durable: false,
        call: |log, _| {
            assert_eq!(log.compact()?.runs, 1);
            Ok(())
        },
    },
    Operation { name: "sync", ops: NONE, durable: true, call: |log, _| log.sync() },
    Operation {
        name: "read after another has compacted",
        ops: NONE,
        durable: false,
        call: |log, content| {
            assert!(log.get("a")? == content.get("a"), "other bytes");
            Ok(())
        },
    },
    Operation {
        name: "sync after another has compacted",
        ops: NONE,
        durable: true,
        call: |log, _| log.sync(),
    },
];
