//! Why an image cannot be read.

use frost_model::Malformed;

/// Why bytes are not an image that can be used here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// It does not begin as an image does.
    #[error("this is not an image: it does not begin with the bytes of one")]
    NotAnImage,
    /// It was written by a later version of frost.
    #[error("the image has format version {found}, and this frost reads versions up to {known}")]
    TooNew {
        /// The version of its format.
        found: u32,
        /// The newest that is known here.
        known: u32,
    },
    /// It uses what this version does not know, and cannot be read without.
    #[error("the image needs features that this frost does not know (bits {bits:#x})")]
    UnknownFeatures {
        /// The unknown bits.
        bits: u64,
    },
    /// It is of a program for another processor.
    #[error("the image is of a program for {found}, and this machine is {host}")]
    OtherArchitecture {
        /// The architecture of the image.
        found: String,
        /// The architecture here.
        host: String,
    },
    /// It ends before its end.
    #[error("the {what} is cut short: it has {found_bytes} of {expected_bytes} bytes")]
    CutShort {
        /// Which part: `header`, `manifest`, ...
        what: &'static str,
        /// The length it should have.
        expected_bytes: u64,
        /// The length it has.
        found_bytes: u64,
    },
    /// Bytes were changed.
    #[error("the {what} is damaged: {why}")]
    Damaged {
        /// Which part: `header`, `manifest`, ...
        what: &'static str,
        /// How it shows.
        why: String,
    },
    /// The bytes are as they were written, but what they say cannot be.
    #[error("the image contradicts itself: {malformed}")]
    Malformed {
        /// The claim that does not hold.
        malformed: Malformed,
    },
    /// A part is larger than any that this version would write.
    #[error("the {what} claims {found_bytes} bytes, and {limit_bytes} is the limit")]
    TooLarge {
        /// Which part.
        what: &'static str,
        /// The length it claims.
        found_bytes: u64,
        /// The greatest that is accepted.
        limit_bytes: u64,
    },
}

impl Error {
    pub(crate) fn damaged(what: &'static str, why: impl Into<String>) -> Self {
        Self::Damaged { what, why: why.into() }
    }
}

impl From<Malformed> for Error {
    fn from(malformed: Malformed) -> Self {
        Self::Malformed { malformed }
    }
}
