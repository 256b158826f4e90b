//! A serde deserializer for the values of a pickle.
//!
//! It walks the table of values that `machine` made. Their depth and expanded size are within
//! limits, so its recursion and its output are too. Strings and bytes are borrowed from the pickle.

use serde::de::{
    self, DeserializeSeed, EnumAccess, IntoDeserializer, MapAccess, SeqAccess, Unexpected,
    VariantAccess, Visitor,
};
use serde::forward_to_deserialize_any;

use super::table::{Container, Item, Kind, Pickle};

/// The error of a pickle that does not fit the requested type.
#[derive(Debug)]
pub(crate) struct Mismatch(String);

impl std::fmt::Display for Mismatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the pickle does not hold the requested type: {}", self.0)
    }
}

impl std::error::Error for Mismatch {}

impl de::Error for Mismatch {
    fn custom<T: std::fmt::Display>(message: T) -> Mismatch {
        Mismatch(message.to_string())
    }
}

/// One value of a pickle.
#[derive(Clone, Copy)]
pub(crate) struct Deserializer<'p, 'de> {
    pickle: &'p Pickle<'de>,
    item: Item<'de>,
}

impl<'p, 'de> Deserializer<'p, 'de> {
    pub(crate) fn new(pickle: &'p Pickle<'de>, item: Item<'de>) -> Deserializer<'p, 'de> {
        Deserializer { pickle, item }
    }

    fn container(&self) -> Option<&'p Container<'de>> {
        match self.item {
            Item::Container(id) => Some(&self.pickle.containers[id as usize]),
            _ => None,
        }
    }

    fn walk(&self, container: &'p Container<'de>) -> Walk<'p, 'de> {
        Walk { pickle: self.pickle, items: &container.items }
    }
}

impl<'de> de::Deserializer<'de> for Deserializer<'_, 'de> {
    type Error = Mismatch;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        match self.item {
            Item::None => visitor.visit_unit(),
            Item::Bool(bool) => visitor.visit_bool(bool),
            Item::Int(int) => match (i64::try_from(int), u64::try_from(int)) {
                (Ok(int), _) => visitor.visit_i64(int),
                (_, Ok(int)) => visitor.visit_u64(int),
                _ => visitor.visit_i128(int),
            },
            Item::Float(float) => visitor.visit_f64(float),
            Item::Str(str) => visitor.visit_borrowed_str(str),
            Item::Bytes(bytes) => visitor.visit_borrowed_bytes(bytes),
            Item::Owned(id) => visitor.visit_str(&self.pickle.strings[id as usize]),
            Item::Container(id) => {
                let container = &self.pickle.containers[id as usize];
                let mut walk = self.walk(container);
                let value = match container.kind {
                    Kind::Dict => visitor.visit_map(&mut walk)?,
                    _ => visitor.visit_seq(&mut walk)?,
                };
                match walk.items.len() {
                    0 => Ok(value),
                    more => Err(Mismatch(format!("{more} items too many"))),
                }
            }
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        match self.item {
            Item::None => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Mismatch> {
        visitor.visit_newtype_struct(self)
    }

    /// A variant is a name, a dict with one entry, or a tuple of name and content.
    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Mismatch> {
        let (name, content) = match (self.item, self.container()) {
            (Item::Str(_) | Item::Owned(_), _) => (self.item, None),
            (_, Some(Container { kind: Kind::Dict | Kind::Tuple, items, .. })) => match items[..] {
                [name, content] => (name, Some(content)),
                [name] => (name, None),
                _ => return Err(Mismatch("an enum needs one variant".to_owned())),
            },
            _ => return Err(Mismatch("an enum is a string, a dict or a tuple".to_owned())),
        };
        let name = match name {
            Item::Str(name) => name,
            Item::Owned(id) => &self.pickle.strings[id as usize],
            _ => return Err(Mismatch("the name of a variant is a string".to_owned())),
        };
        let content = content.map(|item| Deserializer { item, ..self });
        visitor.visit_enum(Variant { name, content })
    }

    forward_to_deserialize_any! {
        bool u8 u16 u32 u64 u128 i8 i16 i32 i64 i128 f32 f64 char str string unit seq
        bytes byte_buf map tuple_struct struct identifier tuple ignored_any unit_struct
    }
}

/// The items of a container that are not visited yet.
struct Walk<'p, 'de> {
    pickle: &'p Pickle<'de>,
    items: &'p [Item<'de>],
}

impl<'de> Walk<'_, 'de> {
    fn next<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Mismatch> {
        let Some((&item, rest)) = self.items.split_first() else { return Ok(None) };
        self.items = rest;
        seed.deserialize(Deserializer { pickle: self.pickle, item }).map(Some)
    }
}

impl<'de> SeqAccess<'de> for &mut Walk<'_, 'de> {
    type Error = Mismatch;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Mismatch> {
        self.next(seed)
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.items.len())
    }
}

impl<'de> MapAccess<'de> for &mut Walk<'_, 'de> {
    type Error = Mismatch;

    fn next_key_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Mismatch> {
        self.next(seed)
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, Mismatch> {
        self.next(seed)?.ok_or_else(|| Mismatch("a key without a value".to_owned()))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.items.len() / 2)
    }
}

struct Variant<'n, 'p, 'de> {
    name: &'n str,
    content: Option<Deserializer<'p, 'de>>,
}

impl<'de> Variant<'_, '_, 'de> {
    fn unexpected(expected: &str) -> Mismatch {
        de::Error::invalid_type(Unexpected::UnitVariant, &expected)
    }
}

impl<'n, 'p, 'de> EnumAccess<'de> for Variant<'n, 'p, 'de> {
    type Error = Mismatch;
    type Variant = Variant<'n, 'p, 'de>;

    fn variant_seed<T: DeserializeSeed<'de>>(
        self,
        seed: T,
    ) -> Result<(T::Value, Variant<'n, 'p, 'de>), Mismatch> {
        let name: de::value::StrDeserializer<'_, Mismatch> = self.name.into_deserializer();
        Ok((seed.deserialize(name)?, self))
    }
}

impl<'de> VariantAccess<'de> for Variant<'_, '_, 'de> {
    type Error = Mismatch;

    fn unit_variant(self) -> Result<(), Mismatch> {
        match self.content.map(|content| content.item) {
            None | Some(Item::None) => Ok(()),
            Some(_) => Err(Mismatch(format!("the variant {:?} has no content", self.name))),
        }
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Mismatch> {
        seed.deserialize(self.content.ok_or_else(|| Self::unexpected("newtype variant"))?)
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Mismatch> {
        let content = self.content.ok_or_else(|| Self::unexpected("tuple variant"))?;
        de::Deserializer::deserialize_any(content, visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Mismatch> {
        let content = self.content.ok_or_else(|| Self::unexpected("struct variant"))?;
        de::Deserializer::deserialize_any(content, visitor)
    }
}
