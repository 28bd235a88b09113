//! The kernel of guests: an image, and those of its modules that a guest of ours needs.
//!
//! `<store>/vm/kernel` holds what `frost vm setup` unpacked: `vmlinuz`, and `modules/NAME.ko`.

use crate::error::{Error, Result};
use crate::program;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The modules that devices of ours want. Some of them are built in, or not there at all, in other kernels; what another
/// one needs is found by the guest's init, which tries until nothing more can be loaded.
const MODULES: [&str; 14] = [
    "virtio",
    "virtio_ring",
    "virtio_pci_legacy_dev",
    "virtio_pci_modern_dev",
    "virtio_pci",
    "virtio_blk",
    "virtio_console",
    "failover",
    "net_failover",
    "virtio_net",
    "crc32c_generic",
    "crc16",
    "mbcache",
    "ext4",
];
/// ext4 needs its journal's module where neither is built in.
const JOURNAL: &str = "jbd2";

/// The package that always depends on Debian's newest kernel for virtual machines.
const PACKAGE: &str = "linux-image-cloud-amd64";

/// A kernel that guests can be booted with.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// The bzImage.
    pub image: PathBuf,
    /// Its modules, with their names.
    pub modules: Vec<(String, PathBuf)>,
}

/// Returns where the kernel of a store lies.
pub fn place(store: &Path) -> PathBuf {
    store.join("vm/kernel")
}

/// Finds the kernel that was set up in a store.
///
/// # Errors
/// [`Error::NoKernel`].
pub fn installed(store: &Path) -> Result<Kernel> {
    let path = place(store);
    let image = path.join("vmlinuz");
    if !image.exists() {
        return Err(Error::NoKernel { path });
    }
    let modules = path.join("modules");
    Ok(Kernel { image, modules: in_directory(&modules)? })
}

fn in_directory(path: &Path) -> Result<Vec<(String, PathBuf)>> {
    let mut modules = Vec::new();
    for entry in fs::read_dir(path).map_err(Error::file(path))?.flatten() {
        if let Some(name) = module_name(&entry.path()) {
            modules.push((name, entry.path()));
        }
    }
    modules.sort();
    Ok(modules)
}

/// The name of a module by its file: `virtio-rng.ko.xz` is `virtio_rng`.
fn module_name(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?;
    let name =
        ["", ".xz", ".zst", ".gz"].into_iter().find_map(|end| name.strip_suffix(&format!(".ko{end}")))?;
    Some(name.replace('-', "_"))
}

/// Takes a kernel of the user's: its modules are beside it in `modules`, or where the system has those of its release,
/// as `/lib/modules/6.1.0` for `/boot/vmlinuz-6.1.0`.
///
/// # Errors
/// [`Error::BadKernel`] if it is none; [`Error::File`].
pub fn given(image: &Path) -> Result<Kernel> {
    let bad = |why: &str| Error::BadKernel { path: image.to_owned(), why: why.to_owned() };
    let bytes = fs::read(image).map_err(Error::file(image))?;
    let release =
        release(&bytes).ok_or_else(|| bad("it is no bzImage, the form in which Linux is installed"))?;
    let directory = image.parent().filter(|path| !path.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let beside = directory.join("modules");
    if beside.is_dir() {
        return Ok(Kernel { image: image.to_owned(), modules: in_directory(&beside)? });
    }
    let roots =
        [directory.join("../lib/modules"), directory.join("lib/modules"), PathBuf::from("/lib/modules")];
    let tree = roots.iter().map(|root| root.join(&release)).find(|path| path.is_dir());
    // A kernel that has all it needs built in needs no modules; one that does not is told by its console.
    let modules = tree.map(|tree| in_tree(&tree)).unwrap_or_default();
    if let Some((_, packed)) =
        modules.iter().find(|(_, path)| path.extension().is_some_and(|end| end != "ko"))
    {
        return Err(bad(&format!(
            "its modules are compressed, as {}: unpack those into a directory `modules` beside it",
            packed.display()
        )));
    }
    Ok(Kernel { image: image.to_owned(), modules })
}

/// The release in a bzImage; `None` if it is none. Source: `Documentation/arch/x86/boot.rst`: at 0x202 a magic word, at
/// 0x20e where, less 0x200, a text with the version begins.
fn release(bytes: &[u8]) -> Option<String> {
    if bytes.get(0x202..0x206)? != b"HdrS" {
        return None;
    }
    let at = usize::from(u16::from_le_bytes(bytes.get(0x20e..0x210)?.try_into().ok()?)) + 0x200;
    let text = bytes.get(at..)?.split(|byte| *byte == 0 || *byte == b' ').next()?;
    Some(String::from_utf8_lossy(text).into_owned())
}

/// Finds the modules that are needed below a directory of all of them.
fn in_tree(tree: &Path) -> Vec<(String, PathBuf)> {
    let mut found = Vec::new();
    let mut directories = vec![tree.to_owned()];
    while let Some(directory) = directories.pop() {
        let Ok(entries) = fs::read_dir(&directory) else { continue };
        for entry in entries.flatten() {
            let path = entry.path();
            // Links lead to the sources of the kernel.
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                directories.push(path);
            } else if let Some(name) = module_name(&path)
                && (MODULES.contains(&name.as_str()) || name == JOURNAL)
            {
                found.push((name, path));
            }
        }
    }
    found.sort();
    found
}

/// What a set-up did.
#[derive(Clone, Debug)]
pub struct Installed {
    /// The package, or the file.
    pub source: String,
    /// The kernel's release.
    pub release: String,
    /// How many modules were taken.
    pub modules: usize,
}

/// Puts a kernel into a store: that of a Debian package, which is a file, or is downloaded by apt. `say` hears each step
/// before it is done.
///
/// # Errors
/// [`Error::NoProgram`] where there is no apt or dpkg; [`Error::Program`] if one of them fails; [`Error::File`].
pub fn install(store: &Path, package: Option<&Path>, say: &mut dyn FnMut(&str)) -> Result<Installed> {
    let target = place(store);
    let parent = target.parent().unwrap_or(store);
    fs::create_dir_all(parent).map_err(Error::file(parent))?;
    // Beside its place, so that a rename is enough, and what an unfinished set-up left is replaced by the next.
    let work = parent.join("kernel.new");
    let _ = fs::remove_dir_all(&work);
    let unpacked = work.join("unpacked");
    fs::create_dir_all(&unpacked).map_err(Error::file(&unpacked))?;
    let outcome = (|| {
        let package = match package {
            Some(package) => fs::canonicalize(package).map_err(Error::file(package))?,
            None => download(&work, say)?,
        };
        say(&format!("unpacking {}", package.display()));
        let mut command = Command::new("dpkg-deb");
        command.arg("-x").arg(&package).arg(&unpacked);
        program::run(&mut command, "unpacks Debian's packages", "dpkg")?;
        let bad = |why: &str| Error::BadKernel { path: package.clone(), why: why.to_owned() };
        let boot = unpacked.join("boot");
        let images = fs::read_dir(&boot).map_err(|_| bad("it holds no /boot"))?;
        let image = images
            .flatten()
            .map(|entry| entry.path())
            .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz")))
            .ok_or_else(|| bad("it holds no /boot/vmlinuz"))?;
        let bytes = fs::read(&image).map_err(Error::file(&image))?;
        let release = release(&bytes).ok_or_else(|| bad("its /boot/vmlinuz is no kernel"))?;
        let trees = [unpacked.join("lib/modules"), unpacked.join("usr/lib/modules")];
        let found = trees.iter().map(|tree| in_tree(&tree.join(&release))).find(|found| !found.is_empty());
        let found = found.ok_or_else(|| bad("it holds no modules for virtual devices"))?;
        let modules = work.join("modules");
        fs::create_dir(&modules).map_err(Error::file(&modules))?;
        for (name, path) in &found {
            unpack_module(path, &modules.join(format!("{name}.ko")))?;
        }
        fs::rename(&image, work.join("vmlinuz")).map_err(Error::file(&image))?;
        fs::remove_dir_all(&unpacked).map_err(Error::file(&unpacked))?;
        if package.starts_with(&work) {
            fs::remove_file(&package).map_err(Error::file(&package))?;
        }
        let _ = fs::remove_dir_all(&target);
        fs::rename(&work, &target).map_err(Error::file(&target))?;
        let source = package.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Installed { source, release, modules: found.len() })
    })();
    if outcome.is_err() {
        let _ = fs::remove_dir_all(&work);
    }
    outcome
}

/// Downloads the newest kernel for virtual machines, and returns its package.
fn download(work: &Path, say: &mut dyn FnMut(&str)) -> Result<PathBuf> {
    let purpose = "downloads Debian's packages (elsewhere: --kernel, or --package FILE)";
    let mut depends = Command::new("apt-cache");
    depends.args(["depends", PACKAGE]);
    let text = program::run(&mut depends, purpose, "apt")?;
    let name = text
        .lines()
        .find_map(|line| line.trim().strip_prefix("Depends: "))
        .filter(|name| name.starts_with("linux-image-"))
        .ok_or_else(|| Error::Program {
            program: "apt-cache".to_owned(),
            why: format!("it knows no package {PACKAGE}; `apt-get update` reads the list of packages"),
        })?;
    say(&format!("downloading {name} by apt-get"));
    let mut get = Command::new("apt-get");
    get.args(["-q", "download", name]).current_dir(work);
    program::run(&mut get, purpose, "apt")?;
    let files = fs::read_dir(work).map_err(Error::file(work))?;
    let package = files
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|end| end == "deb"));
    package.ok_or_else(|| Error::Program {
        program: "apt-get".to_owned(),
        why: "it downloaded nothing".to_owned(),
    })
}

/// Copies a module, uncompressed.
fn unpack_module(from: &Path, to: &Path) -> Result<()> {
    let (tool, package) = match from.extension().and_then(|end| end.to_str()) {
        Some("xz") => ("xz", "xz-utils"),
        Some("zst") => ("zstd", "zstd"),
        Some("gz") => ("gzip", "gzip"),
        _ => return fs::copy(from, to).map(drop).map_err(Error::file(to)),
    };
    let out = fs::File::create(to).map_err(Error::file(to))?;
    let mut command = Command::new(tool);
    command.arg("-dc").arg(from).stdout(out);
    program::run_to(&mut command, "unpacks the kernel's modules", package)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_have_one_name_however_their_files_are_written() {
        let name = |path: &str| module_name(Path::new(path));
        assert_eq!(name("/x/virtio-rng.ko").as_deref(), Some("virtio_rng"));
        assert_eq!(name("virtio_net.ko.xz").as_deref(), Some("virtio_net"));
        assert_eq!(name("modules.dep"), None);
    }

    #[test]
    fn a_file_that_is_no_kernel_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("vmlinuz");
        fs::write(&path, vec![0; 4096]).unwrap();
        assert!(matches!(given(&path).unwrap_err(), Error::BadKernel { .. }));
        let mut image = vec![0; 4096];
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x20e] = 0x00;
        image[0x20f] = 0x01;
        image[0x300..0x30a].copy_from_slice(b"6.1.0-x #1");
        assert_eq!(release(&image).as_deref(), Some("6.1.0-x"));
    }
}
