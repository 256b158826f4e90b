//! Roles: sets of permissions.

use std::fmt;
use std::str::FromStr;

use crate::error::invalid;

/// A set of permissions of a client.
///
/// Its text form is a comma-separated list of `read`, `append`, `remove`, `drop` and `close`, or
/// `all` or `none`.
///
/// ```
/// use partd_server::Role;
/// let role: Role = "read,append".parse()?;
/// assert!(role.includes(Role::READ) && !role.includes(Role::DROP));
/// assert_eq!(Role::ALL.without(Role::DROP).without(Role::CLOSE).to_string(), "read,append,remove");
/// # Ok::<(), partd::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Role(u8);

impl Role {
    /// No permission. The client can still connect and ask for the server's status.
    pub const NONE: Role = Role(0);
    /// Permission to get values, list keys and ask for lengths.
    pub const READ: Role = Role(1);
    /// Permission to append, set and sync.
    pub const APPEND: Role = Role(2);
    /// Permission to delete keys, and all keys with a prefix that is not empty. A pop needs
    /// [`READ`](Role::READ) as well.
    pub const REMOVE: Role = Role(4);
    /// Permission to remove every key at once (`drop` in the old protocol, or a delete of the empty
    /// prefix). A client with [`REMOVE`](Role::REMOVE) can still remove the keys one after another.
    pub const DROP: Role = Role(8);
    /// Permission to stop the server (`close` in the old protocol).
    pub const CLOSE: Role = Role(16);
    /// Every permission.
    pub const ALL: Role = Role(31);

    const NAMES: [(Role, &str); 5] = [
        (Role::READ, "read"),
        (Role::APPEND, "append"),
        (Role::REMOVE, "remove"),
        (Role::DROP, "drop"),
        (Role::CLOSE, "close"),
    ];

    /// Returns whether this role has every permission of `other`.
    pub fn includes(self, other: Role) -> bool {
        self.0 & other.0 == other.0
    }

    /// Adds the permissions of `other`.
    #[must_use]
    pub fn with(self, other: Role) -> Role {
        Role(self.0 | other.0)
    }

    /// Removes the permissions of `other`.
    #[must_use]
    pub fn without(self, other: Role) -> Role {
        Role(self.0 & !other.0)
    }
}

impl FromStr for Role {
    type Err = partd::Error;

    fn from_str(text: &str) -> Result<Role, partd::Error> {
        text.split(',').map(str::trim).try_fold(Role::NONE, |role, word| {
            let named = Role::NAMES.iter().find(|(_, name)| *name == word).map(|(role, _)| *role);
            match word {
                "all" => Ok(Role::ALL),
                "none" => Ok(role),
                _ => named.map(|named| role.with(named)).ok_or_else(|| {
                    invalid(format!(
                        "{word:?} is not a permission; use read, append, remove, drop, close, all or none"
                    ))
                }),
            }
        })
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = Role::NAMES.iter().filter(|(role, _)| self.includes(*role));
        let names: Vec<&str> = names.map(|(_, name)| *name).collect();
        match (*self, names.as_slice()) {
            (Role::ALL, _) => f.write_str("all"),
            (_, []) => f.write_str("none"),
            (_, names) => f.write_str(&names.join(",")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_role_prints_as_it_parses() {
        for bits in 0..=Role::ALL.0 {
            assert_eq!(Role(bits).to_string().parse::<Role>().unwrap(), Role(bits));
        }
        assert!("reed".parse::<Role>().unwrap_err().to_string().contains("\"reed\""));
    }
}
