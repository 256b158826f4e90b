//! The Python partd: its environment, created on first use, and its script.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The interpreter of an environment with partd 1.4.2, or why there is none.
#[derive(Debug)]
pub(crate) struct Python(Result<PathBuf, String>);

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("python")
}

impl Python {
    /// Finds the environment, or creates it from PyPI.
    pub(crate) fn prepare() -> Python {
        let venv = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/python");
        let out = Command::new("sh")
            .arg(folder().join("venv.sh"))
            .arg(venv)
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .output();
        Python(match out {
            Ok(out) if out.status.success() => {
                Ok(PathBuf::from(String::from_utf8_lossy(&out.stdout).trim()))
            }
            _ => Err("no Python environment with partd 1.4.2".to_owned()),
        })
    }

    /// No environment, because no engine needs one.
    pub(crate) fn none() -> Python {
        Python(Err("not asked for".to_owned()))
    }

    /// The script, without its arguments.
    pub(crate) fn command(&self) -> Result<Command, String> {
        let mut command = Command::new(self.0.as_ref().map_err(String::clone)?);
        command.arg(folder().join("engine.py"));
        Ok(command)
    }

    /// Returns `3.12.1, partd 1.4.2`.
    pub(crate) fn version(&self) -> Option<String> {
        let mut command = self.command().ok()?;
        let out = command.arg("version").output().ok()?;
        Some(String::from_utf8_lossy(&out.stdout).trim().to_owned())
    }
}
