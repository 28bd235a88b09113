//! `/proc/PID/timers`: timers made by timer_create(2).

use rustix::io::Result;

/// A timer as the kernel lists it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timer {
    /// Its identifier.
    pub id: i32,
    /// The signal sent at expiry.
    pub signal: i32,
    /// `sigev_value`.
    pub value: u64,
    /// Whom it notifies.
    pub target: Target,
    /// The CLOCK_ number.
    pub clock: i32,
}

/// Whom a timer notifies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// SIGEV_NONE.
    Nobody,
    /// SIGEV_SIGNAL.
    Process,
    /// SIGEV_THREAD_ID; the thread's number in our pid namespace.
    Thread(i32),
}

/// Lists the timers of a process.
///
/// # Errors
/// ENOENT without CONFIG_CHECKPOINT_RESTORE or if the process is gone.
pub fn timers(pid: i32) -> Result<Vec<Timer>> {
    Ok(parse(&String::from_utf8_lossy(&super::read(pid, "timers")?)))
}

fn parse(text: &str) -> Vec<Timer> {
    let mut timers: Vec<Timer> = Vec::new();
    for line in text.lines() {
        let Some((key, value)) = line.split_once(": ") else { continue };
        if key == "ID" {
            let id = value.trim().parse().unwrap_or(-1);
            timers.push(Timer { id, signal: 0, value: 0, target: Target::Nobody, clock: 0 });
            continue;
        }
        let Some(timer) = timers.last_mut() else { continue };
        match key {
            "signal" => {
                let (signal, address) = value.split_once('/').unwrap_or((value, "0"));
                timer.signal = signal.parse().unwrap_or(0);
                timer.value = u64::from_str_radix(address.trim(), 16).unwrap_or(0);
            }
            "notify" => {
                let (how, whom) = value.split_once('/').unwrap_or((value, ""));
                let number = || whom.split_once('.').and_then(|(_, id)| id.parse().ok()).unwrap_or(0);
                timer.target = match how {
                    "none" => Target::Nobody,
                    _ if whom.starts_with("tid") => Target::Thread(number()),
                    _ => Target::Process,
                };
            }
            "ClockID" => timer.clock = value.trim().parse().unwrap_or(0),
            _ => {}
        }
    }
    timers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timers_are_parsed() {
        let text = "ID: 1\nsignal: 60/00007fff86e452a8\nnotify: signal/pid.2634\nClockID: 0\n\
                    ID: 7\nsignal: 10/0000000000000005\nnotify: signal/tid.9\nClockID: -6\n";
        let timers = parse(text);
        assert_eq!(timers[0].value, 0x7fff_86e4_52a8);
        assert_eq!(timers[1], Timer { id: 7, signal: 10, value: 5, target: Target::Thread(9), clock: -6 });
    }
}
