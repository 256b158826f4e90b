//! The common part of the compression codecs.

use crate::encode::codec::CodecError;

/// A byte codec in the terms of a compression library.
///
/// Consecutive frames are decompressed into one vector, so joining them costs nothing.
pub(crate) trait Compressor: Send + Sync {
    /// The layer's name.
    const NAME: &'static str;

    /// Compresses `value` and appends the result to `frame`.
    fn compress(&self, value: &[u8], frame: &mut Vec<u8>) -> Result<(), CodecError>;

    /// Decompresses `frame` and appends at most `max_bytes` bytes to `value`.
    fn decompress(
        &self,
        frame: &[u8],
        max_bytes: usize,
        value: &mut Vec<u8>,
    ) -> Result<(), CodecError>;
}

/// Implements [`Codec`](crate::Codec) for a [`Compressor`]. A blanket implementation would prevent
/// users from implementing `Codec` for their own types.
macro_rules! codec_by_compressor {
    ($type:ty) => {
        impl $crate::encode::Codec for $type {
            type In = [u8];
            type Out = Vec<u8>;

            fn name(&self) -> &'static str {
                <$type as $crate::encode::compressor::Compressor>::NAME
            }
            fn encode(
                &self,
                value: &[u8],
                frame: &mut Vec<u8>,
            ) -> Result<(), $crate::encode::CodecError> {
                $crate::encode::compressor::Compressor::compress(self, value, frame)
            }
            fn decode(
                &self,
                frame: &[u8],
                max_bytes: usize,
            ) -> Result<Vec<u8>, $crate::encode::CodecError> {
                let mut value = Vec::new();
                $crate::encode::compressor::Compressor::decompress(
                    self, frame, max_bytes, &mut value,
                )?;
                $crate::encode::grow::trim(&mut value);
                Ok(value)
            }
            fn join(&self, parts: Vec<Vec<u8>>) -> Result<Vec<u8>, $crate::encode::CodecError> {
                Ok($crate::encode::codec::concat(parts))
            }
            fn decode_run(
                &self,
                frames: &[&[u8]],
                max_bytes: usize,
            ) -> Result<$crate::encode::Decoded<Vec<u8>>, (usize, $crate::encode::CodecError)> {
                let mut value = Vec::new();
                for (i, frame) in frames.iter().enumerate() {
                    let left = max_bytes.saturating_sub(value.len());
                    $crate::encode::compressor::Compressor::decompress(
                        self, frame, left, &mut value,
                    )
                    .map_err(|error| (i, error))?;
                }
                $crate::encode::grow::trim(&mut value);
                let bytes = value.len();
                Ok($crate::encode::Decoded { parts: vec![value], bytes })
            }
            fn decoded_bytes(&self, value: &Vec<u8>) -> usize {
                value.len()
            }
        }
    };
}
pub(crate) use codec_by_compressor;
