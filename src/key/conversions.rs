//! The conversions into keys of owned strings and byte strings, of integers, and of tuples.

use std::borrow::Cow;
use std::rc::Rc;
use std::sync::Arc;

use partd_format::tuple::{Integer, NEST, NEXT_PART, UNNEST};

use super::sealed::Part;
use super::{Key, KeyPart};

macro_rules! key_from_owner {
    ($(($($generic:tt)*) $type:ty),* $(,)?) => {$(
        impl<$($generic)*> Part for $type {
            fn write_key(&self, key: &mut Key) {
                self[..].write_key(key);
            }

            #[inline]
            fn to_key(&self) -> Key {
                self[..].to_key()
            }

            fn escape_into(&self, key: &mut Key) {
                self[..].escape_into(key);
            }
        }

        impl<$($generic)*> From<$type> for Key {
            #[inline]
            fn from(owner: $type) -> Key {
                owner.to_key()
            }
        }
    )*};
}

key_from_owner!(
    () String,
    () Vec<u8>,
    (const N: usize) [u8; N],
    () Box<str>,
    () Box<[u8]>,
    () Rc<str>,
    () Rc<[u8]>,
    () Arc<str>,
    () Arc<[u8]>,
    ('a) Cow<'a, str>,
    ('a) Cow<'a, [u8]>,
);

macro_rules! key_from_integer {
    ($($type:ty),*) => {$(
        impl Part for $type {
            fn write_key(&self, key: &mut Key) {
                use std::io::Write;
                // Writing to a vector cannot fail.
                let _ = write!(key.0, "{self}");
            }

            fn escape_into(&self, key: &mut Key) {
                let (bytes, len) = Integer::from(*self).encode();
                key.0.extend_from_slice(&bytes[..len]);
            }
        }

        impl From<$type> for Key {
            fn from(number: $type) -> Key {
                number.to_key()
            }
        }
    )*};
}

key_from_integer!(u8, u16, u32, u64, u128, usize, i8, i16, i32, i64, i128, isize);

macro_rules! key_from_tuple {
    ($first:ident $($rest:ident)+) => {
        impl<$first: Part, $($rest: Part),+> Part for ($first, $($rest,)+) {
            fn write_key(&self, key: &mut Key) {
                #[allow(non_snake_case)]
                let ($first, $($rest,)+) = self;
                $first.escape_into(key);
                $(
                    key.0.extend_from_slice(&NEXT_PART);
                    $rest.escape_into(key);
                )+
            }

            fn escape_into(&self, key: &mut Key) {
                #[allow(non_snake_case)]
                let ($first, $($rest,)+) = self;
                key.0.extend_from_slice(&NEST);
                $first.escape_into(key);
                $(
                    key.0.extend_from_slice(&NEXT_PART);
                    $rest.escape_into(key);
                )+
                key.0.extend_from_slice(&UNNEST);
            }

            fn to_tuple(&self) -> Key {
                self.to_key()
            }
        }

        impl<$first: KeyPart, $($rest: KeyPart),+> From<($first, $($rest,)+)> for Key {
            fn from(tuple: ($first, $($rest,)+)) -> Key {
                tuple.to_key()
            }
        }
    };
}

key_from_tuple!(A B);
key_from_tuple!(A B C);
key_from_tuple!(A B C D);
key_from_tuple!(A B C D E);
key_from_tuple!(A B C D E F);
key_from_tuple!(A B C D E F G);
key_from_tuple!(A B C D E F G H);

impl<A: Part> Part for (A,) {
    fn write_key(&self, key: &mut Key) {
        self.0.escape_into(key);
    }

    fn escape_into(&self, key: &mut Key) {
        key.0.extend_from_slice(&NEST);
        self.0.escape_into(key);
        key.0.extend_from_slice(&UNNEST);
    }

    fn to_tuple(&self) -> Key {
        self.to_key()
    }
}

impl<A: KeyPart> From<(A,)> for Key {
    fn from(tuple: (A,)) -> Key {
        tuple.to_key()
    }
}
