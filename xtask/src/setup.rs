//! The programs that the tests freeze, and how they are installed.

use crate::run::{Outcome, built, is_installed, limited};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// A program that tests use, and Debian's package of it.
struct Need {
    program: &'static str,
    package: &'static str,
}

const NEEDS: &[Need] = &[
    Need { program: "gcc", package: "gcc" },
    Need { program: "/usr/bin/python3", package: "python3" },
    Need { program: "redis-server", package: "redis-server" },
    Need { program: "redis-benchmark", package: "redis-tools" },
    Need { program: "sqlite3", package: "sqlite3" },
    Need { program: "node", package: "nodejs" },
    Need { program: "java", package: "openjdk-17-jdk-headless" },
    Need { program: "gdb", package: "gdb" },
    Need { program: "readelf", package: "binutils" },
    Need { program: "setpriv", package: "util-linux" },
    Need { program: "make", package: "make" },
    Need { program: "/usr/sbin/nginx", package: "nginx-light" },
    Need { program: "wrk", package: "wrk" },
    Need { program: "memcached", package: "memcached" },
    Need { program: "ruby", package: "ruby" },
    Need { program: "perl", package: "perl" },
    Need { program: "escript", package: "erlang-base" },
    Need { program: "go", package: "golang-go" },
    Need { program: "/usr/sbin/mariadbd", package: "mariadb-server" },
    Need { program: "ffmpeg", package: "ffmpeg" },
    Need { program: "psql", package: "postgresql" },
    Need { program: "/usr/lib/x86_64-linux-gnu/libnss_wrapper.so", package: "libnss-wrapper" },
    Need { program: "qemu-system-x86_64", package: "qemu-system-x86" },
    Need { program: "tmux", package: "tmux" },
    Need { program: "script", package: "bsdutils" },
    Need { program: "expect", package: "expect" },
    Need { program: "vim", package: "vim" },
    Need { program: "less", package: "less" },
    Need { program: "whiptail", package: "whiptail" },
    // One with libraries, of another package, is no shell for a guest.
    Need { program: "/usr/share/doc/busybox-static", package: "busybox-static" },
    Need { program: "/usr/sbin/mkfs.ext4", package: "e2fsprogs" },
    Need { program: "/usr/sbin/mkfs.xfs", package: "xfsprogs" },
    Need { program: "Xvfb", package: "xvfb" },
    Need { program: "xclock", package: "x11-apps" },
    Need { program: "xterm", package: "xterm" },
    Need { program: "chromium", package: "chromium" },
    Need { program: "gunicorn", package: "gunicorn" },
    Need { program: "uvicorn", package: "uvicorn" },
    Need { program: "/usr/sbin/haproxy", package: "haproxy" },
    Need { program: "/usr/sbin/lighttpd", package: "lighttpd" },
    Need { program: "emacs", package: "emacs-nox" },
    Need { program: "tclsh", package: "tcl" },
    Need { program: "guile", package: "guile-3.0" },
    Need { program: "sbcl", package: "sbcl" },
    Need { program: "mosquitto", package: "mosquitto" },
    Need { program: "mosquitto_sub", package: "mosquitto-clients" },
    Need { program: "/usr/sbin/dnsmasq", package: "dnsmasq-base" },
    Need { program: "/usr/sbin/slapd", package: "slapd" },
    Need { program: "ldapadd", package: "ldap-utils" },
    Need { program: "beanstalkd", package: "beanstalkd" },
    Need { program: "/usr/lib/dovecot/imap", package: "dovecot-imapd" },
    Need { program: "/usr/sbin/sshd", package: "openssh-server" },
    Need { program: "ssh", package: "openssh-client" },
    Need { program: "zsh", package: "zsh" },
    Need { program: "valgrind", package: "valgrind" },
    Need { program: "mawk", package: "mawk" },
    Need { program: "inotifywait", package: "inotify-tools" },
    Need { program: "/usr/lib/python3/dist-packages/ipykernel", package: "python3-ipykernel" },
];

/// Debian's numpy, for Debian's python.
const NUMPY: &str = "python3-numpy";

/// A store below cargo's target directory that holds the kernel of the guests that tests boot.
const GUESTS: &str = "vm-tests";

/// Installs what is missing as root, and gets a kernel for guests as anybody; else tells what to install, and the tests
/// skip what they lack.
pub(crate) fn install(root: &Path) -> Outcome {
    allow_huge_pages();
    match (programs(root), kernel(root)) {
        (Outcome::Passed(said), Outcome::Passed(_)) => Outcome::Passed(said),
        (Outcome::Passed(_), other) | (other, _) => other,
    }
}

/// Lets the kernel make some huge pages for whoever asks (MAP_HUGETLB), as long as he has them.
fn allow_huge_pages() {
    const LIMIT: &str = "/proc/sys/vm/nr_overcommit_hugepages";
    const WANTED: u64 = 64;
    let now = std::fs::read_to_string(LIMIT).ok().and_then(|text| text.trim().parse::<u64>().ok());
    if now.is_some_and(|now| now < WANTED) && std::fs::write(LIMIT, WANTED.to_string()).is_ok() {
        println!(
            "vm.nr_overcommit_hugepages is {WANTED} now: tests of huge pages need some, and are skipped without"
        );
    }
}

/// Puts a kernel for guests where the tests find it, by the command that users have for it.
fn kernel(root: &Path) -> Outcome {
    let store = built(root, GUESTS);
    if store.join("vm/kernel/vmlinuz").exists() {
        return Outcome::Passed(None);
    }
    let mut command = Command::new("cargo");
    command.args(["run", "--quiet", "--package", "frost", "--", "vm", "setup", "--store"]).arg(&store);
    match limited(command.current_dir(root), Duration::from_secs(1200)) {
        Outcome::Failed(reason) => {
            Outcome::Skipped(format!("{reason}; tests of virtual machines are skipped"))
        }
        other => other,
    }
}

fn programs(root: &Path) -> Outcome {
    let missing = missing();
    if missing.is_empty() {
        return Outcome::Passed(Some("all programs are there".to_owned()));
    }
    let list = missing.join(" ");
    if !rustix::process::geteuid().is_root() {
        return Outcome::Skipped(format!(
            "tests of missing programs are skipped; as root: apt-get install {list}"
        ));
    }
    if !is_installed("apt-get") {
        return Outcome::Skipped(format!("no apt-get here; tests of missing programs are skipped: {list}"));
    }
    let apt = |arguments: &[&str]| {
        let mut command = Command::new("apt-get");
        command.args(arguments).current_dir(root).env("DEBIAN_FRONTEND", "noninteractive");
        // No server that is installed shall be started: tests start their own.
        command.env("RUNLEVEL", "1");
        limited(&mut command, Duration::from_secs(1200))
    };
    // An old list of packages may be good enough, and without a network there is no newer one.
    if let Outcome::Failed(reason) = apt(&["-qq", "update"]) {
        println!("{reason}");
    }
    let mut arguments = vec!["-qq", "-y", "--no-install-recommends", "install"];
    arguments.extend(&missing);
    match apt(&arguments) {
        Outcome::Passed(_) => Outcome::Passed(Some(format!("installed {list}"))),
        Outcome::Failed(reason) => {
            Outcome::Skipped(format!("{reason}; tests of missing programs are skipped: {list}"))
        }
        skipped @ Outcome::Skipped(_) => skipped,
    }
}

fn missing() -> Vec<&'static str> {
    let mut missing: Vec<&str> = NEEDS
        .iter()
        .filter(|need| {
            if need.program.starts_with('/') {
                !Path::new(need.program).exists()
            } else {
                !is_installed(need.program)
            }
        })
        .map(|need| need.package)
        .collect();
    let numpy = Command::new("/usr/bin/python3").args(["-c", "import numpy"]).output();
    if !numpy.is_ok_and(|output| output.status.success()) {
        missing.push(NUMPY);
    }
    missing
}
