//! Checks that a request is allowed: the client's role includes it, and it names no reserved key.

use partd::{Key, Op};

use super::records::is_reserved;
use crate::Role;
use crate::error::{ErrorKind, RemoteError};
use crate::wire::request::Body;

/// Checks that the role includes the request, and that the request names no reserved key.
pub(crate) fn is_allowed(role: Role, body: &Body<'_>) -> Result<(), RemoteError> {
    let of_op = |op: &Op<'_>| match op {
        Op::Append(..) | Op::Set(..) => Role::APPEND,
        Op::Delete(_) => Role::REMOVE,
        Op::DeletePrefix(prefix) => of_prefix(prefix.as_bytes()),
        Op::Clear => Role::DROP,
    };
    let needed = match body {
        Body::Write { ops, .. } => ops.iter().map(of_op).fold(Role::NONE, Role::with),
        Body::Read(_) | Body::Lens(_) | Body::Present(_) | Body::Keys { .. } => Role::READ,
        Body::Take(_) => Role::READ.with(Role::REMOVE),
        Body::DeletePrefix { prefix } => of_prefix(prefix),
        Body::Sync => Role::APPEND,
        Body::Check { .. } | Body::Status | Body::Bye | Body::Received => Role::NONE,
    };
    if !role.includes(needed) {
        let text = format!("this needs the permissions {needed}, but this client has {role}");
        return Err(RemoteError::new(ErrorKind::Forbidden, text));
    }
    let touches_reserved = match body {
        Body::Write { ops, .. } => ops.iter().any(|op| match op {
            Op::DeletePrefix(prefix) => is_own(prefix),
            op => op.key().is_some_and(is_own),
        }),
        Body::DeletePrefix { prefix } => is_reserved(prefix),
        Body::Read(keys) | Body::Take(keys) | Body::Lens(keys) | Body::Present(keys) => {
            keys.iter().any(is_own)
        }
        _ => false,
    };
    match touches_reserved {
        true => Err(RemoteError::new(ErrorKind::Forbidden, "the key is reserved for the server")),
        false => Ok(()),
    }
}

/// Returns the permission to delete a prefix. Every key begins with the empty prefix.
fn of_prefix(prefix: &[u8]) -> Role {
    if prefix.is_empty() { Role::DROP } else { Role::REMOVE }
}

/// Returns whether a key is reserved for the server.
pub(crate) fn is_own(key: &Key) -> bool {
    is_reserved(key.as_bytes())
}
