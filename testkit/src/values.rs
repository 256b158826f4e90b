//! The values that the Rust and Python tests exchange; tests/python/values.py has the same ones.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The values appended to the key of each compressing layer.
pub fn bytes() -> Vec<Vec<u8>> {
    let text: String = (0..500).map(|i| format!("{i},{},EWR\n", i * i % 97)).collect();
    let binary = (0..3000_u32).map(|i| ((i * i * 31 + i / 7) % 256) as u8).collect();
    vec![text.into_bytes(), vec![], binary, vec![0; 70_000], b"x".to_vec()]
}

pub fn ints() -> Vec<Vec<i64>> {
    let edges = vec![
        0,
        1,
        -1,
        255,
        256,
        65_535,
        65_536,
        (1 << 31) - 1,
        1 << 31,
        -(1 << 31),
        1 << 62,
        i64::MIN,
        i64::MAX,
    ];
    vec![edges, vec![], vec![7; 2500]]
}

pub fn unsigned() -> Vec<Vec<u64>> {
    vec![vec![1 << 63, u64::MAX], vec![1]]
}

pub fn floats() -> Vec<Vec<f64>> {
    vec![vec![0.0, -1.5, 1e300], vec![f64::INFINITY]]
}

pub fn strings() -> Vec<Vec<String>> {
    let list = |list: &[&str]| list.iter().map(|&s| s.to_owned()).collect();
    vec![list(&["EWR", "JFK", "EWR", "", "naïve ☃"]), list(&["EWR", &"x".repeat(300)])]
}

pub type Row = (i64, String, f64);

pub fn rows() -> Vec<Vec<Row>> {
    vec![
        vec![(1, "EWR".to_owned(), 2.5), (2, "JFK".to_owned(), -0.5)],
        vec![(3, "LGA".to_owned(), 0.0)],
    ]
}

pub fn optional() -> Vec<Vec<Option<i64>>> {
    vec![vec![Some(1), None, Some(3)], vec![None]]
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Flight {
    pub dest: String,
    pub miles: i64,
}

pub fn dicts() -> Vec<Vec<Flight>> {
    let flight = |dest: &str, miles| vec![Flight { dest: dest.to_owned(), miles }];
    vec![flight("BOS", 200), flight("SFO", 2586)]
}

pub fn nested() -> Vec<Vec<Vec<i64>>> {
    vec![vec![vec![1, 2], vec![], vec![3]], vec![vec![4]]]
}

/// A byte string; serde would treat a plain `Vec<u8>` as a list of numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct Blob(pub Vec<u8>);

impl Serialize for Blob {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Blob {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Blob, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Blob;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("bytes")
            }
            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Blob, E> {
                Ok(Blob(bytes.to_vec()))
            }
        }
        deserializer.deserialize_bytes(Visitor)
    }
}

pub fn blobs() -> Vec<Vec<Blob>> {
    vec![vec![Blob(vec![0, 0xFF]), Blob(vec![])], vec![Blob(vec![b'y'; 300])]]
}

pub fn bools() -> Vec<Vec<bool>> {
    vec![vec![true, false], vec![true]]
}

pub fn sets() -> Vec<Vec<BTreeSet<i64>>> {
    vec![vec![BTreeSet::from([1, 2, 3])], vec![BTreeSet::from([4]), BTreeSet::new()]]
}

/// Runs `$case!` for each kind of list, with its name and its values.
#[macro_export]
macro_rules! for_each_list {
    ($case:ident) => {
        $case!("ints", i64, values::ints());
        $case!("unsigned", u64, values::unsigned());
        $case!("floats", f64, values::floats());
        $case!("strings", String, values::strings());
        $case!("rows", values::Row, values::rows());
        $case!("optional", Option<i64>, values::optional());
        $case!("dicts", values::Flight, values::dicts());
        $case!("nested", Vec<i64>, values::nested());
        $case!("bytes", values::Blob, values::blobs());
        $case!("bools", bool, values::bools());
    };
}

/// Runs `$case!` for each kind of array, with its name, its layer and its elements. The stored
/// value is the elements, followed by the elements in reverse.
#[macro_export]
macro_rules! for_each_array {
    ($case:ident) => {
        $case!("i1", Numpy::new, array![i8::MIN, 0, i8::MAX]);
        $case!("i2", Numpy::new, array![i16::MIN, 0, i16::MAX]);
        $case!("i4", Numpy::new, array![i32::MIN, 0, i32::MAX]);
        $case!("i8", Numpy::new, array![i64::MIN, 0, i64::MAX]);
        $case!("u1", Numpy::new, array![0_u8, 1, u8::MAX]);
        $case!("u2", Numpy::new, array![0_u16, 1, u16::MAX]);
        $case!("u4", Numpy::new, array![0_u32, 1, u32::MAX]);
        $case!("u8", Numpy::new, array![0_u64, 1, u64::MAX]);
        $case!("f2", Numpy::new, array![-1.5, 0.0, 3.25].mapv(half::f16::from_f64));
        $case!("f4", Numpy::new, array![-1.5_f32, 0.0, 3.25]);
        $case!("f8", Numpy::new, array![-1.5_f64, 0.0, 1e300]);
        $case!("c8", Numpy::new, array![Complex::new(1_f32, 2.0), Complex::new(-0.0, -0.5)]);
        $case!("c16", Numpy::new, array![Complex::new(1_f64, 2.0), Complex::new(-0.0, -0.5)]);
        $case!("b1", Numpy::new, array![true, false, true]);
        $case!(
            "datetime-ns",
            |p| Numpy::datetime64(p, "ns").unwrap(),
            array![0, 1_700_000_000_000_000_000, -1]
        );
        $case!("datetime-25s", |p| Numpy::datetime64(p, "25s").unwrap(), array![0, 3]);
        $case!("timedelta-us", |p| Numpy::timedelta64(p, "us").unwrap(), array![5, -5]);
    };
}

/// The path of a golden value.
pub fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/encode").join(name)
}

/// Reads a golden value.
pub fn read_golden(name: &str) -> Vec<u8> {
    let path = golden(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
