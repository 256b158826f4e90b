//! The negotiation: the frames of `syn` and of its answer.
//!
//! `[syn, partd/2, session=…]` requests the extension. A Python server ignores the frames after
//! `syn` and answers `[ack]`. A server of this crate answers
//! `[ack, partd/2, server=…, resumed=…, …]`.

use std::fmt::Write;

use super::{EXTENSION, Malformed};

/// The random id of a session. A connection of a client keeps its session when it reconnects.
pub(crate) type SessionId = [u8; 16];

/// A client's `syn` that requests the extension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Syn {
    pub(crate) session: SessionId,
}

/// The server's answer to a [`Syn`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Welcome {
    /// A random number that identifies this run of the server.
    pub(crate) server: u64,
    /// Whether this run of the server remembers the session.
    pub(crate) resumed: bool,
    /// How many requests may be unanswered at a time.
    pub(crate) window: u32,
    /// The server's limits for requests. The client checks `message_bytes` itself.
    pub(crate) message_bytes: u64,
    pub(crate) value_bytes: u64,
    pub(crate) key_bytes: u64,
    pub(crate) keys: u64,
    /// Whether durable writes may be resent to another run of the server.
    pub(crate) records: bool,
}

/// Finds the value of the capability `name=value`, and ignores capabilities with other names.
fn capability<'a>(frames: &[&'a [u8]], name: &str) -> Option<&'a [u8]> {
    frames.iter().find_map(|frame| frame.strip_prefix(name.as_bytes())?.strip_prefix(b"="))
}

fn number(frames: &[&[u8]], name: &str) -> Result<u64, Malformed> {
    let text = capability(frames, name).and_then(|value| std::str::from_utf8(value).ok());
    let number = text.and_then(|text| text.parse().ok());
    number
        .ok_or_else(|| Malformed::new(format!("the capability {name} is missing or not a number")))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Returns whether a `syn` or `ack` message belongs to the extension.
pub(crate) fn is_extended(frames: &[&[u8]]) -> bool {
    frames.get(1) == Some(&EXTENSION)
}

impl Syn {
    pub(crate) fn encode(&self) -> Vec<Vec<u8>> {
        let session = format!("session={}", hex(&self.session));
        vec![b"syn".to_vec(), EXTENSION.to_vec(), session.into_bytes()]
    }

    pub(crate) fn decode(frames: &[&[u8]]) -> Result<Syn, Malformed> {
        let wrong = || Malformed::new("syn of partd/2 needs session= and 32 hexadecimal digits");
        let text = capability(frames, "session").ok_or_else(wrong)?;
        if text.len() != 32 || !text.iter().all(u8::is_ascii_hexdigit) {
            return Err(wrong());
        }
        let mut session = SessionId::default();
        for (byte, digits) in session.iter_mut().zip(text.chunks(2)) {
            let digits = std::str::from_utf8(digits).map_err(|_| wrong())?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| wrong())?;
        }
        Ok(Syn { session })
    }
}

impl Welcome {
    pub(crate) fn encode(&self) -> Vec<Vec<u8>> {
        let mut frames = vec![b"ack".to_vec(), EXTENSION.to_vec()];
        let numbers = [
            ("server", self.server),
            ("resumed", u64::from(self.resumed)),
            ("window", u64::from(self.window)),
            ("message-bytes", self.message_bytes),
            ("value-bytes", self.value_bytes),
            ("key-bytes", self.key_bytes),
            ("keys", self.keys),
            ("records", u64::from(self.records)),
        ];
        frames.extend(numbers.map(|(name, number)| format!("{name}={number}").into_bytes()));
        frames
    }

    pub(crate) fn decode(frames: &[&[u8]]) -> Result<Welcome, Malformed> {
        Ok(Welcome {
            server: number(frames, "server")?,
            resumed: number(frames, "resumed")? != 0,
            window: u32::try_from(number(frames, "window")?).unwrap_or(u32::MAX),
            message_bytes: number(frames, "message-bytes")?,
            value_bytes: number(frames, "value-bytes")?,
            key_bytes: number(frames, "key-bytes")?,
            keys: number(frames, "keys")?,
            records: number(frames, "records")? != 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lend(frames: &[Vec<u8>]) -> Vec<&[u8]> {
        frames.iter().map(Vec::as_slice).collect()
    }

    #[test]
    fn encoding_round_trips() {
        let syn = Syn { session: *b"0123456789abcdef" };
        let frames = syn.encode();
        assert!(is_extended(&lend(&frames)));
        assert_eq!(Syn::decode(&lend(&frames)), Ok(syn));
        let welcome = Welcome {
            server: u64::MAX,
            resumed: true,
            window: 64,
            message_bytes: 1,
            value_bytes: 2,
            key_bytes: 4,
            keys: 3,
            records: false,
        };
        assert_eq!(Welcome::decode(&lend(&welcome.encode())), Ok(welcome));
    }

    #[test]
    fn unknown_capabilities_are_ignored_and_bad_ones_are_named() {
        let session = b"session=00112233445566778899aabbccddeeff";
        assert!(Syn::decode(&[b"syn", b"partd/2", b"colour=red", session]).is_ok());
        for bad in [&b"session=0011"[..], b"session=zz112233445566778899aabbccddeeff", b"x"] {
            let error = Syn::decode(&[b"syn", b"partd/2", bad]).unwrap_err();
            assert!(error.0.contains("session="), "{error:?}");
        }
        assert!(!is_extended(&[b"syn"]) && !is_extended(&[b"syn", b"partd/3"]));
    }
}
