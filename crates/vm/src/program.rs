//! Programs of the system that are run for a part of the work.

use crate::error::{Error, Result};
use std::process::{Command, Output, Stdio};

/// Runs a program to its end and returns what it wrote.
///
/// # Errors
/// [`Error::NoProgram`] if it is not installed; [`Error::Program`] with its last words if it failed.
pub(crate) fn run(command: &mut Command, purpose: &'static str, package: &'static str) -> Result<String> {
    command.stdout(Stdio::piped());
    let output = finish(command, purpose, package)?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// As [`run`]; its output goes where the command says.
pub(crate) fn run_to(command: &mut Command, purpose: &'static str, package: &'static str) -> Result<()> {
    finish(command, purpose, package).map(drop)
}

fn finish(command: &mut Command, purpose: &'static str, package: &'static str) -> Result<Output> {
    let program = command.get_program().to_string_lossy().into_owned();
    // Its words are recognised in the language of the system.
    command.env("LC_ALL", "C").stdin(Stdio::null()).stderr(Stdio::piped());
    let output = match command.spawn() {
        Ok(child) => child.wait_with_output(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(Error::NoProgram { program, purpose, package });
        }
        Err(error) => Err(error),
    };
    let output = output.map_err(Error::file(&program))?;
    if output.status.success() {
        return Ok(output);
    }
    let words = String::from_utf8_lossy(&output.stderr);
    let words: Vec<&str> = words.lines().filter(|line| !line.trim().is_empty()).collect();
    let why = match words.last() {
        Some(last) => last.trim().to_owned(),
        None => output.status.to_string(),
    };
    Err(Error::Program { program, why })
}
