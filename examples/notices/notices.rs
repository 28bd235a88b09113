//! Compile it by `rustc --edition 2024 notices.rs`, and run it as `frost run --notices -- ./notices`.
use std::io::{BufRead, BufReader, Write};
use std::os::{fd::FromRawFd, unix::net::UnixStream};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // SAFETY: frost gave us the descriptor, and nobody else here uses it.
    let mut notices = unsafe { UnixStream::from_raw_fd(std::env::var("FROST_NOTICES")?.parse()?) };
    notices.write_all(b"freezing\nthawed\n")?;
    println!("asked");
    for line in BufReader::new(notices.try_clone()?).lines() {
        let line = line?;
        println!("{line}");
        if line.starts_with("freezing") {
            // Here the program becomes quiet: ends transactions, closes connections.
            notices.write_all(b"ready\n")?;
        }
    }
    Ok(())
}
