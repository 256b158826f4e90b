//! CURVE keys: key pairs and their files, and the list of clients that a server accepts.

use std::collections::HashMap;
use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use omq_proto::{CurveKeypair, CurvePublicKey, CurveSecretKey};
use partd::Result;

use crate::Role;
use crate::error::{invalid, io_error, refused};

/// A CURVE public key. Its text form is ZeroMQ's: 40 characters of Z85.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PublicKey(pub(crate) CurvePublicKey);

impl PublicKey {
    /// Parses a key from its 40 characters.
    ///
    /// # Errors
    /// The text is not a key.
    pub fn parse(text: &str) -> Result<PublicKey> {
        let key = CurvePublicKey::from_z85(text.trim());
        key.map(PublicKey).map_err(|_| invalid("a CURVE public key has 40 characters of Z85"))
    }

    /// Reads a key from a `.pub` file that [`KeyPair::write`] wrote.
    ///
    /// # Errors
    /// The file cannot be read, or does not contain a key.
    pub fn read(path: impl AsRef<Path>) -> Result<PublicKey> {
        let path = path.as_ref();
        let text = fs::read_to_string(path).map_err(|error| io_error("read", path, error))?;
        PublicKey::parse(&text).map_err(|error| refused(path, error.to_string()))
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.to_z85())
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

/// A CURVE key pair.
#[derive(Clone)]
pub struct KeyPair(pub(crate) CurveKeypair);

impl fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyPair({})", self.public())
    }
}

impl KeyPair {
    /// Generates a new pair.
    pub fn generate() -> KeyPair {
        KeyPair(CurveKeypair::generate())
    }

    /// Returns the public half.
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.public)
    }

    /// Writes the pair to two new files: the secret half to `path` with mode 0600, the public half
    /// to the same path with `.pub` appended.
    ///
    /// # Errors
    /// One of the files exists already or cannot be written.
    pub fn write(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let mut public = path.as_os_str().to_owned();
        public.push(".pub");
        write_new(Path::new(&public), 0o644, &self.public().to_string())?;
        write_new(path, 0o600, &self.0.secret.to_z85()).inspect_err(|_| {
            // A public key without its secret key is of no use.
            let _ = fs::remove_file(&public);
        })
    }

    /// Reads the pair from the file of its secret half.
    ///
    /// # Errors
    /// The file cannot be read, does not contain a key, or other users can access it.
    pub fn read(path: impl AsRef<Path>) -> Result<KeyPair> {
        let path = path.as_ref();
        let cannot = |error| io_error("read the secret key", path, error);
        let mode = fs::metadata(path).map_err(cannot)?.mode();
        if mode & 0o077 != 0 {
            return Err(refused(path, "others can read or change this secret key; `chmod 600` it"));
        }
        let text = fs::read_to_string(path).map_err(cannot)?;
        let secret = CurveSecretKey::from_z85(text.trim());
        let secret = secret.map_err(|_| refused(path, "this is not a CURVE secret key"))?;
        Ok(KeyPair(CurveKeypair { public: secret.derive_public(), secret }))
    }
}

fn write_new(path: &Path, mode: u32, text: &str) -> Result<()> {
    let written = || -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
        writeln!(file, "{text}")?;
        file.sync_all()
    };
    written().map_err(|error| io_error("write the key", path, error))
}

/// The clients that a server accepts, each with its role.
#[derive(Clone, Debug, Default)]
pub struct AllowedKeys(HashMap<[u8; 32], Role>);

impl AllowedKeys {
    /// Makes an empty list.
    pub fn new() -> AllowedKeys {
        AllowedKeys::default()
    }

    /// Adds a client with its role.
    #[must_use]
    pub fn allow(mut self, key: PublicKey, role: Role) -> AllowedKeys {
        self.0.insert(*key.0.as_bytes(), role);
        self
    }

    /// Reads a list from a file.
    ///
    /// Each line has a key and, after a space, its role; without a role it is `all`. Empty lines
    /// and lines that begin with `;` are ignored. (`#` is a character of Z85, so a key may begin
    /// with it.)
    ///
    /// # Errors
    /// The file cannot be read, a line is invalid, or other users can change the file.
    pub fn read(path: impl AsRef<Path>) -> Result<AllowedKeys> {
        let path = path.as_ref();
        let cannot = |error| io_error("read the allowed keys", path, error);
        if fs::metadata(path).map_err(cannot)?.mode() & 0o022 != 0 {
            return Err(refused(path, "others can change this list of keys; `chmod go-w` it"));
        }
        let text = fs::read_to_string(path).map_err(cannot)?;
        let mut allowed = AllowedKeys::new();
        for (i, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with(';') {
                continue;
            }
            let wrong = |error: partd::Error| refused(path, format!("line {}: {error}", i + 1));
            let (key, role) = line.split_once(char::is_whitespace).unwrap_or((line, "all"));
            let key = PublicKey::parse(key).map_err(wrong)?;
            allowed = allowed.allow(key, role.trim().parse().map_err(wrong)?);
        }
        Ok(allowed)
    }

    /// Removes the permissions of `role` from every client.
    #[must_use]
    pub fn without(mut self, role: Role) -> AllowedKeys {
        self.0.values_mut().for_each(|allowed| *allowed = allowed.without(role));
        self
    }

    /// Returns the role of the client with this key, or `None` if it is not on the list.
    pub(crate) fn role_of(&self, key: &[u8; 32]) -> Option<Role> {
        self.0.get(key).copied()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_pair_is_read_back_and_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("server.key");
        let pair = KeyPair::generate();
        pair.write(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(KeyPair::read(&path).unwrap().public(), pair.public());
        assert_eq!(PublicKey::read(dir.path().join("server.key.pub")).unwrap(), pair.public());
        assert!(KeyPair::generate().write(&path).is_err());
        assert_eq!(KeyPair::read(&path).unwrap().public(), pair.public());
        assert!(!format!("{pair:?}").contains(&pair.0.secret.to_z85()));
    }

    #[test]
    fn a_secret_key_that_others_can_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("k");
        KeyPair::generate().write(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(KeyPair::read(&path).unwrap_err().to_string().contains("chmod 600"));
    }

    #[test]
    fn a_list_of_keys_gives_each_a_role_and_an_error_names_the_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("allowed");
        let (one, two) = (KeyPair::generate().public(), KeyPair::generate().public());
        fs::write(&path, format!("; people\n\n{one}\n{two} read,append\n")).unwrap();
        let allowed = AllowedKeys::read(&path).unwrap();
        assert_eq!(allowed.role_of(one.0.as_bytes()), Some(Role::ALL));
        let role = allowed.role_of(two.0.as_bytes()).unwrap();
        assert_eq!(role, Role::READ.with(Role::APPEND));
        assert_eq!(allowed.role_of(&[0; 32]), None);
        fs::write(&path, format!("{one}\nnonsense\n")).unwrap();
        assert!(AllowedKeys::read(&path).unwrap_err().to_string().contains("line 2"));
    }
}
