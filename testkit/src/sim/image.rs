//! The state of a disk after a power cut: names, and files as sparse pages. Images are cheap to
//! copy, since they share equal pages, and are compared by a hash of their contents.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::BuildHasher;
use std::path::PathBuf;
use std::sync::Arc;

use foldhash::fast::FixedState;

const ZEROS: [u8; 4096] = [0; 4096];

/// A page of 4096 bytes that is not all zeros, with the hash of its bytes.
#[derive(Debug)]
pub struct Page {
    hash: u64,
    bytes: Box<[u8]>,
}

pub type Pages = BTreeMap<u32, Arc<Page>>;

#[derive(Clone, Debug, Default)]
pub struct FileImage {
    pub len: u64,
    pub pages: Pages,
    /// The inode number that `stat` reports; `None` if the file was built by hand.
    pub identity: Option<u64>,
}

/// A disk at rest.
#[derive(Clone, Debug)]
pub struct Image {
    /// The number of the next boot from this image.
    pub boot: u64,
    pub dirs: BTreeSet<PathBuf>,
    pub files: BTreeMap<PathBuf, FileImage>,
}

impl Page {
    /// Creates a page; `None` if it is all zeros, as a missing page reads.
    pub fn new(bytes: &[u8]) -> Option<Arc<Page>> {
        assert_eq!(bytes.len(), 4096);
        (bytes != ZEROS).then(|| {
            let hash = FixedState::with_seed(1).hash_one(bytes);
            Arc::new(Page { hash, bytes: bytes.into() })
        })
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// Sets a page, or removes it if it is all zeros.
pub fn put(pages: &mut Pages, number: u32, bytes: &[u8]) {
    match Page::new(bytes) {
        Some(page) => pages.insert(number, page),
        None => pages.remove(&number),
    };
}

impl Image {
    /// A disk with only a root directory.
    pub fn blank() -> Image {
        let dirs = BTreeSet::from([PathBuf::from("/")]);
        Image { boot: 1, dirs, files: BTreeMap::new() }
    }

    /// The files, each with the number of its inode, counted from 0 in the order of first names.
    /// Two names belong to one inode, as hard links, if the files have the same identity and the
    /// same contents; those that a test has changed under one name are files of their own.
    pub fn inodes(&self) -> Vec<(&PathBuf, &FileImage, u32)> {
        let mut first: HashMap<u64, (&FileImage, u32)> = HashMap::new();
        let (mut inodes, mut next) = (Vec::with_capacity(self.files.len()), 0);
        for (path, file) in &self.files {
            let known = file.identity.and_then(|identity| first.get(&identity));
            let number = match known {
                Some((other, number)) if other.has_contents_of(file) => *number,
                _ => {
                    next += 1;
                    next - 1
                }
            };
            if let Some(identity) = file.identity {
                first.entry(identity).or_insert((file, number));
            }
            inodes.push((path, file, number));
        }
        inodes
    }

    /// A hash of names, lengths and contents.
    pub fn hash(&self) -> u64 {
        let file = |(path, file): (&PathBuf, &FileImage)| {
            let pages: Vec<(u32, u64)> = file.pages.iter().map(|(&n, p)| (n, p.hash)).collect();
            FixedState::with_seed(2).hash_one((path.as_os_str(), file.len, pages))
        };
        let files: Vec<u64> = self.files.iter().map(file).collect();
        FixedState::with_seed(3).hash_one((files, self.dirs.len()))
    }
}

impl FileImage {
    fn has_contents_of(&self, other: &FileImage) -> bool {
        let pages = |file: &FileImage| {
            file.pages.iter().map(|(&n, page)| (n, page.hash)).collect::<Vec<_>>()
        };
        self.len == other.len && pages(self) == pages(other)
    }

    /// The bytes of the whole file.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.len.next_multiple_of(4096) as usize];
        for (&page, content) in &self.pages {
            let at = page as usize * 4096;
            if let Some(to) = bytes.get_mut(at..at + 4096) {
                to.copy_from_slice(content.bytes());
            }
        }
        bytes.truncate(self.len as usize);
        bytes
    }

    /// A file with these bytes.
    pub fn of(bytes: &[u8]) -> FileImage {
        let mut file = FileImage { len: bytes.len() as u64, ..FileImage::default() };
        for (number, chunk) in bytes.chunks(4096).enumerate() {
            let mut page = [0; 4096];
            page[..chunk.len()].copy_from_slice(chunk);
            put(&mut file.pages, number as u32, &page);
        }
        file
    }

    /// Changes one byte by `xor`.
    pub fn flip(&mut self, offset: u64, xor: u8) {
        let number = (offset / 4096) as u32;
        let mut page = self.pages.get(&number).map_or(vec![0; 4096], |p| p.bytes().to_vec());
        page[(offset % 4096) as usize] ^= xor;
        put(&mut self.pages, number, &page);
    }

    /// Truncates the file to `len` bytes.
    pub fn truncate(&mut self, len: u64) {
        let mut bytes = self.bytes();
        bytes.truncate(len as usize);
        *self = FileImage { identity: self.identity, ..FileImage::of(&bytes) };
    }
}
