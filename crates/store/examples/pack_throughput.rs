//! Commits packs of a given size in turn with plain writing and syncing of as much, and prints both times.
//!
//! `cargo run --release -p frost-store --example pack_throughput -- DIR MIB ROUNDS`
#![allow(clippy::unwrap_used, reason = "a measurement that fails may say so bluntly")]

#[path = "../../image/tests/sample/mod.rs"]
mod sample;

use frost_store::{Instance, Name, OpenOptions, Store, Then};
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

fn main() {
    let arguments: Vec<_> = std::env::args().collect();
    let [_, dir, mib, rounds] = arguments.as_slice() else {
        eprintln!("usage: pack_throughput DIR MIB ROUNDS");
        return;
    };
    let (dir, mib, rounds): (_, usize, u32) = (Path::new(dir), mib.parse().unwrap(), rounds.parse().unwrap());
    let mut noise = vec![0; 16 << 20];
    rustix::rand::getrandom(&mut noise, rustix::rand::GetRandomFlags::empty()).unwrap();
    let store = Store::open(&OpenOptions { root: dir.join("store"), trust_owner: false }).unwrap();
    println!("mib plain_write_us plain_sync_us commit_write_us commit_us");
    for _ in 0..rounds {
        let (plain_write, plain_sync) = plain(&dir.join("plain"), mib, &noise);
        let began = Instant::now();
        let mut draft = store.begin(&Name::new("throughput").unwrap()).unwrap();
        parts(mib, &noise, |part| {
            draft.pack().append(part).unwrap();
        });
        let written = began.elapsed();
        let done = draft.commit(&sample::checkpoint(), Instance::default(), Then::End).unwrap();
        let committed = began.elapsed();
        store.remove_name(&done.id.name).unwrap();
        let us = |time: Duration| time.as_micros();
        print!("{mib} {} {} {} {}", us(plain_write), us(plain_sync), us(written), us(committed));
        done.steps.iter().for_each(|step| print!(" {}={}", step.name, step.us));
        println!();
    }
}

fn plain(path: &Path, mib: usize, noise: &[u8]) -> (Duration, Duration) {
    let began = Instant::now();
    let mut file = std::fs::File::create(path).unwrap();
    parts(mib, noise, |part| file.write_all(part).unwrap());
    let written = began.elapsed();
    file.sync_all().unwrap();
    let synced = began.elapsed();
    std::fs::remove_file(path).unwrap();
    (written, synced)
}

/// Hands over `mib` MiB in parts of at most 1 MiB.
fn parts(mib: usize, noise: &[u8], each: impl FnMut(&[u8])) {
    noise.chunks(1 << 20).cycle().take(mib).for_each(each);
}
