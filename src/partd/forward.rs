//! References, boxes and arcs of stores are stores: they forward every object-safe method.

use std::sync::Arc;

use super::{Batch, Chunks, Durability, MemoryStore, Partd};
use crate::threads::LentPool;
use crate::{Key, Result};

macro_rules! partd_by_reference {
    ($($type:ty),*) => {$(
        impl<P: Partd + ?Sized> Partd for $type {
            fn write(&self, batch: &Batch<'_>, durability: Durability) -> Result<()> {
                (**self).write(batch, durability)
            }
            fn read(&self, keys: &[Key]) -> Result<Vec<Vec<u8>>> {
                (**self).read(keys)
            }
            fn take(&self, keys: &[Key]) -> Result<Vec<Vec<u8>>> {
                (**self).take(keys)
            }
            fn lens(&self, keys: &[Key]) -> Result<Vec<Option<u64>>> {
                (**self).lens(keys)
            }
            fn present(&self, keys: &[Key]) -> Result<Vec<bool>> {
                (**self).present(keys)
            }
            fn keys(&self) -> Result<Vec<Key>> {
                (**self).keys()
            }
            fn keys_with(&self, prefix: &Key) -> Result<Vec<Key>> {
                (**self).keys_with(prefix)
            }
            fn sync(&self) -> Result<()> {
                (**self).sync()
            }
            fn visit(
                &self,
                keys: &[Key],
                visit: &mut dyn FnMut(&[Chunks<'_>]) -> Result<()>,
            ) -> Result<()> {
                (**self).visit(keys, visit)
            }
            fn check(&self, durability: Durability) -> Result<()> {
                (**self).check(durability)
            }
            fn read_with_room(&self, keys: &[Key], room: &[usize]) -> Result<Vec<Vec<u8>>> {
                (**self).read_with_room(keys, room)
            }
            fn lent_pool(&self) -> Option<&LentPool> {
                (**self).lent_pool()
            }
        }
    )*};
}

partd_by_reference!(&P, Box<P>, Arc<P>);

macro_rules! memory_store_by_reference {
    ($($type:ty),*) => {$(
        impl<P: MemoryStore + ?Sized> MemoryStore for $type {
            fn memory_bytes(&self) -> u64 {
                (**self).memory_bytes()
            }
            fn spare_bytes(&self) -> u64 {
                (**self).spare_bytes()
            }
            fn release_spare(&self) {
                (**self).release_spare();
            }
            fn known_lens(&self, keys: &[Key]) -> Vec<usize> {
                (**self).known_lens(keys)
            }
            fn write_within(&self, batch: &Batch<'_>, limit_bytes: u64) -> Result<bool> {
                (**self).write_within(batch, limit_bytes)
            }
            fn heaviest(&self, bytes: u64) -> Result<Vec<Key>> {
                (**self).heaviest(bytes)
            }
        }
    )*};
}

memory_store_by_reference!(&P, Box<P>, Arc<P>);

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    thread_local! {
        static CALLS: RefCell<Vec<&'static str>> = const { RefCell::new(Vec::new()) };
    }

    /// A store that overrides every method and records its calls.
    struct Noting;

    impl Noting {
        fn note<T: Default>(method: &'static str) -> Result<T> {
            CALLS.with_borrow_mut(|calls| calls.push(method));
            Ok(T::default())
        }
    }

    impl Partd for Noting {
        fn write(&self, _: &Batch<'_>, _: Durability) -> Result<()> {
            Noting::note("write")
        }
        fn read(&self, _: &[Key]) -> Result<Vec<Vec<u8>>> {
            Noting::note("read")
        }
        fn take(&self, _: &[Key]) -> Result<Vec<Vec<u8>>> {
            Noting::note("take")
        }
        fn lens(&self, _: &[Key]) -> Result<Vec<Option<u64>>> {
            Noting::note("lens")
        }
        fn present(&self, _: &[Key]) -> Result<Vec<bool>> {
            Noting::note("present")
        }
        fn keys(&self) -> Result<Vec<Key>> {
            Noting::note("keys")
        }
        fn keys_with(&self, _: &Key) -> Result<Vec<Key>> {
            Noting::note("keys_with")
        }
        fn sync(&self) -> Result<()> {
            Noting::note("sync")
        }
        fn visit(&self, _: &[Key], _: &mut dyn FnMut(&[Chunks<'_>]) -> Result<()>) -> Result<()> {
            Noting::note("visit")
        }
        fn check(&self, _: Durability) -> Result<()> {
            Noting::note("check")
        }
        fn read_with_room(&self, _: &[Key], _: &[usize]) -> Result<Vec<Vec<u8>>> {
            Noting::note("read_with_room")
        }
        fn lent_pool(&self) -> Option<&LentPool> {
            Noting::note("lent_pool").unwrap_or_default()
        }
    }

    impl MemoryStore for Noting {
        fn memory_bytes(&self) -> u64 {
            Noting::note("memory_bytes").unwrap_or_default()
        }
        fn spare_bytes(&self) -> u64 {
            Noting::note("spare_bytes").unwrap_or_default()
        }
        fn release_spare(&self) {
            drop(Noting::note::<()>("release_spare"));
        }
        fn known_lens(&self, _: &[Key]) -> Vec<usize> {
            Noting::note("known_lens").unwrap_or_default()
        }
        fn write_within(&self, _: &Batch<'_>, _: u64) -> Result<bool> {
            Noting::note("write_within")
        }
        fn heaviest(&self, _: u64) -> Result<Vec<Key>> {
            Noting::note("heaviest")
        }
    }

    /// Returns the names of the object-safe methods of a trait, whose file has this text.
    fn declared(name: &str, text: &'static str) -> Vec<&'static str> {
        let start = text.find(&format!("pub trait {name}")).unwrap();
        let body = &text[start..start + text[start..].find("\n}\n").unwrap()];
        let methods = body.split("\n    fn ").skip(1);
        let object_safe = methods.filter(|method| {
            let head = &method[..method.find(['{', ';']).unwrap()];
            !head.contains("Self: Sized")
        });
        object_safe.map(|method| &method[..method.find(['(', '<']).unwrap()]).collect()
    }

    #[test]
    fn references_boxes_and_arcs_forward_every_method_to_the_store() {
        fn call_all<P: MemoryStore + ?Sized>(name: &str, p: &P) -> bool {
            CALLS.take();
            let batch = Batch::new();
            match name {
                "write" => drop(p.write(&batch, Durability::Plain)),
                "read" => drop(p.read(&[])),
                "take" => drop(p.take(&[])),
                "lens" => drop(p.lens(&[])),
                "present" => drop(p.present(&[])),
                "keys" => drop(p.keys()),
                "keys_with" => drop(p.keys_with(&Key::default())),
                "sync" => drop(p.sync()),
                "visit" => drop(p.visit(&[], &mut |_| Ok(()))),
                "check" => drop(p.check(Durability::Plain)),
                "read_with_room" => drop(p.read_with_room(&[], &[])),
                "lent_pool" => assert!(p.lent_pool().is_none()),
                "memory_bytes" => drop(p.memory_bytes()),
                "spare_bytes" => drop(p.spare_bytes()),
                "release_spare" => p.release_spare(),
                "known_lens" => drop(p.known_lens(&[])),
                "write_within" => drop(p.write_within(&batch, 0)),
                "heaviest" => drop(p.heaviest(0)),
                other => panic!("{other} is declared, but this test does not call it"),
            }
            CALLS.take() == [name]
        }
        let partd = declared("Partd", include_str!("../partd.rs"));
        let memory = declared("MemoryStore", include_str!("memory_store.rs"));
        let methods = [partd, memory].concat();
        assert_eq!(methods.len(), 18, "{methods:?}");
        for method in methods {
            // A method that is not forwarded runs its provided body, which calls other methods.
            assert!(call_all(method, &Noting), "{method}");
            assert!(call_all::<&Noting>(method, &&Noting), "{method} of a reference");
            assert!(call_all::<Box<Noting>>(method, &Box::new(Noting)), "{method} of a box");
            assert!(call_all::<Arc<Noting>>(method, &Arc::new(Noting)), "{method} of an arc");
            let dynamic: Box<dyn MemoryStore> = Box::new(Noting);
            assert!(call_all(method, &dynamic), "{method} of a trait object");
        }
    }
}
