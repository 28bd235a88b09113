//! The commands, as a user gives them.

use crate::control::Replacement;
use crate::engine::Engine;
use crate::failure::{Failure, Status};
use crate::graph::Graph;
use crate::image::Image;
use crate::scenario::{self, Scenario};
use crate::status::State;
use crate::{budget, place, shelf, source, voice};
use clap::{Parser, Subcommand, ValueEnum};
use frost_component::wire::is_name;
use frost_component::{Content, Error, Session};
use rustix::event::{PollFd, PollFlags, poll};
use serde::Serialize;
use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Runs components wired together by ROM and Report sessions
#[derive(Debug, Parser)]
#[command(name = "frost-scenario", bin_name = "frost", version, disable_help_subcommand = true)]
pub(crate) struct Arguments {
    /// Print records, one to a line, instead of text (docs/json.md)
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Starts a scenario: its components, wired as its file says
    ///
    /// Editing the file changes the scenario: a changed document is a new version of a ROM, a changed component or route
    /// restarts that component, a removed one ends. SIGINT, SIGTERM and SIGHUP end it, as `frost down` does.
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
        /// Go back to it, though documents that persist are newer
        #[arg(long)]
        back: bool,
        /// Stay with it, as `frost up` does
        #[arg(long)]
        attach: bool,
        /// It is the one that was left running
        #[arg(long, hide = true)]
        left: bool,
    },
    /// Writes the image of a frozen scenario to standard output
    #[command(hide = true)]
    Export {
        /// Its name
        scenario: String,
    },
    /// Takes such an image from standard input
    #[command(hide = true)]
    Import,
    /// Lists scenarios, running, frozen, and with documents that persist
    #[command(hide = true)]
    List {
        /// Only these
        scenarios: Vec<String>,
    },
    /// Tells what a scenario keeps
    #[command(hide = true)]
    Inspect {
        /// Its name
        scenario: String,
    },
    /// Compares the digests of all that scenarios keep
    #[command(hide = true)]
    Verify {
        /// Only these
        scenarios: Vec<String>,
    },
    /// Removes scenarios with all that they keep
    #[command(hide = true)]
    Rm {
        /// Their names
        #[arg(required = true)]
        scenarios: Vec<String>,
    },
    /// Shows how components and documents stand
    Status {
        /// Which one, if several run
        scenario: Option<String>,
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

/// No image of a scenario that is imported is longer: all of it is held in memory.
const IMPORT_BYTES: u64 = 4 << 30;

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    Text,
    Dot,
    Svg,
}

impl Arguments {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let json = self.json;
        match self.verb {
            Verb::Up { file, detach, prove, left } => up(&file, detach, prove, left, json),
            Verb::Down { scenario } => down(scenario.as_deref(), json),
            Verb::Freeze { scenario } => freeze(scenario.as_deref(), json),
            Verb::Thaw { scenario, file, back, attach, left } => {
                thaw(&scenario, file, back, attach, left, json)
            }
            Verb::Export { scenario } => export(&scenario),
            Verb::Import => import(json),
            Verb::List { scenarios } => list(&scenarios, json),
            Verb::Inspect { scenario } => inspect(&scenario, json),
            Verb::Verify { scenarios } => verify(scenarios, json),
            Verb::Rm { scenarios } => remove(&scenarios, json),
            Verb::Status { scenario } => status(scenario.as_deref(), json),
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
                replace(scenario.as_deref(), &name, &wish, json)
            }
            Verb::Rom { name, follow, scenario } => show(scenario.as_deref(), "rom", &name, follow, json),
            Verb::Report { name, follow, scenario } => {
                show(scenario.as_deref(), "report", &name, follow, json)
            }
            Verb::Graph { scenario, format } => picture(scenario.as_deref(), format, json),
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

/// Loads a scenario that is to run here.
fn load_to_run(file: &Path) -> Result<(String, Scenario), Failure> {
    let (name, scenario) = load(file)?;
    budget::check(&scenario).map_err(|lack| {
        Failure::new(Status::Denied, format!("cannot start scenario {name}"), lack.why).hint(lack.remedy)
    })?;
    Ok((name, scenario))
}

fn up(file: &Path, detach: bool, prove: Option<u64>, left: bool, json: bool) -> Result<(), Failure> {
    let (name, scenario) = load_to_run(file)?;
    let home = place::scenarios()?.join(&name);
    keep_apart(&name, &home)?;
    if !left && home.join(crate::image::IMAGE).exists() {
        voice::tell(format_args!(
            "note: scenario {name} was frozen; `frost thaw {name}` starts it from there, this starts it with the documents \
             that persist only"
        ));
    }
    if detach {
        let words = [OsStr::new("up"), OsStr::new("--left"), file.as_os_str()];
        return leave(&words, &home, &name, json);
    }
    supervise(&name, &home, file, scenario, None, prove, left)
}

/// Refuses the name of a program's image: commands that take either would mean that one.
fn keep_apart(name: &str, home: &Path) -> Result<(), Failure> {
    // As the store has them, in which the scenarios are, too.
    let image = home.parent().and_then(Path::parent).map(|store| store.join("images").join(name));
    if image.is_some_and(|image| image.exists()) {
        let why = format!("the store has an image of a program named {name}");
        return Err(Failure::new(Status::Failed, format!("cannot start scenario {name}"), why)
            .state("nothing was started")
            .hint(format!(
                "give the scenario's file another name, or `frost rm {name}` removes that image"
            )));
    }
    Ok(())
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
    let lock = place::claim(home, name, "start")?;
    if left {
        voice::is_log(home.join("log"));
    }
    let file = std::path::absolute(file).map_err(failed)?;
    let mut engine = Engine::new(home, &file, name, scenario, image).map_err(|error| {
        let told = error.to_string();
        let (why, hint) = split(&told);
        let status = match error.kind() {
            io::ErrorKind::InvalidData => Status::Damaged,
            _ => Status::Failed,
        };
        Failure::new(status, format!("cannot start scenario {name}"), why).hint(hint)
    })?;
    voice::tell(format_args!("scenario {name} is up; `frost status` shows it, `frost down {name}` ends it"));
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
fn leave(words: &[&OsStr], home: &Path, name: &str, json: bool) -> Result<(), Failure> {
    let failed =
        |error: io::Error| Failure::new(Status::Failed, format!("cannot start scenario {name}"), error);
    drop(place::claim(home, name, "start")?);
    let log = home.join("log");
    let _ = std::fs::rename(&log, voice::older(&log));
    let output = std::fs::File::options().create(true).append(true).open(&log).map_err(failed)?;
    let mut command = Command::new("/proc/self/exe");
    command.args(words).stdin(Stdio::null()).stdout(Stdio::null()).stderr(output);
    let mut child = command.spawn().map_err(failed)?;
    loop {
        if let Ok(mut session) = Session::connect_to(&home.join("control"))
            && session.ask("status", "-", &[], None).is_ok()
        {
            let pid = child.id();
            let record = Done { pid: Some(pid), ..Done::of(name) };
            return say(json, &record, &format!("scenario {name} is up as process {pid}"));
        }
        if let Some(status) = child.try_wait().map_err(failed)? {
            let told = std::fs::read_to_string(&log).unwrap_or_default();
            return Err(match told.find("error: ") {
                // It has said all that there is to say.
                Some(at) => Failure::told(told[at..].trim(), status.code().unwrap_or(1)),
                None => {
                    let why = format!("its supervisor has ended ({status}): {}", told.trim());
                    Failure::new(Status::Failed, format!("cannot start scenario {name}"), why)
                }
            });
        }
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
}

fn freeze(name: Option<&str>, json: bool) -> Result<(), Failure> {
    let (name, mut session) = place::connect(name, "freeze a scenario")?;
    let answer = session
        .ask("freeze", "-", &[], None)
        .map_err(|error| denied(&format!("cannot freeze scenario {name}"), error))?;
    let mut numbers = answer.words().2.split(' ');
    let (documents, bytes) = (numbers.next().unwrap_or("?"), numbers.next().unwrap_or("?"));
    let number = |text: &str| text.parse::<u64>().unwrap_or(0);
    let members = numbers.next().map_or(0, number);
    let programs = match members {
        0 => String::new(),
        1 => ", 1 program in an image of its own".to_owned(),
        members => format!(", {members} programs in images of their own"),
    };
    let record = Done {
        documents: Some(number(documents)),
        bytes: Some(number(bytes)),
        programs: Some(members),
        ..Done::of(&name)
    };
    let told = format!(
        "scenario {name}: {documents} {}, {bytes} bytes{programs}; its components are gone",
        plural(documents)
    );
    say(json, &record, &told)
}

fn thaw(
    name: &str,
    file: Option<PathBuf>,
    back: bool,
    attach: bool,
    left: bool,
    json: bool,
) -> Result<(), Failure> {
    let what = format!("cannot thaw scenario {name}");
    if !is_name(name) {
        return Err(Failure::new(Status::Usage, what, "that can be no scenario's name"));
    }
    let home = place::scenarios()?.join(name);
    let image = image_of(name, &what)?;
    let file = file.unwrap_or_else(|| image.file.clone());
    let (found, scenario) = load_to_run(&file).map_err(|failure| match file.exists() {
        true => failure,
        false => failure.hint(format!(
            "it lay there when it was frozen; `frost-scenario thaw {name} --file FILE` takes another"
        )),
    })?;
    if found != name {
        let why = format!("{} is the file of scenario {found}", file.display());
        return Err(Failure::new(Status::Usage, what, why).hint("name its own by `--file`"));
    }
    if !back && let Some((label, ours, theirs)) = newer(&home, &scenario, &image, &what)? {
        let why = format!("{label}, which persists, is version {ours}, and {theirs} in the image");
        let hint = format!(
            "`frost up {}` goes on from there; `frost-scenario thaw {name} --back` goes back to the image",
            file.display()
        );
        return Err(Failure::new(Status::Failed, what, why).hint(hint));
    }
    if attach || left {
        return supervise(name, &home, &file, scenario, Some(image), None, left);
    }
    let words = ["thaw", "--left", "--back", name, "--file"].map(OsStr::new);
    leave(&[&words[..], &[file.as_os_str()]].concat(), &home, name, json)
}

/// Finds a document that was acknowledged, and made to persist, after the image was made: to thaw it would lose that. Returns
/// its version now, and that of the image.
fn newer(
    home: &Path,
    scenario: &Scenario,
    image: &Image,
    what: &str,
) -> Result<Option<(String, u64, u64)>, Failure> {
    let (kept, _) = crate::vault::load(&home.join("documents"))
        .map_err(|error| Failure::new(Status::Failed, what, error))?;
    let persists = kept.into_iter().filter(|(label, ..)| scenario.persisted.contains(label));
    let mut newer = persists.filter_map(|(label, ours, _)| {
        let theirs =
            image.documents().find(|(known, ..)| *known == label).map_or(0, |(_, version, _)| version);
        (ours > theirs).then(|| (label.to_string(), ours, theirs))
    });
    Ok(newer.next())
}

/// Reads the image of a frozen scenario.
fn image_of(name: &str, what: &str) -> Result<Image, Failure> {
    Image::read(&place::scenarios()?.join(name)).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Failure::new(Status::Missing, what, "it has no image")
            .hint("`frost freeze` makes one of a scenario that runs, `frost up` starts one anew"),
        io::ErrorKind::InvalidData => Failure::new(Status::Damaged, what, error)
            .hint("`frost up` starts it anew, with the documents that persist"),
        _ => Failure::new(Status::Failed, what, error),
    })
}

fn export(name: &str) -> Result<(), Failure> {
    let what = format!("cannot export scenario {name}");
    if !is_name(name) {
        return Err(Failure::new(Status::Usage, what, "that can be no scenario's name"));
    }
    let image = image_of(name, &what)?;
    for member in image.members.values() {
        voice::tell(format_args!("note: {member} is an image of its own: `frost export {member}`"));
    }
    let bytes = image.encode().map_err(|error| Failure::new(Status::Failed, &what, error))?;
    let mut out = io::stdout().lock();
    out.write_all(&bytes)
        .and_then(|()| out.flush())
        .map_err(|error| Failure::new(Status::Failed, what, error))
}

fn import(json: bool) -> Result<(), Failure> {
    let what = "cannot import a scenario";
    let mut bytes = Vec::new();
    io::stdin()
        .lock()
        .take(IMPORT_BYTES)
        .read_to_end(&mut bytes)
        .map_err(|error| Failure::new(Status::Failed, what, error))?;
    let image = Image::decode(&bytes)
        .map_err(|why| Failure::new(Status::Damaged, what, why).hint("export it again"))?;
    let name = image.name.clone();
    if !is_name(&name) {
        return Err(Failure::new(Status::Damaged, what, "its name can be no scenario's name"));
    }
    let what = format!("cannot import scenario {name}");
    let home = place::scenarios()?.join(&name);
    let _lock = place::claim(&home, &name, "import")?;
    if home.join(crate::image::IMAGE).exists() {
        let why = "there is an image of that name here, which it would replace";
        return Err(Failure::new(Status::Failed, what, why)
            .hint(format!(
                "`frost thaw {name}` starts that one, `frost rm {name}` removes it; `--store DIR` names another store"
            )));
    }
    image.write(&home).map_err(|error| Failure::new(Status::Failed, &what, error))?;
    let record = Done {
        documents: Some(image.len() as u64),
        bytes: Some(bytes.len() as u64),
        programs: Some(image.members.len() as u64),
        ..Done::of(&name)
    };
    for member in image.members.values() {
        voice::tell(format_args!(
            "note: it needs {member}, an image of its own, which is to be imported as well"
        ));
    }
    let told = format!(
        "scenario {name}: {} {}, {} bytes; its file is {}",
        image.len(),
        plural(&image.len().to_string()),
        bytes.len(),
        image.file.display()
    );
    say(json, &record, &told)
}

fn plural(count: &str) -> &'static str {
    if count == "1" { "document" } else { "documents" }
}

/// What is wrong, and what to do about it.
fn split(reason: &str) -> (&str, &str) {
    reason.split_once("; ").unwrap_or((reason, ""))
}

fn denied(what: &str, error: Error) -> Failure {
    match error {
        Error::Denied { reason, .. } => {
            let (why, hint) = split(&reason);
            Failure::new(Status::Failed, what, why).hint(hint).state("the scenario is as it was")
        }
        error => Failure::new(Status::Failed, what, error)
            .state("the scenario may have ended meanwhile")
            .hint("`frost status` shows what runs"),
    }
}

/// Ends the programs that a supervisor which is not there any more has left behind. Returns whether there were any.
fn end_orphans(name: &str) -> Result<bool, Failure> {
    let home = place::scenarios()?.join(name);
    if !is_name(name) || crate::members::started(&home).is_empty() {
        return Ok(false);
    }
    let _lock = place::claim(&home, name, "end")?;
    crate::members::end_orphans(&home, name).map_err(|why| {
        Failure::new(Status::Failed, format!("cannot end {name}"), why)
            .state("its supervisor has ended before")
    })
}

fn list(names: &[String], json: bool) -> Result<(), Failure> {
    let list = shelf::list(names)?;
    if json {
        return list.iter().try_for_each(record);
    }
    let mut rows = vec![["SCENARIO", "STATE", "DOCUMENTS", "FILE"].map(str::to_owned).to_vec()];
    for scenario in list {
        let file = scenario.file.map(|file| file.display().to_string()).unwrap_or_default();
        rows.push(vec![scenario.scenario, scenario.state.to_owned(), scenario.documents.to_string(), file]);
    }
    print(&table(&rows))
}

fn inspect(name: &str, json: bool) -> Result<(), Failure> {
    let content = shelf::inspect(name)?;
    if json {
        return record(&content);
    }
    let scenario = &content.shelved;
    let mut text = match (scenario.image_bytes, scenario.pid) {
        (Some(bytes), Some(pid)) => {
            format!("scenario {name}: an image of {bytes} bytes; it runs as process {pid}\n")
        }
        (Some(bytes), None) => format!("scenario {name}: frozen, an image of {bytes} bytes\n"),
        (None, Some(pid)) => {
            format!("scenario {name}: runs as process {pid}, `frost status {name}` tells more\n")
        }
        (None, None) => format!("scenario {name}: ended; these documents persist\n"),
    };
    if let Some(file) = &scenario.file {
        text.push_str(&format!("its file: {}\n", file.display()));
    }
    for program in &scenario.programs {
        text.push_str(&format!("a program of it: {program}, an image of its own\n"));
    }
    for (name, binary) in &content.replaced {
        let binary = binary.as_deref().unwrap_or(Path::new("")).display();
        text.push_str(&format!("{name} was replaced by {binary}\n"));
    }
    let mut rows = vec![["DOCUMENT", "VERSION", "BYTES"].map(str::to_owned).to_vec()];
    for held in &content.documents {
        let bytes = held.len_bytes.map_or_else(|| "empty".to_owned(), |bytes| bytes.to_string());
        rows.push(vec![held.name.clone(), held.version.to_string(), bytes]);
    }
    print(&format!("{text}\n{}", table(&rows)))
}

fn verify(names: Vec<String>, json: bool) -> Result<(), Failure> {
    let names = if names.is_empty() { shelf::names()? } else { names };
    let mut damaged = 0;
    for name in &names {
        let verdict = shelf::verify(name)?;
        damaged += u32::from(!verdict.sound);
        if json {
            record(&verdict)?;
        } else if verdict.sound {
            print(&format!("scenario {name}: sound\n"))?;
        } else {
            for problem in &verdict.problems {
                print(&format!("scenario {name}: {problem}\n"))?;
            }
        }
    }
    if damaged == 0 {
        return Ok(());
    }
    let scenarios = if names.len() == 1 { "scenario" } else { "scenarios" };
    let what = format!("{damaged} of {} {scenarios} cannot be started as it stood", names.len());
    Err(Failure::new(Status::Damaged, what, "what was written is not what is there")
        .hint("import it again, or begin anew without what is damaged"))
}

fn remove(names: &[String], json: bool) -> Result<(), Failure> {
    for removed in shelf::remove(names)? {
        for program in &removed.programs {
            voice::tell(format_args!("note: {program} is an image of its own: `frost rm {program}`"));
        }
        if json {
            record(&removed)?;
        } else {
            print(&format!("removed scenario {}, {} bytes freed\n", removed.scenario, removed.bytes))?;
        }
    }
    Ok(())
}

fn record(record: &impl Serialize) -> Result<(), Failure> {
    output(writeln!(io::stdout().lock(), "{}", serde_json::to_string(record).unwrap_or_default()))
}

/// Prints a text, of which no part shall talk to the terminal.
fn print(text: &str) -> Result<(), Failure> {
    let plain: String = text.chars().map(|c| if c.is_control() && c != '\n' { '?' } else { c }).collect();
    output(io::stdout().lock().write_all(plain.as_bytes()))
}

fn down(name: Option<&str>, json: bool) -> Result<(), Failure> {
    let connected = place::connect(name, "end a scenario");
    if let (Err(_), Some(name)) = (&connected, name)
        && end_orphans(name)?
    {
        let record = Done { state: Some("ended"), ..Done::of(name) };
        let told = format!("scenario {name} had ended without its programs; they have ended now");
        return say(json, &record, &told);
    }
    let (name, mut session) = connected?;
    match session.ask("down", "", &[], None) {
        Ok(_) | Err(Error::Gone) => {
            let record = Done { state: Some("ended"), ..Done::of(&name) };
            say(json, &record, &format!("scenario {name} has ended"))
        }
        Err(error) => Err(denied(&format!("cannot end {name}"), error)),
    }
}

/// What was done with a scenario, as a record.
#[derive(Debug, Default, Serialize)]
struct Done<'a> {
    v: u32,
    scenario: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    component: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    documents: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    programs: Option<u64>,
}

impl<'a> Done<'a> {
    fn of(scenario: &'a str) -> Self {
        Self { v: 1, scenario, ..Self::default() }
    }
}

/// Tells what was done: as a record, or as text.
fn say(json: bool, record: &Done<'_>, text: &str) -> Result<(), Failure> {
    let line = if json { serde_json::to_string(record).unwrap_or_default() } else { text.to_owned() };
    output(writeln!(io::stdout().lock(), "{line}"))
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

fn replace(scenario: Option<&str>, name: &str, wish: &Replacement, json: bool) -> Result<(), Failure> {
    let (scenario, mut session) = place::connect(scenario, "replace a component")?;
    let text = serde_json::to_vec(wish).unwrap_or_default();
    session
        .ask("replace", name, &text, None)
        .map_err(|error| denied(&format!("cannot replace {name}"), error))?;
    let record = Done { component: Some(name), state: Some("replaced"), ..Done::of(&scenario) };
    say(json, &record, &format!("{name} is replaced"))
}

fn show(scenario: Option<&str>, verb: &str, name: &str, follow: bool, json: bool) -> Result<(), Failure> {
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
            let bytes = version.content.as_deref();
            let written = if json {
                writeln!(out, "{}", document_record(name, version.number, bytes))
            } else if bytes.is_none() {
                // An empty line would be a document.
                if !follow {
                    voice::tell(format_args!("note: nothing is reported there now"));
                }
                Ok(())
            } else {
                let bytes = bytes.unwrap_or_default();
                let newline: &[u8] = if bytes.ends_with(b"\n") || bytes.is_empty() { b"" } else { b"\n" };
                out.write_all(bytes).and_then(|()| out.write_all(newline))
            };
            let written = written.and_then(|()| out.flush());
            if written.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::BrokenPipe) {
                return Ok(());
            }
            output(written)?;
        }
        if !follow {
            return Ok(());
        }
        if !session.has_signals() && is_unheard(&session) {
            return Ok(());
        }
        match session.wait() {
            Err(Error::Gone) => return Ok(()),
            waited => drop(waited.map_err(|error| denied(&what, error))?),
        }
    }
}

/// Waits for a signal; returns whether whoever reads our output has gone meanwhile, as `head` does.
fn is_unheard(session: &Session) -> bool {
    let out = io::stdout();
    loop {
        let mut fds = [PollFd::new(session, PollFlags::IN), PollFd::new(&out, PollFlags::empty())];
        match poll(&mut fds, None) {
            Err(rustix::io::Errno::INTR) => {}
            // Of a pipe that has no reader, and of a terminal that was hung up.
            Ok(_) if fds[1].revents().intersects(PollFlags::ERR | PollFlags::HUP) => return true,
            _ => return false,
        }
    }
}

/// A version of a document, as a record.
#[derive(Debug, Serialize)]
struct DocumentRecord<'a> {
    v: u32,
    name: &'a str,
    version: u64,
    /// Null where there is none.
    content: Option<&'a str>,
    /// Instead, if it is no text: its bytes in hexadecimal digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    content_hex: Option<String>,
}

fn document_record(name: &str, version: u64, bytes: Option<&[u8]>) -> String {
    let content = bytes.and_then(|bytes| std::str::from_utf8(bytes).ok());
    let digits = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let content_hex = bytes.filter(|_| content.is_none()).map(digits);
    serde_json::to_string(&DocumentRecord { v: 1, name, version, content, content_hex }).unwrap_or_default()
}

fn picture(scenario: Option<&str>, format: Format, json: bool) -> Result<(), Failure> {
    let is_file = |text: &&str| Path::new(text).is_file();
    let graph = match scenario.filter(is_file) {
        Some(file) => {
            let (name, scenario) = load(Path::new(file))?;
            Graph::of(&name, &scenario)
        }
        None => {
            // What runs, which need not be what its file says by now.
            let (name, mut session) = place::connect(scenario, "draw a scenario")?;
            let what = format!("cannot draw {name}");
            let text = body(session.ask("graph", "-", &[], None).map_err(|error| denied(&what, error))?);
            serde_json::from_slice(&text).map_err(|error| Failure::new(Status::Failed, what, error))?
        }
    };
    let text = match format {
        _ if json => serde_json::to_string(&graph).unwrap_or_default() + "\n",
        Format::Text => graph.text(),
        Format::Dot => graph.dot(),
        Format::Svg => graph.svg(),
    };
    output(io::stdout().lock().write_all(text.as_bytes()))
}
