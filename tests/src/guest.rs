//! What virtual machines of tests are made of, and the disks that they leave.

use crate::{Scene, output_of, skip};
use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Puts the kernel that `cargo xtask setup` got into a scene's store; or tells what is not there.
pub fn kernel_for(scene: &Scene) -> bool {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let target = std::env::var_os("CARGO_TARGET_DIR").unwrap_or("target".into());
    let from = root.join(target).join("vm-tests/vm");
    let here = |path: &str| Path::new(path).exists();
    let missing: Vec<&str> = [
        (from.join("kernel/vmlinuz").exists(), "a kernel for guests"),
        (here("/usr/bin/qemu-system-x86_64"), "QEMU"),
        (here("/bin/busybox"), "busybox"),
        (here("/usr/sbin/mkfs.ext4"), "e2fsprogs"),
    ]
    .into_iter()
    .filter_map(|(there, what)| (!there).then_some(what))
    .collect();
    if !missing.is_empty() {
        skip(&format!("virtual machines need {}: cargo xtask setup", missing.join(", ")));
        return false;
    }
    copy(scene, &from, &scene.path("home").join("vm"));
    true
}

/// Copies a directory with all in it; what is copied is the scene's user's.
fn copy(scene: &Scene, from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("our own directory");
    scene.give(to);
    for entry in fs::read_dir(from).expect("it was there").flatten() {
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if from.is_dir() {
            copy(scene, &from, &to);
        } else {
            fs::copy(&from, &to).expect("our own directory");
            scene.give(&to);
        }
    }
}

/// Makes a directory fit to be a guest's root: busybox with a shell, and programs of this machine with their libraries.
pub fn root_of(scene: &Scene, programs: &[&str]) -> PathBuf {
    let root = scene.stage("root");
    for directory in ["bin", "etc", "tmp", "dev", "proc", "sys"] {
        fs::create_dir_all(root.join(directory)).expect("our own directory");
    }
    fs::copy("/bin/busybox", root.join("bin/busybox")).expect("busybox can be read");
    std::os::unix::fs::symlink("busybox", root.join("bin/sh")).expect("our own directory");
    for program in programs {
        let libraries = output_of(Command::new("ldd").arg(program));
        let paths = libraries.lines().filter_map(|line| line.split_whitespace().find(|w| w.starts_with('/')));
        for path in paths.chain([*program]) {
            let place = root.join(path.trim_start_matches('/'));
            fs::create_dir_all(place.parent().expect("a path has a parent")).expect("our own directory");
            fs::copy(path, &place).expect("a library can be read");
        }
    }
    fs::set_permissions(&root, Permissions::from_mode(0o755)).expect("our own directory");
    root
}

/// Writes the first root of a guest that somebody else than frost starts, as the file `initramfs` of the stage: what
/// [`root_of`] makes, with links in /bin to the programs, and a script of busybox's shell that the kernel starts.
pub fn first_root(scene: &Scene, programs: &[&str], script: &str) {
    let root = root_of(scene, programs);
    for program in programs {
        let name = Path::new(program).file_name().expect("a program has a name");
        std::os::unix::fs::symlink(program, root.join("bin").join(name)).expect("our own directory");
    }
    fs::write(root.join("init"), script).expect("our own directory");
    fs::set_permissions(root.join("init"), Permissions::from_mode(0o755)).expect("our own file");
    let mut archive = Vec::new();
    pack(&root, Path::new(""), &mut archive);
    node("TRAILER!!!", 0, b"", &mut archive);
    fs::write(scene.stage("initramfs"), archive).expect("our own directory");
    fs::remove_dir_all(root).expect("our own directory");
}

/// Packs what is below `path` in a directory.
fn pack(root: &Path, path: &Path, archive: &mut Vec<u8>) {
    for entry in fs::read_dir(root.join(path)).expect("our own directory").flatten() {
        let path = path.join(entry.file_name());
        let kind = entry.metadata().expect("it was there");
        let content = if kind.is_dir() {
            Vec::new()
        } else if kind.is_symlink() {
            let target = fs::read_link(entry.path()).expect("it was there");
            target.into_os_string().into_encoded_bytes()
        } else {
            fs::read(entry.path()).expect("our own file")
        };
        node(&path.to_string_lossy(), kind.mode(), &content, archive);
        if kind.is_dir() {
            pack(root, &path, archive);
        }
    }
}

/// Adds a file to an archive in the format "newc" (Documentation/driver-api/early-userspace/buffer-format.rst).
fn node(name: &str, mode: u32, content: &[u8], archive: &mut Vec<u8>) {
    let [len, name_len] = [content.len(), name.len() + 1].map(|len| len as u32);
    // Inode, mode, user, group, links, time, length, four numbers of devices, length of the name, no sum.
    let fields = [archive.len() as u32 + 1, mode, 0, 0, 1, 0, len, 0, 0, 0, 0, name_len, 0];
    archive.extend_from_slice(b"070701");
    fields.iter().for_each(|field| archive.extend_from_slice(format!("{field:08X}").as_bytes()));
    for (bytes, end) in [(name.as_bytes(), 1), (content, 0)] {
        archive.extend_from_slice(bytes);
        archive.resize((archive.len() + end).next_multiple_of(4), 0);
    }
}

/// A disk in qcow2, in a range of a file, as far as tests need it.
struct Qcow2 {
    file: File,
    offset: u64,
    bytes: u64,
    clusters: BTreeMap<u64, u64>,
}

const CLUSTER: u64 = 1 << 16;

impl Qcow2 {
    fn open(path: &Path, offset: u64) -> Self {
        let file = File::open(path).unwrap_or_else(|why| panic!("{}: {why}", path.display()));
        let word = |at: u64| {
            let mut bytes = [0; 8];
            file.read_exact_at(&mut bytes, offset + at).expect("the disk is whole");
            u64::from_be_bytes(bytes)
        };
        assert_eq!(word(0) >> 32, 0x5146_49fb, "it is in qcow2");
        let (bytes, first) = (word(24), word(40));
        let entries = word(32) & 0xffff_ffff;
        let address = |word: u64| word & 0x00ff_ffff_ffff_fe00;
        let mut clusters = BTreeMap::new();
        for index in 0..entries {
            let second = address(word(first + index * 8));
            for inner in 0..if second == 0 { 0 } else { CLUSTER / 8 } {
                let entry = word(second + inner * 8);
                // Bit 0: it reads as zeros, whatever is below.
                let data = if entry & 1 == 1 { 0 } else { address(entry) };
                if data != 0 || entry & 1 == 1 {
                    clusters.insert(index * (CLUSTER / 8) + inner, data);
                }
            }
        }
        Self { file, offset, bytes, clusters }
    }

    fn write_to(&self, raw: &File) {
        let mut buffer = vec![0; CLUSTER as usize];
        for (cluster, data) in &self.clusters {
            buffer.fill(0);
            if *data != 0 {
                self.file.read_exact_at(&mut buffer, self.offset + data).expect("the disk is whole");
            }
            let len = (self.bytes - cluster * CLUSTER).min(CLUSTER) as usize;
            raw.write_all_at(&buffer[..len], cluster * CLUSTER).expect("our own directory");
        }
    }
}

/// Puts a disk together that lies in two parts, each a file and where in it, the lower one first.
pub fn disk(parts: [(&Path, u64); 2], raw: &Path) {
    let out = File::create(raw).expect("our own directory");
    for (path, offset) in parts {
        let part = Qcow2::open(path, offset);
        out.set_len(part.bytes).expect("our own directory");
        part.write_to(&out);
    }
}
