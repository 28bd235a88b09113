//! Who reads what, as a picture.

use crate::scenario::Scenario;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

/// A scenario as it is drawn, and as `--json` shows it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Graph {
    v: u32,
    scenario: String,
    components: Vec<String>,
    /// Members that read nothing and report nothing.
    programs: Vec<String>,
    routes: BTreeSet<Edge>,
    /// The names of a cycle in its order, the first one once more at its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cycle: Option<Vec<String>>,
}

/// One route: a report, and the ROM that it is to a component.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Edge {
    pub(crate) writer: String,
    pub(crate) report: String,
    pub(crate) reader: String,
    pub(crate) rom: String,
    pub(crate) sticky: bool,
    pub(crate) persist: bool,
}

/// Returns the routes of a scenario; one for any component leads to each.
fn edges(scenario: &Scenario) -> BTreeSet<Edge> {
    let mut edges = BTreeSet::new();
    for reader in scenario.components.keys() {
        for rom in scenario.roms_of(reader) {
            if let Some(route) = scenario.route(reader, rom) {
                edges.insert(Edge {
                    writer: route.from.writer,
                    report: route.from.report,
                    reader: reader.clone(),
                    rom: rom.to_owned(),
                    sticky: route.sticky,
                    persist: route.persist,
                });
            }
        }
    }
    edges
}

/// The routes of which a cycle consists, in its order, if there is one.
pub(crate) fn cycle(edges: &BTreeSet<Edge>) -> Option<Vec<String>> {
    let mut next: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for edge in edges {
        next.entry(&edge.writer).or_default().insert(&edge.reader);
    }
    // A walk in depth; what has no cycle below it is not walked again.
    let mut done = BTreeSet::new();
    for start in next.keys() {
        let mut walk: Vec<(&str, Vec<&str>)> = vec![(start, next[start].iter().copied().collect())];
        while let Some((at, rest)) = walk.last_mut() {
            let at = *at;
            let Some(to) = rest.pop() else {
                done.insert(at);
                walk.pop();
                continue;
            };
            if let Some(from) = walk.iter().position(|(name, _)| *name == to) {
                let mut names: Vec<String> =
                    walk[from..].iter().map(|(name, _)| (*name).to_owned()).collect();
                names.push(to.to_owned());
                return Some(names);
            }
            if !done.contains(to) {
                walk.push((to, next.get(to).into_iter().flatten().copied().collect()));
            }
        }
    }
    None
}

impl Graph {
    pub(crate) fn of(name: &str, scenario: &Scenario) -> Self {
        let routes = edges(scenario);
        Self {
            v: 1,
            scenario: name.to_owned(),
            components: scenario.components.keys().cloned().collect(),
            programs: scenario.programs.keys().cloned().collect(),
            cycle: cycle(&routes),
            routes,
        }
    }

    /// Whether a route leads from one of the cycle to the next.
    fn is_in_cycle(&self, edge: &Edge) -> bool {
        let steps = self.cycle.iter().flat_map(|names| names.windows(2));
        steps.into_iter().any(|step| step[0] == edge.writer && step[1] == edge.reader)
    }

    /// The routes, one to a line.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        for edge in &self.routes {
            let kept = match (edge.persist, edge.sticky) {
                (true, _) => " (persists)",
                (false, true) => " (sticky)",
                (false, false) => "",
            };
            let _ = writeln!(text, "{}/{} -> {}: {}{kept}", edge.writer, edge.report, edge.reader, edge.rom);
        }
        if let Some(cycle) = &self.cycle {
            let _ = writeln!(text, "a cycle: {}", cycle.join(" -> "));
        }
        for name in &self.programs {
            let _ = writeln!(text, "a program: {name}");
        }
        text
    }

    /// The routes in the language of Graphviz.
    pub(crate) fn dot(&self) -> String {
        let mut text = "digraph scenario {\n  rankdir=LR;\n  node [shape=box];\n".to_owned();
        for name in &self.components {
            let _ = writeln!(text, "  \"{name}\";");
        }
        for name in &self.programs {
            let _ = writeln!(text, "  \"{name}\" [shape=ellipse];");
        }
        for edge in &self.routes {
            let label = if edge.report == edge.rom {
                edge.rom.clone()
            } else {
                format!("{} as {}", edge.report, edge.rom)
            };
            let style = if edge.sticky { "" } else { ", style=dashed" };
            let colour = if self.is_in_cycle(edge) { ", color=\"#a03030\"" } else { "" };
            let _ = writeln!(
                text,
                "  \"{}\" -> \"{}\" [label=\"{label}\"{style}{colour}];",
                edge.writer, edge.reader
            );
        }
        text.push_str("}\n");
        text
    }

    /// The routes as an SVG: components in a column, each route an arc beside it.
    pub(crate) fn svg(&self) -> String {
        const ROW: usize = 44;
        let edges = &self.routes;
        let mut names: BTreeSet<&str> =
            self.components.iter().chain(&self.programs).map(String::as_str).collect();
        names.extend(edges.iter().map(|edge| edge.writer.as_str()));
        let rows: BTreeMap<&str, usize> = names.into_iter().zip(0..).collect();
        let middle = |name: &str| rows.get(name).copied().unwrap_or(0) * ROW + ROW / 2 + 8;
        let height = (rows.len() * ROW + 16).max(edges.len() * 18 + 40);
        let mut text = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"960\" height=\"{height}\" font-family=\"sans-serif\" font-size=\"13\">\n\
         <defs><marker id=\"a\" markerWidth=\"8\" markerHeight=\"8\" refX=\"7\" refY=\"4\" orient=\"auto\">\
         <path d=\"M0,0 L8,4 L0,8 z\"/></marker></defs>\n"
        );
        for name in rows.keys() {
            let y = middle(name);
            let _ = writeln!(
                text,
                "<rect x=\"8\" y=\"{}\" width=\"180\" height=\"30\" fill=\"#eef\" stroke=\"#446\"/><text x=\"18\" y=\"{}\">{name}</text>",
                y - 15,
                y + 5
            );
        }
        for (index, edge) in edges.iter().enumerate() {
            let (from, to) = (middle(&edge.writer), middle(&edge.reader));
            let label_y = 20 + index * 18;
            let colour = if self.is_in_cycle(edge) { "#a03030" } else { "#446" };
            let dash = if edge.sticky { "" } else { " stroke-dasharray=\"5 3\"" };
            let _ = writeln!(
                text,
                "<path d=\"M188,{} C420,{label_y} 420,{label_y} 190,{}\" fill=\"none\" stroke=\"{colour}\"{dash} marker-end=\"url(#a)\"/>\
             <text x=\"440\" y=\"{label_y}\">{}/{} -&gt; {}: {}</text>",
                from - 5,
                to + 5,
                edge.writer,
                edge.report,
                edge.reader,
                edge.rom
            );
        }
        text.push_str("</svg>\n");
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edge(writer: &str, reader: &str) -> Edge {
        let text = |text: &str| text.to_owned();
        Edge {
            writer: text(writer),
            report: text("x"),
            reader: text(reader),
            rom: text("x"),
            sticky: false,
            persist: false,
        }
    }

    #[test]
    fn a_cycle_is_found_and_a_diamond_is_none() {
        let diamond = [edge("a", "b"), edge("a", "c"), edge("b", "d"), edge("c", "d")];
        assert_eq!(cycle(&diamond.clone().into()), None);
        let mut edges: BTreeSet<Edge> = diamond.into();
        edges.insert(edge("d", "b"));
        let found = cycle(&edges).unwrap();
        assert!(found.len() == 3 && found.first() == found.last(), "{found:?}");
        assert_eq!(cycle(&[edge("a", "a")].into()), Some(vec!["a".to_owned(), "a".to_owned()]));
    }
}
