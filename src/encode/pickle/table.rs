//! The result of the pickle machine: a flat table of values.

/// The bytes that a value counts against the limit, besides the bytes of a string.
pub(super) const ITEM_BYTES: u64 = 32;
const _: () = assert!(size_of::<Option<Item<'static>>>() == ITEM_BYTES as usize);

/// A value. A container is an index into the table.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Item<'a> {
    None,
    Bool(bool),
    Int(i128),
    Float(f64),
    Str(&'a str),
    Bytes(&'a [u8]),
    /// A string with escapes in the pickle, as an index into `strings`.
    Owned(u32),
    Container(u32),
}

/// The kind of a container.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Kind {
    List,
    Tuple,
    /// Alternating keys and values.
    Dict,
    Set,
}

#[derive(Debug)]
pub(crate) struct Container<'a> {
    pub(crate) kind: Kind,
    pub(crate) items: Vec<Item<'a>>,
    /// Whether it is inside another container or was fetched from the memo.
    pub(super) sealed: bool,
    /// Its nesting depth: 1 if it holds no other container.
    pub(super) depth: u32,
    /// Its size in bytes if every reference is expanded.
    pub(super) bytes: u64,
}

/// The result of running a pickle: its value, and everything that the value refers to.
#[derive(Debug)]
pub(crate) struct Pickle<'a> {
    pub(crate) containers: Vec<Container<'a>>,
    pub(crate) strings: Vec<String>,
    pub(super) top: Item<'a>,
}

impl<'a> Pickle<'a> {
    pub(crate) fn top(&self) -> Item<'a> {
        self.top
    }

    /// Returns the size of the value in bytes with every reference expanded. The size of a value
    /// that is not a container does not matter: it is not a list, so deserialization refuses it.
    pub(crate) fn expanded_bytes(&self) -> u64 {
        match self.top {
            Item::Container(id) => self.containers[id as usize].bytes,
            _ => ITEM_BYTES,
        }
    }
}
