//! Pseudoterminals whose master is in the tree.

use crate::id::{ObjectId, Pid};
use serde::{Deserialize, Serialize};

/// A description of one side of a pseudoterminal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PtyEnd {
    /// Index into `ptys`.
    pub pty: ObjectId,
    /// Which side.
    pub side: PtySide,
    /// The number of the pair, for messages.
    pub number: u32,
}

/// Sides of a pseudoterminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PtySide {
    /// The side of the terminal emulator.
    Master,
    /// The side of the programs, opened as `/dev/pts/N`.
    Slave,
    /// The same, opened as `/dev/tty`.
    Controlling,
}

/// Whether output is stopped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Flow {
    /// It is not.
    #[default]
    Runs,
    /// By a key, Ctrl-S as a rule: another key lets it go on.
    StoppedByKey,
    /// By tcflow(3), which alone lets it go on.
    StoppedByCall,
}

/// A pseudoterminal and what waits in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pty {
    /// N of `/dev/pts/N`.
    pub number: u32,
    /// `struct termios2` as TCGETS2 gave it.
    #[serde(with = "serde_bytes")]
    pub settings: Vec<u8>,
    /// Rows, columns, and both in pixels.
    pub size: [u16; 4],
    /// Whether its slave may not be opened yet (TIOCSPTLCK).
    pub locked: bool,
    /// Whether its master is in packet mode (TIOCPKT).
    pub packet_mode: bool,
    /// Whether its slave is in exclusive mode (TIOCEXCL).
    pub exclusive: bool,
    /// Whether output is stopped.
    pub flow: Flow,
    /// Whether its slave was ever opened; one that was and is closed gives its master an error.
    pub opened: bool,
    /// Permission bits of the slave's node.
    pub mode: u32,
    /// Owner of the node.
    pub uid: u32,
    /// Group of the node.
    pub gid: u32,
    /// The session whose controlling terminal it is.
    pub session: Option<Pid>,
    /// Its foreground process group.
    pub foreground: Option<Pid>,
    /// Complete lines that were typed and not read, in canonical mode; each is what one read gives.
    pub lines: Vec<serde_bytes::ByteBuf>,
    /// What was typed behind them: the begin of a line, or all of it in other modes.
    #[serde(with = "serde_bytes")]
    pub typed: Vec<u8>,
    /// Output that the master has not read.
    #[serde(with = "serde_bytes")]
    pub output: Vec<u8>,
    /// What a master in packet mode is told next (TIOCPKT_FLUSHREAD and so on), 0 for nothing.
    #[serde(default, skip_serializing_if = "is_nothing")]
    pub status: u8,
    /// Whether the next key is taken literally (Ctrl-V was typed last).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub literal: bool,
    /// The column of output, where output depends on it (XTABS, ONOCR) and is not stopped; from 4104 on but for a multiple of 8.
    #[serde(default, skip_serializing_if = "is_first")]
    pub column: u32,
}

fn is_nothing(status: &u8) -> bool {
    *status == 0
}

fn is_first(column: &u32) -> bool {
    *column == 0
}
