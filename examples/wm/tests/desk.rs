//! The desk under Xvfb: real clients, decorators replaced, components killed, frozen and thawed; judged by pixels.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends so")]

use frost_wm::Place;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use x11rb::connection::Connection;
use x11rb::protocol::xproto::{ConnectionExt, ImageFormat};
use x11rb::rust_connection::RustConnection;

const LIMIT: Duration = Duration::from_secs(100);

/// The colours by which frames are recognised.
const SOBER: u32 = 0x2f_4f_6f;
const CARNIVAL: u32 = 0xe0_a0_20;

fn until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(start.elapsed() < LIMIT, "waited until {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Processes of the test, ended with it.
struct Running(Vec<Child>);

impl Drop for Running {
    fn drop(&mut self) {
        for child in self.0.iter_mut().rev() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// As whom the components run.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Who {
    Myself,
    /// An ordinary user, whom root becomes for it.
    Ordinary,
}

/// No account has this number, so nothing need be added to the machine.
const ORDINARY: u32 = 64_217;

struct Desk {
    place: tempfile::TempDir,
    who: Who,
    /// Where the programs are that it runs.
    bin: PathBuf,
    connection: RustConnection,
    root: u32,
    size: (u16, u16),
}

/// The program that supervises; it is built with the tests of its own crate, or now.
fn scenario_binary() -> PathBuf {
    let path = Path::new(env!("CARGO_BIN_EXE_wm")).with_file_name("frost-scenario");
    let mut build = Command::new(option_env!("CARGO").unwrap_or("cargo"));
    build.args(["build", "--quiet", "-p", "frost-scenario"]).current_dir(env!("CARGO_MANIFEST_DIR"));
    if !cfg!(debug_assertions) {
        build.arg("--release");
    }
    assert!(build.status().unwrap().success());
    path
}

impl Desk {
    fn frost(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.bin.join("frost-scenario"));
        command.args(arguments).current_dir(self.place.path()).env("FROST_HOME", self.place.path());
        if self.who == Who::Ordinary {
            command.uid(ORDINARY).gid(ORDINARY);
        }
        command
    }

    fn run(&self, arguments: &[&str]) -> String {
        let output = self.frost(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn layout(&self) -> Vec<Place> {
        let output = self.frost(&["report", "layouter/window_layout"]).output().unwrap();
        Place::all(&String::from_utf8_lossy(&output.stdout))
    }

    /// The screen, four bytes a pixel.
    fn screen(&self) -> Vec<u8> {
        let (width, height) = self.size;
        let image = self.connection.get_image(ImageFormat::Z_PIXMAP, self.root, 0, 0, width, height, !0);
        image.unwrap().reply().unwrap().data
    }

    fn pixel(&self, screen: &[u8], x: i32, y: i32) -> u32 {
        let at = (y as usize * usize::from(self.size.0) + x as usize) * 4;
        u32::from_le_bytes(screen[at..at + 4].try_into().unwrap()) & 0xff_ff_ff
    }

    /// The rows of a window's content.
    fn content(&self, screen: &[u8], place: &Place) -> Vec<u8> {
        let row = |y: i16| {
            let start = (y as usize * usize::from(self.size.0) + place.x as usize) * 4;
            screen[start..start + usize::from(place.width) * 4].to_vec()
        };
        (place.y..place.y + place.height as i16).flat_map(row).collect()
    }

    /// The screen, once all windows have frames of that colour and it has come to rest.
    fn decorated(&self, count: usize, colour: u32) -> (Vec<Place>, Vec<u8>) {
        let mut last = (Vec::new(), 0);
        until(&format!("{count} windows have frames of {colour:x}"), || {
            let (layout, screen) = (self.layout(), self.screen());
            // Just right of the content, where no title is; stripes leave every other eighth.
            let framed = layout.iter().all(|place| {
                let (x, y) = (i32::from(place.x) + i32::from(place.width), i32::from(place.y) + 50);
                (0..3).any(|dx| self.pixel(&screen, x + dx, y) == colour)
            });
            let drawn = layout.iter().all(|place| {
                let content = self.content(&screen, place);
                content.chunks(4).any(|pixel| pixel != &content[..4])
            });
            last = if screen == last.0 { (last.0.clone(), last.1 + 1) } else { (screen, 0) };
            (layout.len() == count && framed && drawn && last.1 >= 10).then(|| (layout, last.0.clone()))
        })
    }

    fn component(&self, name: &str) -> serde_json::Value {
        let status = self.run(&["status", "--json"]);
        let status: serde_json::Value = serde_json::from_str(&status).unwrap();
        let components = status["components"].as_array().unwrap();
        components.iter().find(|one| one["name"] == name).cloned().unwrap()
    }

    /// Kills a component, and returns how often it had been started.
    fn kill(&self, name: &str) -> u64 {
        let found = self.component(name);
        if let Some(pid) = found["pid"].as_i64().and_then(|pid| rustix::process::Pid::from_raw(pid as i32)) {
            // That it has ended meanwhile is as good.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
        found["starts"].as_u64().unwrap()
    }
}

fn scenario_binary_once() -> &'static Path {
    static BINARY: std::sync::OnceLock<PathBuf> = std::sync::OnceLock::new();
    BINARY.get_or_init(scenario_binary)
}

/// Keeps a picture for the documentation, if one is asked for.
fn picture(desk: &Desk, name: &str, screen: &[u8]) {
    let Some(directory) = std::env::var_os("FROST_PICTURES") else { return };
    let mut text = format!("P6 {} {} 255\n", desk.size.0, desk.size.1).into_bytes();
    text.extend(screen.chunks(4).flat_map(|pixel| [pixel[2], pixel[1], pixel[0]]));
    std::fs::write(Path::new(&directory).join(format!("{name}.ppm")), text).unwrap();
}

/// Where the programs are for somebody: he may not be able to look where they were built.
fn programs(who: Who, place: &Path) -> PathBuf {
    let built = scenario_binary_once().parent().unwrap();
    if who == Who::Myself {
        return built.to_owned();
    }
    let bin = place.join("bin");
    std::fs::create_dir(&bin).unwrap();
    for name in ["frost-scenario", "wm", "layouter", "decorator", "carnival"] {
        let (program, place) = (built.join(name), bin.join(name));
        if std::fs::hard_link(&program, &place).is_err() {
            // By a process of its own: what another test forks meanwhile would hold a file of ours open for writing, and
            // a program is not executed then (ETXTBSY).
            assert!(Command::new("cp").arg(program).arg(place).status().unwrap().success());
        }
    }
    std::os::unix::fs::chown(place, Some(ORDINARY), Some(ORDINARY)).unwrap();
    bin
}

#[test]
fn windows_stay_whoever_is_replaced_killed_or_frozen() {
    windows_stay(Who::Myself, 100);
}

#[test]
fn windows_of_an_ordinary_user_stay() {
    if !rustix::process::geteuid().is_root() {
        return println!("skipped: whoever runs the tests is an ordinary user already");
    }
    let mut unshare = Command::new("unshare");
    unshare.args(["--user", "--map-root-user", "--net", "true"]).uid(ORDINARY).gid(ORDINARY);
    if !unshare.output().is_ok_and(|output| output.status.success()) {
        return println!("skipped: an ordinary user may make no user namespaces here");
    }
    windows_stay(Who::Ordinary, 20);
}

fn windows_stay(who: Who, rounds: u64) {
    let server = Command::new("Xvfb")
        .args(["-displayfd", "1", "-screen", "0", "840x520x24", "-nolisten", "tcp"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    let Ok(mut server) = server else { return println!("skipped: Xvfb is not installed") };
    let mut number = String::new();
    BufReader::new(server.stdout.take().unwrap()).read_line(&mut number).unwrap();
    let mut running = Running(vec![server]);
    let display = format!(":{}", number.trim());
    let (connection, screen) = x11rb::connect(Some(&display)).unwrap();
    let root = &connection.setup().roots[screen];
    let (root, size) = (root.root, (root.width_in_pixels, root.height_in_pixels));
    let place = tempfile::Builder::new().prefix("wm").tempdir().unwrap();
    let bin = programs(who, place.path());
    let desk = Desk { place, who, bin: bin.clone(), connection, root, size };

    let text =
        include_str!("../desk.toml").replace("BIN", &bin.display().to_string()).replace(":9", &display);
    std::fs::write(desk.place.path().join("desk.toml"), text).unwrap();
    running.0.push(desk.frost(&["up", "desk.toml"]).stdout(Stdio::null()).spawn().unwrap());
    until("the window manager manages", || {
        desk.frost(&["report", "wm/window_list"]).output().unwrap().status.success().then_some(())
    });
    let mut count = 0;
    // None of them changes by itself, and all are rectangles: through others one would see their frames.
    for (client, arguments) in [
        ("xeyes", &["+shape"][..]),
        ("xlogo", &[]),
        ("xclock", &["-update", "86400"]),
        ("xmessage", &["kept"]),
        // Without a cursor, whose look depends on who has the focus.
        (
            "xterm",
            &["-T", "xterm", "-e", "sh", "-c", "printf '\\033[?25l$ echo kept\\nkept\\n'; exec sleep 100000"],
        ),
    ] {
        match Command::new(client).args(arguments).env("DISPLAY", &display).stderr(Stdio::null()).spawn() {
            Ok(child) => running.0.push(child),
            Err(_) => continue,
        }
        count += 1;
        until("it has a place", || (desk.layout().len() == count).then_some(()));
    }
    if count == 0 {
        return println!("skipped: there are no programs of x11-apps");
    }
    let (layout, sober) = desk.decorated(count, SOBER);
    picture(&desk, "sober", &sober);

    let carnival = bin.join("carnival");
    desk.run(&["replace", "decorator", "--binary", carnival.to_str().unwrap()]);
    let (after, screen) = desk.decorated(count, CARNIVAL);
    picture(&desk, "carnival", &screen);
    assert_eq!(after, layout);
    for place in &layout {
        assert!(
            desk.content(&screen, place) == desk.content(&sober, place),
            "the content of {place} has changed"
        );
    }
    desk.run(&["replace", "decorator", "--binary", bin.join("decorator").to_str().unwrap()]);
    until("the screen is as it was", || (desk.screen() == sober).then_some(()));

    let rounds: u64 = std::env::var("FROST_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(rounds);
    let mut seed = u64::from(std::process::id()) | 1 << 40;
    eprintln!("seed {seed}");
    for _ in 0..rounds {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        std::thread::sleep(Duration::from_micros(seed % 5000));
        let both = ["layouter", "decorator"];
        let victims = if seed & 2 == 0 { &both[..] } else { &both[(seed & 1) as usize..][..1] };
        let before: Vec<u64> = victims.iter().map(|name| desk.kill(name)).collect();
        for (name, before) in victims.iter().zip(before) {
            until("it was started again and has reported", || {
                let now = desk.component(name);
                (now["starts"].as_u64() > Some(before) && now["has_reported"] == true).then_some(())
            });
        }
        until("the screen is as it was after a kill", || (desk.screen() == sober).then_some(()));
        assert_eq!(desk.layout(), layout);
    }

    desk.run(&["freeze", "desk"]);
    assert_ne!(desk.pixel(&desk.screen(), i32::from(layout[0].x) - 2, i32::from(layout[0].y) + 50), SOBER);
    running.0.push(desk.frost(&["thaw", "desk", "--attach"]).stdout(Stdio::null()).spawn().unwrap());
    until("the screen is as it was after the thaw", || (desk.screen() == sober).then_some(()));
    until("it answers", || (desk.layout() == layout).then_some(()));
}
