//! Victims that need what few processors have, in a guest whose processor QEMU executes by software.

use frost_tests::{Scene, Who, guest};
use std::path::Path;
use std::time::Duration;

/// Each victim as root of the guest, plain and in the runtime.
const SCRIPT: &str = r#"#!/bin/sh
/bin/busybox --install -s /bin
export PATH=/bin
if [ ! -e /second ]; then
    # A process whose root is the kernel's first one gets no namespaces of its own.
    mkdir /next
    mount -t tmpfs none /next
    for each in /*; do [ $each = /next ] || cp -a $each /next; done
    touch /next/second
    exec switch_root /next /init
fi
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir /dev/pts /dev/shm
mount -t devpts none /dev/pts
mount -t tmpfs none /dev/shm
exec < /dev/null > /dev/ttyS0 2>&1
ip link set lo up
await() {
    turns=0
    while [ ! -e $1 ] && [ $turns -lt 3000 ]; do
        usleep 20000
        turns=$((turns + 1))
    done
    [ -e $1 ]
}
for how in plain runtime; do
    for name in NAMES; do
        stage=/tmp/$name.$how
        export FROST_HOME=$stage.store
        mkdir $stage
        if [ $how = plain ]; then
            victim $name $stage > $stage/out 2>&1 &
            await $stage/ready && frost freeze $! --to victim && frost thaw victim
        else
            frost run --detach --name victim -- victim $name $stage > /tmp/none
            await $stage/ready && frost freeze victim && frost thaw victim
        fi
        : > $stage/go
        await $stage/result && echo "verdict of $name, $how: $(cat $stage/result)."
        cat $stage/out 2> /tmp/none
    done
done
poweroff -f
"#;

#[test]
fn protection_keys_are_carried() {
    let names = ["keys_of_memory", "keys_of_threads", "keys_execute_only"];
    let Some(scene) = Scene::new(Who::Myself) else { return };
    if !guest::kernel_for(&scene) {
        return;
    }
    let frost = scene.path("bin/frost");
    let programs =
        [&frost, Path::new(env!("CARGO_BIN_EXE_victim"))].map(|path| path.to_str().expect("it is text"));
    guest::first_root(&scene, &programs, &SCRIPT.replace("NAMES", &names.join(" ")));
    let mut qemu = scene.command("qemu-system-x86_64");
    qemu.args(["-m", "1G", "-smp", "2", "-accel", "tcg", "-cpu", "max", "-nographic", "-no-reboot"]);
    qemu.arg("-kernel").arg(scene.path("home/vm/kernel/vmlinuz"));
    qemu.args(["-initrd", "initramfs", "-append", "console=ttyS0 quiet panic=-1"]);
    let told = scene.run(&mut qemu, Duration::from_secs(1200)).ok();
    for name in names {
        for how in ["plain", "runtime"] {
            let wanted = format!("verdict of {name}, {how}: ok.");
            assert!(told.stdout.contains(&wanted), "{wanted}\n{told}");
        }
    }
    assert!(!told.stdout.contains("skipped"), "the guest has what its victims need\n{told}");
}
