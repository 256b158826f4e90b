//! The import graph of a crate's files, computed from their `use` items and paths.
//!
//! A re-exported name (`pub use`) is resolved to the file that defines it, and its importers depend
//! on that file. A `mod.rs` that declares and re-exports its submodules therefore depends on none
//! of them.

use std::collections::{BTreeMap, BTreeSet};

use crate::{code, rust_files};

/// The imports of a file: each imported file, with the line of the first import.
type Edges = BTreeMap<String, usize>;

/// The import graph of one crate.
pub(crate) struct Imports {
    /// The file of each module, by the path of the module from the root of the crate.
    files: BTreeMap<Vec<String>, String>,
    /// The imports of each file.
    pub(crate) of: BTreeMap<String, Edges>,
}

/// The module, paths and re-exports of a file.
struct Source {
    module: Vec<String>,
    /// Every path in the file, split, with its line and whether it is in a `pub use`.
    paths: Vec<(Vec<String>, usize, bool)>,
    /// The path of each re-exported name.
    re_exports: BTreeMap<String, Vec<String>>,
}

impl Imports {
    /// Computes the imports of the files in a folder that contains the root of a crate.
    pub(crate) fn of_crate(folder: &str) -> Imports {
        let texts = rust_files(&[folder]);
        Imports::of_texts(texts.iter().map(|(name, text)| {
            let name = name.strip_prefix(folder).unwrap().trim_start_matches('/');
            (name.to_owned(), text.as_str())
        }))
    }

    /// As [`of_crate`](Self::of_crate), from texts; names are relative to the root of the crate.
    pub(crate) fn of_texts<'t>(texts: impl Iterator<Item = (String, &'t str)>) -> Imports {
        let sources: BTreeMap<String, Source> = texts
            // Binaries are crates of their own.
            .filter(|(name, _)| !name.starts_with("bin/"))
            .map(|(name, text)| (name.clone(), Source::new(module_of(&name), text)))
            .collect();
        let files =
            sources.iter().map(|(name, source)| (source.module.clone(), name.clone())).collect();
        let mut imports = Imports { files, of: BTreeMap::new() };
        for (name, source) in &sources {
            let mut edges = Edges::new();
            for (path, line, is_re_export) in &source.paths {
                let Some(to) = imports.resolve(&sources, &source.module, path) else { continue };
                let is_below = imports.files.iter().any(|(module, file)| {
                    *file == to
                        && module.len() > source.module.len()
                        && module.starts_with(&source.module)
                });
                if to != *name && !(*is_re_export && is_below) {
                    edges.entry(to).or_insert(*line);
                }
            }
            imports.of.insert(name.clone(), edges);
        }
        imports
    }

    /// Resolves a path in a module to a file; `None` for other crates and for names of the file
    /// itself.
    fn resolve(
        &self,
        sources: &BTreeMap<String, Source>,
        from: &[String],
        path: &[String],
    ) -> Option<String> {
        let mut path = self.absolute(from, path)?;
        // A name may be re-exported several times.
        for _ in 0..10 {
            let len = (0..=path.len()).rev().find(|len| self.files.contains_key(&path[..*len]))?;
            let file = &self.files[&path[..len]];
            let source = &sources[file];
            let re_export = path.get(len).and_then(|name| source.re_exports.get(name));
            let Some(re_export) = re_export else { return Some(file.clone()) };
            let Some(mut next) = self.absolute(&source.module, re_export) else {
                return Some(file.clone());
            };
            next.extend_from_slice(&path[len + 1..]);
            path = next;
        }
        panic!("{path:?} is re-exported in a circle");
    }

    /// Converts a path to one from the root of the crate; `None` if it does not begin in the crate.
    fn absolute(&self, from: &[String], path: &[String]) -> Option<Vec<String>> {
        let mut base = from.to_vec();
        let mut rest = path;
        match rest.first()?.as_str() {
            "crate" => (base, rest) = (Vec::new(), &rest[1..]),
            "self" => rest = &rest[1..],
            "super" => {
                while rest.first().is_some_and(|part| part == "super") {
                    base.pop();
                    rest = &rest[1..];
                }
            }
            child => {
                let mut module = base.clone();
                module.push(child.to_owned());
                self.files.get(&module)?;
            }
        }
        base.extend_from_slice(rest);
        Some(base)
    }

    /// The import cycles: sets of files that all import each other, directly or indirectly.
    pub(crate) fn circles(&self) -> Vec<Vec<&str>> {
        let reached: BTreeMap<&str, BTreeSet<&str>> =
            self.of.keys().map(|file| (file.as_str(), self.reached_from(file))).collect();
        let mut circles = Vec::new();
        for (file, reached_from_it) in &reached {
            let circle: Vec<&str> =
                reached_from_it.iter().copied().filter(|to| reached[to].contains(file)).collect();
            // Report each cycle once, for its first file.
            if circle.first() == Some(file) {
                circles.push(circle);
            }
        }
        circles
    }

    /// The files that a file imports, directly or indirectly.
    fn reached_from<'i>(&'i self, file: &str) -> BTreeSet<&'i str> {
        let mut reached = BTreeSet::new();
        let mut rest: Vec<&str> = self.of[file].keys().map(String::as_str).collect();
        while let Some(next) = rest.pop() {
            if reached.insert(next) {
                rest.extend(self.of[next].keys().map(String::as_str));
            }
        }
        reached
    }
}

impl Source {
    fn new(module: Vec<String>, text: &str) -> Source {
        let mut source = Source { module, paths: Vec::new(), re_exports: BTreeMap::new() };
        let mut item: Option<(usize, String)> = None;
        for (number, line) in code(text) {
            let trimmed = line.trim_start();
            if item.is_none() {
                if trimmed.starts_with("use ")
                    || trimmed.starts_with("pub") && trimmed.contains(" use ")
                {
                    item = Some((number, String::new()));
                } else {
                    source
                        .paths
                        .extend(paths_in(line).into_iter().map(|path| (path, number, false)));
                    continue;
                }
            }
            let Some((first, text)) = &mut item else { continue };
            text.push_str(line);
            if line.contains(';') {
                let (first, text) = (*first, std::mem::take(text));
                item = None;
                source.add_use(&text, first);
            }
        }
        source
    }

    fn add_use(&mut self, text: &str, line: usize) {
        let (visibility, tree) = text.split_once("use ").expect("a use item");
        let tree = tree.trim().trim_end_matches(';');
        let is_re_export = visibility.trim_start().starts_with("pub");
        for (path, name) in expand(tree) {
            if is_re_export {
                self.re_exports.insert(name, path.clone());
            }
            self.paths.push((path, line, is_re_export));
        }
    }
}

/// Expands the tree of a `use` item into its paths and the names that they introduce.
fn expand(tree: &str) -> Vec<(Vec<String>, String)> {
    let tree = tree.trim();
    if let Some((front, list)) = tree.split_once('{') {
        let front: Vec<String> = front
            .split("::")
            .map(str::trim)
            .filter(|part| !part.is_empty())
            .map(str::to_owned)
            .collect();
        let list = list.trim_end().strip_suffix('}').expect("a closed list");
        let (mut depth, mut start, mut parts) = (0, 0, Vec::new());
        for (at, byte) in list.bytes().enumerate() {
            match byte {
                b'{' => depth += 1,
                b'}' => depth -= 1,
                b',' if depth == 0 => {
                    parts.push(&list[start..at]);
                    start = at + 1;
                }
                _ => {}
            }
        }
        parts.push(&list[start..]);
        let parts = parts.into_iter().filter(|part| !part.trim().is_empty());
        return parts
            .flat_map(expand)
            .map(|(path, name)| {
                let mut whole = front.clone();
                let is_self = path == ["self"];
                let name = if is_self { front.last().cloned().unwrap_or_default() } else { name };
                whole.extend(path.into_iter().filter(|_| !is_self));
                (whole, name)
            })
            .collect();
    }
    let (path, name) = match tree.split_once(" as ") {
        Some((path, name)) => (path, Some(name.trim().to_owned())),
        None => (tree, None),
    };
    let path: Vec<String> = path.split("::").map(|part| part.trim().to_owned()).collect();
    let name = name.unwrap_or_else(|| path.last().cloned().unwrap_or_default());
    vec![(path, name)]
}

/// The paths of at least two parts in a line of code.
fn paths_in(line: &str) -> Vec<Vec<String>> {
    let is_path = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let words = line.split(|c: char| !is_path(c));
    let paths = words.map(|word| {
        word.split("::")
            .filter(|part| !part.is_empty())
            .map(|part| part.trim_matches(':').to_owned())
            .collect()
    });
    paths.filter(|path: &Vec<String>| path.len() > 1).collect()
}

/// The module of a file: `log::fs` for `log/fs/mod.rs`, the root for `lib.rs`.
fn module_of(name: &str) -> Vec<String> {
    let name = name.strip_suffix(".rs").expect("a Rust file");
    let mut module: Vec<String> = name.split('/').map(str::to_owned).collect();
    if module.last().is_some_and(|last| last == "mod") || name == "lib" || name == "main" {
        module.pop();
    }
    module
}
