//! What is made of the command line's definition: pages and completions that the programs they are for accept.

#[path = "../examples/manual.rs"]
#[allow(dead_code, reason = "its main is for those who write a package")]
mod manual;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

fn made() -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a temporary directory");
    manual::write(directory.path()).expect("our own directory");
    directory
}

/// Runs a program that may not be there; tells if it is not.
fn run(program: &str, arguments: &[&str]) -> Option<String> {
    let output =
        match Command::new(program).args(arguments).env("MANWIDTH", "80").stdin(Stdio::null()).output() {
            Ok(output) => output,
            Err(error) => {
                println!("skipped: {program}: {error}");
                return None;
            }
        };
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {}\n{stderr}", output.status);
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn every_command_has_a_page() {
    let directory = made();
    let pages = directory.path().join("usr/share/man/man1");
    let page = |name: &str| fs::read_to_string(pages.join(name)).unwrap_or_default();
    let command = frost_cli::command();
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
        let name = sub.get_name();
        let about = sub.get_about().expect("every command says what it does").to_string();
        let text = page(&format!("frost-{name}.1"));
        assert!(text.contains(&about.replace('-', "\\-")), "frost-{name}.1 does not say {about:?}");
        assert!(page("frost.1").contains(&format!("frost\\-{name}(1)")), "frost.1 does not name {name}");
    }
    assert!(page("frost.1").contains("EXIT STATUS"));
    let first = pages.join("frost.1");
    if let Some(text) = run("man", &["-l", first.to_str().expect("a path is text")]) {
        assert!(text.contains("SYNOPSIS") && text.contains("frost-freeze(1)"), "{text}");
    }
}

#[test]
fn shells_complete_commands() {
    let directory = made();
    let share = directory.path().join("usr/share");
    let text = |path: &Path| path.to_str().expect("a path is text").to_owned();
    let bash = text(&share.join("bash-completion/completions/frost"));
    let script = "source \"$1\" && COMP_WORDS=(frost verif) COMP_CWORD=1 && _frost frost verif frost && \
                  echo \"${COMPREPLY[*]}\"";
    if let Some(reply) = run("bash", &["-c", script, "bash", &bash]) {
        assert_eq!(reply, "verify\n");
    }
    let zsh = text(&share.join("zsh/vendor-completions/_frost"));
    assert!(fs::read_to_string(&zsh).expect("our own file").starts_with("#compdef frost"));
    run("zsh", &["-n", &zsh]);
    let fish = text(&share.join("fish/vendor_completions.d/frost.fish"));
    assert!(fs::read_to_string(&fish).expect("our own file").contains("complete -c frost"));
    run("fish", &["--no-execute", &fish]);
}
