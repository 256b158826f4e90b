//! Tracks whether a ZMTP stream is between two messages.
//!
//! The channel needs this to choose between the idle timeout and the message timeout, and to
//! release the memory of its last input. The codec does not report whether it holds part of a
//! message.

/// The length of ZMTP's greeting.
const GREETING_BYTES: u64 = 64;
const MORE: u8 = 1;
const LONG: u8 = 2;

/// The position in a stream of frames.
#[derive(Debug)]
pub(crate) struct Boundary {
    /// The bytes missing from the greeting or from a frame's body.
    left: u64,
    /// The part of a frame's header that has arrived.
    header: [u8; 9],
    header_len: usize,
    /// Whether another frame of the same message follows.
    more: bool,
    /// The frames of the current message that have begun.
    frames: usize,
}

impl Default for Boundary {
    fn default() -> Boundary {
        Boundary { left: GREETING_BYTES, header: [0; 9], header_len: 0, more: false, frames: 0 }
    }
}

impl Boundary {
    /// Returns whether the stream is at the end of the greeting or of a message.
    ///
    /// CURVE encrypts the flag that joins frames to a message; with CURVE every frame counts as a
    /// message.
    pub(crate) fn is_between_messages(&self) -> bool {
        self.left == 0 && self.header_len == 0 && !self.more
    }

    /// Returns how many frames of an incomplete message have begun.
    pub(crate) fn frames(&self) -> usize {
        if self.is_between_messages() { 0 } else { self.frames }
    }

    /// Advances over the next bytes of the stream.
    pub(crate) fn follow(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.left > 0 {
                let len = bytes.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
                self.left -= len as u64;
                bytes = &bytes[len..];
                continue;
            }
            self.header[self.header_len] = bytes[0];
            self.header_len += 1;
            bytes = &bytes[1..];
            let flags = self.header[0];
            let len = match (flags & LONG != 0, self.header_len) {
                (false, 2) => u64::from(self.header[1]),
                (true, 9) => {
                    let mut len = [0; 8];
                    len.copy_from_slice(&self.header[1..]);
                    u64::from_be_bytes(len)
                }
                _ => continue,
            };
            self.frames = if self.more { self.frames + 1 } else { 1 };
            self.left = len;
            self.header_len = 0;
            self.more = flags & MORE != 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_message_is_found_wherever_the_stream_is_split() {
        let long = [&[LONG][..], &300_u64.to_be_bytes(), &[7; 300]].concat();
        let messages: [&[u8]; 3] = [b"\x01\x01a\x00\x00", b"\x00\x02xy", &long];
        let stream = [&[0; 64][..], &messages.concat()].concat();
        let mut ends = vec![64];
        for message in messages {
            ends.push(ends[ends.len() - 1] + message.len());
        }
        for step in [1, 2, 3, 7, 64, 1000] {
            let mut boundary = Boundary::default();
            let mut at = 0;
            for piece in stream.chunks(step) {
                boundary.follow(piece);
                at += piece.len();
                assert_eq!(boundary.is_between_messages(), ends.contains(&at), "{at} by {step}");
            }
        }
        let mut boundary = Boundary::default();
        boundary.follow(&stream[..67]);
        assert_eq!(boundary.frames(), 1);
        boundary.follow(&[1, 0, 1, 0]);
        assert_eq!(boundary.frames(), 3);
    }
}
