//! Tables of routes: how what a program has open is obtained again when it is thawed. Written in TOML by people.
//!
//! ```toml
//! [[route]]
//! match = { kind = "tcp", peer = "10.0.0.5:5432" }
//! do = "reconnect"
//! ```

use crate::failure::{Failure, Status, Told};
use crate::output::printable;
use crate::settings::{nearest, position};
use frost_model::route::{Action, IfChanged, KINDS, Match, Rule, pattern_error};
use std::ops::Range;
use std::path::Path;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// More than this is no table of routes: it has to go into an image's records.
const LIMIT_BYTES: u64 = 256 << 10;

const RULE_KEYS: [&str; 5] = ["match", "do", "if_changed", "share", "to"];
const MATCH_KEYS: [&str; 5] = ["kind", "path", "peer", "local", "fd"];
/// Keys of the routes of components, which stand in a scenario.
const COMPONENT_KEYS: [&str; 5] = ["rom", "from", "sticky", "persist", "report"];

/// Reads the table at `path`, if one was given. `what` cannot be done if it is wrong, and things stand as `state` says.
pub(crate) fn given(path: Option<&Path>, what: &str, state: &str) -> Result<Vec<Rule>, Failure> {
    let Some(path) = path else { return Ok(Vec::new()) };
    let read = || {
        use std::io::Read;
        let mut text = String::new();
        std::fs::File::open(path)?.take(LIMIT_BYTES + 1).read_to_string(&mut text)?;
        if text.len() as u64 > LIMIT_BYTES {
            return Err(std::io::Error::other("it is longer than 256 KiB"));
        }
        Ok(text)
    };
    let text = read().map_err(|error: std::io::Error| {
        let status =
            if error.kind() == std::io::ErrorKind::NotFound { Status::Missing } else { Status::Usage };
        Failure::from(
            Told::new(status, what)
                .cause(format!("cannot read the routes in {}", printable(&path.to_string_lossy())))
                .chain(&error)
                .state(state)
                .hint("name a text file with a table of routes, as docs/routes.md describes"),
        )
    })?;
    parse(&text).map_err(|wrong| {
        let (line, column) = position(&text, wrong.at.start);
        Told::new(Status::Usage, what)
            .cause(format!(
                "{}, line {line}, column {column}: {}",
                printable(&path.to_string_lossy()),
                wrong.why
            ))
            .state(state)
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

impl Wrong {
    fn new(at: Range<usize>, why: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { at, why: why.into(), remedy: remedy.into() }
    }

    /// A word that there is not.
    fn unknown(at: Range<usize>, what: &str, word: &str, names: &[&str]) -> Self {
        let all = format!("one of {}", names.join(", "));
        let remedy = match nearest(word, names) {
            Some(near) => format!("did you mean {near}? it is {all}"),
            None => format!("write {all}"),
        };
        Self::new(at, format!("there is no {what} {}", printable(word)), remedy)
    }
}

type Value<'a> = Spanned<DeValue<'a>>;

fn parse(text: &str) -> Result<Vec<Rule>, Wrong> {
    let table = DeTable::parse(text).map_err(|error| {
        Wrong::new(
            error.span().unwrap_or(0..0),
            error.message(),
            "write it in TOML, each rule below a line `[[route]]`",
        )
    })?;
    let mut rules = Vec::new();
    for (key, value) in table.get_ref() {
        if key.get_ref() != "route" {
            return Err(Wrong::unknown(key.span(), "table", key.get_ref(), &["route"]));
        }
        let all = value.get_ref().as_array().ok_or_else(|| {
            let why = format!("`route` is {}, and should be a list of rules", value.get_ref().type_str());
            Wrong::new(value.span(), why, "begin each rule with a line `[[route]]`")
        })?;
        for entry in all {
            rules.push(rule(entry)?);
        }
    }
    Ok(rules)
}

fn rule(entry: &Value<'_>) -> Result<Rule, Wrong> {
    let mut rule = Rule::default();
    let mut has_match = false;
    // `to` is looked at once it is known what is to be done with it.
    let mut to = None;
    for (key, value) in table(entry)? {
        match key.get_ref().as_ref() {
            "match" => {
                rule.about = about(value)?;
                has_match = true;
            }
            "do" => {
                rule.action =
                    Some(word(value, "action", &Action::ALL.map(|action| (action.word(), action)))?);
            }
            "if_changed" => {
                let words = IfChanged::ALL.map(|when| (when.word(), when));
                rule.if_changed = Some(word(value, "value of `if_changed`", &words)?);
            }
            "share" => {
                rule.share = value.get_ref().as_bool().ok_or_else(|| wrong_type(value, "true or false"))?;
            }
            "to" => {
                rule.to = Some(string(value)?.to_owned());
                to = Some(key.span());
            }
            other if COMPONENT_KEYS.contains(&other) => {
                return Err(Wrong::new(
                    key.span(),
                    format!("`{other}` is about a component"),
                    "routes of components stand in their scenario",
                ));
            }
            other => return Err(Wrong::unknown(key.span(), "key", other, &RULE_KEYS)),
        }
    }
    if !has_match {
        return Err(Wrong::new(
            entry.span(),
            "this rule has no `match`",
            "say what it is about, as `match = { path = \"/var/log/**\" }`",
        ));
    }
    let opens = matches!(rule.action, None | Some(Action::Reopen));
    if rule.action.is_none() && rule.if_changed.is_none() && !rule.share {
        let words = Action::ALL.map(Action::word).join(", ");
        return Err(Wrong::new(
            entry.span(),
            "this rule says nothing",
            format!("let `do` be one of {words}"),
        ));
    }
    if !opens && (rule.if_changed.is_some() || rule.share) {
        return Err(Wrong::new(
            entry.span(),
            "`if_changed` and `share` are about files that are opened again",
            "let `do` be \"reopen\", or leave them out",
        ));
    }
    if let Some(at) = to
        && !matches!(rule.action, Some(Action::Reopen | Action::Reconnect))
    {
        let remedy = "let `do` be \"reopen\" or \"reconnect\", or leave `to` out";
        return Err(Wrong::new(at, "`to` is what is opened or connected to instead", remedy));
    }
    Ok(rule)
}

fn about(value: &Value<'_>) -> Result<Match, Wrong> {
    let mut about = Match::default();
    for (key, value) in table(value)? {
        let pattern = |value| -> Result<Option<String>, Wrong> {
            let text = string(value)?;
            match pattern_error(text) {
                Some((_, why)) => Err(Wrong::new(
                    value.span(),
                    format!("{} is no pattern: {why}", printable(text)),
                    "`*` and `?` stand for letters of a name, `**` for directories, `[*]` for the letter itself",
                )),
                None => Ok(Some(text.to_owned())),
            }
        };
        match key.get_ref().as_ref() {
            "kind" => about.kind = Some(word(value, "kind", &KINDS.map(|kind| (kind, kind)))?.to_owned()),
            "path" => about.path = pattern(value)?,
            "peer" => about.peer = pattern(value)?,
            "local" => about.local = pattern(value)?,
            "fd" => {
                let number = value.get_ref().as_integer();
                let number =
                    number.and_then(|number| i32::from_str_radix(number.as_str(), number.radix()).ok());
                let number = number.filter(|number| *number >= 0);
                about.fd = Some(number.ok_or_else(|| wrong_type(value, "the number of a descriptor"))?);
            }
            other if COMPONENT_KEYS.contains(&other) => {
                return Err(Wrong::new(
                    key.span(),
                    format!("`{other}` is about a component"),
                    "routes of components stand in their scenario",
                ));
            }
            other => return Err(Wrong::unknown(key.span(), "key", other, &MATCH_KEYS)),
        }
    }
    if about == Match::default() {
        let keys = MATCH_KEYS.join(", ");
        return Err(Wrong::new(value.span(), "this `match` is empty", format!("say at least one of {keys}")));
    }
    Ok(about)
}

fn table<'a, 'b>(value: &'a Value<'b>) -> Result<&'a DeTable<'b>, Wrong> {
    value.get_ref().as_table().ok_or_else(|| wrong_type(value, "a table, in braces"))
}

fn string<'a>(value: &'a Value<'_>) -> Result<&'a str, Wrong> {
    value.get_ref().as_str().ok_or_else(|| wrong_type(value, "a text, in quotes"))
}

fn word<T: Copy>(value: &Value<'_>, what: &str, words: &[(&str, T)]) -> Result<T, Wrong> {
    let text = string(value)?;
    let found = words.iter().find(|(word, _)| *word == text);
    found.map(|(_, meant)| *meant).ok_or_else(|| {
        let names: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        Wrong::unknown(value.span(), what, text, &names)
    })
}

fn wrong_type(value: &Value<'_>, wanted: &str) -> Wrong {
    let why = format!("the value is {}, and should be {wanted}", value.get_ref().type_str());
    Wrong::new(value.span(), why, format!("write {wanted}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(text: &str) -> (usize, usize, String, String) {
        let wrong = parse(text).unwrap_err();
        let (line, column) = position(text, wrong.at.start);
        (line, column, wrong.why, wrong.remedy)
    }

    #[test]
    fn rules_are_read_in_their_order() {
        let text = r#"
            [[route]]
            match = { kind = "tcp", peer = "10.0.0.5:5432" }
            do = "reconnect"

            [[route]]
            match = { path = "/var/log/**" }
            do = "reopen"
            if_changed = "grown"

            [[route]]
            match.fd = 2
            do = "reopen"
            to = "/dev/null"
        "#;
        let rules = parse(text).unwrap();
        assert_eq!(rules.len(), 3);
        assert_eq!(rules[0].action, Some(Action::Reconnect));
        assert_eq!(rules[0].about.peer.as_deref(), Some("10.0.0.5:5432"));
        assert_eq!(rules[1].if_changed, Some(IfChanged::Grown));
        assert_eq!((rules[2].about.fd, rules[2].to.as_deref()), (Some(2), Some("/dev/null")));
        assert_eq!(parse("").unwrap(), []);
    }

    #[test]
    fn an_unknown_word_is_refused_at_its_place_with_the_nearest() {
        let (line, column, why, remedy) = wrong("[[route]]\nmatch = { knid = \"tcp\" }\n");
        assert_eq!((line, column), (2, 11));
        assert!(why.contains("knid") && remedy.contains("did you mean kind?"), "{why}; {remedy}");
        let (line, _, why, remedy) = wrong("[[route]]\nmatch = { fd = 1 }\ndo = \"inhreit\"\n");
        assert!(line == 3 && why.contains("inhreit") && remedy.contains("inherit?"), "{why}; {remedy}");
        assert!(
            wrong("[[route]]\nmatch = { kind = \"tpc\" }\ndo = \"close\"\n").3.contains("did you mean tcp?")
        );
        assert!(wrong("[[rout]]\n").3.contains("did you mean route?"));
        assert!(wrong("[[route]]\nmatch = { rom = \"x\" }").3.contains("scenario"));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        assert!(wrong("route = 3").2.contains("list of rules"));
        assert!(wrong("[[route]]\ndo = \"close\"").2.contains("no `match`"));
        assert!(wrong("[[route]]\nmatch = {}\ndo = \"close\"").2.contains("empty"));
        assert!(wrong("[[route]]\nmatch = { fd = 1 }").2.contains("says nothing"));
        assert!(wrong("[[route]]\nmatch = { fd = -1 }\ndo = \"close\"").2.contains("number of a descriptor"));
        assert!(wrong("[[route]]\nmatch = { path = \"a[\" }\ndo = \"close\"").2.contains("pattern"));
        assert!(
            wrong("[[route]]\nmatch = { fd = 1 }\ndo = \"close\"\nshare = true").2.contains("opened again")
        );
        assert!(wrong("[[route]]\nmatch = { fd = 1 }\ndo = \"close\"\nto = \"/x\"").2.contains("instead"));
        assert_eq!(wrong("[[route]]\nmatch = ").0, 2);
    }
}
