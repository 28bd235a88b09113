//! The table of refused calls in `docs/runtime.md` is made from the code. `FROST_BLESS=1` writes it.

use frost_keeper::admission::KINDS;
use std::path::Path;

const BEGIN: &str = "<!-- admission: made by `FROST_BLESS=1 cargo test -p frost-keeper` -->\n";
const END: &str = "<!-- end of admission -->\n";

const NAMELESS: &str = "an error without a name";

fn name(errno: i32) -> &'static str {
    match errno {
        libc::ENOSYS => "ENOSYS",
        libc::EPERM => "EPERM",
        libc::EACCES => "EACCES",
        libc::EOPNOTSUPP => "EOPNOTSUPP",
        _ => NAMELESS,
    }
}

fn table() -> String {
    let mut text =
        "| kind | calls | get | what they make | why this error |\n|---|---|---|---|---|\n".to_owned();
    for kind in KINDS {
        let calls: Vec<String> = kind.calls.iter().map(|(name, _, _)| format!("`{name}`")).collect();
        let mut errors: Vec<&str> = kind.calls.iter().map(|(_, _, errno)| name(*errno)).collect();
        errors.dedup();
        text.push_str(&format!(
            "| `{}` | {} | {} | {} | {} |\n",
            kind.name,
            calls.join(", "),
            errors.join(", "),
            kind.what,
            kind.why
        ));
    }
    text
}

#[test]
fn the_documentation_has_the_table_of_the_code() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/runtime.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once(BEGIN).expect("the document has the mark");
    let (stored, after) = rest.split_once(END).expect("the document has the second mark");
    if std::env::var_os("FROST_BLESS").is_some() {
        std::fs::write(&path, format!("{before}{BEGIN}{}{END}{after}", table())).unwrap();
        return;
    }
    assert!(!table().contains(NAMELESS));
    assert_eq!(stored, table(), "docs/runtime.md is not what the code says");
}
