//! Python reads values written by Rust.
//!
//! The test runs `tests/python/read_back.py` with the Python named by the environment variable
//! `PARTD_PYTHON`, or with `python3` if it has the packages (tests/python/venv.sh creates one that
//! has). Without one the test reports that it is skipped, which is a failure with `CI=true`.

use std::io::Write;
use std::path::Path;
use std::process::Command;

use ndarray::{Array1, array};
use num_complex::Complex;
use partd::{Blosc, Dict, Key, Msgpack, Numpy, Partd, Pickle, compression};

use partd_testkit::{for_each_array, for_each_list};

use crate::values;

/// Writes the values of a store under the key `x` and its side keys to files.
fn save(dir: &Path, name: &str, store: &dyn Partd) {
    for key in store.keys().unwrap() {
        let side = key.to_string();
        let path = dir.join(format!("{name}{}", side.trim_matches('"').trim_start_matches('x')));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, &store.read(&[key]).unwrap()[0]).unwrap();
    }
}

fn write_all(dir: &Path) {
    let append_bytes = |layer: &dyn Partd| {
        for value in values::bytes() {
            layer
                .write(partd::Batch::new().append(Key::from("x"), &value), partd::Durability::Plain)
                .unwrap();
        }
    };
    for name in ["zlib", "bz2", "snappy", "blosc", "lz4", "zstd"] {
        let store = std::sync::Arc::new(Dict::new());
        append_bytes(&*compression(name, Box::new(store.clone())).unwrap());
        save(dir, &format!("{name}/bytes"), &store);
    }
    for inner in ["blosclz", "lz4", "lz4hc", "zlib", "zstd"] {
        let layer =
            Blosc::new(Dict::new()).with_inner(inner).unwrap().with_element_bytes(4).unwrap();
        append_bytes(&layer);
        save(dir, &format!("blosc/{inner}"), layer.inner());
    }
    macro_rules! case {
        ($name:literal, $type:ty, $lists:expr) => {
            let pickle = Pickle::<$type, _>::new(Dict::new());
            let msgpack = Msgpack::<$type, _>::new(Dict::new());
            for list in $lists {
                pickle.append([("x", &list[..])]).unwrap();
                msgpack.append([("x", list)]).unwrap();
            }
            save(dir, concat!("pickle/", $name), pickle.inner());
            save(dir, concat!("msgpack/", $name), msgpack.inner());
        };
    }
    for_each_list!(case);
    let sets = Pickle::<std::collections::BTreeSet<i64>, _>::new(Dict::new());
    sets.append(values::sets().into_iter().map(|list| ("x", list))).unwrap();
    save(dir, "pickle/sets", sets.inner());
    macro_rules! array_case {
        ($name:literal, $new:expr, $array:expr) => {
            let layer = $new(Dict::new());
            let array: Array1<_> = $array;
            layer.append([("x", &array)]).unwrap();
            // Reversed, so not contiguous.
            layer.append([("x", array.slice(ndarray::s![..;-1]))]).unwrap();
            save(dir, concat!("numpy/", $name), layer.inner());
        };
    }
    for_each_array!(array_case);
}

#[test]
fn python_reads_every_value_written_by_rust() {
    let python = std::env::var("PARTD_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let packages = "import partd, snappy, blosc, cramjam, msgpack, numpy";
    let probe = Command::new(&python).args(["-c", packages]).output();
    if !probe.as_ref().is_ok_and(|probe| probe.status.success()) {
        let why = match probe {
            Ok(probe) => String::from_utf8_lossy(&probe.stderr).trim().to_owned(),
            Err(error) => error.to_string(),
        };
        let skip = format!(
            "skipped: {python} lacks what is needed ({why}); \
             set PARTD_PYTHON=\"$(tests/python/venv.sh)\""
        );
        assert!(std::env::var("CI").as_deref() != Ok("true"), "{skip}");
        // Not `eprintln!`: the harness hides what a passing test prints.
        writeln!(std::io::stderr(), "{skip}").unwrap();
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    write_all(dir.path());
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("python/read_back.py");
    let read = Command::new(&python).arg(script).arg(dir.path()).output().unwrap();
    let said = String::from_utf8_lossy(&read.stdout);
    assert!(read.status.success(), "{said}{}", String::from_utf8_lossy(&read.stderr));
    assert_eq!(said.trim(), "Python read 49 values");
}
