//! The guide is true: what docs/component.md shows, done as it says.

use crate::stage::{Stage, as_each_user};
use rustix::net::{AddressFamily, RecvFlags, SocketAddrUnix, SocketFlags, SocketType};
use std::path::Path;
use std::process::Command;

as_each_user! {
    the_first_session_of_the_guide_goes_as_it_says
    the_scenario_of_the_guide_runs
}

const GUIDE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/component.md");
const UPPER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/upper.py");

/// The first block of the guide in a language of which that is so.
fn block(language: &str, is_it: impl Fn(&&str) -> bool) -> String {
    let guide = std::fs::read_to_string(GUIDE).unwrap();
    let begin = format!("```{language}\n");
    let blocks = guide.split(&begin).skip(1).map(|rest| rest.split("```").next().unwrap());
    blocks.into_iter().find(is_it).unwrap().to_owned()
}

fn the_first_session_of_the_guide_goes_as_it_says() {
    let stage = Stage::new("");
    if !stage.bring_frost() {
        return;
    }
    // As it stands there, typed into a shell in an empty directory.
    let script = format!("set -e\n{}", block("sh", |block| block.contains("frost up")));
    std::fs::write(stage.place.path().join("session"), script).unwrap();
    let path = stage.program("frost", &[]).get_program().to_owned();
    let bin = Path::new(&path).parent().unwrap().display().to_string();
    let mut command = stage.shell("session");
    command.env("PATH", format!("{bin}:{}", std::env::var("PATH").unwrap()));
    let output = command.output().unwrap();
    let told =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{told}");
    for said in ["HELLO", "AGAIN", "has ended", "removed scenario shout"] {
        assert!(told.contains(said), "{said}: {told}");
    }
}

fn the_scenario_of_the_guide_runs() {
    if !Path::new("/usr/bin/python3").exists() {
        return println!("skipped: there is no /usr/bin/python3");
    }
    let mut stage = Stage::new("");
    let upper = stage.place.path().join("upper.py");
    std::fs::copy(UPPER, &upper).unwrap();
    let (mut text, place) =
        (block("toml", |block| block.contains("[component.upper]")), upper.display().to_string());
    // The paths are of the reader's machine, and its name is that of the file here.
    for (theirs, ours) in [
        ("/opt/upper.py", place.as_str()),
        ("[\"/opt/counter\", \"--fast\"]", "[\"sleep\", \"1000\"]"),
        ("\"shout\"", "\"s\""),
    ] {
        assert!(text.contains(theirs), "{text}");
        text = text.replace(theirs, ours);
    }
    if !stage.bring_frost() {
        text = text.replace("[program.", "[document.").replace("command = ", "content = \"\" # ");
    }
    stage.write(&text);
    stage.start();
    stage.until_report("upper/loud", "HELLO");
    stage.write(&text.replace("\"hello\"", "\"again\""));
    stage.until_report("upper/loud", "AGAIN");
    assert_eq!(stage.component("upper")["starts"], 1);
    // The component in a shell in its place.
    let shell = block("sh", |block| block.starts_with("while read"));
    let text = format!(
        "[component.upper]\nbinary = \"/bin/sh\"\narguments = [\"-c\", \'\'\'\n{shell}\'\'\']\nfiles = true\n[document.text]\n\
         content = \"shell\"\n[[route]]\nmatch = {{ component = \"upper\", rom = \"text\" }}\nfrom = \"document/text\"\n"
    );
    stage.write(&text);
    stage.until_report("upper/loud", "SHELL");
    assert!(stage.run(&["down", "s"]).status.success());
    stage.supervisor.take().unwrap().wait().unwrap();
}

#[test]
fn the_component_in_python_answers_and_ends_with_its_connection() {
    if !Path::new("/usr/bin/python3").exists() {
        return println!("skipped: there is no /usr/bin/python3");
    }
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("session");
    let listener =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .unwrap();
    rustix::net::bind(&listener, &SocketAddrUnix::new(&path).unwrap()).unwrap();
    rustix::net::listen(&listener, 1).unwrap();
    let mut component =
        Command::new("/usr/bin/python3").arg(UPPER).env("FROST_SESSION", &path).spawn().unwrap();
    let socket = rustix::net::accept_with(&listener, SocketFlags::CLOEXEC).unwrap();
    let tell = |head: &str, body: &[u8]| frost_component::wire::send(&socket, head, body, None).unwrap();
    let hear = || frost_component::wire::receive(&socket, RecvFlags::empty()).unwrap().unwrap();
    assert_eq!(hear().head, "report loud");
    tell("report loud 1048576", b"");
    assert_eq!(hear().head, "rom text");
    // Whatever comes in between.
    tell("heartbeat", b"");
    tell("rom text", b"");
    assert_eq!(hear().head, "alive");
    tell("changed text", b"");
    assert_eq!(hear().head, "get text");
    tell("version text 1", b"loud");
    let report = hear();
    assert_eq!((report.head.as_str(), &report.body[..]), ("submit loud", &b"LOUD"[..]));
    // A change that comes before the answer is not forgotten.
    tell("changed text", b"");
    tell("submitted loud 1", b"");
    assert_eq!(hear().head, "get text");
    tell("empty text 2", b"");
    tell("heartbeat", b"");
    assert_eq!(hear().head, "alive");
    drop(socket);
    assert!(component.wait().unwrap().success());
}
