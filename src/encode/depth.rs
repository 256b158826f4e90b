//! Checks the nesting depth of a value before it is encoded. A layer must not write what it would
//! refuse to read, and a recursive encoder must not overflow the stack.
//!
//! This is a serializer that writes nothing. It does no work for values without nested values, so
//! the compiler removes most of it.

use std::fmt::{self, Display};

use serde::ser::{
    Error, Serialize, SerializeMap, SerializeSeq, SerializeStruct, SerializeStructVariant,
    SerializeTuple, SerializeTupleStruct, SerializeTupleVariant, Serializer,
};

use crate::encode::CodecError;

/// Checks that a value nests lists, maps and similar containers at most `max` deep. The content of
/// an enum variant counts as two levels, since encodings may write it so.
pub(crate) fn check<T: Serialize + ?Sized>(value: &T, max: u32) -> Result<(), CodecError> {
    value.serialize(Depth { left: max }).map_err(|error| match error {
        Refused::TooDeep => {
            format!("the value is nested more than {max} deep, so it could not be read again")
                .into()
        }
        Refused::Custom(text) => text.into(),
    })
}

/// Why a value was refused.
#[derive(Debug)]
enum Refused {
    TooDeep,
    /// The `Serialize` implementation of the value returned an error.
    Custom(String),
}

impl Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refused::TooDeep => f.write_str("it is nested too deep"),
            Refused::Custom(text) => f.write_str(text),
        }
    }
}

impl std::error::Error for Refused {}

impl Error for Refused {
    fn custom<T: Display>(text: T) -> Refused {
        Refused::Custom(text.to_string())
    }
}

/// The number of levels that may still be opened.
#[derive(Clone, Copy)]
struct Depth {
    left: u32,
}

impl Depth {
    fn inside(self, levels: u32) -> Result<Depth, Refused> {
        self.left.checked_sub(levels).map(|left| Depth { left }).ok_or(Refused::TooDeep)
    }
}

macro_rules! plain {
    ($($method:ident($type:ty)),* $(,)?) => {$(
        #[inline]
        fn $method(self, _: $type) -> Result<(), Refused> {
            Ok(())
        }
    )*};
}

impl Serializer for Depth {
    type Ok = ();
    type Error = Refused;
    type SerializeSeq = Depth;
    type SerializeTuple = Depth;
    type SerializeTupleStruct = Depth;
    type SerializeTupleVariant = Depth;
    type SerializeMap = Depth;
    type SerializeStruct = Depth;
    type SerializeStructVariant = Depth;

    plain!(
        serialize_bool(bool),
        serialize_i8(i8),
        serialize_i16(i16),
        serialize_i32(i32),
        serialize_i64(i64),
        serialize_i128(i128),
        serialize_u8(u8),
        serialize_u16(u16),
        serialize_u32(u32),
        serialize_u64(u64),
        serialize_u128(u128),
        serialize_f32(f32),
        serialize_f64(f64),
        serialize_char(char),
        serialize_str(&str),
        serialize_bytes(&[u8]),
        serialize_unit_struct(&'static str),
    );

    #[inline]
    fn serialize_none(self) -> Result<(), Refused> {
        Ok(())
    }

    #[inline]
    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), Refused> {
        value.serialize(self)
    }

    #[inline]
    fn serialize_unit(self) -> Result<(), Refused> {
        Ok(())
    }

    fn serialize_unit_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
    ) -> Result<(), Refused> {
        self.inside(1).map(drop)
    }

    #[inline]
    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        value: &T,
    ) -> Result<(), Refused> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        value: &T,
    ) -> Result<(), Refused> {
        value.serialize(self.inside(1)?)
    }

    #[inline]
    fn serialize_seq(self, _: Option<usize>) -> Result<Depth, Refused> {
        self.inside(1)
    }

    #[inline]
    fn serialize_tuple(self, _: usize) -> Result<Depth, Refused> {
        self.inside(1)
    }

    #[inline]
    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Depth, Refused> {
        self.inside(1)
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Depth, Refused> {
        self.inside(2)
    }

    #[inline]
    fn serialize_map(self, _: Option<usize>) -> Result<Depth, Refused> {
        self.inside(1)
    }

    #[inline]
    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Depth, Refused> {
        self.inside(1)
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Depth, Refused> {
        self.inside(2)
    }

    /// Both encodings are binary formats; a value may serialize differently for those.
    fn is_human_readable(&self) -> bool {
        false
    }

    fn collect_str<T: Display + ?Sized>(self, _: &T) -> Result<(), Refused> {
        Ok(())
    }
}

macro_rules! container {
    ($($trait:ident: $method:ident),* $(,)?) => {$(
        impl $trait for Depth {
            type Ok = ();
            type Error = Refused;

            #[inline]
            fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Refused> {
                value.serialize(*self)
            }

            #[inline]
            fn end(self) -> Result<(), Refused> {
                Ok(())
            }
        }
    )*};
}

container!(
    SerializeSeq: serialize_element,
    SerializeTuple: serialize_element,
    SerializeTupleStruct: serialize_field,
    SerializeTupleVariant: serialize_field,
);

impl SerializeMap for Depth {
    type Ok = ();
    type Error = Refused;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), Refused> {
        key.serialize(*self)
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Refused> {
        value.serialize(*self)
    }

    fn end(self) -> Result<(), Refused> {
        Ok(())
    }
}

macro_rules! fields {
    ($($trait:ident),*) => {$(
        impl $trait for Depth {
            type Ok = ();
            type Error = Refused;

            #[inline]
            fn serialize_field<T: Serialize + ?Sized>(
                &mut self,
                _: &'static str,
                value: &T,
            ) -> Result<(), Refused> {
                value.serialize(*self)
            }

            #[inline]
            fn end(self) -> Result<(), Refused> {
                Ok(())
            }
        }
    )*};
}

fields!(SerializeStruct, SerializeStructVariant);
