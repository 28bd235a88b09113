//! The commands, as a user gives them.

use crate::control::Replacement;
use crate::engine::Engine;
use crate::failure::{Failure, Status};
use crate::image::Image;
use crate::scenario::{self, Scenario};
use crate::status::State;
use crate::{graph, place, source};
use clap::{Parser, Subcommand, ValueEnum};
use frost_component::wire::is_name;
use frost_component::{Content, Error, Session};
use std::ffi::OsStr;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Runs components wired together by ROM and Report sessions
#[derive(Debug, Parser)]
#[command(name = "frost-scenario", bin_name = "frost", version, disable_help_subcommand = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Starts a scenario: its components, wired as its file says
    ///
    /// Editing the file changes the scenario: a changed document is a new version of a ROM, a changed component or route
    /// restarts that component, a removed one ends. SIGINT and SIGTERM end it, as `frost down` does.
    Up {
        /// The file
        #[arg(value_name = "SCENARIO.toml")]
        file: PathBuf,
        /// Leave it running, and return when its components have been started
        #[arg(long)]
        detach: bool,
        /// Kill components, compare what they report with what they report when started anew, so many times, and end
        #[arg(long, value_name = "ROUNDS", num_args = 0..=1, default_missing_value = "100", conflicts_with = "detach")]
        prove: Option<u64>,
        /// It is the one that was left running
        #[arg(long, hide = true)]
        left: bool,
    },
    /// Ends a scenario; documents that persist stay
    Down {
        /// Which one, if several run
        scenario: Option<String>,
    },
    /// Freezes a scenario: its documents and their versions become an image, and it ends
    Freeze {
        /// Which one, if several run
        scenario: Option<String>,
    },
    /// Starts a frozen scenario where it stood
    Thaw {
        /// Its name
        scenario: String,
        /// Its file, if it is not where it was
        #[arg(long)]
        file: Option<PathBuf>,
        /// Stay with it, as `frost up` does
        #[arg(long)]
        attach: bool,
        /// It is the one that was left running
        #[arg(long, hide = true)]
        left: bool,
    },
    /// Shows how components and documents stand
    Status {
        /// Which one, if several run
        scenario: Option<String>,
        /// Print a record instead of text
        #[arg(long)]
        json: bool,
    },
    /// Puts another implementation in the place of a component
    ///
    /// It is started beside the old one and fed. When it has reported all that the old one has, it takes over, and the old
    /// one ends. If it does not, the old one stays.
    Replace {
        /// The component
        name: String,
        /// What to execute instead
        #[arg(long)]
        binary: Option<PathBuf>,
        /// Its version
        #[arg(long = "to-version", value_name = "VERSION")]
        to_version: Option<String>,
        /// How long it has for its first report, as `500ms` or `10s`
        #[arg(long, default_value = "10s")]
        timeout: String,
        /// Which scenario, if several run
        #[arg(long)]
        scenario: Option<String>,
        /// Its arguments, if they are others
        #[arg(last = true)]
        arguments: Vec<String>,
    },
    /// Shows a ROM as a component sees it
    Rom {
        /// Whose, and which
        #[arg(value_name = "COMPONENT/ROM")]
        name: String,
        /// Show each newer version as well
        #[arg(short, long)]
        follow: bool,
        /// Which scenario, if several run
        #[arg(long)]
        scenario: Option<String>,
    },
    /// Shows a report
    Report {
        /// Whose, and which; also document/NAME, scenario/state and scenario/file
        #[arg(value_name = "COMPONENT/REPORT")]
        name: String,
        /// Show each newer version as well
        #[arg(short, long)]
        follow: bool,
        /// Which scenario, if several run
        #[arg(long)]
        scenario: Option<String>,
    },
    /// Shows who reads what
    Graph {
        /// A file, or the scenario that runs
        #[arg(value_name = "SCENARIO.toml|NAME")]
        scenario: Option<String>,
        /// In which form
        #[arg(long, value_enum, default_value = "text")]
        format: Format,
    },
    /// A component that reports what the script in its ROM `config` says
    Source,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    Text,
    Dot,
    Svg,
}

impl Arguments {
    pub(crate) fn run(self) -> Result<(), Failure> {
        match self.verb {
            Verb::Up { file, detach, prove, left } => up(&file, detach, prove, left),
            Verb::Down { scenario } => down(scenario.as_deref()),
            Verb::Freeze { scenario } => freeze(scenario.as_deref()),
            Verb::Thaw { scenario, file, attach, left } => thaw(&scenario, file, attach, left),
            Verb::Status { scenario, json } => status(scenario.as_deref(), json),
            Verb::Replace { name, binary, to_version, timeout, scenario, arguments } => {
                let span = scenario::parse_duration(&timeout).ok_or_else(|| {
                    Failure::new(
                        Status::Usage,
                        "cannot use --timeout",
                        format!("{timeout} is no span of time"),
                    )
                    .hint("write a number and a unit, as `500ms` or `10s`")
                })?;
                let wish = Replacement {
                    binary: binary.map(|binary| {
                        let is_path = binary.components().count() > 1;
                        if is_path { std::path::absolute(&binary).unwrap_or(binary) } else { binary }
                    }),
                    arguments: Some(arguments).filter(|arguments| !arguments.is_empty()),
                    version: to_version,
                    timeout_ms: span.as_millis() as u64,
                };
                replace(scenario.as_deref(), &name, &wish)
            }
            Verb::Rom { name, follow, scenario } => show(scenario.as_deref(), "rom", &name, follow),
            Verb::Report { name, follow, scenario } => show(scenario.as_deref(), "report", &name, follow),
            Verb::Graph { scenario, format } => picture(scenario.as_deref(), format),
            Verb::Source => {
                source::run().map_err(|why| Failure::new(Status::Failed, "the source has ended", why))
            }
        }
    }
}

fn load(file: &Path) -> Result<(String, Scenario), Failure> {
    let what = format!("cannot use {}", file.display());
    let scenario = scenario::load(file)
        .map_err(|unusable| Failure::new(Status::Usage, &what, unusable.why).hint(unusable.remedy))?;
    let stem = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let name = scenario.name.clone().unwrap_or(stem);
    if is_name(&name) {
        return Ok((name, scenario));
    }
    Err(Failure::new(Status::Usage, what, format!("{name} can be no scenario's name"))
        .hint("add `name = \"...\"` to it"))
}

fn up(file: &Path, detach: bool, prove: Option<u64>, left: bool) -> Result<(), Failure> {
    let (name, scenario) = load(file)?;
    let home = place::scenarios()?.join(&name);
    if detach {
        let words = [OsStr::new("up"), OsStr::new("--left"), file.as_os_str()];
        return leave(&words, &home, &name);
    }
    supervise(&name, &home, file, scenario, None, prove, left)
}

/// Is the supervisor, until the scenario ends.
fn supervise(
    name: &str,
    home: &Path,
    file: &Path,
    scenario: Scenario,
    image: Option<Image>,
    prove: Option<u64>,
    left: bool,
) -> Result<(), Failure> {
    let failed =
        |error: io::Error| Failure::new(Status::Failed, format!("cannot start scenario {name}"), error);
    if left {
        // It shall not end with the terminal at which it was started.
        rustix::process::setsid().map_err(|errno| failed(errno.into()))?;
    }
    let lock = place::claim(home, name)?;
    let file = std::path::absolute(file).map_err(failed)?;
    let mut engine = Engine::new(home, &file, name, scenario, image).map_err(failed)?;
    eprintln!("scenario {name} is up; `frost status` shows it, `frost down {name}` ends it");
    if let Some(rounds) = prove {
        engine.begin_proof(rounds);
    }
    let ended = engine.run(lock).map_err(|error| {
        Failure::new(Status::Failed, format!("scenario {name} has ended"), error)
            .state("its components have ended with it")
    })?;
    match ended {
        Some(found) => Err(Failure::new(Status::Failed, format!("scenario {name} is not proved"), found)
            .state("it has ended")
            .hint("what a component has to remember it must report, and read back as a ROM")),
        None => Ok(()),
    }
}

/// Starts the supervisor in a session of its own, and waits until it answers.
fn leave(words: &[&OsStr], home: &Path, name: &str) -> Result<(), Failure> {
    let failed =
        |error: io::Error| Failure::new(Status::Failed, format!("cannot start scenario {name}"), error);
    drop(place::claim(home, name)?);
    let log = home.join("log");
    let output = std::fs::File::create(&log).map_err(failed)?;
    let mut command = Command::new("/proc/self/exe");
    command.args(words).stdin(Stdio::null()).stdout(Stdio::null()).stderr(output);
    let mut child = command.spawn().map_err(failed)?;
    loop {
        if let Ok(mut session) = Session::connect_to(&home.join("control"))
            && session.ask("status", "-", &[], None).is_ok()
        {
            println!("scenario {name} is up as process {}", child.id());
            return Ok(());
        }
        if let Some(status) = child.try_wait().map_err(failed)? {
            let told = std::fs::read_to_string(&log).unwrap_or_default();
            let why = format!("its supervisor has ended ({status}): {}", told.trim());
            return Err(Failure::new(Status::Failed, format!("cannot start scenario {name}"), why));
        }
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
}

fn freeze(name: Option<&str>) -> Result<(), Failure> {
    let (name, mut session) = place::connect(name, "freeze a scenario")?;
    let answer = session
        .ask("freeze", "-", &[], None)
        .map_err(|error| denied(&format!("cannot freeze scenario {name}"), error))?;
    let mut numbers = answer.words().2.split(' ');
    let (documents, bytes) = (numbers.next().unwrap_or("?"), numbers.next().unwrap_or("?"));
    let programs = match numbers.next() {
        None | Some("0") => String::new(),
        Some(programs) => format!(", {programs} programs in images of their own"),
    };
    println!("scenario {name}: {documents} documents, {bytes} bytes{programs}; its components are gone");
    Ok(())
}

fn thaw(name: &str, file: Option<PathBuf>, attach: bool, left: bool) -> Result<(), Failure> {
    let what = format!("cannot thaw scenario {name}");
    if !is_name(name) {
        return Err(Failure::new(Status::Usage, what, "that can be no scenario's name"));
    }
    let home = place::scenarios()?.join(name);
    let image = Image::read(&home).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Failure::new(Status::Missing, &what, "it has no image")
            .hint("`frost freeze` makes one of a scenario that runs, `frost up` starts one anew"),
        io::ErrorKind::InvalidData => Failure::new(Status::Damaged, &what, error)
            .hint("`frost up` starts it anew, with the documents that persist"),
        _ => Failure::new(Status::Failed, &what, error),
    })?;
    let file = file.unwrap_or_else(|| image.file.clone());
    let (found, scenario) = load(&file)?;
    if found != name {
        let why = format!("{} is the file of scenario {found}", file.display());
        return Err(Failure::new(Status::Usage, what, why).hint("name its own by `--file`"));
    }
    if attach || left {
        return supervise(name, &home, &file, scenario, Some(image), None, left);
    }
    let words = ["thaw", "--left", name, "--file"].map(OsStr::new);
    leave(&[&words[..], &[file.as_os_str()]].concat(), &home, name)
}

fn denied(what: &str, error: Error) -> Failure {
    match error {
        Error::Denied { reason, .. } => {
            let (why, hint) = reason.split_once("; ").unwrap_or((&reason, ""));
            Failure::new(Status::Failed, what, why).hint(hint).state("the scenario is as it was")
        }
        error => Failure::new(Status::Failed, what, error)
            .state("the scenario may have ended meanwhile")
            .hint("`frost status` shows what runs"),
    }
}

fn down(name: Option<&str>) -> Result<(), Failure> {
    let (name, mut session) = place::connect(name, "end a scenario")?;
    match session.ask("down", "", &[], None) {
        Ok(_) | Err(Error::Gone) => {
            println!("scenario {name} has ended");
            Ok(())
        }
        Err(error) => Err(denied(&format!("cannot end {name}"), error)),
    }
}

fn output(result: io::Result<()>) -> Result<(), Failure> {
    match result {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::new(Status::Failed, "cannot write the output", error)
                .state("the scenario is as it was"))
        }
        _ => Ok(()),
    }
}

fn body(packet: frost_component::wire::Packet) -> Vec<u8> {
    Content::take(packet.body, packet.fd, u64::MAX).map(|content| content.to_vec()).unwrap_or_default()
}

fn status(name: Option<&str>, json: bool) -> Result<(), Failure> {
    let (name, mut session) = place::connect(name, "show a scenario")?;
    let what = format!("cannot show {name}");
    let text = body(session.ask("status", "-", &[], None).map_err(|error| denied(&what, error))?);
    let mut out = io::stdout().lock();
    if json {
        return output(out.write_all(&text).and_then(|()| out.write_all(b"\n")));
    }
    let state: State =
        serde_json::from_slice(&text).map_err(|error| Failure::new(Status::Failed, what, error))?;
    output(write!(out, "{}", render(&state)))
}

fn render(state: &State) -> String {
    let mut rows =
        vec![["COMPONENT", "STATE", "PID", "STARTS", "BINARY", "REMARK"].map(str::to_owned).to_vec()];
    for component in &state.components {
        let mut remark: Vec<String> = Vec::new();
        remark.extend((!component.version.is_empty()).then(|| format!("version {}", component.version)));
        remark.extend(component.is_being_replaced.then(|| "being replaced".to_owned()));
        remark.extend(component.is_silent.then(|| "has not reported".to_owned()));
        remark.extend(component.last_end.clone());
        remark.extend(component.complaint.clone());
        rows.push(vec![
            component.name.clone(),
            component.state.clone(),
            component.pid.map(|pid| pid.to_string()).unwrap_or_default(),
            component.starts.to_string(),
            component.binary.clone(),
            remark.join("; "),
        ]);
    }
    let mut text = format!("scenario {}, process {}\n", state.scenario, state.pid);
    if let Some(trouble) = &state.trouble {
        text.push_str(&format!("its file is not used as it is now: {trouble}\n"));
    }
    text.push_str(&table(&rows));
    let mut rows = vec![["DOCUMENT", "VERSION", "BYTES", "WRITER", "READERS"].map(str::to_owned).to_vec()];
    for document in &state.documents {
        rows.push(vec![
            document.name.clone(),
            document.version.to_string(),
            document.len_bytes.to_string(),
            if document.is_live { "there" } else { "gone" }.to_owned(),
            document.readers.to_string(),
        ]);
    }
    text.push('\n');
    text.push_str(&table(&rows));
    if !state.programs.is_empty() {
        let mut rows = vec![["PROGRAM", "STATE", "PID", "NAME"].map(str::to_owned).to_vec()];
        for program in &state.programs {
            let pid = program.pid.map(|pid| pid.to_string()).unwrap_or_default();
            rows.push(vec![program.name.clone(), program.state.clone(), pid, program.instance.clone()]);
        }
        text.push('\n');
        text.push_str(&table(&rows));
    }
    text.chars().map(|c| if c.is_control() && c != '\n' { '?' } else { c }).collect()
}

fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width =
        |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for row in rows {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

fn replace(scenario: Option<&str>, name: &str, wish: &Replacement) -> Result<(), Failure> {
    let (_, mut session) = place::connect(scenario, "replace a component")?;
    let text = serde_json::to_vec(wish).unwrap_or_default();
    session
        .ask("replace", name, &text, None)
        .map(|_| println!("{name} is replaced"))
        .map_err(|error| denied(&format!("cannot replace {name}"), error))
}

fn show(scenario: Option<&str>, verb: &str, name: &str, follow: bool) -> Result<(), Failure> {
    let (_, mut session) = place::connect(scenario, "show a document")?;
    let what = format!("cannot show {name}");
    session.ask(verb, name, &[], None).map_err(|error| denied(&what, error))?;
    let mut shown = None;
    loop {
        let version = match session.read(name) {
            Err(Error::Gone) => return Ok(()),
            version => version.map_err(|error| denied(&what, error))?,
        };
        if shown.replace(version.number) != Some(version.number) {
            let mut out = io::stdout().lock();
            let bytes = version.content.as_deref().unwrap_or_default();
            let newline: &[u8] = if bytes.ends_with(b"\n") || bytes.is_empty() { b"" } else { b"\n" };
            let written =
                out.write_all(bytes).and_then(|()| out.write_all(newline)).and_then(|()| out.flush());
            if written.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::BrokenPipe) {
                return Ok(());
            }
            output(written)?;
        }
        if !follow {
            return Ok(());
        }
        match session.wait() {
            Err(Error::Gone) => return Ok(()),
            waited => drop(waited.map_err(|error| denied(&what, error))?),
        }
    }
}

fn picture(scenario: Option<&str>, format: Format) -> Result<(), Failure> {
    let is_file = |text: &&str| Path::new(text).is_file();
    let scenario = match scenario.filter(is_file) {
        Some(file) => load(Path::new(file))?.1,
        None => {
            let (name, mut session) = place::connect(scenario, "draw a scenario")?;
            let what = format!("cannot draw {name}");
            let file = body(session.ask("file", "-", &[], None).map_err(|error| denied(&what, error))?);
            load(Path::new(&String::from_utf8_lossy(&file).into_owned()))?.1
        }
    };
    let text = match format {
        Format::Text => graph::edges_text(&scenario),
        Format::Dot => graph::dot(&scenario),
        Format::Svg => graph::svg(&scenario),
    };
    output(io::stdout().lock().write_all(text.as_bytes()))
}
