//! The rivals in Python: their environments, created on first use, and their scripts.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The interpreter of an environment, or why there is none.
#[derive(Debug)]
pub(crate) struct Python(Result<PathBuf, String>);

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("python")
}

impl Python {
    /// Finds an environment below `target`, or creates it from PyPI.
    pub(crate) fn prepare(name: &str, requirements: &str) -> Python {
        let venv = Path::new(env!("CARGO_MANIFEST_DIR")).join("target").join(name);
        let out = Command::new("sh")
            .arg(folder().join("venv.sh"))
            .arg(venv)
            .arg(requirements)
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .output();
        Python(match out {
            Ok(out) if out.status.success() => {
                Ok(PathBuf::from(String::from_utf8_lossy(&out.stdout).trim()))
            }
            _ => Err(format!("no Python environment with {requirements}")),
        })
    }

    /// No environment, because no engine needs one.
    pub(crate) fn none() -> Python {
        Python(Err("not asked for".to_owned()))
    }

    /// A script, without its arguments.
    pub(crate) fn command(&self, script: &str) -> Result<Command, String> {
        let mut command = Command::new(self.0.as_ref().map_err(String::clone)?);
        command.arg(folder().join(script));
        Ok(command)
    }

    /// Returns what a script says about versions, such as `3.12.1, partd 1.4.2`.
    pub(crate) fn version(&self, script: &str) -> Option<String> {
        let mut command = self.command(script).ok()?;
        let out = command.arg("version").output().ok()?;
        Some(String::from_utf8_lossy(&out.stdout).trim().to_owned())
    }
}
