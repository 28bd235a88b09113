//! Members: ordinary programs under `frost run`, beside the components, which are frozen and thawed with the scenario.
//!
//! They keep their state where programs do, so they are frozen as processes. `frost` does all of that; a keeper of their own holds
//! them, so they outlive a supervisor that dies, and the next one finds them.

use crate::engine::Engine;
use crate::scenario::{Program, Scenario};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// How a member stands.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct MemberState {
    /// Its name in the scenario.
    pub(crate) name: String,
    /// That by which `frost` knows it.
    pub(crate) instance: String,
    /// `running`, or what `frost ps` says, or why it could not be started.
    pub(crate) state: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) pid: Option<i32>,
}

/// A line of `frost ps --json`, as far as it is needed.
#[derive(Deserialize)]
struct Known {
    name: String,
    state: String,
    #[serde(default)]
    pid: Option<i32>,
}

impl Known {
    /// Whether it runs, or that cannot be told.
    fn may_run(&self) -> bool {
        matches!(self.state.as_str(), "running" | "unknown")
    }
}

/// What `frost freeze --json` tells.
#[derive(Deserialize)]
struct Frozen {
    name: String,
    version: u32,
}

/// The command line of frost, for the members of one scenario.
pub(crate) struct Frost {
    store: PathBuf,
    scenario: String,
}

impl Frost {
    /// `home` is the scenario's directory in the store.
    pub(crate) fn of(home: &Path, scenario: &str) -> Self {
        let store = home.ancestors().nth(2).unwrap_or(home).to_owned();
        Self { store, scenario: scenario.to_owned() }
    }

    /// The name by which frost knows a member.
    pub(crate) fn instance(&self, name: &str) -> String {
        format!("{}.{name}", self.scenario)
    }

    /// Runs a command of frost, and returns what it prints; or what it says is wrong.
    fn ask(&self, words: &[&OsStr]) -> Result<String, String> {
        let beside = std::env::current_exe().ok().map(|exe| exe.with_file_name("frost"));
        let program = beside.filter(|path| path.is_file()).unwrap_or_else(|| "frost".into());
        let output = Command::new(&program)
            .arg("--store")
            .arg(&self.store)
            .args(words)
            .stdin(Stdio::null())
            .output()
            .map_err(|error| format!("cannot run {}: {error}", program.display()))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        Err(reason(&String::from_utf8_lossy(&output.stderr)))
    }

    fn run(&self, name: &str, program: &Program) -> Result<(), String> {
        let instance = self.instance(name);
        let mut words = ["run", "--detach", "--name", &instance].map(OsStr::new).to_vec();
        let ram = program.budget.ram_bytes.map(|bytes| format!("--ram={bytes}"));
        let cpu = program.budget.cpu_percent.map(|percent| format!("--cpu={percent}%"));
        words.extend(ram.iter().chain(&cpu).map(OsStr::new));
        words.push(OsStr::new("--"));
        words.extend(program.command.iter().map(OsStr::new));
        self.ask(&words).map(drop)
    }

    /// Ends a member, if it runs; that it has ended before is as good.
    fn kill(&self, name: &str) -> Result<(), String> {
        let instance = self.instance(name);
        if let Err(why) = self.ask(&["kill", "--signal", "KILL", &instance].map(OsStr::new)) {
            // It may have ended, or never have been started.
            return match self.known(&[name])?.get(&instance) {
                Some(known) if known.may_run() => Err(why),
                _ => Ok(()),
            };
        }
        // It exits with the program's status; that it has ended is what counts.
        let _ = self.ask(&["wait", &instance].map(OsStr::new));
        Ok(())
    }

    /// Freezes a member, and returns the image: its name and version.
    fn freeze(&self, name: &str) -> Result<String, String> {
        let told = self.ask(&["--json", "freeze", &self.instance(name)].map(OsStr::new))?;
        let record = told.lines().find_map(|line| serde_json::from_str::<Frozen>(line).ok());
        record
            .map(|frozen| format!("{}@{}", frozen.name, frozen.version))
            .ok_or_else(|| format!("frost said {told:?}"))
    }

    /// Thaws an image.
    pub(crate) fn thaw(&self, image: &str) -> Result<(), String> {
        self.ask(&["thaw", image].map(OsStr::new)).map(drop)
    }

    /// How those of these members stand that frost knows, by the names that it knows them by. That it does not answer is an
    /// error: it does not mean that none runs.
    fn known(&self, names: &[&str]) -> Result<BTreeMap<String, Known>, String> {
        if names.is_empty() {
            return Ok(BTreeMap::new());
        }
        let instances: BTreeSet<String> = names.iter().map(|name| self.instance(name)).collect();
        // All of them, since a name that it does not know is an error to it.
        let told = self.ask(&["--json", "ps"].map(OsStr::new))?;
        let known = told.lines().filter_map(|line| serde_json::from_str::<Known>(line).ok());
        let ours = known.filter(|known| instances.contains(&known.name));
        Ok(ours.map(|known| (known.name.clone(), known)).collect())
    }
}

/// What frost says is wrong, in one line: the causes, and what is to be done.
fn reason(told: &str) -> String {
    let lines = || told.lines().map(str::trim).filter(|line| !line.is_empty());
    let of = |word: &'static str| lines().filter_map(move |line| line.strip_prefix(word)).map(str::trim);
    let (causes, hints): (Vec<&str>, Vec<&str>) = (of("cause:").collect(), of("hint:").collect());
    match (causes.is_empty(), hints.is_empty()) {
        (true, _) => lines().collect::<Vec<&str>>().join(", "),
        (false, true) => causes.join(", "),
        (false, false) => format!("{}; {}", causes.join(", "), hints.join(", ")),
    }
}

/// The file in a scenario's directory that names the members which it has started, and which outlive its supervisor.
const STARTED: &str = "programs";

/// Reads which members an earlier supervisor has started.
pub(crate) fn started(home: &Path) -> BTreeSet<String> {
    let text = std::fs::read_to_string(home.join(STARTED)).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// Ends the members that a supervisor has left behind which is not there any more. Returns whether there were any.
pub(crate) fn end_orphans(home: &Path, scenario: &str) -> Result<bool, String> {
    let (frost, started) = (Frost::of(home, scenario), started(home));
    let known = frost.known(&started.iter().map(String::as_str).collect::<Vec<_>>())?;
    let mut any = false;
    for name in &started {
        if known.get(&frost.instance(name)).is_some_and(Known::may_run) {
            frost.kill(name).map_err(|why| format!("the program {name}: {why}"))?;
            any = true;
        }
    }
    Ok(any)
}

impl Engine {
    fn frost(&self) -> Frost {
        Frost::of(&self.home, &self.name)
    }

    /// Notes whether a member is one that this scenario has started.
    fn note(&mut self, name: &str, is_ours: bool) -> io::Result<()> {
        let is_new = if is_ours { self.started.insert(name.to_owned()) } else { self.started.remove(name) };
        if !is_new {
            return Ok(());
        }
        let text: String = self.started.iter().map(|name| format!("{name}\n")).collect();
        let draft = self.home.join(".programs");
        std::fs::write(&draft, text)?;
        std::fs::rename(draft, self.home.join(STARTED))
    }

    /// Whether a member runs that this scenario has started.
    fn is_running(&self, name: &str, frost: &Frost, known: &BTreeMap<String, Known>) -> bool {
        self.started.contains(name)
            && known.get(&frost.instance(name)).is_some_and(|known| known.state == "running")
    }

    /// Ends a member, if this scenario has started it.
    ///
    /// Whether it runs is not asked first: on a machine with too much to do that may fail, and it would be left behind.
    fn end_member(&mut self, name: &str, frost: &Frost) {
        if !self.started.contains(name) {
            return;
        }
        match frost.kill(name) {
            // It is not there any more, so that it is not noted matters to nobody.
            Ok(()) => drop(self.note(name, false)),
            Err(why) => {
                crate::voice::tell(format_args!("frost-scenario: the program {name} cannot be ended: {why}"))
            }
        }
    }

    /// Goes over from the members that there were to those of the scenario as it is now.
    pub(crate) fn apply_members(&mut self, old: &BTreeMap<String, Program>) {
        let new = self.scenario.programs.clone();
        if old.is_empty() && new.is_empty() {
            return;
        }
        let frost = self.frost();
        for (name, program) in old {
            if new.get(name) != Some(program) {
                self.end_member(name, &frost);
            }
        }
        self.members.retain(|name, _| new.contains_key(name));
        let known = match frost.known(&new.keys().map(String::as_str).collect::<Vec<_>>()) {
            Ok(known) => known,
            Err(why) => {
                // The next change of the file tries it again.
                for name in new.keys().filter(|name| !old.contains_key(*name)) {
                    crate::voice::tell(format_args!(
                        "frost-scenario: the program {name} cannot be started: {why}"
                    ));
                    self.members.insert(name.clone(), format!("cannot be started: {why}"));
                }
                return;
            }
        };
        for (name, program) in &new {
            // One that an earlier supervisor has started, or that was thawed, goes on.
            let goes_on = !old.contains_key(name) && self.is_running(name, &frost, &known);
            if old.get(name) == Some(program) || goes_on {
                continue;
            }
            // Noted before: one that runs and that nobody has noted could not be told from somebody else's.
            let is_free = old.contains_key(name)
                || known.get(&frost.instance(name)).is_none_or(|known| known.state != "running");
            let run = if is_free {
                let noted = self.note(name, true).map_err(|error| error.to_string());
                let run = noted.and_then(|()| frost.run(name, program));
                if run.is_err() {
                    // What somebody else starts under that name is not ours.
                    let _ = self.note(name, false);
                }
                run
            } else {
                let instance = frost.instance(name);
                Err(format!(
                    "{instance} runs already, and this scenario has not started it; `frost ps {instance}` shows \
                     it, `frost kill {instance}` ends it; or give the program another name"
                ))
            };
            match run {
                Ok(()) => drop(self.members.remove(name)),
                Err(why) => {
                    crate::voice::tell(format_args!(
                        "frost-scenario: the program {name} cannot be started: {why}"
                    ));
                    self.members.insert(name.clone(), format!("cannot be started: {why}"));
                }
            }
        }
    }

    /// Ends all members.
    pub(crate) fn end_members(&mut self) {
        if self.scenario.programs.is_empty() || std::mem::replace(&mut self.members_are_gone, true) {
            return;
        }
        let frost = self.frost();
        for name in self.scenario.programs.clone().into_keys() {
            self.end_member(&name, &frost);
        }
    }

    /// Freezes all members that run, and returns their images by name; if one cannot be frozen, all run on.
    pub(crate) fn freeze_members(&mut self) -> Result<BTreeMap<String, String>, String> {
        let mut images = BTreeMap::new();
        if self.scenario.programs.is_empty() {
            return Ok(images);
        }
        let frost = self.frost();
        let known = frost.known(&self.scenario.programs.keys().map(String::as_str).collect::<Vec<_>>())?;
        for name in self.scenario.programs.keys() {
            if !self.is_running(name, &frost, &known) {
                continue;
            }
            match frost.freeze(name) {
                Ok(image) => drop(images.insert(name.clone(), image)),
                Err(why) => {
                    self.thaw_members(&images);
                    return Err(format!("the program {name}: {why}"));
                }
            }
        }
        Ok(images)
    }

    /// Lets members go on that were frozen for nothing.
    pub(crate) fn thaw_members(&self, images: &BTreeMap<String, String>) {
        for (name, image) in images {
            if let Err(why) = self.frost().thaw(image) {
                crate::voice::tell(format_args!(
                    "frost-scenario: the program {name} stays frozen, as {image}: {why}"
                ));
            }
        }
    }

    /// Thaws the members of an image that the scenario still has: all of them, or none.
    pub(crate) fn take_back_members(
        &mut self,
        scenario: &Scenario,
        images: &BTreeMap<String, String>,
    ) -> Result<(), String> {
        if images.is_empty() {
            return Ok(());
        }
        let frost = self.frost();
        let known = frost.known(&images.keys().map(String::as_str).collect::<Vec<_>>())?;
        let mut thawed = Vec::new();
        for (name, image) in images.iter().filter(|(name, _)| scenario.programs.contains_key(*name)) {
            if self.is_running(name, &frost, &known) {
                continue;
            }
            let noted = self.note(name, true).map_err(|error| error.to_string());
            if let Err(why) = noted.and_then(|()| frost.thaw(image)) {
                for name in thawed {
                    let _ = frost.kill(name);
                }
                return Err(format!("the program {name} cannot be thawed from {image}: {why}"));
            }
            thawed.push(name);
        }
        Ok(())
    }

    /// How the members stand.
    pub(crate) fn member_states(&self) -> Vec<MemberState> {
        if self.scenario.programs.is_empty() {
            return Vec::new();
        }
        let frost = self.frost();
        let known = frost.known(&self.scenario.programs.keys().map(String::as_str).collect::<Vec<_>>());
        let state = |name: &String| {
            let instance = frost.instance(name);
            let (known, unknown) = match &known {
                Ok(known) => (known.get(&instance), "ended".to_owned()),
                Err(why) => (None, format!("unknown: {why}")),
            };
            let state = match (self.members.get(name), known) {
                (Some(why), _) => why.clone(),
                (None, Some(known)) => known.state.clone(),
                (None, None) => unknown,
            };
            let pid = known.filter(|_| self.started.contains(name)).and_then(|known| known.pid);
            MemberState { name: name.clone(), instance, state, pid }
        };
        self.scenario.programs.keys().map(state).collect()
    }
}
