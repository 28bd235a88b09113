//! The licences of what is linked in.

use crate::run::Outcome;
use serde::Deserialize;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::process::Command;

/// SPDX identifiers that go together with Apache-2.0 OR MIT.
const ALLOWED: [&str; 12] = [
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "ISC",
    "MIT",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    resolve: Resolve,
    workspace_members: Vec<String>,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    license: Option<String>,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    dependencies: Vec<String>,
}

/// Checks every package that a build for Linux reaches.
pub(crate) fn check(root: &Path) -> Outcome {
    let output = Command::new("cargo")
        .args(["metadata", "--format-version=1", "--locked", "--filter-platform=x86_64-unknown-linux-gnu"])
        .current_dir(root)
        .output();
    let output = match output {
        Ok(output) if output.status.success() => output.stdout,
        Ok(output) => {
            return Outcome::Failed(format!("cargo metadata: {}", String::from_utf8_lossy(&output.stderr)));
        }
        Err(error) => return Outcome::Failed(format!("cargo metadata: {error}")),
    };
    let metadata: Metadata = match serde_json::from_slice(&output) {
        Ok(metadata) => metadata,
        Err(error) => return Outcome::Failed(format!("cargo metadata: {error}")),
    };
    judge(&metadata)
}

fn judge(metadata: &Metadata) -> Outcome {
    let nodes: HashMap<&str, &Node> =
        metadata.resolve.nodes.iter().map(|node| (node.id.as_str(), node)).collect();
    let mut reached: HashSet<&str> = HashSet::new();
    let mut todo: Vec<&str> = metadata.workspace_members.iter().map(String::as_str).collect();
    while let Some(id) = todo.pop() {
        if reached.insert(id) {
            let dependencies = nodes.get(id).into_iter().flat_map(|node| &node.dependencies);
            todo.extend(dependencies.map(String::as_str));
        }
    }
    let mut bad = Vec::new();
    let mut count: BTreeMap<&str, usize> = BTreeMap::new();
    for package in metadata.packages.iter().filter(|package| reached.contains(package.id.as_str())) {
        let licence = package.license.as_deref().unwrap_or("none given");
        *count.entry(licence).or_default() += 1;
        if !allows(licence) {
            bad.push(format!("{} ({licence})", package.name));
        }
    }
    if bad.is_empty() {
        let packages: usize = count.values().sum();
        Outcome::Passed(Some(format!("{packages} packages, {} kinds of licence, all allowed", count.len())))
    } else {
        Outcome::Failed(format!("not on the list of allowed licences: {}", bad.join(", ")))
    }
}

/// Evaluates an SPDX expression: of an OR one side is enough, of an AND both are needed, OR binds less.
fn allows(expression: &str) -> bool {
    let expression = expression.trim();
    // Old manifests write `MIT/Apache-2.0` for OR.
    let expression = expression.replace('/', " OR ");
    split(&expression, " OR ").iter().any(|side| {
        split(side, " AND ").iter().all(|term| {
            let term = term.trim();
            match term.strip_prefix('(').and_then(|term| term.strip_suffix(')')) {
                Some(inner) => allows(inner),
                None => ALLOWED.contains(&term),
            }
        })
    })
}

/// Splits at `operator` outside of parentheses.
fn split<'a>(expression: &'a str, operator: &str) -> Vec<&'a str> {
    let (mut parts, mut depth, mut start) = (Vec::new(), 0_usize, 0);
    for (index, byte) in expression.bytes().enumerate() {
        match byte {
            b'(' => depth += 1,
            b')' => depth = depth.saturating_sub(1),
            b' ' if depth == 0 && index >= start && expression[index..].starts_with(operator) => {
                parts.push(&expression[start..index]);
                start = index + operator.len();
            }
            _ => {}
        }
    }
    parts.push(expression.get(start..).unwrap_or(""));
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_are_evaluated() {
        for good in [
            "MIT",
            "MIT/Apache-2.0",
            "GPL-3.0 OR MIT",
            "(MIT OR Apache-2.0) AND Unicode-3.0",
            "Apache-2.0 WITH LLVM-exception OR MIT",
        ] {
            assert!(allows(good), "{good}");
        }
        for bad in ["GPL-3.0", "MIT AND GPL-3.0", "none given", "(MIT OR Apache-2.0) AND GPL-2.0", ""] {
            assert!(!allows(bad), "{bad}");
        }
    }
}
