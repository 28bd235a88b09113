//! One kind of object, one file: of the same name in the model, in capture, in rebuild, and among the victims.
//!
//! `docs/kinds.md` is made from those files: what is carried stands in the first lines of a kind's files, what is
//! refused is read from the places in the code that refuse.

use crate::run::Outcome;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use syn::visit::{self, Visit};
use syn::{Expr, ExprCall, ExprLit, ExprStruct, Lit, Member};

const MODEL: &str = "crates/model/src/cap";
const CAPTURE: &str = "crates/freeze/src/cap";
const REBUILD: &str = "crates/thaw/src/cap";
const VICTIMS: &str = "tests/victims";

/// Files of the model's directory that are no kind: the table of kinds, their names, and what several of them share.
const NOT_KINDS: [&str; 4] = ["mod", "describe", "file", "lock"];

const TABLE: &str = "docs/kinds.md";

/// Checks that each kind has all its files, and writes the table of kinds, or checks that it is as the code says.
pub(crate) fn run(root: &Path, check: bool) -> Outcome {
    let kinds: BTreeSet<String> =
        files(&root.join(MODEL)).into_iter().filter(|name| !NOT_KINDS.contains(&name.as_str())).collect();
    let mut lacking = Vec::new();
    let mut waiting = Vec::new();
    for place in [CAPTURE, REBUILD, VICTIMS] {
        let there: BTreeSet<String> = files(&root.join(place)).into_iter().collect();
        if kinds.is_disjoint(&there) {
            waiting.push(place);
        } else {
            lacking.extend(kinds.difference(&there).map(|kind| format!("{place}/{kind}.rs")));
        }
    }
    if !lacking.is_empty() {
        return Outcome::Failed(format!("kinds without a file: {}", lacking.join(", ")));
    }
    let table = match table(root, &kinds) {
        Ok(table) => table,
        Err(reason) => return Outcome::Failed(reason),
    };
    let path = root.join(TABLE);
    if !check {
        if let Err(error) =
            std::fs::create_dir_all(root.join("docs")).and_then(|()| std::fs::write(&path, table))
        {
            return Outcome::Failed(format!("cannot write {TABLE}: {error}"));
        }
    } else if std::fs::read_to_string(&path).unwrap_or_default() != table {
        return Outcome::Failed(format!("{TABLE} is not what the code says: cargo xtask kinds"));
    }
    if waiting.is_empty() {
        Outcome::Passed(Some(format!("{} kinds, each in 4 places", kinds.len())))
    } else {
        Outcome::Skipped(format!("{} kinds; there is nothing in {} yet", kinds.len(), waiting.join(", ")))
    }
}

/// The names of a directory's files and folders, without `.rs` or `.c`.
fn files(directory: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    entries
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .map(|name| name.split('.').next().unwrap_or_default().to_owned())
        .collect()
}

/// Renders the documentation's table.
fn table(root: &Path, kinds: &BTreeSet<String>) -> Result<String, String> {
    let mut text = String::from(
        "# Kinds of objects\n\n\
         Made from the code by `cargo xtask kinds`; do not edit.\n\n\
         ## Carried\n\n\
         | kind | what it is | what is carried |\n|---|---|---|\n",
    );
    for kind in kinds {
        let path = root.join(MODEL).join(format!("{kind}.rs"));
        let source = read(&path)?;
        let file = syn::parse_file(&source).map_err(|error| format!("{}: {error}", path.display()))?;
        text.push_str(&format!("| `{kind}` | {} | {} |\n", summary(&file.attrs), carried(&file).join("; ")));
    }
    text.push_str(
        "\nTerminals, pipes and sockets whose other end is not in the tree (`outside`) get their other end by a route when \
         they are thawed.\n\n\
         ## Refused\n\n\
         A freeze lists all of these before it touches anything; `frost check PID` prints the same list. What is said to \
         pass goes by itself as a rule: if nothing else is in the way, both let the program go on and look again, for two \
         seconds, before they say so.\n\n\
         | what | why | what to do | passes |\n|---|---|---|---|\n",
    );
    let mut files = Vec::new();
    // Constants first: one may stand below its use, or in another file.
    let mut all = BTreeMap::new();
    for path in sources(&root.join("crates/freeze/src")) {
        let file = syn::parse_file(&read(&path)?).map_err(|error| format!("{}: {error}", path.display()))?;
        let mut reader = Reader::default();
        reader.visit_file(&file);
        all.extend(reader.constants.clone());
        files.push((file, reader.constants));
    }
    let mut refusals = BTreeSet::new();
    for (file, own) in files {
        let mut constants = all.clone();
        constants.extend(own);
        let mut reader = Reader { constants, ..Reader::default() };
        reader.visit_file(&file);
        refusals.extend(reader.refusals);
    }
    for ([what, reason, remedy], passes) in refusals {
        let passes = if passes { "yes" } else { "" };
        text.push_str(&format!("| {what} | {reason} | {remedy} | {passes} |\n"));
    }
    Ok(text)
}

fn read(path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
}

/// What the fields of a kind's records are: the model's types are what an image holds.
fn carried(file: &syn::File) -> Vec<String> {
    let mut carried = Vec::new();
    for item in &file.items {
        if let syn::Item::Struct(item) = item {
            carried.extend(
                item.fields.iter().map(|field| summary(&field.attrs)).filter(|text| !text.is_empty()),
            );
        }
    }
    carried
}

/// The first sentence of a documentation, without its period and with a small letter unless that is a name.
fn summary(attributes: &[syn::Attribute]) -> String {
    let lines: Vec<String> = attributes
        .iter()
        .filter(|attribute| attribute.path().is_ident("doc"))
        .filter_map(|attribute| match &attribute.meta {
            syn::Meta::NameValue(value) => match &value.value {
                Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) => Some(text.value().trim().to_owned()),
                _ => None,
            },
            _ => None,
        })
        .take_while(|line| !line.is_empty())
        .collect();
    let text = lines.join(" ");
    let sentence = text.split_once(". ").map_or(text.as_str(), |(first, _)| first).trim_end_matches('.');
    let mut letters = sentence.chars();
    let small = match (letters.next(), letters.clone().next()) {
        (Some(first), Some(second)) if second.is_lowercase() || second == ' ' => {
            first.to_lowercase().chain(letters).collect()
        }
        _ => sentence.to_owned(),
    };
    small.replace('|', "\\|")
}

/// All source files below a directory, sorted.
fn sources(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut todo = vec![directory.to_owned()];
    while let Some(directory) = todo.pop() {
        for entry in std::fs::read_dir(&directory).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                todo.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// Reads the refusals of a source file: calls of `refuse`, `Refusal::new`, `Refusal::passing` and `add` with three texts,
/// and obstacles whose fields are texts; and whether each passes, which an obstacle's field says unless it is `false`.
#[derive(Default)]
struct Reader {
    constants: BTreeMap<String, String>,
    refusals: Vec<([String; 3], bool)>,
}

impl Reader {
    /// The text of an expression, with `...` for what is only known when it runs; `None` if it is no text at all.
    fn text(&self, expression: &Expr) -> Option<String> {
        match expression {
            Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) => Some(plain(&text.value())),
            Expr::Path(path) => self.constants.get(&path.path.get_ident()?.to_string()).cloned(),
            Expr::Reference(inner) => self.text(&inner.expr),
            // `"text".to_owned()`, `"text".into()`
            Expr::MethodCall(call) if call.args.is_empty() => self.text(&call.receiver),
            Expr::Macro(call) if call.mac.path.is_ident("format") => {
                let mut tokens = call.mac.tokens.clone().into_iter();
                let first = tokens.next()?.to_string();
                Some(plain(&syn::parse_str::<syn::LitStr>(&first).ok()?.value()))
            }
            _ => None,
        }
    }

    fn add(&mut self, [what, reason, remedy]: [Option<String>; 3], passes: bool) {
        if let (Some(what), Some(reason), Some(remedy)) = (what, reason, remedy) {
            self.refusals.push(([what, reason, remedy], passes));
        }
    }
}

impl<'ast> Visit<'ast> for Reader {
    fn visit_item_const(&mut self, item: &'ast syn::ItemConst) {
        if let Some(text) = self.text(&item.expr) {
            self.constants.insert(item.ident.to_string(), text);
        }
    }

    fn visit_expr_call(&mut self, call: &'ast ExprCall) {
        if let Expr::Path(path) = &*call.func {
            let name: Vec<String> =
                path.path.segments.iter().map(|segment| segment.ident.to_string()).collect();
            let arguments: Vec<&Expr> = call.args.iter().collect();
            let name = name.join("::");
            if let ("refuse" | "add" | "Refusal::new" | "Refusal::passing", [what, reason, remedy]) =
                (name.as_str(), arguments.as_slice())
            {
                let texts = [what, reason, remedy].map(|text| self.text(text));
                self.add(texts, name == "Refusal::passing");
            }
        }
        visit::visit_expr_call(self, call);
    }

    fn visit_expr_struct(&mut self, value: &'ast ExprStruct) {
        if value.path.segments.last().is_some_and(|segment| segment.ident == "Obstacle") {
            let field = |wanted: &str| {
                let named = |member: &Member| matches!(member, Member::Named(name) if name == wanted);
                value.fields.iter().find(|field| named(&field.member)).map(|field| &field.expr)
            };
            let is_false = |expression: &Expr| matches!(expression, Expr::Lit(ExprLit { lit: Lit::Bool(it), .. }) if !it.value);
            let passes = field("passes").is_some_and(|expression| !is_false(expression));
            self.add(["object", "reason", "remedy"].map(|name| self.text(field(name)?)), passes);
        }
        visit::visit_expr_struct(self, value);
    }
}

/// Replaces what a format string fills in, and what a table cannot hold.
fn plain(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text;
    while let Some((before, inside)) = rest.split_once('{') {
        plain.push_str(before);
        let Some((_, after)) = inside.split_once('}') else { break };
        plain.push_str("...");
        rest = after;
    }
    plain.push_str(rest);
    plain.replace('|', "\\|").replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_read_from_calls_constants_and_obstacles() {
        let file = syn::parse_file(
            r#"
            const FIRST: &str = "close it first";
            fn f() {
                refuse("ring", "it is not given back", FIRST);
                Err(Refusal::new(format!("device {}", name), "why", FIRST));
                Err(Refusal::passing("message", "why", "wait"));
                let one = Obstacle {
                    object: "process".to_owned(), reason: format!("it {x}"), remedy: "wait".into(), passes: x == y,
                };
                let other = Obstacle { object: "x".into(), reason: "y".into(), remedy: "z".into(), passes: false };
                let two = Obstacle { pid, object, reason, remedy };
            }
            "#,
        )
        .unwrap();
        let mut reader = Reader::default();
        reader.visit_file(&file);
        let expected = [
            (["ring", "it is not given back", "close it first"], false),
            (["device ...", "why", "close it first"], false),
            (["message", "why", "wait"], true),
            (["process", "it ...", "wait"], true),
            (["x", "y", "z"], false),
        ];
        assert_eq!(reader.refusals, expected.map(|(row, passes)| (row.map(str::to_owned), passes)));
    }
}
