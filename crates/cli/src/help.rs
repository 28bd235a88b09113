//! The command line as a whole: the commands in groups, and what `frost help` shows.

use crate::commands::{self, Command};
use crate::invocation::Global;
use clap::{Args, CommandFactory, Parser};
use std::ffi::OsStr;
use std::sync::LazyLock;

/// Freezes a running program, keeps it, and thaws it
///
/// A frozen program is an image in the store: it needs no memory, survives a reboot, and goes on where it stood when
/// it is thawed. An image holds all that the program knew, its secrets included.
#[derive(Debug, Parser)]
#[command(name = "frost", version)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What `frost --version` prints behind the name.
static VERSION: LazyLock<String> = LazyLock::new(|| {
    format!("{} (writes image format {}, reads up to that)", env!("CARGO_PKG_VERSION"), frost_image::FORMAT)
});

/// The groups of `frost help`, in its order.
const GROUPS: [(&str, &[&str]); 6] = [
    ("The environment", &["run", "ps", "logs", "attach", "wait", "kill", "set"]),
    ("Programs", &["freeze", "thaw", "fork", "check"]),
    ("Images", &["list", "inspect", "diff", "verify", "rm", "gc", "core", "export", "import"]),
    ("Virtual machines", &["vm"]),
    ("Components", &["up", "down", "status", "replace", "graph", "rom", "report"]),
    ("First steps", &["demo", "help"]),
];

/// Builds the parser as it is needed for what is right: it has no text of help yet, and builds but the one command that
/// is asked for. Where that is one which a program waits for, its parser knows no other.
pub(crate) fn parser(first: Option<&OsStr>) -> clap::Command {
    let alone = first.and_then(|word| commands::URGENT.iter().find(|(name, _)| word == *name));
    let command = match alone {
        Some((name, options)) => {
            let command = clap::Command::new("frost").subcommand_required(true);
            Global::augment_args(command).subcommand(options(clap::Command::new(*name)))
        }
        None => Arguments::command(),
    };
    command.version(VERSION.as_str())
}

/// Builds the parser with all that it tells. That of what is right takes a third of the time and memory, which the start
/// of every command would pay, and the guardian that is forked from it.
pub(crate) fn command() -> clap::Command {
    let mut command = Arguments::command();
    // `help` and the global options of subcommands only exist once the command is built.
    command.build();
    let mut groups = String::new();
    for (title, names) in GROUPS {
        let commands: String = names
            .iter()
            .filter_map(|name| Some((name, command.find_subcommand(name)?.get_about()?)))
            .map(|(name, about)| format!("  {name:<9} {about}\n"))
            .collect();
        if !commands.is_empty() {
            groups.push_str(&format!("\n{title}:\n{commands}"));
        }
    }
    let template = format!(
        "{{about-with-newline}}\n{{usage-heading}} {{usage}}\n{groups}\nOptions:\n{{options}}{{after-help}}"
    );
    parser(None).help_template(template).after_help("`frost help COMMAND` tells all of one command.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_holds_together() {
        command().debug_assert();
    }

    #[test]
    fn a_parser_of_one_command_reads_what_that_of_all_reads() {
        let lines: [&[&str]; 4] = [
            &["frost", "run", "-d", "--json", "--name", "x", "--", "sleep", "-v"],
            &["frost", "freeze", "x", "--cold", "-vv"],
            &["frost", "thaw", "x@1", "--store", "/s", "--clone"],
            &["frost", "run"],
        ];
        for line in lines {
            let read = |parser: clap::Command| {
                let matches = parser.try_get_matches_from(line).map_err(|error| error.kind())?;
                let arguments = <Arguments as clap::FromArgMatches>::from_arg_matches(&matches);
                Ok::<_, clap::error::ErrorKind>(format!("{:?}", arguments.expect("it matched")))
            };
            assert_eq!(read(parser(Some(OsStr::new(line[1])))), read(parser(None)), "{line:?}");
        }
    }

    #[test]
    fn each_command_that_is_not_hidden_stands_in_one_group() {
        let command = command();
        for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
            let places =
                GROUPS.iter().flat_map(|(_, names)| names.iter()).filter(|name| **name == sub.get_name());
            assert_eq!(places.count(), 1, "{}", sub.get_name());
        }
    }
}
