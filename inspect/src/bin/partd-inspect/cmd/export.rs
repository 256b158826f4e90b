//! `export`: writes each key's value to a file of its own, with a safe name, and a manifest.
//!
//! `DIR/manifest.json` maps the files in `DIR/keys` to keys. Names and keys correspond one to one:
//! letters, digits, `-`, `_` and dots after the first byte stand for themselves; any other byte is
//! `%XX`; the empty key is `%`; a name that would be too long ends in `%~` and a number.

use std::io::{BufWriter, Write};

use serde_json::{Value, json};

use super::get::{check, pieces};
use super::target::{new_directory, new_file};
use crate::Failure;
use crate::args::Export;
use crate::output::Output;
use crate::text::plural;
use partd_inspect::ahead::ReadAhead;
use partd_inspect::index::Index;
use partd_inspect::key::escape;
use partd_inspect::path::shown;
use partd_inspect::problem::Problem;
use partd_inspect::store::Store;

/// The longest file name before it is shortened; file systems allow 255 bytes.
const NAME_LEN_MAX: usize = 200;

pub(crate) fn run(args: &Export, out: &mut Output) -> Result<(), Failure> {
    let mut store = Store::read(&args.path)?;
    new_directory(&args.dir, &args.path)?;
    let values = args.dir.join("keys");
    new_directory(&values, &args.path)?;
    let index = Index::build(&store.segments, &store.history, &[]);
    let (mut files, mut bytes, mut lost) = (Vec::new(), 0, Vec::new());
    for (number, (key, held)) in index.sorted().into_iter().enumerate() {
        let name = file_name(key, number);
        let path = values.join(&name);
        let mut file = BufWriter::new(new_file(&path, &args.path)?);
        let failed = |error: std::io::Error| Failure::io("write", &path, &error);
        let (mut len, mut whole) = (0_u64, true);
        let mut ahead = ReadAhead::new(&store, &held.extents);
        for &at in &held.extents {
            ahead.begin(at);
            if let Some(problem) = check(&store, at) {
                lost.push(problem.with_consequence(format!("part of key {}", escape(key))));
                whole = false;
                continue;
            }
            pieces(&store, at, |piece| {
                len += piece.len() as u64;
                file.write_all(piece).map_err(failed)
            })?;
        }
        file.flush().map_err(failed)?;
        bytes += len;
        files.push(json!({
            "key": escape(key),
            "file": format!("keys/{name}"),
            "bytes": len,
            "whole": whole,
        }));
    }
    let number = files.len() as u64;
    manifest(args, &store, files, &lost)?;
    store.history.problems.extend(lost);
    if out.json {
        let rest = json!({
            "directory": shown(&args.dir),
            "keys": number,
            "bytes": bytes,
        });
        return Ok(out.document("export", &store, rest)?);
    }
    let (keys, size, dir) = (plural(number, "key", "keys"), out.size(bytes), shown(&args.dir));
    out.line(format!("{keys}, {size}, written to {dir} with manifest.json"))?;
    Ok(out.warnings(&store)?)
}

fn manifest(
    args: &Export,
    store: &Store,
    files: Vec<Value>,
    lost: &[Problem],
) -> Result<(), Failure> {
    let manifest = json!({
        "partd_export": 1,
        "store": store.uuid().map(|id| partd_inspect::text::uuid(&id)),
        "last_sequence": store.history.last,
        "files": files,
        "lost": lost.iter().map(ToString::to_string).collect::<Vec<_>>(),
    });
    let path = args.dir.join("manifest.json");
    let mut file = new_file(&path, &args.path)?;
    writeln!(file, "{manifest:#}").map_err(|error| Failure::io("write", &path, &error))
}

/// The file name for a key; no two keys get the same. `number` distinguishes long keys.
fn file_name(key: &[u8], number: usize) -> String {
    if key.is_empty() {
        return "%".to_owned();
    }
    let mut name = String::new();
    for (i, &byte) in key.iter().enumerate() {
        let plain = byte.is_ascii_alphanumeric() || b"-_".contains(&byte) || byte == b'.' && i > 0;
        if plain {
            name.push(char::from(byte));
        } else {
            name.push_str(&format!("%{byte:02X}"));
        }
        if name.len() > NAME_LEN_MAX {
            name.truncate(NAME_LEN_MAX - 24);
            name.push_str(&format!("%~{number}"));
            break;
        }
    }
    name
}

#[cfg(test)]
mod tests {
    use super::file_name;

    #[test]
    fn different_keys_get_different_safe_names() {
        let long = [vec![b'a'; 300], vec![b'/'; 300], [vec![b'a'; 300], vec![b'b']].concat()];
        let mut keys: Vec<Vec<u8>> = vec![
            vec![],
            b".".into(),
            b"..".into(),
            b"a/b".into(),
            b"a%2Fb".into(),
            b"%".into(),
            b"%~0".into(),
            b"CON".into(),
            b"a\0b".into(),
            vec![0xFF; 3],
        ];
        keys.extend(long);
        let names: Vec<String> =
            keys.iter().enumerate().map(|(i, key)| file_name(key, i)).collect();
        for (i, name) in names.iter().enumerate() {
            assert!(!name.is_empty() && name.len() <= 224 && !name.starts_with('.'), "{name}");
            assert!(name.bytes().all(|b| b.is_ascii_graphic() && b != b'/'), "{name}");
            assert!(!names[..i].contains(name), "{name}");
        }
    }
}
