//! `partd-server keygen`: makes a key pair.

use std::path::Path;
use std::process::ExitCode;

use partd_server::KeyPair;

use crate::{Failure, print};

pub(crate) fn run(file: &Path) -> Result<ExitCode, Failure> {
    let pair = KeyPair::generate();
    pair.write(file).map_err(|error| Failure::Refused(error.to_string()))?;
    let file = file.display();
    print(
        format!("{}\nthe secret key is in {file}, this key in {file}.pub\n", pair.public())
            .as_bytes(),
    )
}
