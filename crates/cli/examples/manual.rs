//! Writes what comes with the command and is made of its definition: manual pages, and completions for three shells.
//!
//! `cargo run -p frost --example manual -- DIR` makes `DIR/usr/share`, as a package has it.

use clap_complete::{Shell, generate_to};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// What stands at the foot of each page.
const SOURCE: &str = concat!("frost ", env!("CARGO_PKG_VERSION"));

fn main() -> io::Result<()> {
    let root = std::env::args_os().nth(1).map(PathBuf::from);
    write(&root.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "name a directory to write to"))?)
}

/// Writes all of it below `root`.
pub(crate) fn write(root: &Path) -> io::Result<()> {
    let share = root.join("usr/share");
    manual(&make(&share.join("man/man1"))?)?;
    let completions = [
        (Shell::Bash, "bash-completion/completions", "frost.bash", "frost"),
        (Shell::Zsh, "zsh/vendor-completions", "_frost", "_frost"),
        (Shell::Fish, "fish/vendor_completions.d", "frost.fish", "frost.fish"),
    ];
    for (shell, place, made, named) in completions {
        let directory = make(&share.join(place))?;
        generate_to(shell, &mut frost_cli::command(), "frost", &directory)?;
        if made != named {
            fs::rename(directory.join(made), directory.join(named))?;
        }
    }
    Ok(())
}

fn make(directory: &Path) -> io::Result<PathBuf> {
    fs::create_dir_all(directory)?;
    Ok(directory.to_owned())
}

/// Writes `frost.1`, and `frost-COMMAND.1` for each command.
fn manual(directory: &Path) -> io::Result<()> {
    // Pages have their own way to list commands; the one of the help is for terminals.
    let mut command = frost_cli::command().help_template("{all-args}").disable_help_subcommand(true);
    command.build();
    let page = |command: clap::Command, name: String, more: &str| {
        let page = clap_mangen::Man::new(command).manual("Permafrost").section("1").source(SOURCE);
        let mut text = Vec::new();
        page.render(&mut text)?;
        text.extend_from_slice(more.as_bytes());
        fs::write(directory.join(format!("{name}.1")), text)
    };
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
        let name = format!("frost-{}", sub.get_name());
        page(sub.clone().version(env!("CARGO_PKG_VERSION")), name, SEE_ALSO)?;
    }
    page(command, "frost".to_owned(), OF_ALL)
}

const SEE_ALSO: &str = ".SH SEE ALSO\n\\fBfrost\\fR(1)\n";

/// What holds for all commands, and is no option: in the language of man(7).
const OF_ALL: &str = "\
.SH EXIT STATUS
.TP
0
Done.
.TP
1
Failed, for a reason without a number of its own.
.TP
2
The command line or the configuration is wrong.
.TP
3
The program has something that cannot be carried.
.TP
4
The image is damaged, or newer than this frost.
.TP
5
The kernel lacks something, or you lack a right.
.TP
6
There is no such process, name or image.
.TP
7
No space is left.
.TP
125
\\fBfrost thaw \\-\\-attach\\fR failed by itself; every other number is then the program's own.
.SH ENVIRONMENT
.TP
FROST_HOME
The directory of the images, unless \\fB\\-\\-store\\fR names one.
.TP
FROST_LOG
How much to tell of what is being done: off, error, warn, info (as \\fB\\-v\\fR), debug (as \\fB\\-vv\\fR) or trace.
.TP
NO_COLOR
If it is set and not empty, nothing is coloured.
.SH FILES
.TP
~/.config/frost/config.toml
What is configured, if there is such a file (in $XDG_CONFIG_HOME, if that is set): \\fBstore\\fR, the directory of the images;
\\fBcolor\\fR, one of auto, always, never; \\fBlog\\fR, as FROST_LOG. Options and variables come first.
.TP
~/.local/share/permafrost
The images, unless told otherwise. Each holds all memory of a program.
";
