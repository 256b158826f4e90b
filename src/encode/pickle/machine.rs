//! The pickle machine for opcodes of plain data: runs a pickle and produces a flat table of values.
//!
//! Invariant: a container never changes once it is inside another one or was fetched from the memo.
//! There are therefore no cycles, and the depth and expanded size of a value are known when it is
//! stored. Both have limits, and so does the memory of the machine. Nothing here recurses,
//! allocates by a declared length, calls anything or looks up a name.

use super::table::{Container, ITEM_BYTES, Item, Kind, Pickle};
use crate::encode::CodecError;
use crate::encode::codec::too_large;

/// The largest nesting depth of containers.
pub(crate) const MAX_DEPTH: u32 = 128;
/// The most digits of an integer in text form, as in Python.
const MAX_DIGITS: usize = 4300;
/// The most bytes of an integer in binary form. No integer type has more than 16.
const MAX_INTEGER_BYTES: usize = 1024;

/// Runs a pickle. It is an error if the expanded value, or the memory of the machine, exceeds
/// `max_bytes`.
pub(crate) fn run(bytes: &[u8], max_bytes: usize) -> Result<Pickle<'_>, CodecError> {
    let mut machine = Machine {
        bytes,
        at: 0,
        max_bytes,
        held_bytes: 0,
        stack: Vec::new(),
        marks: Vec::new(),
        memo: Vec::new(),
        containers: Vec::new(),
        strings: Vec::new(),
    };
    loop {
        let at = machine.at;
        match machine.step() {
            Ok(false) => {}
            Ok(true) => break,
            Err(error) => return Err(format!("byte {at} of the pickle: {error}").into()),
        }
    }
    let Machine { containers, strings, mut stack, marks, at, .. } = machine;
    match (stack.pop(), stack.is_empty() && marks.is_empty(), bytes.len() - at) {
        (Some(top), true, 0) => Ok(Pickle { containers, strings, top }),
        (_, _, 0) => Err("the pickle does not end with exactly one value".into()),
        (_, _, more) => Err(format!("{more} bytes follow the end of the pickle").into()),
    }
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    max_bytes: usize,
    /// The bytes of everything put on the stack, into the memo and into the tables. Values leave
    /// the stack only for a container, so the number never shrinks.
    held_bytes: u64,
    stack: Vec<Item<'a>>,
    /// The length of the stack at each mark.
    marks: Vec<usize>,
    memo: Vec<Option<Item<'a>>>,
    containers: Vec<Container<'a>>,
    strings: Vec<String>,
}

impl<'a> Machine<'a> {
    /// Executes one opcode, and returns whether it was the last.
    fn step(&mut self) -> Result<bool, CodecError> {
        let opcode = self.array::<1>()?[0];
        match opcode {
            b'.' => return Ok(true),
            0x80 => match self.array::<1>()?[0] {
                0..=5 => {}
                newer => return Err(format!("pickle protocol {newer} is not known").into()),
            },
            // A frame only says how many bytes can be read at once.
            0x95 => drop(self.array::<8>()?),
            b'(' => {
                if self.marks.len() >= MAX_DEPTH as usize {
                    return Err(too_deep());
                }
                self.marks.push(self.stack.len());
            }

            b'N' => self.push(Item::None)?,
            0x88 => self.push(Item::Bool(true))?,
            0x89 => self.push(Item::Bool(false))?,
            b'K' => {
                let int = self.array::<1>()?[0];
                self.push(Item::Int(int.into()))?;
            }
            b'M' => {
                let int = u16::from_le_bytes(self.array()?);
                self.push(Item::Int(int.into()))?;
            }
            b'J' => {
                let int = i32::from_le_bytes(self.array()?);
                self.push(Item::Int(int.into()))?;
            }
            0x8A => {
                let len = self.array::<1>()?[0].into();
                self.binary_long(len)?;
            }
            0x8B => {
                let len = self.length::<4>()?;
                self.binary_long(len)?;
            }
            b'I' => match self.line()? {
                b"00" => self.push(Item::Bool(false))?,
                b"01" => self.push(Item::Bool(true))?,
                digits => self.text_integer(digits)?,
            },
            b'L' => {
                let line = self.line()?;
                self.text_integer(line.strip_suffix(b"L").unwrap_or(line))?;
            }
            b'G' => {
                let float = f64::from_be_bytes(self.array()?);
                self.push(Item::Float(float))?;
            }
            b'F' => {
                let float = std::str::from_utf8(self.line()?)?.parse()?;
                self.push(Item::Float(float))?;
            }

            b'C' => self.bytes::<1>()?,
            b'B' => self.bytes::<4>()?,
            0x8E | 0x96 => self.bytes::<8>()?,
            b'U' => self.bytes::<1>()?,
            b'T' => self.bytes::<4>()?,
            0x8C => self.str::<1>()?,
            b'X' => self.str::<4>()?,
            0x8D => self.str::<8>()?,
            b'V' => {
                let string = unescape_unicode(self.line()?)?;
                self.own(string)?;
            }

            b')' => self.make(Kind::Tuple, self.stack.len())?,
            0x85 => self.make_of_top(1)?,
            0x86 => self.make_of_top(2)?,
            0x87 => self.make_of_top(3)?,
            b't' => self.make_of_mark(Kind::Tuple)?,
            b']' => self.make(Kind::List, self.stack.len())?,
            b'l' => self.make_of_mark(Kind::List)?,
            b'}' => self.make(Kind::Dict, self.stack.len())?,
            b'd' => self.make_of_mark(Kind::Dict)?,
            0x8F => self.make(Kind::Set, self.stack.len())?,
            0x91 => self.make_of_mark(Kind::Set)?,
            b'a' => self.extend_by_top(Kind::List, 1)?,
            b'e' => self.extend_by_mark(Kind::List)?,
            b's' => self.extend_by_top(Kind::Dict, 2)?,
            b'u' => self.extend_by_mark(Kind::Dict)?,
            0x90 => self.extend_by_mark(Kind::Set)?,

            0x94 => self.put(self.memo.len())?,
            b'q' => {
                let id = self.array::<1>()?[0].into();
                self.put(id)?;
            }
            b'r' => {
                let id = self.length::<4>()?;
                self.put(id)?;
            }
            b'p' => {
                let id = std::str::from_utf8(self.line()?)?.parse()?;
                self.put(id)?;
            }
            b'h' => {
                let id = self.array::<1>()?[0].into();
                self.get(id)?;
            }
            b'j' => {
                let id = self.length::<4>()?;
                self.get(id)?;
            }
            b'g' => {
                let id = std::str::from_utf8(self.line()?)?.parse()?;
                self.get(id)?;
            }

            b'c' | b'i' | b'o' | b'b' | b'R' | 0x81 | 0x92 | 0x93 => {
                return Err("the pickle holds a class or calls a function; only plain data is \
                            read (numbers, strings, None, lists, tuples, dicts; bytes from \
                            protocol 3 and sets from protocol 4 on)"
                    .into());
            }
            b'P' | b'Q' | 0x82 | 0x83 | 0x84 | 0x97 | 0x98 => {
                return Err("the pickle refers to something outside itself".into());
            }
            other => return Err(format!("opcode {other:#04x} is not plain data").into()),
        }
        Ok(false)
    }

    /// Counts bytes that the machine is about to hold.
    fn hold(&mut self, bytes: u64) -> Result<(), CodecError> {
        self.held_bytes = self.held_bytes.saturating_add(bytes);
        match self.held_bytes > self.max_bytes as u64 {
            true => Err(too_large(self.max_bytes).into()),
            false => Ok(()),
        }
    }

    fn push(&mut self, item: Item<'a>) -> Result<(), CodecError> {
        self.hold(ITEM_BYTES)?;
        self.stack.push(item);
        Ok(())
    }

    /// Takes the next `len` bytes.
    fn take(&mut self, len: usize) -> Result<&'a [u8], CodecError> {
        let rest = &self.bytes[self.at..];
        let taken = rest.get(..len).ok_or_else(|| {
            format!("{len} bytes should follow, but there are {}: it is truncated", rest.len())
        })?;
        self.at += len;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], CodecError> {
        Ok(self.take(N)?.try_into()?)
    }

    /// Reads a length or a memo index of N bytes.
    fn length<const N: usize>(&mut self) -> Result<usize, CodecError> {
        let bytes = self.array::<N>()?;
        let len = bytes.iter().rev().fold(0_u64, |len, &byte| (len << 8) | u64::from(byte));
        Ok(usize::try_from(len)?)
    }

    fn line(&mut self) -> Result<&'a [u8], CodecError> {
        let rest = &self.bytes[self.at..];
        let end =
            rest.iter().position(|&b| b == b'\n').ok_or("a line has no end: it is truncated")?;
        self.at += end + 1;
        let line = &rest[..end];
        Ok(line.strip_suffix(b"\r").unwrap_or(line))
    }

    fn binary_long(&mut self, len: usize) -> Result<(), CodecError> {
        let bytes = self.take(len)?;
        if len > MAX_INTEGER_BYTES {
            return Err(format!("an integer of {len} bytes is too large").into());
        }
        let negative = bytes.last().is_some_and(|&last| last >= 0x80);
        let fill = if negative { 0xFF } else { 0 };
        let mut wide = [fill; 16];
        let (low, high) = bytes.split_at(len.min(16));
        wide[..low.len()].copy_from_slice(low);
        let int = i128::from_le_bytes(wide);
        if high.iter().any(|&byte| byte != fill) || (int < 0) != negative {
            return Err(format!("an integer of {len} bytes is too large").into());
        }
        self.push(Item::Int(int))?;
        Ok(())
    }

    fn text_integer(&mut self, digits: &[u8]) -> Result<(), CodecError> {
        if digits.len() > MAX_DIGITS {
            return Err(format!("an integer of {} digits is too large", digits.len()).into());
        }
        let int = std::str::from_utf8(digits)?.trim().parse()?;
        self.push(Item::Int(int))?;
        Ok(())
    }

    fn bytes<const N: usize>(&mut self) -> Result<(), CodecError> {
        let len = self.length::<N>()?;
        let bytes = self.take(len)?;
        self.push(Item::Bytes(bytes))?;
        Ok(())
    }

    fn str<const N: usize>(&mut self) -> Result<(), CodecError> {
        let len = self.length::<N>()?;
        let str = std::str::from_utf8(self.take(len)?)?;
        self.push(Item::Str(str))?;
        Ok(())
    }

    fn own(&mut self, string: String) -> Result<(), CodecError> {
        self.hold(size_of::<String>() as u64 + string.len() as u64)?;
        self.push(Item::Owned(u32::try_from(self.strings.len())?))?;
        self.strings.push(string);
        Ok(())
    }

    /// Pops the last mark, and returns where the items after it begin.
    fn mark(&mut self) -> Result<usize, CodecError> {
        Ok(self.marks.pop().ok_or("there is no mark to go back to")?)
    }

    /// Returns where the last `n` items begin. They must all come after the last mark.
    fn top(&self, n: usize) -> Result<usize, CodecError> {
        let floor = self.marks.last().copied().unwrap_or(0);
        match self.stack.len().checked_sub(n) {
            Some(start) if start >= floor => Ok(start),
            _ => Err("the stack has too few values".into()),
        }
    }

    fn make_of_top(&mut self, n: usize) -> Result<(), CodecError> {
        let start = self.top(n)?;
        self.make(Kind::Tuple, start)
    }

    fn make_of_mark(&mut self, kind: Kind) -> Result<(), CodecError> {
        let start = self.mark()?;
        self.make(kind, start)
    }

    /// Makes a container of the items from `start`.
    fn make(&mut self, kind: Kind, start: usize) -> Result<(), CodecError> {
        self.hold(size_of::<Container<'_>>() as u64)?;
        let id = u32::try_from(self.containers.len())?;
        self.containers.push(Container {
            kind,
            items: Vec::new(),
            sealed: false,
            depth: 1,
            bytes: 2 * ITEM_BYTES,
        });
        self.extend(id, start)?;
        self.push(Item::Container(id))?;
        Ok(())
    }

    fn extend_by_top(&mut self, kind: Kind, n: usize) -> Result<(), CodecError> {
        let start = self.top(n + 1)? + 1;
        self.extend_below(kind, start)
    }

    fn extend_by_mark(&mut self, kind: Kind) -> Result<(), CodecError> {
        let start = self.mark()?;
        self.extend_below(kind, start)
    }

    /// Moves the items from `start` into the container below them.
    fn extend_below(&mut self, kind: Kind, start: usize) -> Result<(), CodecError> {
        let floor = self.marks.last().copied().unwrap_or(0);
        let below = start.checked_sub(1).filter(|&below| below >= floor);
        let Some(Item::Container(id)) = below.and_then(|below| self.stack.get(below).copied())
        else {
            return Err("there is no container to add to".into());
        };
        let container = &self.containers[id as usize];
        if container.kind != kind {
            return Err("the container to add to is of another kind".into());
        }
        if container.sealed {
            return Err("a container that is already part of a value is changed: it may hold \
                        itself, and such values are not read"
                .into());
        }
        self.extend(id, start)
    }

    fn extend(&mut self, id: u32, start: usize) -> Result<(), CodecError> {
        let (mut depth, mut bytes) = (0, 0_u64);
        for item in self.stack.get(start..).unwrap_or(&[]) {
            bytes = bytes.saturating_add(match *item {
                Item::Str(str) => ITEM_BYTES + str.len() as u64,
                Item::Bytes(bytes) => ITEM_BYTES + bytes.len() as u64,
                Item::Owned(id) => ITEM_BYTES + self.strings[id as usize].len() as u64,
                Item::Container(inner) if inner == id => {
                    return Err("a container holds itself; such values are not supported".into());
                }
                Item::Container(inner) => {
                    let inner = &mut self.containers[inner as usize];
                    inner.sealed = true;
                    depth = depth.max(inner.depth);
                    inner.bytes
                }
                _ => ITEM_BYTES,
            });
        }
        let container = &mut self.containers[id as usize];
        container.depth = container.depth.max(depth + 1);
        container.bytes = container.bytes.saturating_add(bytes);
        if container.depth > MAX_DEPTH {
            return Err(too_deep());
        }
        if container.bytes > self.max_bytes as u64 {
            return Err(too_large(self.max_bytes).into());
        }
        container.items.extend(self.stack.drain(start.min(self.stack.len())..));
        if container.kind == Kind::Dict && container.items.len() % 2 == 1 {
            return Err("a dict has a key without a value".into());
        }
        Ok(())
    }

    fn put(&mut self, id: usize) -> Result<(), CodecError> {
        let start = self.top(1)?;
        // Indexes are consecutive, with gaps where pickletools removed entries that are never
        // fetched. A larger index than the bytes read so far would only serve to allocate memory.
        if id > self.at {
            return Err(format!("the memo index {id} is out of order").into());
        }
        if let Some(more) = (id + 1).checked_sub(self.memo.len()) {
            self.hold(more as u64 * ITEM_BYTES)?;
            self.memo.resize(id + 1, None);
        }
        match self.memo[id].replace(self.stack[start]) {
            None => Ok(()),
            Some(_) => Err(format!("the memo index {id} is used twice").into()),
        }
    }

    fn get(&mut self, id: usize) -> Result<(), CodecError> {
        let item = self.memo.get(id).copied().flatten();
        let item = item.ok_or_else(|| format!("the memo has no index {id}"))?;
        if let Item::Container(id) = item {
            self.containers[id as usize].sealed = true;
        }
        self.push(item)?;
        Ok(())
    }
}

fn too_deep() -> CodecError {
    format!("the pickle is nested more than {MAX_DEPTH} deep").into()
}

/// Decodes a string of protocol 0: Latin-1, with `\uXXXX` and `\UXXXXXXXX` for other characters.
fn unescape_unicode(line: &[u8]) -> Result<String, CodecError> {
    let mut string = String::with_capacity(line.len());
    let mut rest = line;
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        let digits = match (byte, tail.first()) {
            (b'\\', Some(b'u')) => 4,
            (b'\\', Some(b'U')) => 8,
            _ => {
                string.push(char::from(byte));
                continue;
            }
        };
        let code = tail.get(1..=digits).ok_or("an escape in a string is truncated")?;
        let code = u32::from_str_radix(std::str::from_utf8(code)?, 16)?;
        string.push(char::from_u32(code).ok_or("an escape in a string is not a character")?);
        rest = &tail[digits + 1..];
    }
    Ok(string)
}
