//! The files of a virtual machine that runs, in the directory of its instance.
//!
//! ```text
//! <store>/instances/<name>/machine/memory       its memory, until it is frozen and this is an image's pack
//! <store>/instances/<name>/machine/initramfs    what it was booted from
//! <store>/instances/<name>/machine/base         what its disk began with, in qcow2, if that is a directory of this machine's
//! <store>/instances/<name>/machine/layer.N      what it wrote to its Nth disk
//! <store>/instances/<name>/machine/console      its kernel's messages; console.qemu: QEMU's
//! ```

use crate::error::{Error, Result};
use frost_runtime::instance::Instance;
use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// So many lines of a console tell why a guest did not boot.
const LINES: usize = 8;

/// The directory of a virtual machine that runs.
#[derive(Clone, Debug)]
pub struct Place {
    path: PathBuf,
}

impl Place {
    /// Makes it anew, empty.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn new(instance: &Instance) -> Result<Self> {
        // Its keeper lives in another working directory.
        let path = std::path::absolute(instance.path()).map_err(Error::file(instance.path()))?;
        let place = Self { path: path.join("machine") };
        place.clear();
        fs::DirBuilder::new().mode(0o700).create(&place.path).map_err(Error::file(&place.path))?;
        Ok(place)
    }

    /// Removes all of it but the console, which tells how it ended.
    pub fn clear(&self) {
        for entry in fs::read_dir(&self.path).into_iter().flatten().flatten() {
            let _ = fs::remove_file(entry.path());
        }
        let _ = fs::remove_dir(&self.path);
    }

    /// Removes what is of no more use: all but the console, and the disks unless an image has them.
    pub(crate) fn clear_data(&self, disks_too: bool) {
        for entry in fs::read_dir(&self.path).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let disk = name == "base" || name.starts_with("layer.");
            if !name.starts_with("console") && (disks_too || !disk) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    pub(crate) fn memory(&self) -> PathBuf {
        self.file("memory")
    }

    pub(crate) fn initramfs(&self) -> PathBuf {
        self.file("initramfs")
    }

    pub(crate) fn base(&self) -> PathBuf {
        self.file("base")
    }

    pub(crate) fn layer(&self, index: usize) -> PathBuf {
        self.file(&format!("layer.{index}"))
    }

    pub(crate) fn console(&self) -> PathBuf {
        self.file("console")
    }

    /// The last lines that its kernel wrote, without what only a terminal understands.
    pub(crate) fn last_console_lines(&self) -> String {
        let text = crate::qemu::tail(&self.console(), 4096).unwrap_or_default();
        let clean: String = text
            .chars()
            .filter(|c| !c.is_control() || *c == '\n')
            .map(|c| if c.is_ascii() { c } else { '?' })
            .collect();
        let lines: Vec<&str> = clean.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
        // A panic is told in its first line; what follows is for those who know that kernel.
        let panic = lines.iter().rposition(|line| line.contains("Kernel panic"));
        let first = panic.unwrap_or(lines.len().saturating_sub(LINES));
        lines[first..].iter().take(LINES).copied().collect::<Vec<&str>>().join("\n")
    }

    /// Returns its path.
    pub fn path(&self) -> &Path {
        &self.path
    }
}
