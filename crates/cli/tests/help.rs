//! The help of every command, compared with stored copies. `FROST_BLESS=1 cargo test -p frost --test help` writes them.

use std::path::{Path, PathBuf};
use std::process::Command;

fn help(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_frost"))
        .args(arguments)
        .env_remove("COLUMNS")
        .env("NO_COLOR", "1")
        .output()
        .expect("frost starts");
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).expect("help is text")
}

/// The commands that `frost help` lists: the indented words of its groups.
fn commands(help: &str) -> Vec<String> {
    help.lines()
        .skip_while(|line| !line.starts_with("Usage:"))
        .take_while(|line| *line != "Options:")
        .filter_map(|line| line.strip_prefix("  ")?.split_whitespace().next().map(str::to_owned))
        .filter(|name| name != "help")
        .collect()
}

#[test]
fn help_is_as_stored() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/help");
    let bless = std::env::var_os("FROST_BLESS").is_some();
    let overview = help(&["help"]);
    let mut pages = vec![("frost".to_owned(), overview.clone())];
    pages.extend(commands(&overview).into_iter().map(|name| {
        let text = help(&["help", &name]);
        (name, text)
    }));
    let path = |name: &str| -> PathBuf { directory.join(format!("{name}.txt")) };
    for (name, text) in &pages {
        if bless {
            std::fs::write(path(name), text).expect("a page is written");
        }
        let stored = std::fs::read_to_string(path(name)).unwrap_or_default();
        assert_eq!(*text, stored, "the help of {name} differs from tests/help/{name}.txt");
    }
    let stored = std::fs::read_dir(&directory).expect("pages are stored").count();
    assert_eq!(stored, pages.len(), "there is a stored page without a command");
}
