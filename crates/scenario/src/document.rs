//! The documents of a scenario: each with its version, its content, and whether its writer is there.

use crate::scenario::Label;
use frost_component::Content;
use std::collections::BTreeMap;

/// One document.
#[derive(Clone, Debug, Default)]
pub(crate) struct Document {
    /// How many reports there have been; 0 if there was none.
    pub(crate) version: u64,
    /// The last report.
    pub(crate) content: Option<Content>,
    /// Its writer's session is open. If not, only those see the report whose route says that it stays.
    pub(crate) is_live: bool,
}

impl Document {
    /// Returns what a reader sees.
    pub(crate) fn seen(&self, sticky: bool) -> Option<&Content> {
        self.content.as_ref().filter(|_| self.is_live || sticky)
    }
}

/// All documents, by label.
#[derive(Debug, Default)]
pub(crate) struct Documents(BTreeMap<Label, Document>);

impl Documents {
    /// Returns a document; one that nobody has written is empty.
    pub(crate) fn get(&self, label: &Label) -> Document {
        self.0.get(label).cloned().unwrap_or_default()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Label, &Document)> {
        self.0.iter()
    }

    /// Returns how many documents a component has written.
    pub(crate) fn written_by(&self, writer: &str) -> usize {
        self.0.range(Label::new(writer, "")..).take_while(|(label, _)| label.writer == writer).count()
    }

    /// Replaces a document, and returns its version.
    pub(crate) fn replace(&mut self, label: &Label, content: Content) -> u64 {
        let document = self.0.entry(label.clone()).or_default();
        document.version += 1;
        document.content = Some(content);
        document.is_live = true;
        document.version
    }

    /// Puts back what was kept; its writer is not there yet.
    pub(crate) fn restore(&mut self, label: Label, version: u64, content: Option<Content>) {
        self.0.insert(label, Document { version, content, is_live: false });
    }

    /// Says that its writer is there.
    pub(crate) fn revive(&mut self, label: &Label) {
        if let Some(document) = self.0.get_mut(label) {
            document.is_live = true;
        }
    }

    /// Clears a document, in silence: its writer's session has ended.
    pub(crate) fn clear(&mut self, label: &Label) {
        if let Some(document) = self.0.get_mut(label) {
            document.is_live = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_goes_with_its_writer_unless_it_is_sticky() {
        let (mut documents, label) = (Documents::default(), Label::new("a", "b"));
        assert_eq!(documents.get(&label).version, 0);
        assert_eq!(documents.replace(&label, Content::new(b"one").unwrap()), 1);
        assert_eq!(documents.replace(&label, Content::new(b"two").unwrap()), 2);
        documents.clear(&label);
        let document = documents.get(&label);
        assert_eq!(document.version, 2);
        assert!(document.seen(false).is_none());
        assert_eq!(&**document.seen(true).unwrap(), b"two");
        assert_eq!(documents.replace(&label, Content::new(b"three").unwrap()), 3);
        assert_eq!(&**documents.get(&label).seen(false).unwrap(), b"three");
    }
}
