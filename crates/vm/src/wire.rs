//! What is said between the host and the guest's init, on a port of virtio-serial. Both sides compile this file.
//!
//! A frame is a word (one byte), its content, and [`END`]; within it the three marks are escaped. [`RESET`] makes the
//! reader forget what it has of a frame: a thawed guest may have read half of one that will not be sent to its end.
//!
//! The host sends one frame of each [class] at a time, with a number behind the word, and waits for [`ACK`] of it;
//! so a frame that was on its way at a freeze can be sent again, and is obeyed once.

/// Ends a frame.
pub const END: u8 = 0xc0;
/// Drops what was read of a frame.
pub const RESET: u8 = 0xc1;
/// Before one of [`ESCAPED_END`], [`ESCAPED_RESET`], [`ESCAPED_ESCAPE`].
pub const ESCAPE: u8 = 0xdb;
/// Behind [`ESCAPE`], stands for [`END`].
pub const ESCAPED_END: u8 = 0xdc;
/// Behind [`ESCAPE`], stands for [`RESET`].
pub const ESCAPED_RESET: u8 = 0xdd;
/// Behind [`ESCAPE`], stands for [`ESCAPE`].
pub const ESCAPED_ESCAPE: u8 = 0xde;

/// The most bytes of a frame, before escaping.
pub const FRAME_BYTES: usize = 4096 + 16;
/// The most bytes of a program's input or output in a frame.
pub const DATA_BYTES: usize = 4096;

/// Guest: init runs, and the port is open.
pub const HELLO: u8 = b'H';
/// Guest: the command was executed; its pid in 4 bytes.
pub const STARTED: u8 = b'R';
/// Guest: something failed before: the error's number in 4 bytes, and what.
pub const FAILED: u8 = b'X';
/// Guest: bytes that the program wrote.
pub const OUTPUT: u8 = b'O';
/// Guest: the program ended; its status as of wait(2) in 4 bytes. The guest then ends its file systems and itself.
pub const ENDED: u8 = b'E';
/// Guest: a frame was obeyed: its class and its number.
pub const ACK: u8 = b'A';

/// Host: bytes for the program; none are the end of its input.
pub const INPUT: u8 = b'I';
/// Host: the time in nanoseconds since 1970 (8 bytes), then random bytes.
pub const TIME: u8 = b'T';
/// Host: a signal for the program, in 1 byte.
pub const SIGNAL: u8 = b'S';
/// Host: rows and columns of the terminal, 2 bytes each.
pub const WINDOW: u8 = b'W';

/// Returns the class of a word of the host: a program that does not read its input must hold up nothing else.
pub const fn class(word: u8) -> u8 {
    if word == INPUT { 1 } else { 0 }
}

/// Encodes a byte of a frame: the byte, or [`ESCAPE`] and what stands for it.
pub const fn escaped(byte: u8) -> (Option<u8>, u8) {
    match byte {
        END => (Some(ESCAPE), ESCAPED_END),
        RESET => (Some(ESCAPE), ESCAPED_RESET),
        ESCAPE => (Some(ESCAPE), ESCAPED_ESCAPE),
        byte => (None, byte),
    }
}

/// Returns what stands behind an [`ESCAPE`].
pub const fn unescaped(byte: u8) -> u8 {
    match byte {
        ESCAPED_END => END,
        ESCAPED_RESET => RESET,
        ESCAPED_ESCAPE => ESCAPE,
        byte => byte,
    }
}
