//! The records of an image, as the specification shows them: made from the types of the model, which they are.
//!
//! `docs/image.md` holds them in CDDL (RFC 8610) between two marks. The rules are those by which serde and ciborium
//! write a type: a struct is a map of its fields by name, an enum the name of its variant, alone or as the only key of
//! a map.

use crate::run::Outcome;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use syn::{Attribute, Fields, Item, Type};

const DOCUMENT: &str = "docs/image.md";
const BEGIN: &str = "<!-- records: made by `cargo xtask records` -->\n";
const END: &str = "<!-- end of records -->\n";

/// The modules of the model in the order in which a reader wants them; those of `cap` that are not named follow.
const MODULES: [&str; 27] = [
    "process",
    "nest",
    "machine",
    "layer",
    "bundle",
    "host",
    "network",
    "route",
    "clock",
    "pd/identity",
    "pd/credentials",
    "pd/signals",
    "pd/limits",
    "pd/timers",
    "pd/filter",
    "cpu/thread",
    "cpu/registers",
    "cpu/restart",
    "cpu/scheduling",
    "rm/region",
    "rm/bounds",
    "ram/pages",
    "ram/dataspace",
    "ram/policy",
    "cap/mod",
    "cap/lock",
    "cap/file",
];

/// Types that are not records of the model, or are written as something simpler.
const LEAVES: [(&str, &str); 22] = [
    ("u8", "uint"),
    ("u16", "uint"),
    ("u32", "uint"),
    ("u64", "uint"),
    ("i32", "int"),
    ("i64", "int"),
    ("bool", "bool"),
    ("String", "tstr"),
    ("BytePath", "bstr"),
    ("ByteBuf", "bstr"),
    ("SigInfo", "bstr .size 128"),
    ("SocketAddr", "socket-address"),
    ("Pid", "int"),
    ("Tid", "int"),
    ("TargetFd", "int"),
    ("TargetAddr", "uint"),
    ("DescriptionId", "uint"),
    ("ObjectId", "uint"),
    ("DataspaceId", "uint"),
    ("UserNamespaceId", "uint"),
    ("i8", "int"),
    ("usize", "uint"),
];

/// Writes the records into the specification, or checks that they are there as the code says.
pub(crate) fn run(root: &Path, check: bool) -> Outcome {
    let records = match records(&root.join("crates/model/src")) {
        Ok(records) => records,
        Err(reason) => return Outcome::Failed(reason),
    };
    let path = root.join(DOCUMENT);
    let document = std::fs::read_to_string(&path).unwrap_or_default();
    let Some((before, rest)) = document.split_once(BEGIN) else {
        return Outcome::Failed(format!("{DOCUMENT} has no place for the records"));
    };
    let Some((_, after)) = rest.split_once(END) else {
        return Outcome::Failed(format!("{DOCUMENT} has no end of the records"));
    };
    let wanted = format!("{before}{BEGIN}```cddl\n{records}```\n{END}{after}");
    if wanted == document {
        return Outcome::Passed(None);
    }
    if check {
        return Outcome::Failed(format!(
            "the records in {DOCUMENT} are not what the code says: cargo xtask records"
        ));
    }
    match std::fs::write(&path, wanted) {
        Ok(()) => Outcome::Passed(None),
        Err(error) => Outcome::Failed(format!("cannot write {DOCUMENT}: {error}")),
    }
}

/// Renders all records below the sources of the model.
fn records(model: &Path) -> Result<String, String> {
    let mut modules: Vec<String> = MODULES.map(str::to_owned).into();
    let kinds =
        std::fs::read_dir(model.join("cap")).map_err(|error| format!("{}: {error}", model.display()))?;
    let named: BTreeSet<String> = kinds
        .flatten()
        .filter_map(|entry| {
            entry.file_name().to_string_lossy().strip_suffix(".rs").map(|name| format!("cap/{name}"))
        })
        .collect();
    modules.extend(named.into_iter().filter(|name| !MODULES.contains(&name.as_str())));

    let mut rules = String::new();
    let mut defined = BTreeSet::new();
    let mut used = BTreeMap::new();
    for module in modules {
        let path = model.join(format!("{module}.rs"));
        let source =
            std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let file = syn::parse_file(&source).map_err(|error| format!("{}: {error}", path.display()))?;
        for item in &file.items {
            if let Some((name, rule)) = rule(item, &mut used) {
                rules.push_str(&rule);
                defined.insert(name);
            }
        }
    }
    used.retain(|name, _| !defined.contains(name));
    if let Some((name, place)) = used.first_key_value() {
        return Err(format!("{place} uses {name}, which is in none of the modules that hold records"));
    }
    Ok(rules)
}

/// Renders one record, if the item is one.
fn rule(item: &Item, used: &mut BTreeMap<String, String>) -> Option<(String, String)> {
    let (attributes, ident) = match item {
        Item::Struct(item) => (&item.attrs, &item.ident),
        Item::Enum(item) => (&item.attrs, &item.ident),
        _ => return None,
    };
    if !has(attributes, "Serialize") || has(attributes, "transparent") {
        return None;
    }
    let name = kebab(&ident.to_string());
    let mut rule = format!("; {}\n{name} =", first_line(attributes));
    match item {
        Item::Struct(item) => {
            let fields: Vec<_> =
                item.fields.iter().map(|field| (field, field_rule(field, &name, used))).collect();
            let width = fields.iter().map(|(_, text)| text.len()).filter(|len| *len < 40).max().unwrap_or(0);
            rule.push_str(" {\n");
            for (field, text) in fields {
                let note = first_line(&field.attrs);
                let note = if note.is_empty() { note } else { format!(" ; {note}") };
                rule.push_str(format!("  {text:width$}{note}").trim_end());
                rule.push('\n');
            }
            rule.push_str("}\n\n");
        }
        Item::Enum(item) => {
            for (index, variant) in item.variants.iter().enumerate() {
                let text = variant_rule(variant, &name, used);
                let note = first_line(&variant.attrs);
                let sign = if index == 0 { "\n    " } else { "  / " };
                rule.push_str(format!("{sign}{text} ; {note}").trim_end_matches([' ', ';']));
                rule.push('\n');
            }
            rule.push('\n');
        }
        _ => {}
    }
    Some((name, rule))
}

fn variant_rule(variant: &syn::Variant, place: &str, used: &mut BTreeMap<String, String>) -> String {
    let name = &variant.ident;
    match &variant.fields {
        Fields::Unit => format!("\"{name}\""),
        Fields::Unnamed(fields) => {
            let types: Vec<_> =
                fields.unnamed.iter().map(|field| type_rule(&field.ty, bytes(field), place, used)).collect();
            match types.as_slice() {
                [only] => format!("{{ \"{name}\": {only} }}"),
                several => format!("{{ \"{name}\": [{}] }}", several.join(", ")),
            }
        }
        Fields::Named(fields) => {
            let fields: Vec<_> = fields
                .named
                .iter()
                .map(|field| field_rule(field, place, used).trim_end_matches(',').to_owned())
                .collect();
            format!("{{ \"{name}\": {{ {} }} }}", fields.join(", "))
        }
    }
}

fn field_rule(field: &syn::Field, place: &str, used: &mut BTreeMap<String, String>) -> String {
    let name = field.ident.as_ref().map(ToString::to_string).unwrap_or_default();
    // What an older image has not, serde fills in.
    let sign = if has(&field.attrs, "default") { "?" } else { "" };
    format!(
        "{sign}{}{name}: {},",
        if sign.is_empty() { "" } else { " " },
        match has(&field.attrs, "sparse") {
            true => "bstr / [uint, * (uint, bstr)]".to_owned(),
            false => type_rule(&field.ty, bytes(field), place, used),
        }
    )
}

/// Renders a type. `bytes` says that `serde_bytes` writes it.
fn type_rule(ty: &Type, bytes: bool, place: &str, used: &mut BTreeMap<String, String>) -> String {
    match ty {
        Type::Path(path) => {
            let Some(last) = path.path.segments.last() else { return "any".to_owned() };
            let inner = match &last.arguments {
                syn::PathArguments::AngleBracketed(arguments) => match arguments.args.first() {
                    Some(syn::GenericArgument::Type(inner)) => Some(inner),
                    _ => None,
                },
                _ => None,
            };
            let name = last.ident.to_string();
            match (name.as_str(), inner) {
                ("Option", Some(inner)) => format!("{} / null", type_rule(inner, bytes, place, used)),
                ("Vec", Some(_)) if bytes => "bstr".to_owned(),
                ("Vec", Some(inner)) => {
                    let inner = type_rule(inner, false, place, used);
                    if inner.contains('/') { format!("[* ({inner})]") } else { format!("[* {inner}]") }
                }
                _ => match LEAVES.iter().find(|(leaf, _)| *leaf == name) {
                    Some((_, rule)) => (*rule).to_owned(),
                    None => {
                        used.insert(kebab(&name), place.to_owned());
                        kebab(&name)
                    }
                },
            }
        }
        Type::Array(array) => {
            let len = match &array.len {
                syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Int(len), .. }) => len.to_string(),
                _ => String::new(),
            };
            if bytes {
                "bstr".to_owned()
            } else {
                format!("[{len}*{len} {}]", type_rule(&array.elem, false, place, used))
            }
        }
        Type::Tuple(tuple) => {
            let types: Vec<_> = tuple.elems.iter().map(|ty| type_rule(ty, false, place, used)).collect();
            format!("[{}]", types.join(", "))
        }
        _ => "any".to_owned(),
    }
}

/// Whether `serde_bytes` writes a field.
fn bytes(field: &syn::Field) -> bool {
    has(&field.attrs, "serde_bytes")
}

/// Whether an attribute, other than documentation, names `word`.
fn has(attributes: &[Attribute], word: &str) -> bool {
    let list = |attribute: &Attribute| match &attribute.meta {
        syn::Meta::List(list) => list.tokens.to_string().contains(word),
        _ => false,
    };
    attributes.iter().any(list)
}

/// The first line of a documentation, without its period.
fn first_line(attributes: &[Attribute]) -> String {
    let line = attributes.iter().find_map(|attribute| match &attribute.meta {
        syn::Meta::NameValue(value) if value.path.is_ident("doc") => match &value.value {
            syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(text), .. }) => Some(text.value()),
            _ => None,
        },
        _ => None,
    });
    let line = line.unwrap_or_default();
    // A link to an item of the code is of no use here: [`Name`](path) and [`Name`] become `Name`.
    let mut plain = String::new();
    let mut rest = line.trim();
    while let Some((before, inside)) = rest.split_once("[`") {
        let Some((name, after)) = inside.split_once("`]") else { break };
        plain.push_str(&format!("{before}`{name}`"));
        rest = match after.strip_prefix('(').and_then(|link| link.split_once(')')) {
            Some((_, after)) => after,
            None => after,
        };
    }
    plain.push_str(rest);
    plain.trim_end_matches('.').to_owned()
}

/// `FileRef` as `file-ref`.
fn kebab(name: &str) -> String {
    let mut kebab = String::new();
    for letter in name.chars() {
        if letter.is_uppercase() && !kebab.is_empty() {
            kebab.push('-');
        }
        kebab.extend(letter.to_lowercase());
    }
    kebab
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(source: &str) -> String {
        let file = syn::parse_file(source).unwrap();
        let mut used = BTreeMap::new();
        file.items.iter().filter_map(|item| rule(item, &mut used)).map(|(_, rule)| rule).collect()
    }

    #[test]
    fn a_struct_is_a_map() {
        let text = rendered(
            "/// A place, as [`Other`](x) has it.\n#[derive(Serialize)] struct FileRef { /// Where.\n a: u64, \
             #[serde(with = \"serde_bytes\")] b: Option<Vec<u8>>, c: Vec<Option<Pid>>, d: [u32; 4], e: (u16, BytePath), f: super::Pages }",
        );
        let expected = "; A place, as `Other` has it\nfile-ref = {\n  a: uint,             ; Where\n  b: bstr / null,\n  \
             c: [* (int / null)],\n  d: [4*4 uint],\n  e: [uint, bstr],\n  f: pages,\n}\n\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_field_that_older_images_lack_is_optional() {
        let text = rendered(
            "#[derive(Serialize)] struct New { #[serde(default, skip_serializing_if = \"Vec::is_empty\")] a: Vec<u8> }",
        );
        assert!(text.contains("? a: [* uint],"), "{text}");
    }

    #[test]
    fn an_enum_is_a_choice() {
        let text = rendered(
            "/// A kind.\n#[derive(Serialize)] enum Kind { /// None.\n A, B(#[serde(with = \"serde_bytes\")] Vec<u8>), C { x: i32 } }\n\
             #[derive(Debug)] struct NoRecord;",
        );
        assert_eq!(
            text,
            "; A kind\nkind =\n    \"A\" ; None\n  / { \"B\": bstr }\n  / { \"C\": { x: int } }\n\n"
        );
    }
}
