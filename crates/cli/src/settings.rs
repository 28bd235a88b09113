//! The configuration of a user: `frost/config.toml` in the directory of XDG_CONFIG_HOME, by default `~/.config`.
//!
//! It holds what is also an option or a variable of the environment, which both come first. It need not exist, and is read
//! only then.

use crate::failure::{Failure, Status, Told};
use crate::log;
use crate::output::Colour;
use std::ffi::OsString;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use toml::Spanned;
use toml::de::{DeTable, DeValue};
use tracing::level_filters::LevelFilter;

/// What a user has set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Settings {
    /// The directory of the images.
    pub(crate) store: Option<PathBuf>,
    /// Whether to colour.
    pub(crate) colour: Option<Colour>,
    /// How much to tell of what the engine does.
    pub(crate) log: Option<LevelFilter>,
}

/// All keys there are.
const KEYS: [&str; 3] = ["color", "log", "store"];

/// More than this is no configuration.
const LIMIT_BYTES: u64 = 1 << 20;

impl Settings {
    /// Reads them from where they are; what is not set stays open.
    pub(crate) fn load() -> Result<Self, Failure> {
        let home = std::env::var_os("HOME");
        match place(std::env::var_os("XDG_CONFIG_HOME"), home.clone()) {
            Some(path) => read(&path, home),
            None => Ok(Self::default()),
        }
    }
}

fn place(xdg: Option<OsString>, home: Option<OsString>) -> Option<PathBuf> {
    // The specification says to ignore relative paths there; an empty variable is as good as none.
    let set = |value: Option<OsString>| value.map(PathBuf::from).filter(|path| path.is_absolute());
    let directory = set(xdg).or_else(|| set(home).map(|home| home.join(".config")))?;
    Some(directory.join("frost/config.toml"))
}

fn read(path: &Path, home: Option<OsString>) -> Result<Settings, Failure> {
    let unreadable = |error: &io::Error| {
        let (status, hint) = match error.kind() {
            // As of a command by `sudo -u` that kept the caller's HOME.
            io::ErrorKind::PermissionDenied => {
                (Status::Denied, "set HOME or XDG_CONFIG_HOME to a directory of your own, as `sudo -H` does")
            }
            _ => (Status::Usage, "make it a text file that you may read, or remove it: there need be none"),
        };
        Told::new(status, format!("cannot read {}", path.display()))
            .chain(error)
            .state("nothing was touched")
            .hint(hint)
            .into()
    };
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Settings::default());
        }
        Err(error) => return Err(unreadable(&error)),
    };
    let mut text = String::new();
    let file = io::Read::take(file, LIMIT_BYTES);
    io::Read::read_to_string(&mut io::BufReader::new(file), &mut text).map_err(|error| unreadable(&error))?;
    parse(&text, home).map_err(|wrong| {
        let (line, column) = position(&text, wrong.at.start);
        Told::new(Status::Usage, format!("cannot use {}", path.display()))
            .cause(format!("line {line}, column {column}: {}", wrong.why))
            .state("nothing was touched")
            .hint(wrong.remedy)
            .into()
    })
}

/// What is wrong, and where.
#[derive(Debug)]
struct Wrong {
    at: Range<usize>,
    why: String,
    remedy: String,
}

fn parse(text: &str, home: Option<OsString>) -> Result<Settings, Wrong> {
    let table = DeTable::parse(text).map_err(|error| Wrong {
        at: error.span().unwrap_or(0..0),
        why: error.message().to_owned(),
        remedy: "write each setting as `key = \"value\"`".to_owned(),
    })?;
    let mut settings = Settings::default();
    for (key, value) in table.get_ref() {
        match key.get_ref().as_ref() {
            "store" => settings.store = Some(directory(value, home.clone())?),
            "color" => {
                let word = one_of(value, &["auto", "always", "never"])?;
                settings.colour = Some(match word {
                    "always" => Colour::Always,
                    "never" => Colour::Never,
                    _ => Colour::Auto,
                });
            }
            "log" => settings.log = log::level(one_of(value, &log::LEVELS.map(|(name, _)| name))?),
            unknown => {
                let near = nearest(unknown, &KEYS);
                return Err(Wrong {
                    at: key.span(),
                    why: format!("there is no setting {}", crate::output::printable(unknown)),
                    remedy: match near {
                        Some(near) => format!("did you mean {near}? all settings: {}", KEYS.join(", ")),
                        None => format!("all settings: {}", KEYS.join(", ")),
                    },
                });
            }
        }
    }
    Ok(settings)
}

fn string<'a>(value: &'a Spanned<DeValue<'_>>, remedy: &str) -> Result<&'a str, Wrong> {
    value.get_ref().as_str().ok_or_else(|| Wrong {
        at: value.span(),
        why: format!("the value is {}, and should be a text", value.get_ref().type_str()),
        remedy: remedy.to_owned(),
    })
}

fn one_of<'a>(value: &'a Spanned<DeValue<'_>>, words: &[&str]) -> Result<&'a str, Wrong> {
    let remedy = format!("write one of {} in quotes", words.join(", "));
    let word = string(value, &remedy)?;
    if words.contains(&word) {
        return Ok(word);
    }
    let why = format!("there is no value {}", crate::output::printable(word));
    Err(Wrong { at: value.span(), why, remedy })
}

/// A path that means the same wherever the command is run.
fn directory(value: &Spanned<DeValue<'_>>, home: Option<OsString>) -> Result<PathBuf, Wrong> {
    let remedy = "write a path from the root on, or one that begins with ~/";
    let text = string(value, remedy)?;
    let path = match (text.strip_prefix("~/"), home) {
        (Some(below), Some(home)) => PathBuf::from(home).join(below),
        _ => PathBuf::from(text),
    };
    if path.is_absolute() {
        return Ok(path);
    }
    Err(Wrong {
        at: value.span(),
        why: format!("the path {} is relative", crate::output::printable(text)),
        remedy: remedy.to_owned(),
    })
}

/// The name that was probably meant.
pub(crate) fn nearest<'a>(unknown: &str, names: &[&'a str]) -> Option<&'a str> {
    let unknown: String = unknown.chars().take(64).collect();
    let distance = |name: &str| strsim::osa_distance(&unknown, name);
    // What differs in more than a third of its letters is another word.
    let near = |name: &&str| distance(name) <= name.len().div_ceil(3);
    names.iter().copied().filter(near).min_by_key(|name| distance(name))
}

/// Line and column of a byte, both from 1 on.
pub(crate) fn position(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    (line, column)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(text: &str) -> (usize, usize, String, String) {
        let wrong = parse(text, Some("/home/ann".into())).unwrap_err();
        let (line, column) = position(text, wrong.at.start);
        (line, column, wrong.why, wrong.remedy)
    }

    #[test]
    fn settings_are_read() {
        let text = "# mine\nstore = \"~/ice\"\ncolor = \"never\"\nlog = \"debug\"\n";
        let settings = parse(text, Some("/home/ann".into())).unwrap();
        let expected = Settings {
            store: Some("/home/ann/ice".into()),
            colour: Some(Colour::Never),
            log: Some(LevelFilter::DEBUG),
        };
        assert_eq!(settings, expected);
        assert_eq!(parse("", None).unwrap(), Settings::default());
    }

    #[test]
    fn an_unknown_key_is_refused_at_its_place_with_the_nearest_name() {
        let (line, column, why, remedy) = wrong("log = \"info\"\n  sotre = \"/x\"\n");
        assert_eq!((line, column), (2, 3));
        assert!(why.contains("sotre") && remedy.contains("did you mean store?"), "{why}; {remedy}");
        let (.., remedy) = wrong("quite_different = 1");
        assert!(!remedy.contains("did you mean") && remedy.contains("color, log, store"), "{remedy}");
        assert!(wrong("[store]\nx = 1").2.contains("table"));
    }

    #[test]
    fn wrong_values_are_refused_at_their_place() {
        assert_eq!(wrong("color = \"blue\"").1, 9);
        assert!(wrong("store = \"here\"").2.contains("relative"));
        assert!(wrong("log = 3").2.contains("integer"));
        assert_eq!(wrong("\n\nstore = ").0, 3);
        assert!(wrong("store = \"/a\"\nstore = \"/b\"").0 == 2);
    }

    #[test]
    fn the_file_lies_where_the_specification_says() {
        let at = |xdg: &str, home: &str| place(Some(xdg.into()), Some(home.into()));
        assert_eq!(at("/conf", "/home/ann"), Some("/conf/frost/config.toml".into()));
        assert_eq!(at("", "/home/ann"), Some("/home/ann/.config/frost/config.toml".into()));
        assert_eq!(at("relative", "/home/ann"), Some("/home/ann/.config/frost/config.toml".into()));
        assert_eq!(place(None, None), None);
    }
}
