//! A scenario as it is written: components, documents, and the routes between them.

use crate::spot;
use frost_component::wire::is_name;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// The writer of documents that stand in the scenario itself.
pub(crate) const DOCUMENT: &str = "document";
/// The writer of what a scenario tells of itself.
pub(crate) const SCENARIO: &str = "scenario";
/// The ROM that a component's `config` is.
pub(crate) const CONFIG: &str = "config";

/// The greatest length of a report, if none is given.
const LIMIT_BYTES: u64 = 1 << 20;

/// The greatest length of a log, if none is given.
const LOG_BYTES: u64 = 2 << 20;

/// A scenario.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scenario {
    /// What the file says.
    pub(crate) text: String,
    /// Its name, if the file gives one.
    pub(crate) name: Option<String>,
    /// By name.
    pub(crate) components: BTreeMap<String, Component>,
    /// Ordinary programs, by name.
    pub(crate) programs: BTreeMap<String, Program>,
    /// Documents that stand in the file or beside it, by name.
    pub(crate) documents: BTreeMap<String, Vec<u8>>,
    /// In their order: the first one that matches counts.
    pub(crate) routes: Vec<Route>,
    /// Reports that are kept over a loss of power.
    pub(crate) persisted: BTreeSet<Label>,
    /// Somebody reads what the scenario tells of itself.
    pub(crate) tells_state: bool,
    /// Other files that were read, whose changes count as well.
    pub(crate) files: BTreeSet<PathBuf>,
}

/// A component as it is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Component {
    /// What is executed: a path, or a name to be looked up.
    pub(crate) binary: PathBuf,
    pub(crate) arguments: Vec<String>,
    /// Changing it restarts the component.
    pub(crate) version: String,
    pub(crate) environment: BTreeMap<String, String>,
    /// All reports that it may write, if they are named.
    pub(crate) reports: Option<BTreeSet<String>>,
    /// The greatest length of a report.
    pub(crate) limit_bytes: u64,
    pub(crate) restart: Restart,
    /// How long to wait after the first failure; twice as long after each further one.
    pub(crate) backoff: Duration,
    /// After so many failures without a report in between it is given up.
    pub(crate) attempts: u32,
    /// How often it has to show that it does not hang.
    pub(crate) heartbeat: Option<Duration>,
    /// The greatest amount of private memory.
    pub(crate) memory_bytes: Option<u64>,
    /// The greatest number of processes.
    pub(crate) processes: Option<u64>,
    /// How many reports it may replace in a second.
    pub(crate) rate: Option<u32>,
    /// What it may use of the machine, all of its processes together.
    pub(crate) budget: Budget,
    /// The greatest length of its log.
    pub(crate) log_bytes: u64,
    /// ROMs and reports are files.
    pub(crate) files: bool,
    /// It reaches nothing but its sessions.
    pub(crate) isolated: bool,
    /// What it may reach nevertheless.
    pub(crate) paths: Vec<PathBuf>,
    /// It has the network of the host.
    pub(crate) network: bool,
}

/// What control groups limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Budget {
    pub(crate) ram_bytes: Option<u64>,
    /// Hundredths of one processor.
    pub(crate) cpu_percent: Option<u32>,
}

impl Budget {
    /// Returns whether it limits nothing.
    pub(crate) fn is_unlimited(self) -> bool {
        self == Self::default()
    }
}

/// A program that is a member.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Program {
    /// What is executed, and its arguments.
    pub(crate) command: Vec<String>,
    pub(crate) budget: Budget,
}

/// When a component that has ended is started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Restart {
    Always,
    OnFailure,
    Never,
}

/// What a ROM is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    /// Whose ROM; anybody's if open.
    pub(crate) component: Option<String>,
    /// Which ROM; any if open.
    pub(crate) rom: Option<String>,
    /// The report that it is.
    pub(crate) from: Label,
    /// It stays when its writer has gone.
    pub(crate) sticky: bool,
    /// It stays when the machine has gone.
    pub(crate) persist: bool,
}

/// A report: who writes it, and its name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Label {
    pub(crate) writer: String,
    pub(crate) report: String,
}

impl std::fmt::Display for Label {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.writer, self.report)
    }
}

impl Label {
    pub(crate) fn new(writer: &str, report: &str) -> Self {
        Self { writer: writer.to_owned(), report: report.to_owned() }
    }

    /// Returns whether no component writes it.
    pub(crate) fn is_own(&self) -> bool {
        self.writer == DOCUMENT || self.writer == SCENARIO
    }

    /// Reads `writer/report`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (writer, report) = text.split_once('/')?;
        (is_name(writer) && is_name(report)).then(|| Self::new(writer, report))
    }
}

impl Route {
    fn serves(&self, component: &str) -> bool {
        self.component.as_deref().is_none_or(|name| name == component)
    }
}

impl Scenario {
    /// Returns what a component's ROM is.
    pub(crate) fn route(&self, component: &str, rom: &str) -> Option<Route> {
        let matches =
            |route: &&Route| route.serves(component) && route.rom.as_deref().is_none_or(|name| name == rom);
        self.routes.iter().find(matches).cloned()
    }

    /// Returns all routes that a component may use.
    pub(crate) fn routes_of(&self, component: &str) -> Vec<&Route> {
        self.routes.iter().filter(|route| route.serves(component)).collect()
    }

    /// Returns the names of a component's ROMs, as far as routes name them.
    pub(crate) fn roms_of(&self, component: &str) -> BTreeSet<&str> {
        self.routes_of(component).into_iter().filter_map(|route| route.rom.as_deref()).collect()
    }
}

/// What is wrong with a scenario, and where.
#[derive(Debug)]
pub(crate) struct Wrong {
    at: Range<usize>,
    why: String,
    remedy: String,
}

/// What is wrong with a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unusable {
    pub(crate) why: String,
    pub(crate) remedy: String,
}

/// Reads a scenario's file.
pub(crate) fn load(path: &Path) -> Result<Scenario, Unusable> {
    let text = std::fs::read_to_string(path).map_err(|error| Unusable {
        why: error.to_string(),
        remedy: "name a text file that you may read".to_owned(),
    })?;
    let directory = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let directory = directory.canonicalize().unwrap_or_else(|_| directory.to_owned());
    parse(&text, &directory).map_err(|wrong| {
        let (line, column) = spot::position(&text, wrong.at.start);
        Unusable { why: format!("line {line}, column {column}: {}", wrong.why), remedy: wrong.remedy }
    })
}

const TOP: [&str; 5] = ["name", "component", "document", "program", "route"];
const COMPONENT: [&str; 18] = [
    "binary",
    "arguments",
    "version",
    "environment",
    "config",
    "config_file",
    "reports",
    "limit",
    "restart",
    "backoff",
    "attempts",
    "heartbeat",
    "files",
    "isolated",
    "paths",
    "network",
    "budget",
    "log",
];

fn parse(text: &str, directory: &Path) -> Result<Scenario, Wrong> {
    let table = DeTable::parse(text).map_err(|error| Wrong {
        at: error.span().unwrap_or(0..0),
        why: error.message().to_owned(),
        remedy: "a scenario is written in TOML; docs/component.md has an example".to_owned(),
    })?;
    let mut scenario = Scenario { text: text.to_owned(), ..Scenario::default() };
    let mut from_spans = Vec::new();
    let mut own = Vec::new();
    for (key, value) in table.get_ref() {
        match known(key, "keys of a scenario", &TOP)? {
            "name" => scenario.name = Some(name(value)?.to_owned()),
            "component" => {
                for (key, value) in as_table(value, "[component.NAME]")? {
                    let called = component_name(key)?;
                    let (component, config) = component(value, directory, &mut scenario.files)?;
                    if let Some(config) = config {
                        let label = Label::new(DOCUMENT, &format!("{called}.{CONFIG}"));
                        scenario.documents.insert(label.report.clone(), config);
                        own.push(Route {
                            component: Some(called.to_owned()),
                            rom: Some(CONFIG.to_owned()),
                            from: label,
                            sticky: true,
                            persist: false,
                        });
                    }
                    scenario.components.insert(called.to_owned(), component);
                }
            }
            "document" => {
                for (key, value) in as_table(value, "[document.NAME]")? {
                    let called = named(key)?;
                    let content = document(value, directory, &mut scenario.files)?;
                    scenario.documents.insert(called.to_owned(), content);
                }
            }
            "program" => {
                for (key, value) in as_table(value, "[program.NAME]")? {
                    scenario.programs.insert(named(key)?.to_owned(), program(value, directory)?);
                }
            }
            _ => {
                for value in as_array(value, "[[route]]")? {
                    let (route, spans) = route(value)?;
                    scenario.routes.push(route);
                    from_spans.push(spans);
                }
            }
        }
    }
    check_routes(&scenario, &from_spans)?;
    // Behind the written ones, which may give a component another configuration.
    scenario.routes.extend(own);
    scenario.persisted =
        scenario.routes.iter().filter(|route| route.persist).map(|route| route.from.clone()).collect();
    scenario.tells_state = scenario.routes.iter().any(|route| route.from == Label::new(SCENARIO, "state"));
    Ok(scenario)
}

/// Each route is of a component that there is, and from a report that there can be.
fn check_routes(scenario: &Scenario, spans: &[RouteSpans]) -> Result<(), Wrong> {
    let names = || scenario.components.keys().map(String::as_str);
    for (route, spans) in scenario.routes.iter().zip(spans) {
        if let Some(component) = &route.component
            && !scenario.components.contains_key(component)
        {
            return Err(Wrong {
                at: spans.component.clone(),
                why: format!("the route is for {component}, and there is no such component"),
                remedy: spot::suggest(component, "components", names()),
            });
        }
        let Label { writer, report } = &route.from;
        let (whose, known): (&str, Option<Vec<&str>>) = match writer.as_str() {
            DOCUMENT => ("documents", Some(scenario.documents.keys().map(String::as_str).collect())),
            SCENARIO => ("reports of the scenario", Some(vec!["file", "state"])),
            writer => match scenario.components.get(writer) {
                Some(component) => (
                    "its reports",
                    component.reports.as_ref().map(|reports| reports.iter().map(String::as_str).collect()),
                ),
                None => {
                    return Err(Wrong {
                        at: spans.from.clone(),
                        why: format!("the route is from {}, and there is no component {writer}", route.from),
                        remedy: spot::suggest(writer, "components", names()),
                    });
                }
            },
        };
        if let Some(known) = known
            && !known.contains(&report.as_str())
        {
            return Err(Wrong {
                at: spans.from.clone(),
                why: format!("the route is from {}, and {writer} has no {report}", route.from),
                remedy: spot::suggest(report, whose, known),
            });
        }
    }
    Ok(())
}

fn component(
    value: &Spanned<DeValue<'_>>,
    directory: &Path,
    files: &mut BTreeSet<PathBuf>,
) -> Result<(Component, Option<Vec<u8>>), Wrong> {
    let mut component = Component {
        binary: PathBuf::new(),
        arguments: Vec::new(),
        version: String::new(),
        environment: BTreeMap::new(),
        reports: None,
        limit_bytes: LIMIT_BYTES,
        restart: Restart::OnFailure,
        backoff: Duration::from_millis(100),
        attempts: 5,
        heartbeat: None,
        memory_bytes: None,
        processes: None,
        rate: None,
        budget: Budget::default(),
        log_bytes: LOG_BYTES,
        files: false,
        isolated: true,
        paths: Vec::new(),
        network: false,
    };
    let mut config = None;
    for (key, value) in as_table(value, "[component.NAME]")? {
        match known(key, "keys of a component", &COMPONENT)? {
            "binary" => {
                let binary = Path::new(text(value)?);
                // A name without a slash is looked up as a shell does.
                component.binary =
                    if binary.components().count() > 1 { directory.join(binary) } else { binary.to_owned() };
            }
            "arguments" => {
                for value in as_array(value, "arguments = [\"...\"]")? {
                    component.arguments.push(text(value)?.to_owned());
                }
            }
            "version" => component.version = text(value)?.to_owned(),
            "environment" => {
                for (key, value) in as_table(value, "environment = { NAME = \"...\" }")? {
                    component.environment.insert(key.get_ref().to_string(), text(value)?.to_owned());
                }
            }
            "config" => config = Some(text(value)?.as_bytes().to_vec()),
            "config_file" => config = Some(file(value, directory, files)?),
            "reports" => {
                let mut reports = BTreeSet::new();
                for value in as_array(value, "reports = [\"...\"]")? {
                    if !reports.insert(name(value)?.to_owned()) {
                        return Err(Wrong {
                            at: value.span(),
                            why: "this report is named twice".to_owned(),
                            remedy: "name each report once".to_owned(),
                        });
                    }
                }
                component.reports = Some(reports);
            }
            "limit" => component.limit_bytes = bytes(value)?,
            "restart" => {
                component.restart = match one_of(value, &["always", "on-failure", "never"])? {
                    "always" => Restart::Always,
                    "never" => Restart::Never,
                    _ => Restart::OnFailure,
                };
            }
            "backoff" => component.backoff = duration(value)?,
            "attempts" => {
                component.attempts = text_or_integer(value).parse().map_err(|_| Wrong {
                    at: value.span(),
                    why: "this is no number of attempts".to_owned(),
                    remedy: "write a number, as in `attempts = 5`".to_owned(),
                })?;
            }
            "heartbeat" => component.heartbeat = Some(duration(value)?),
            "budget" => {
                for (key, value) in as_table(value, "budget = { ram = \"64MiB\", cpu = 0.5 }")? {
                    match known(key, "budgets", &["ram", "cpu", "memory", "processes", "reports"])? {
                        "ram" => component.budget.ram_bytes = Some(bytes(value)?),
                        "cpu" => component.budget.cpu_percent = Some(share(value)?),
                        "memory" => component.memory_bytes = Some(bytes(value)?),
                        "processes" => component.processes = Some(count(value, "processes = 16")?),
                        _ => {
                            let rate = count(value, "reports = 1000, which is so many in a second")?;
                            component.rate = Some(u32::try_from(rate).unwrap_or(u32::MAX));
                        }
                    }
                }
            }
            "log" => component.log_bytes = bytes(value)?,
            "files" => component.files = boolean(value)?,
            "isolated" => component.isolated = boolean(value)?,
            "network" => component.network = boolean(value)?,
            _ => {
                for value in as_array(value, "paths = [\"/...\"]")? {
                    component.paths.push(directory.join(text(value)?));
                }
            }
        }
    }
    if component.binary.as_os_str().is_empty() {
        return Err(Wrong {
            at: value.span(),
            why: "this component has no binary".to_owned(),
            remedy: "say what is to be executed: `binary = \"...\"`".to_owned(),
        });
    }
    if component.files && component.heartbeat.is_some() {
        return Err(Wrong {
            at: value.span(),
            why: "a component whose sessions are files has no way to answer a heartbeat".to_owned(),
            remedy: "leave out `heartbeat` or `files`".to_owned(),
        });
    }
    Ok((component, config))
}

fn program(value: &Spanned<DeValue<'_>>, directory: &Path) -> Result<Program, Wrong> {
    let mut program = Program::default();
    for (key, value) in as_table(value, "[program.NAME]")? {
        match known(key, "keys of a program", &["command", "budget"])? {
            "command" => {
                for word in as_array(value, "command = [\"...\"]")? {
                    program.command.push(text(word)?.to_owned());
                }
            }
            _ => {
                for (key, value) in as_table(value, "budget = { ram = \"64MiB\", cpu = 0.5 }")? {
                    match known(key, "budgets of a program", &["ram", "cpu"])? {
                        "ram" => program.budget.ram_bytes = Some(bytes(value)?),
                        _ => program.budget.cpu_percent = Some(share(value)?),
                    }
                }
            }
        }
    }
    match program.command.first_mut() {
        // A name without a slash is looked up as a shell does.
        Some(first) => {
            if Path::new(first).components().count() > 1 {
                *first = directory.join(&*first).display().to_string();
            }
            Ok(program)
        }
        None => Err(Wrong {
            at: value.span(),
            why: "this program has no command".to_owned(),
            remedy: "say what is to be executed: `command = [\"...\"]`".to_owned(),
        }),
    }
}

fn document(
    value: &Spanned<DeValue<'_>>,
    directory: &Path,
    files: &mut BTreeSet<PathBuf>,
) -> Result<Vec<u8>, Wrong> {
    let mut content = None;
    for (key, value) in as_table(value, "[document.NAME]")? {
        content = Some(match known(key, "keys of a document", &["content", "file"])? {
            "content" => text(value)?.as_bytes().to_vec(),
            _ => file(value, directory, files)?,
        });
    }
    content.ok_or_else(|| Wrong {
        at: value.span(),
        why: "this document has no content".to_owned(),
        remedy: "give it `content = \"...\"` or `file = \"...\"`".to_owned(),
    })
}

/// Where the parts of a route stand.
struct RouteSpans {
    component: Range<usize>,
    from: Range<usize>,
}

fn route(value: &Spanned<DeValue<'_>>) -> Result<(Route, RouteSpans), Wrong> {
    let mut route =
        Route { component: None, rom: None, from: Label::new("", ""), sticky: false, persist: false };
    let mut spans = RouteSpans { component: value.span(), from: value.span() };
    for (key, value) in as_table(value, "[[route]]")? {
        match known(key, "keys of a route", &["match", "from", "sticky", "persist"])? {
            "match" => {
                for (key, value) in as_table(value, "match = { component = \"...\", rom = \"...\" }")? {
                    if known(key, "keys of a match", &["component", "rom"])? == "component" {
                        spans.component = value.span();
                        route.component = Some(name(value)?.to_owned());
                    } else {
                        route.rom = Some(name(value)?.to_owned());
                    }
                }
            }
            "from" => {
                spans.from = value.span();
                route.from = Label::parse(text(value)?).ok_or_else(|| Wrong {
                    at: value.span(),
                    why: "this names no report".to_owned(),
                    remedy: "write `from = \"COMPONENT/REPORT\"`, or `document/NAME`, or `scenario/state`"
                        .to_owned(),
                })?;
            }
            "sticky" => route.sticky = boolean(value)?,
            _ => route.persist = boolean(value)?,
        }
    }
    // What survives the machine survives its writer.
    route.sticky |= route.persist;
    if route.from.writer.is_empty() {
        return Err(Wrong {
            at: value.span(),
            why: "this route leads nowhere".to_owned(),
            remedy: "add `from = \"COMPONENT/REPORT\"`".to_owned(),
        });
    }
    Ok((route, spans))
}

fn known<'a>(
    key: &Spanned<std::borrow::Cow<'_, str>>,
    what: &str,
    names: &[&'a str],
) -> Result<&'a str, Wrong> {
    let word = key.get_ref().as_ref();
    names.iter().copied().find(|name| *name == word).ok_or_else(|| Wrong {
        at: key.span(),
        why: format!("there is no key {}", word.escape_debug()),
        remedy: spot::suggest(word, what, names.iter().copied()),
    })
}

fn wrong_type(value: &Spanned<DeValue<'_>>, wanted: &str) -> Wrong {
    Wrong {
        at: value.span(),
        why: format!("this is {}", value.get_ref().type_str()),
        remedy: format!("write {wanted}"),
    }
}

fn as_table<'a, 'i>(value: &'a Spanned<DeValue<'i>>, wanted: &str) -> Result<&'a DeTable<'i>, Wrong> {
    value.get_ref().as_table().ok_or_else(|| wrong_type(value, wanted))
}

fn as_array<'a, 'i>(
    value: &'a Spanned<DeValue<'i>>,
    wanted: &str,
) -> Result<&'a [Spanned<DeValue<'i>>], Wrong> {
    value.get_ref().as_array().map(|array| &array[..]).ok_or_else(|| wrong_type(value, wanted))
}

fn text<'a>(value: &'a Spanned<DeValue<'_>>) -> Result<&'a str, Wrong> {
    value.get_ref().as_str().ok_or_else(|| wrong_type(value, "a text in quotes"))
}

fn text_or_integer(value: &Spanned<DeValue<'_>>) -> String {
    match value.get_ref() {
        DeValue::Integer(integer) => integer.as_str().to_owned(),
        other => other.as_str().unwrap_or_default().to_owned(),
    }
}

fn boolean(value: &Spanned<DeValue<'_>>) -> Result<bool, Wrong> {
    value.get_ref().as_bool().ok_or_else(|| wrong_type(value, "true or false"))
}

fn one_of<'a>(value: &'a Spanned<DeValue<'_>>, words: &[&str]) -> Result<&'a str, Wrong> {
    let word = text(value)?;
    if words.contains(&word) {
        return Ok(word);
    }
    Err(Wrong {
        at: value.span(),
        why: format!("there is no value {}", word.escape_debug()),
        remedy: spot::suggest(word, "values", words.iter().copied()),
    })
}

fn file(
    value: &Spanned<DeValue<'_>>,
    directory: &Path,
    files: &mut BTreeSet<PathBuf>,
) -> Result<Vec<u8>, Wrong> {
    let path = directory.join(text(value)?);
    files.insert(path.clone());
    std::fs::read(&path).map_err(|error| Wrong {
        at: value.span(),
        why: format!("cannot read {}: {error}", path.display()),
        remedy: "name a file that you may read".to_owned(),
    })
}

const NAMES: &str = "names have up to 64 letters, digits, - _ and ., and begin with no dot";

fn name<'a>(value: &'a Spanned<DeValue<'_>>) -> Result<&'a str, Wrong> {
    let word = text(value)?;
    if is_name(word) {
        return Ok(word);
    }
    Err(Wrong {
        at: value.span(),
        why: format!("{} is no name", word.escape_debug()),
        remedy: NAMES.to_owned(),
    })
}

fn named<'a>(key: &'a Spanned<std::borrow::Cow<'_, str>>) -> Result<&'a str, Wrong> {
    let word = key.get_ref().as_ref();
    if is_name(word) {
        return Ok(word);
    }
    Err(Wrong {
        at: key.span(),
        why: format!("{} is no name", word.escape_debug()),
        remedy: NAMES.to_owned(),
    })
}

fn component_name<'a>(key: &'a Spanned<std::borrow::Cow<'_, str>>) -> Result<&'a str, Wrong> {
    let word = named(key)?;
    if word == DOCUMENT || word == SCENARIO {
        return Err(Wrong {
            at: key.span(),
            why: format!("{word} is the name of what stands in the scenario itself"),
            remedy: "give the component another name".to_owned(),
        });
    }
    Ok(word)
}

/// Reads a number of at least one.
fn count(value: &Spanned<DeValue<'_>>, example: &str) -> Result<u64, Wrong> {
    text_or_integer(value).parse().ok().filter(|count| *count > 0).ok_or_else(|| Wrong {
        at: value.span(),
        why: "this is no number of at least one".to_owned(),
        remedy: format!("write a number, as in `{example}`"),
    })
}

/// Reads a share of processors, in hundredths of one: 0.5, 2, "50%". The least is what the kernel divides by.
fn share(value: &Spanned<DeValue<'_>>) -> Result<u32, Wrong> {
    let written = match value.get_ref() {
        DeValue::Float(float) => float.as_str().to_owned(),
        _ => text_or_integer(value),
    };
    let percent = match written.strip_suffix('%') {
        Some(number) => number.trim().parse::<f64>().ok(),
        None => written.parse::<f64>().ok().map(|processors| processors * 100.0),
    };
    let percent = percent.map(f64::round).filter(|percent| (1.0..=1_000_000.0).contains(percent));
    percent.map(|percent| percent as u32).ok_or_else(|| Wrong {
        at: value.span(),
        why: "this is no share of processors".to_owned(),
        remedy: "write how many of them, as 0.5 or 2, or hundredths of one, as \"50%\"; at least 1%"
            .to_owned(),
    })
}

/// Reads a size, as `64KiB`.
fn bytes(value: &Spanned<DeValue<'_>>) -> Result<u64, Wrong> {
    let written = text_or_integer(value);
    let (number, unit) = split_unit(&written);
    let unit = match unit {
        "" | "B" => Some(1u64),
        "KiB" | "K" => Some(1 << 10),
        "MiB" | "M" => Some(1 << 20),
        "GiB" | "G" => Some(1 << 30),
        _ => None,
    };
    let size = number.parse::<u64>().ok().zip(unit).and_then(|(number, unit)| number.checked_mul(unit));
    size.filter(|size| *size > 0).ok_or_else(|| Wrong {
        at: value.span(),
        why: "this is no size".to_owned(),
        remedy: "write a number of bytes, or one with a unit: \"64KiB\", \"1MiB\", \"2GiB\"".to_owned(),
    })
}

/// Reads a span, as `100ms`.
fn duration(value: &Spanned<DeValue<'_>>) -> Result<Duration, Wrong> {
    parse_duration(&text_or_integer(value)).ok_or_else(|| Wrong {
        at: value.span(),
        why: "this is no span of time".to_owned(),
        remedy: "write a number and a unit: \"100ms\", \"2s\", \"1min\"".to_owned(),
    })
}

pub(crate) fn parse_duration(text: &str) -> Option<Duration> {
    let (number, unit) = split_unit(text);
    let number: u64 = number.parse().ok()?;
    let ms = match unit {
        "ms" => 1,
        "s" => 1000,
        "min" => 60_000,
        _ => return None,
    };
    // A year is as good as forever, and no sum overflows.
    number.checked_mul(ms).filter(|ms| *ms <= 31_536_000_000).map(Duration::from_millis)
}

fn split_unit(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    (number, unit.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(text: &str) -> String {
        let wrong = parse(text, Path::new("/x")).unwrap_err();
        let (line, column) = spot::position(text, wrong.at.start);
        format!("{line}:{column}: {}; {}", wrong.why, wrong.remedy)
    }

    const GOOD: &str = r#"
name = "desk"
[component.wm]
binary = "wm"
reports = ["window_list", "pointer"]
[component.layouter]
binary = "./bin/layouter"
config = "grid"
limit = "64KiB"
heartbeat = "1s"
[document.theme]
content = "dark"
[[route]]
match = { component = "layouter", rom = "window_list" }
from = "wm/window_list"
sticky = true
[[route]]
match = { rom = "theme" }
from = "document/theme"
"#;

    #[test]
    fn a_scenario_is_read() {
        let scenario = parse(GOOD, Path::new("/x")).unwrap();
        assert_eq!(scenario.components["layouter"].binary, Path::new("/x/./bin/layouter"));
        assert_eq!(scenario.components["layouter"].limit_bytes, 65536);
        assert_eq!(scenario.components["wm"].binary, Path::new("wm"));
        let route = scenario.route("layouter", "window_list").unwrap();
        assert!(route.sticky && route.from == Label::new("wm", "window_list"));
        assert_eq!(
            scenario.route("layouter", "config").unwrap().from.to_string(),
            "document/layouter.config"
        );
        assert!(scenario.route("wm", "window_list").is_none() && scenario.route("wm", "theme").is_some());
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place_and_the_nearest_name() {
        let told = wrong("[component.a]\nbinary = \"x\"\n restrat = \"never\"\n");
        assert!(told.starts_with("3:2: there is no key restrat; did you mean restart?"), "{told}");
        let told = wrong(&format!("{GOOD}[[route]]\nmatch = {{ rom = \"x\" }}\nfrom = \"layuter/rules\"\n"));
        assert!(told.contains("22:8: ") && told.contains("did you mean layouter?"), "{told}");
        let told = wrong(&format!(
            "{GOOD}[[route]]\nmatch = {{ component = \"w\", rom = \"x\" }}\nfrom = \"wm/pointer\"\n"
        ));
        assert!(told.contains("21:23: ") && told.contains("no such component"), "{told}");
        let told = wrong(&format!("{GOOD}[[route]]\nmatch = {{ rom = \"x\" }}\nfrom = \"wm/pionter\"\n"));
        assert!(told.contains("wm has no pionter; did you mean pointer?"), "{told}");
        assert!(wrong("[component.a]\nbinary=\"x\"\n[component.a]\n").contains("duplicate"));
        assert!(wrong("[component.scenario]\nbinary=\"x\"\n").contains("another name"));
        assert!(wrong("[component.'a b']\nbinary=\"x\"\n").contains("is no name"));
        assert!(wrong("[component.a]\n").contains("no binary"));
        assert!(wrong("[component.a]\nbinary=\"x\"\nlimit=0").contains("no size"));
        assert!(wrong("[component.a]\nbinary=\"x\"\nbackoff=\"5\"").contains("no span"));
        assert!(wrong("[[route]]\nmatch={rom=\"x\"}\n").contains("leads nowhere"));
        assert!(wrong("component = 5").contains("[component.NAME]"));
    }
}
