//! What is said between the keeper and the commands: one message a packet, on a socket of type SOCK_SEQPACKET.
//!
//! A message is four words, and for [`INPUT`] and [`OUTPUT`] the bytes behind them. Both sides are of one build, since a
//! command of another one finds another [`VERSION`] in the answer to [`STATUS`] and says so.

/// The length of a message without bytes.
pub const HEAD_BYTES: usize = 16;
/// The most bytes behind the head.
pub const DATA_BYTES: usize = 4096;
/// Changes with the meaning of any message.
pub const VERSION: i32 = 2;

/// Asks for [`STATE`].
pub const STATUS: u32 = 1;
/// Asks to be told of [`STOPPED`], [`ENDED`], [`ICE`] and [`LIVES`]; answered by [`STATE`].
pub const WATCH: u32 = 2;
/// Asks for the terminal's output; `a` and `b` are rows and columns, if not 0. Answered as [`WATCH`].
pub const ATTACH: u32 = 3;
/// Bytes for the terminal.
pub const INPUT: u32 = 4;
/// The size of the terminal: `a` rows, `b` columns.
pub const RESIZE: u32 = 5;
/// Begins a freeze: answered by [`STATE`], or by [`BUSY`].
pub const FREEZE: u32 = 6;
/// The image is complete: what ends the program now, ends it as frozen. `a` is its version, `b` whether the keeper is to
/// stay. It holds as long as whoever said so is there, or for good if that died behind the [end](ENDING). Answered by [`STATE`].
pub const FROZEN: u32 = 7;
/// Begins a thaw: answered by [`STATE`], with the terminal's slave side if there is one, or by [`BUSY`].
pub const THAW: u32 = 8;
/// The program is built and waits at its gate: `a` is the pid of its root inside, `b` [`LEADER`] if there is one. With it
/// comes the gate's reading end, in which the keeper finds a token if it was opened, and an end of file if it never will be.
/// Answered by [`STATE`].
pub const LIVE: u32 = 9;
/// While a program is thawed: with it comes the listener of its filter, and the notes of filters that an earlier program
/// installed are dropped. Answered by [`STATE`].
pub const LISTEN: u32 = 11;
/// Ends a keeper whose program is frozen; one whose program runs answers [`BUSY`].
pub const END: u32 = 10;
/// With it comes a descriptor, which is held until it is [taken](TAKE) or another comes, or the program ends; from whoever
/// freezes only. Answered by [`STATE`].
pub const HOLD: u32 = 13;
/// Asks for the descriptor that is held, and that it is held no more; from whoever freezes only. Answered by [`STATE`], with
/// it if there is one.
pub const TAKE: u32 = 14;
/// With it comes a descriptor that is kept while the program is frozen, instead of another, until it lives again: its
/// listening sockets lie in flight in there. From whoever freezes or thaws only; dropped if the freeze does not end the
/// program, and at its end. Without a descriptor: what is kept is dropped. Answered by [`STATE`].
pub const KEEP: u32 = 15;
/// Asks for the descriptor that is kept, and stays so. Answered by [`STATE`], with it if the program is frozen and there is
/// one.
pub const KEPT: u32 = 16;
/// Behind [`FROZEN`], before the program is ended: with it comes a file whose first byte becomes `a` when that begins. Should
/// whoever freezes die behind that, the keeper ends it; all others who ask whether the program goes on read the same byte, so
/// that nobody lets go on what another ends. Answered by [`STATE`].
pub const ENDING: u32 = 19;
/// Whoever freezes does so no more, as if the connection were closed. Answered by [`STATE`].
pub const LEAVE: u32 = 18;

/// A control group that the program is in: its directory comes with it, and its name as bytes. Is not answered. The keeper
/// looks whether its memory runs out, which ends the program, and removes it when the program has ended.
pub const GROUP: u32 = 12;

/// How things stand: `a` is one of the states below, `b` the root's pid inside, `c` [`VERSION`] and flags.
pub const STATE: u32 = 32;
/// Another freeze or thaw is going on, or the program is not in the state for it.
pub const BUSY: u32 = 33;
/// Bytes that the terminal showed.
pub const OUTPUT: u32 = 34;
/// Job control stopped the root: `a` is the signal.
pub const STOPPED: u32 = 35;
/// The program's root ended: `a` is its status as of wait(2), `c` is 1 if its budget of memory was used up. The keeper ends
/// too, unless `b` is not 0: then it has left another process behind, as a daemon does, which is the root from now on and
/// has that pid inside.
pub const ENDED: u32 = 36;
/// The program was frozen: `a` is the version of its image.
pub const ICE: u32 = 37;
/// The program lives again: `a` is the pid of its root inside.
pub const LIVES: u32 = 38;

/// No two words are one.
const _: () = {
    let words = [
        STATUS, WATCH, ATTACH, INPUT, RESIZE, FREEZE, FROZEN, THAW, LIVE, LISTEN, END, HOLD, TAKE, KEEP,
        KEPT, GROUP, ENDING, LEAVE, STATE, BUSY, OUTPUT, STOPPED, ENDED, ICE, LIVES,
    ];
    let mut one = 0;
    while one < words.len() {
        let mut other = one + 1;
        while other < words.len() {
            assert!(words[one] != words[other]);
            other += 1;
        }
        one += 1;
    }
};

/// The program runs.
pub const RUNNING: i32 = 0;
/// It is frozen; nothing of it is left here.
pub const COLD: i32 = 1;

/// In the flags of [`STATE`]: there is a terminal.
pub const HAS_TERMINAL: i32 = 1 << 8;
/// In the flags of [`STATE`]: [`LEADER`] lives.
pub const HAS_LEADER: i32 = 1 << 9;

/// The pid inside of the process that leads the session of the terminal: the end of a session's leader hangs its terminal
/// up, so the program's own processes are not to lead it. The root has the pid before it.
pub const LEADER: i32 = 3;

/// A message without its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// One of the constants above.
    pub kind: u32,
    /// The first argument.
    pub a: i32,
    /// The second.
    pub b: i32,
    /// The third.
    pub c: i32,
}

/// The file in an instance's directory in which the keeper notes the filters that the program has installed.
pub const FILTERS_NOTE: &core::ffi::CStr = c"filters";
/// How many words stand before the instructions of a note: [`NOTE_MAGIC`]; the thread, its process, and that process'
/// parent, all of them as the keeper sees them; how many filters it had before; flags as of seccomp(2); how many
/// instructions follow, of 8 bytes each; 0.
pub const NOTE_WORDS: usize = 8;
/// The first word of a note.
pub const NOTE_MAGIC: u32 = 0x7274_6c66;

impl Message {
    /// Makes a message.
    pub const fn new(kind: u32, a: i32, b: i32, c: i32) -> Self {
        Self { kind, a, b, c }
    }

    /// Returns it as it is sent.
    pub fn to_bytes(self) -> [u8; HEAD_BYTES] {
        let mut bytes = [0; HEAD_BYTES];
        let words = [self.kind, self.a as u32, self.b as u32, self.c as u32];
        for (place, word) in bytes.chunks_exact_mut(4).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// Reads what was sent; `None` if it is too short.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let word = |at: usize| -> Option<u32> {
            let word: [u8; 4] = bytes.get(at..at + 4)?.try_into().ok()?;
            Some(u32::from_le_bytes(word))
        };
        Some(Self { kind: word(0)?, a: word(4)? as i32, b: word(8)? as i32, c: word(12)? as i32 })
    }
}
