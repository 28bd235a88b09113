//! What virtual machines of tests are made of, and the disks that they leave; and tests that run in one.

use crate::{Scene, Stdio, frost_binary, output_of, skip, try_output_of};
use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Puts the kernel that `cargo xtask setup` got into a scene's store; or tells what is not there.
pub fn kernel_for(scene: &Scene) -> bool {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let target = std::env::var_os("CARGO_TARGET_DIR").unwrap_or("target".into());
    let from = root.join(target).join("vm-tests/vm");
    let here = |path: &str| Path::new(path).exists();
    let missing: Vec<&str> = [
        (from.join("kernel/vmlinuz").exists(), "a kernel for guests"),
        (here("/usr/bin/qemu-system-x86_64"), "QEMU"),
        (is_static("/bin/busybox"), "a static busybox"),
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

/// Whether there is a program that needs no library.
fn is_static(program: &str) -> bool {
    // It fails for one that has no loader.
    Path::new(program).exists()
        && Command::new("ldd").arg(program).output().is_ok_and(|told| !told.stdout.contains(&b'/'))
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
        let place = root.join(program.trim_start_matches('/'));
        fs::create_dir_all(place.parent().expect("a path has a parent")).expect("our own directory");
        fs::copy(program, &place).expect("a program can be read");
        libraries_of(Path::new(program), &root);
    }
    fs::set_permissions(&root, Permissions::from_mode(0o755)).expect("our own directory");
    root
}

/// Copies the libraries that a program needs, to where they are here.
fn libraries_of(program: &Path, root: &Path) {
    let libraries = output_of(Command::new("ldd").arg(program));
    for path in libraries.lines().filter_map(|line| line.split_whitespace().find(|w| w.starts_with('/'))) {
        let place = root.join(path.trim_start_matches('/'));
        fs::create_dir_all(place.parent().expect("a path has a parent")).expect("our own directory");
        fs::copy(path, &place).expect("a library can be read");
    }
}

/// Packs a root, with a script of busybox's shell that the kernel starts, as the file `initramfs` of the stage.
pub fn first_root(scene: &Scene, root: &Path, script: &str) {
    fs::write(root.join("init"), script).expect("our own directory");
    fs::set_permissions(root.join("init"), Permissions::from_mode(0o755)).expect("our own file");
    let pack = "find . | busybox cpio -o -H newc > \"$0\"";
    output_of(Command::new("sh").args(["-c", pack]).arg(scene.stage("initramfs")).current_dir(root));
}

/// Runs tests of this process once more, those that `arguments` choose, as root of a machine of its own, and returns what they
/// say. They find `programs` where those are here.
///
/// The machine has the kernel of [`kernel_for`], busybox, and its files in memory; `init` is done first, by a shell. It is an
/// emulation that knows all that QEMU knows of processors, unlike those of `frost run --vm`: frost needs XSAVE in there. Its
/// clock counts instructions, so that a busy host makes no wait in there longer.
///
/// # Panics
/// If the machine does not start, or does not end.
pub fn test_in_a_guest(scene: &Scene, init: &str, arguments: &str, programs: &[&str]) -> String {
    /// Only a hang of its kernel reaches it.
    const HANGS: Duration = Duration::from_secs(3600);
    // The shell of busybox has a setpriv of its own, which it prefers, and which knows less.
    let root = root_of(scene, &[&["/usr/bin/setpriv", "/usr/bin/sh"], programs].concat());
    let tests = std::env::current_exe().expect("a process has a program");
    for (program, name) in [(tests.as_path(), "tests"), (frost_binary(), "frost")] {
        let place = root.join(name);
        fs::copy(program, &place).expect("it can be read");
        libraries_of(program, &root);
        // They have debugging information, ten times as long; it does no harm.
        let _stripped = try_output_of(Command::new("strip").arg(&place));
    }
    let script = format!(
        "#!/bin/sh
/bin/busybox --install -s /bin
export PATH=/usr/bin:/bin FROST_BIN=/frost
mount -t devtmpfs none /dev; mkdir -p /dev/pts /dev/shm; mount -t devpts none /dev/pts; mount -t tmpfs none /dev/shm
mount -t proc none /proc; mount -t sysfs none /sys; chmod 1777 /tmp /dev/shm
exec > /dev/ttyS0 2>&1 < /dev/null
{init}
/tests {arguments}
poweroff -f
"
    );
    first_root(scene, &root, &script);
    let mut qemu = scene.command("qemu-system-x86_64");
    qemu.args(["-M", "q35", "-m", "1G", "-accel", "tcg", "-cpu", "max", "-icount", "shift=1,sleep=off"]);
    qemu.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-initrd", "initramfs"]);
    qemu.args(["-append", "console=ttyS0 quiet panic=-1", "-serial", "file:serial"]);
    qemu.arg("-kernel").arg(scene.path("home").join("vm/kernel/vmlinuz"));
    let ended = scene.start(&mut qemu, Stdio::Files).wait("the machine", HANGS);
    let told = fs::read(scene.stage("serial")).unwrap_or_default();
    let told = String::from_utf8_lossy(&told).replace('\r', "");
    assert!(
        ended.success(),
        "QEMU: {ended}, {}\n{told}",
        fs::read_to_string(scene.stage("err")).unwrap_or_default()
    );
    told
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
