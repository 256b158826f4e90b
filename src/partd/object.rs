//! The generic methods of stores on a bare `dyn Partd`.
//!
//! A trait object cannot have generic methods of its trait, but it can have inherent ones of the
//! same names. A reference to it is a store, so each calls the method of that.

use super::Partd;
use crate::{Key, Result};

macro_rules! inherent {
    ($(fn $name:ident $(<$($generic:ident: $bound:path),*>)? ($($arg:ident: $type:ty),*) -> $result:ty;)*) => {
        /// The generic methods, so that a `&dyn Partd` has all of them.
        impl dyn Partd + '_ {$(
            #[doc = concat!("Does what [`Partd::", stringify!($name), "`] does.")]
            ///
            /// # Errors
            ///
            /// Those of that method.
            pub fn $name $(<$($generic: $bound),*>)? (&self $(, $arg: $type)*) -> Result<$result> {
                Partd::$name(&self $(, $arg)*)
            }
        )*}
    };
}

inherent! {
    fn append<K: Into<Key>, V: AsRef<[u8]>>(pairs: impl IntoIterator<Item = (K, V)>) -> ();
    fn append_one(key: impl Into<Key>, value: impl AsRef<[u8]>) -> ();
    fn append_durable<K: Into<Key>, V: AsRef<[u8]>>(pairs: impl IntoIterator<Item = (K, V)>) -> ();
    fn get(key: impl Into<Key>) -> Vec<u8>;
    fn get_many<K: Into<Key>>(keys: impl IntoIterator<Item = K>) -> Vec<Vec<u8>>;
    fn iset(key: impl Into<Key>, value: impl AsRef<[u8]>) -> ();
    fn delete<K: Into<Key>>(keys: impl IntoIterator<Item = K>) -> ();
    fn delete_one(key: impl Into<Key>) -> ();
    fn pop<K: Into<Key>>(keys: impl IntoIterator<Item = K>) -> Vec<Vec<u8>>;
    fn contains(key: impl Into<Key>) -> bool;
    fn len_of(key: impl Into<Key>) -> u64;
    fn keys_with_prefix(prefix: impl Into<Key>) -> Vec<Key>;
    fn delete_prefix(prefix: impl Into<Key>) -> ();
    fn clear() -> ();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Dict;

    #[test]
    fn a_bare_trait_object_has_every_method_of_a_store() {
        let store = Dict::new();
        let p: &dyn Partd = &store;
        p.append([("x", "Hello "), ("x", "world!")]).unwrap();
        p.append_one("y", "one").unwrap();
        p.append_durable([("z", "two")]).unwrap();
        p.iset("set", "first").unwrap();
        p.iset("set", "second").unwrap();
        assert_eq!(p.get("x").unwrap(), b"Hello world!");
        assert_eq!(p.get_many(["y", "set"]).unwrap(), [b"one".to_vec(), b"first".to_vec()]);
        assert_eq!(p.keys_with_prefix("x").unwrap(), [Key::from("x")]);
        assert_eq!(p.len_of("y").unwrap(), 3);
        assert_eq!(p.pop(["y"]).unwrap(), [b"one"]);
        assert!(!p.contains("y").unwrap());
        p.delete(["x"]).unwrap();
        p.delete_one("set").unwrap();
        assert_eq!(p.keys().unwrap(), [Key::from("z")]);
        p.append_one("za", "three").unwrap();
        p.delete_prefix("za").unwrap();
        assert!(p.contains("z").unwrap());
        p.clear().unwrap();
        assert!(p.keys().unwrap().is_empty());
    }

    #[test]
    fn no_generic_method_of_the_trait_is_missing() {
        let text = include_str!("../partd.rs");
        let start = text.find("pub trait Partd").unwrap();
        let body = &text[start..start + text[start..].find("\n}\n").unwrap()];
        let here = include_str!("object.rs");
        let mut generic = 0;
        for method in body.split("\n    fn ").skip(1) {
            let head = &method[..method.find(['{', ';']).unwrap()];
            if head.contains("Self: Sized") {
                let name = &method[..method.find(['(', '<']).unwrap()];
                let is_here =
                    ["(", "<"].iter().any(|end| here.contains(&format!("\n    fn {name}{end}")));
                assert!(is_here, "`dyn Partd` has no {name}");
                generic += 1;
            }
        }
        assert_eq!(generic, 14);
    }
}
