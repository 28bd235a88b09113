//! Routes: how a capability is obtained again, where that is not to be as usual.
//!
//! A table is an ordered list of rules; the first that matches a capability decides. One that none matches has the
//! default of its kind.

use crate::DescriptionId;
use crate::cap::{Capability, Content, Description, OutsideKind, UnixName};
use crate::process::Checkpoint;
use glob::{MatchOptions, Pattern};
use serde::{Deserialize, Serialize};

/// One rule of a table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// What it is about.
    pub about: Match,
    /// How it is obtained; the default of its kind if that is not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<Action>,
    /// When a file is still taken for what it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub if_changed: Option<IfChanged>,
    /// Whether a copy may have a file open for writing, beside the original.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub share: bool,
    /// What takes its place: a path, or an address with a port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
}

/// What a rule is about: all that is said must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Match {
    /// One of [`KINDS`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// A pattern of the path: `*` and `?` within a name, `**` for any directories.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// A pattern of the address of the other end, as `10.0.0.5:5432`; for a unix socket its path, or `@name`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// A pattern of its own address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local: Option<String>,
    /// A number under which a process of the tree has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fd: Option<i32>,
}

impl Rule {
    /// Says when the file of this very path is still taken for what it was.
    pub fn of_file(path: &str, if_changed: IfChanged) -> Self {
        let (kind, path) = (Some("file".to_owned()), Some(Pattern::escape(path)));
        let about = Match { kind, path, ..Match::default() };
        Self { about, if_changed: Some(if_changed), ..Self::default() }
    }
}

/// How a capability is obtained.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    /// Made again from its saved state.
    Recreate,
    /// Opened by its path.
    Reopen,
    /// Connected anew.
    Reconnect,
    /// Handed in: a standard descriptor of the thawing command.
    Inherit,
    /// Made so that the program sees an end of file or an error.
    Close,
    /// Not at all: neither a freeze nor a thaw is done.
    Refuse,
}

impl Action {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Recreate, Self::Reopen, Self::Reconnect, Self::Inherit, Self::Close, Self::Refuse];

    /// Returns its word in a table.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Recreate => "recreate",
            Self::Reopen => "reopen",
            Self::Reconnect => "reconnect",
            Self::Inherit => "inherit",
            Self::Close => "close",
            Self::Refuse => "refuse",
        }
    }
}

/// When a file is still taken for what it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum IfChanged {
    /// If size, time of change and inode are the same.
    Same,
    /// If it is the same inode and has not become shorter.
    Grown,
    /// If what was there is there still; what came behind it is cut off.
    Truncate,
    /// Always.
    Ignore,
}

impl IfChanged {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Same, Self::Grown, Self::Truncate, Self::Ignore];

    /// Returns its word in a table.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Same => "same",
            Self::Grown => "grown",
            Self::Truncate => "truncate",
            Self::Ignore => "ignore",
        }
    }
}

/// The kinds that a rule can name.
pub const KINDS: [&str; 17] = [
    "file",
    "directory",
    "device",
    "fifo",
    "pipe",
    "terminal",
    "unix",
    "tcp-listener",
    "tcp",
    "udp",
    "memfd",
    "eventfd",
    "epoll",
    "timerfd",
    "signalfd",
    "inotify",
    "other",
];

/// A capability as rules see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    kind: &'static str,
    path: Option<String>,
    peer: Option<String>,
    local: Option<String>,
    numbers: Vec<i32>,
}

impl Subject {
    /// Views a description of `checkpoint`.
    pub fn of(checkpoint: &Checkpoint, id: DescriptionId) -> Option<Self> {
        let tables = checkpoint.processes.iter().flat_map(|process| &process.pd.descriptors);
        let numbers = tables.filter(|entry| entry.description == id).map(|entry| entry.fd.raw()).collect();
        checkpoint.descriptions.get(id.index()).map(|description| Self::with(description, numbers))
    }

    /// Views a description that processes have under these numbers.
    pub fn with(description: &Description, numbers: Vec<i32>) -> Self {
        let mut subject =
            Self { kind: kind(&description.capability), path: None, peer: None, local: None, numbers };
        match &description.capability {
            Capability::Regular(regular) => {
                if let Content::Named { file, .. } = &regular.content {
                    subject.path = Some(file.path.to_string());
                }
            }
            Capability::Directory(directory) => subject.path = Some(directory.file.path.to_string()),
            Capability::Device(device) => subject.path = Some(device.file.path.to_string()),
            Capability::Fifo(fifo) => subject.path = Some(fifo.file.path.to_string()),
            Capability::TcpListener(listener) => subject.local = listener.inet.local.map(|at| at.to_string()),
            Capability::TcpStream(stream) => {
                subject.local = stream.inet.local.map(|at| at.to_string());
                subject.peer = stream.peer.map(|at| at.to_string());
            }
            Capability::Udp(socket) => {
                subject.local = socket.inet.local.map(|at| at.to_string());
                subject.peer = socket.peer.map(|at| at.to_string());
            }
            Capability::Unix(socket) => subject.local = socket.name.as_ref().map(UnixName::to_string),
            Capability::Outside(outside) => match &outside.kind {
                OutsideKind::Terminal { file, .. } => subject.path = Some(file.path.to_string()),
                OutsideKind::Unix { peer_name, .. } => {
                    subject.peer = peer_name.as_ref().map(UnixName::to_string);
                }
                OutsideKind::Pipe { .. } => {}
            },
            _ => {}
        }
        subject
    }

    /// Views a file that is mapped or executed.
    pub fn mapped(path: String) -> Self {
        Self { kind: "file", path: Some(path), peer: None, local: None, numbers: Vec::new() }
    }
}

/// Returns the kind of a capability, one of [`KINDS`].
pub fn kind(capability: &Capability) -> &'static str {
    match capability {
        Capability::Regular(_) => "file",
        Capability::Directory(_) => "directory",
        Capability::Device(_) => "device",
        Capability::Fifo(_) => "fifo",
        Capability::Pipe(_) => "pipe",
        Capability::Pty(_) => "terminal",
        Capability::Unix(_) => "unix",
        Capability::TcpListener(_) => "tcp-listener",
        Capability::TcpStream(_) => "tcp",
        Capability::Udp(_) => "udp",
        Capability::Memfd(_) => "memfd",
        Capability::EventFd(_) => "eventfd",
        Capability::Epoll(_) => "epoll",
        Capability::TimerFd(_) => "timerfd",
        Capability::SignalFd(_) => "signalfd",
        Capability::Inotify(_) => "inotify",
        Capability::PidFd(_)
        | Capability::Netlink(_)
        | Capability::Mqueue(_)
        | Capability::Raw(_)
        | Capability::Packet(_)
        | Capability::Fanotify(_) => "other",
        Capability::Outside(outside) => match outside.kind {
            OutsideKind::Terminal { .. } => "terminal",
            OutsideKind::Pipe { .. } => "pipe",
            OutsideKind::Unix { .. } => "unix",
        },
    }
}

/// Returns what a rule can say of a capability, its default first.
pub fn actions(capability: &Capability) -> &'static [Action] {
    use Action::{Close, Inherit, Reconnect, Recreate, Refuse, Reopen};
    match capability {
        Capability::Regular(regular) => match regular.content {
            Content::Named { .. } => &[Reopen, Close, Refuse],
            Content::Unnamed(_) => &[Recreate, Close, Refuse],
        },
        Capability::Directory(_) | Capability::Device(_) => &[Reopen, Close, Refuse],
        Capability::Fifo(_) => &[Reopen, Refuse],
        Capability::TcpListener(_) | Capability::Udp(_) => &[Recreate, Close, Refuse],
        Capability::TcpStream(stream) if stream.is_connecting() => &[Recreate, Close, Reconnect, Refuse],
        Capability::TcpStream(stream) if stream.inside.is_none() => &[Close, Reconnect, Refuse],
        Capability::Outside(outside) => match outside.kind {
            OutsideKind::Terminal { .. } | OutsideKind::Pipe { .. } => &[Close, Inherit, Reopen, Refuse],
            OutsideKind::Unix { .. } => &[Close, Inherit, Reopen, Reconnect, Refuse],
        },
        _ => &[Recreate, Refuse],
    }
}

/// Finds the rule that decides about a capability.
pub fn find<'a>(rules: impl IntoIterator<Item = &'a Rule>, subject: &Subject) -> Option<&'a Rule> {
    rules.into_iter().find(|rule| rule.about.holds(subject))
}

impl Match {
    /// Returns whether all that is said holds for `subject`.
    pub fn holds(&self, subject: &Subject) -> bool {
        // In a path `*` stays within a name; an address has no such parts, but a socket's path is a path.
        let fits = |pattern: &Option<String>, value: &Option<String>| match (pattern, value) {
            (None, _) => true,
            (Some(pattern), Some(value)) => {
                let options = MatchOptions { require_literal_separator: true, ..MatchOptions::new() };
                Pattern::new(pattern).is_ok_and(|pattern| pattern.matches_with(value, options))
            }
            (Some(_), None) => false,
        };
        self.kind.as_deref().is_none_or(|kind| kind == subject.kind)
            && fits(&self.path, &subject.path)
            && fits(&self.peer, &subject.peer)
            && fits(&self.local, &subject.local)
            && self.fd.is_none_or(|fd| subject.numbers.contains(&fd))
    }
}

/// Says what is wrong with a pattern, and at which of its characters, counted from 0; `None` if nothing is.
pub fn pattern_error(pattern: &str) -> Option<(usize, &'static str)> {
    Pattern::new(pattern).err().map(|error| (error.pos, error.msg))
}

impl std::fmt::Display for Match {
    /// Writes it as it stands in a table.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let word =
            |name: &str, value: &Option<String>| value.as_ref().map(|value| format!("{name} = {value:?}"));
        let parts = [
            word("kind", &self.kind),
            word("path", &self.path),
            word("peer", &self.peer),
            word("local", &self.local),
            self.fd.map(|fd| format!("fd = {fd}")),
        ];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        write!(f, "{{ {} }}", parts.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str) -> Subject {
        Subject::mapped(path.to_owned())
    }

    fn about(path: &str) -> Rule {
        Rule { about: Match { path: Some(path.to_owned()), ..Match::default() }, ..Rule::default() }
    }

    #[test]
    fn a_star_stays_within_a_name_and_two_do_not() {
        assert!(about("/var/log/*").about.holds(&file("/var/log/syslog")));
        assert!(!about("/var/log/*").about.holds(&file("/var/log/nginx/access.log")));
        assert!(about("/var/log/**").about.holds(&file("/var/log/nginx/access.log")));
        assert!(about("/var/**/*.log").about.holds(&file("/var/log/nginx/access.log")));
        assert!(!about("/var/log").about.holds(&file("/var/log2")));
    }

    #[test]
    fn all_of_a_match_has_to_hold_and_the_first_rule_decides() {
        let subject = Subject {
            kind: "tcp",
            path: None,
            peer: Some("10.0.0.5:5432".to_owned()),
            local: None,
            numbers: vec![7, 9],
        };
        let rule = |kind: &str, peer: &str, fd| Rule {
            about: Match { kind: Some(kind.to_owned()), peer: Some(peer.to_owned()), fd, ..Match::default() },
            ..Rule::default()
        };
        let rules = [
            rule("udp", "10.0.0.5:5432", None),
            rule("tcp", "10.0.0.6:*", None),
            rule("tcp", "10.0.0.*:5432", Some(8)),
            rule("tcp", "10.0.0.*:5432", Some(9)),
            rule("tcp", "*", None),
        ];
        assert_eq!(find(&rules, &subject), Some(&rules[3]));
        assert_eq!(find(&rules[..3], &subject), None);
        // What a capability does not have matches no pattern.
        assert!(!about("**").about.holds(&subject));
    }

    #[test]
    fn rules_are_kept_as_they_are_written() {
        let rule = Rule {
            about: Match { path: Some("/x/**".to_owned()), fd: Some(3), ..Match::default() },
            action: Some(Action::Reopen),
            if_changed: Some(IfChanged::Grown),
            share: true,
            to: None,
        };
        assert_eq!(rule.about.to_string(), r#"{ path = "/x/**", fd = 3 }"#);
        assert!(pattern_error("a[").is_some() && pattern_error("/a/**").is_none());
    }
}
