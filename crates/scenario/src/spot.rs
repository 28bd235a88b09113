//! Places in a text, and names that are near to others: what messages about a file are made of.

/// Line and column of a byte, both from 1 on.
pub(crate) fn position(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    (line, column)
}

/// The name that was probably meant.
pub(crate) fn nearest<'a>(meant: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let meant: String = meant.chars().take(64).collect();
    let distance = |name: &str| strsim::osa_distance(&meant, &name.chars().take(64).collect::<String>());
    // What differs in more than a third of its letters is another word.
    let near = |name: &&str| distance(name) <= name.chars().count().div_ceil(3);
    names.into_iter().filter(near).min_by_key(|name| distance(name))
}

/// What to tell somebody who wrote a name that there is not.
pub(crate) fn suggest<'a>(meant: &str, what: &str, names: impl IntoIterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.into_iter().collect();
    let all = match names.len() {
        0 => format!("{what}: none"),
        1..=24 => format!("{what}: {}", names.join(", ")),
        _ => format!("{what}: {}, ...", names[..24].join(", ")),
    };
    match nearest(meant, names.iter().copied()) {
        Some(near) => format!("did you mean {near}? {all}"),
        None => all,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typing_error_is_recognised() {
        assert_eq!(nearest("windwo_list", ["pointer", "window_list"]), Some("window_list"));
        assert_eq!(nearest("zebra", ["pointer", "window_list"]), None);
        assert_eq!(position("a\nbü c", 5), (2, 3));
    }
}
