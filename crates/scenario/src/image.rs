//! A frozen scenario: its documents and their versions, in one file. All else a scenario can make anew.
//!
//! The file is: 16 bytes of magic, a CBOR record, the BLAKE3 of all before. It is written whole beside the last one, synced, and
//! renamed over it.

use crate::control::Replacement;
use crate::document::Documents;
use crate::scenario::Label;
use frost_component::Content;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

const MAGIC: &[u8; 16] = b"frost-scenario-1";
const DIGEST_BYTES: usize = 32;

/// The name of the file in a scenario's directory.
pub(crate) const IMAGE: &str = "image";

/// What is kept.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Image {
    pub(crate) name: String,
    /// Where its file was.
    pub(crate) file: PathBuf,
    /// What it said, for those who look.
    pub(crate) text: String,
    /// Components that were replaced by what the file does not name.
    #[serde(default)]
    pub(crate) replaced: BTreeMap<String, Replacement>,
    documents: Vec<Kept>,
    /// Programs that were frozen with it, by their names: image and version.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) members: BTreeMap<String, String>,
    /// When it was made, in seconds since 1970; 0 in older ones.
    #[serde(default)]
    created: i64,
}

#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    writer: String,
    report: String,
    version: u64,
    is_live: bool,
    content: Option<ByteBuf>,
}

impl Image {
    /// Makes one of all documents.
    pub(crate) fn new(name: &str, file: &Path, text: &str, documents: &Documents) -> Self {
        let documents = documents
            .iter()
            .map(|(label, document)| Kept {
                writer: label.writer.clone(),
                report: label.report.clone(),
                version: document.version,
                is_live: document.is_live,
                content: document.content.as_deref().map(|bytes| ByteBuf::from(bytes.to_vec())),
            })
            .collect();
        let (name, text) = (name.to_owned(), text.to_owned());
        Self {
            name,
            file: file.to_owned(),
            text,
            replaced: BTreeMap::new(),
            documents,
            members: BTreeMap::new(),
            created: rustix::time::clock_gettime(rustix::time::ClockId::Realtime).tv_sec,
        }
    }

    /// Puts a newer version of a document in, which was not seen by readers yet.
    pub(crate) fn put(&mut self, label: &Label, version: u64, content: &Content) {
        let is_it = |kept: &&mut Kept| kept.writer == label.writer && kept.report == label.report;
        let bytes = ByteBuf::from(content.to_vec());
        match self.documents.iter_mut().find(is_it) {
            Some(kept) => (kept.version, kept.content) = (version, Some(bytes)),
            None => self.documents.push(Kept {
                writer: label.writer.clone(),
                report: label.report.clone(),
                version,
                is_live: true,
                content: Some(bytes),
            }),
        }
    }

    /// When it was made, in seconds since 1970, if it tells.
    pub(crate) fn created(&self) -> Option<i64> {
        Some(self.created).filter(|created| *created != 0)
    }

    /// Returns all documents: each with its version, and what it said.
    pub(crate) fn documents(&self) -> impl Iterator<Item = (Label, u64, Option<&[u8]>)> {
        self.documents.iter().map(|kept| {
            let bytes = kept.content.as_ref().map(|bytes| &bytes[..]);
            (Label::new(&kept.writer, &kept.report), kept.version, bytes)
        })
    }

    /// Gives all documents back. Those of components have no writer yet; the scenario's own are as they were.
    pub(crate) fn restore(&self, documents: &mut Documents) -> io::Result<()> {
        for kept in &self.documents {
            let label = Label::parse(&format!("{}/{}", kept.writer, kept.report))
                .ok_or_else(|| io::Error::other("a document in it has no name"))?;
            let is_own = label.is_own() && kept.is_live;
            let content = kept.content.as_ref().map(|bytes| Content::new(bytes)).transpose()?;
            documents.restore(label.clone(), kept.version, content);
            if is_own {
                documents.revive(&label);
            }
        }
        Ok(())
    }

    /// Returns how many documents it has.
    pub(crate) fn len(&self) -> usize {
        self.documents.len()
    }

    /// Returns it as it is on disk.
    pub(crate) fn encode(&self) -> io::Result<Vec<u8>> {
        let mut bytes = MAGIC.to_vec();
        ciborium::into_writer(self, &mut bytes).map_err(io::Error::other)?;
        bytes.extend_from_slice(blake3::hash(&bytes).as_bytes());
        Ok(bytes)
    }

    /// Writes it into a scenario's directory, and returns its length in bytes. It survives a loss of power then.
    pub(crate) fn write(&self, home: &Path) -> io::Result<u64> {
        let bytes = self.encode()?;
        let draft = home.join(".image");
        let mut file = std::fs::OpenOptions::new();
        file.write(true).create(true).truncate(true);
        // It holds what the components know.
        std::os::unix::fs::OpenOptionsExt::mode(&mut file, 0o600);
        let mut file = file.open(&draft)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        std::fs::rename(&draft, home.join(IMAGE))?;
        std::fs::File::open(home)?.sync_all()?;
        crate::vault::sync_names(home)?;
        Ok(bytes.len() as u64)
    }

    /// Reads the image of a scenario, and verifies it.
    pub(crate) fn read(home: &Path) -> io::Result<Self> {
        Self::decode(&std::fs::read(home.join(IMAGE))?)
            .map_err(|why| io::Error::new(io::ErrorKind::InvalidData, why))
    }

    /// Reads one, and verifies it.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, String> {
        let end = bytes.len().checked_sub(DIGEST_BYTES).ok_or("it is too short")?;
        let record =
            bytes[..end].strip_prefix(MAGIC).ok_or("it is no image of a scenario, or of a newer format")?;
        if blake3::hash(&bytes[..end]).as_bytes() != &bytes[end..] {
            return Err("it is damaged: its digest is another".to_owned());
        }
        ciborium::from_reader(record).map_err(|error| format!("it contradicts itself: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_gives_back_what_it_took_and_no_damage_is_overlooked() {
        let (mut documents, label) = (Documents::default(), Label::new("a", "b"));
        documents.replace(&label, Content::new(b"one").unwrap());
        documents.replace(&label, Content::new(b"two").unwrap());
        let image = Image::new("s", Path::new("/s.toml"), "", &documents);
        let place = tempfile::tempdir().unwrap();
        let length = image.write(place.path()).unwrap();
        let mut back = Documents::default();
        Image::read(place.path()).unwrap().restore(&mut back).unwrap();
        let document = back.get(&label);
        assert_eq!(
            (document.version, document.content.as_deref(), document.is_live),
            (2, Some(&b"two"[..]), false)
        );
        let bytes = std::fs::read(place.path().join(IMAGE)).unwrap();
        assert_eq!(bytes.len() as u64, length);
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert!(Image::decode(&damaged).is_err(), "{at}");
            assert!(Image::decode(&bytes[..at]).is_err(), "{at}");
        }
    }
}
