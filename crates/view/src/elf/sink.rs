//! Where a core is written to.

use std::fs::File;
use std::io::{self, BufWriter, Seek, SeekFrom, Write};

/// Takes a core from its first byte to its last.
pub trait Sink {
    /// Takes bytes.
    ///
    /// # Errors
    /// Those of writing.
    fn bytes(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Takes so many zeros.
    ///
    /// # Errors
    /// Those of writing.
    fn hole(&mut self, len_bytes: u64) -> io::Result<()>;

    /// Is told that no more comes.
    ///
    /// # Errors
    /// Those of writing.
    fn finish(&mut self) -> io::Result<()>;
}

/// A file, in which zeros become holes.
#[derive(Debug)]
pub struct FileSink<'a> {
    file: &'a mut File,
    end: u64,
}

impl<'a> FileSink<'a> {
    /// Writes to an empty file, from its start.
    pub fn new(file: &'a mut File) -> Self {
        Self { file, end: 0 }
    }
}

impl Sink for FileSink<'_> {
    fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.end += bytes.len() as u64;
        self.file.write_all(bytes)
    }

    fn hole(&mut self, len_bytes: u64) -> io::Result<()> {
        self.end += len_bytes;
        self.file.seek(SeekFrom::Start(self.end)).map(|_| ())
    }

    fn finish(&mut self) -> io::Result<()> {
        // A hole at the end is not there until the file is that long.
        self.file.set_len(self.end)
    }
}

/// A pipe or any other stream, which has no holes.
#[derive(Debug)]
pub struct StreamSink<W: Write> {
    out: BufWriter<W>,
}

impl<W: Write> StreamSink<W> {
    /// Writes to a stream.
    pub fn new(out: W) -> Self {
        Self { out: BufWriter::new(out) }
    }
}

impl<W: Write> Sink for StreamSink<W> {
    fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)
    }

    fn hole(&mut self, len_bytes: u64) -> io::Result<()> {
        io::copy(&mut io::Read::take(io::repeat(0), len_bytes), &mut self.out).map(|_| ())
    }

    fn finish(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
