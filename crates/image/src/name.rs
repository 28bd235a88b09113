//! What images are called.

use std::fmt;
use std::str::FromStr;

/// The name of an instance: 1 to 64 of `A-Z a-z 0-9 . _ -`, beginning with none of `.` and `-`, and not a number.
///
/// It is a safe file name by construction. A number is a pid wherever a name can stand.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(String);

/// Why a text is no name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// It has no characters, or too many.
    #[error("a name has 1 to {max} characters, not {found}")]
    Length {
        /// How many it has.
        found: usize,
        /// How many it may have.
        max: usize,
    },
    /// It has a character that names do not have.
    #[error("a name is made of letters, digits, `.`, `_` and `-`, and has no {found:?}")]
    Character {
        /// The character.
        found: char,
    },
    /// It begins with `.` or `-`.
    #[error("a name does not begin with {found:?}")]
    Start {
        /// How it begins.
        found: char,
    },
    /// It has digits only.
    #[error("digits alone are a process id, not a name")]
    Number,
    /// What stands behind the `@` is not a version.
    #[error("a version is a number from 1 on, written as in `web@2`, not {found:?}")]
    Version {
        /// What stands there.
        found: String,
    },
}

impl Name {
    /// The longest a name may be, in bytes.
    pub const MAX_BYTES: usize = 64;

    /// Checks `text` and makes it a name.
    ///
    /// # Errors
    /// [`NameError`] says which rule it breaks.
    pub fn new(text: &str) -> Result<Self, NameError> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if text.is_empty() || text.len() > Self::MAX_BYTES {
            return Err(NameError::Length { found: text.chars().count(), max: Self::MAX_BYTES });
        }
        if let Some(found) = text.chars().find(|c| !allowed(*c)) {
            return Err(NameError::Character { found });
        }
        if let Some(found) = text.chars().next().filter(|c| matches!(c, '.' | '-')) {
            return Err(NameError::Start { found });
        }
        if text.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(NameError::Number);
        }
        Ok(Self(text.to_owned()))
    }

    /// Makes a name of any text, such as the command of a process: other characters become `-`.
    ///
    /// The result is `program` if nothing remains, and begins with `p` if it would be a number.
    pub fn from_command(command: &[u8]) -> Self {
        let kept = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        let mut text: String =
            command.iter().map(|byte| if kept(byte) { char::from(*byte) } else { '-' }).collect();
        text.truncate(Self::MAX_BYTES - 1);
        let trimmed = text.trim_matches(|c| matches!(c, '.' | '-'));
        let text = match trimmed {
            "" => "program".to_owned(),
            digits if digits.bytes().all(|byte| byte.is_ascii_digit()) => format!("p{digits}"),
            other => other.to_owned(),
        };
        Self(text)
    }

    /// Returns it as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::new(text)
    }
}

/// One image: a version of a name, written `web@3`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageId {
    /// The name of the instance.
    pub name: Name,
    /// The version, from 1 on.
    pub version: u32,
}

impl ImageId {
    /// Splits `web@3` into a name and a version, and `web` into a name and `None`.
    ///
    /// # Errors
    /// [`NameError`] if the name breaks a rule, or if the version is no number from 1 on.
    pub fn parse_spec(spec: &str) -> Result<(Name, Option<u32>), NameError> {
        match spec.split_once('@') {
            None => Ok((Name::new(spec)?, None)),
            Some((name, version)) => {
                let name = Name::new(name)?;
                let version =
                    parse_version(version).ok_or_else(|| NameError::Version { found: version.to_owned() })?;
                Ok((name, Some(version)))
            }
        }
    }
}

impl fmt::Display for ImageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}@{}", self.name, self.version))
    }
}

/// Reads a version in its only spelling: no sign, no leading zero.
pub(crate) fn parse_version(text: &str) -> Option<u32> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
    if plain { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_a_path_or_a_pid_is_no_name() {
        for text in ["", ".", "..", "-rf", "a/b", "12", "a@b", "a b", "ä", "a\0", &"x".repeat(65)] {
            assert!(Name::new(text).is_err(), "{text:?}");
        }
        for text in ["web", "web-2", "0x", "a.b_c-d", "1.5", &"x".repeat(64)] {
            assert_eq!(Name::new(text).unwrap().as_str(), text);
        }
    }

    #[test]
    fn a_version_has_one_spelling() {
        assert_eq!(ImageId::parse_spec("web@2").unwrap().1, Some(2));
        assert_eq!(ImageId::parse_spec("web").unwrap().1, None);
        for spec in ["web@", "web@0", "web@02", "web@+2", "web@-1", "web@4294967296", "@1", "web@1@2"] {
            assert!(ImageId::parse_spec(spec).is_err(), "{spec}");
        }
    }

    #[test]
    fn every_command_gives_a_name() {
        for command in ["", "redis-server", "(sd-pam)", "42", "...", "日本", &"y".repeat(300), "-bash"] {
            let name = Name::from_command(command.as_bytes());
            assert_eq!(Name::new(name.as_str()).as_ref(), Ok(&name), "{command}");
        }
        assert_eq!(Name::from_command(b"42").as_str(), "p42");
        assert_eq!(Name::from_command(b"-bash").as_str(), "bash");
    }
}
