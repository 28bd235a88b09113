//! What runs a virtual machine, as far as the rest of frost knows.

use crate::error::Result;
use crate::stream::Pages;
use frost_model::machine::Changed;
use rustix::fd::BorrowedFd;

/// A program that runs one virtual machine, started and paused.
///
/// QEMU is the only one so far; another must be able to give its guest's memory as flat pages, and its devices as bytes
/// that it understands when it is started anew with the same machine.
pub trait Vmm {
    /// Lets the guest run.
    ///
    /// # Errors
    /// The guest stands as before.
    fn resume(&mut self) -> Result<()>;

    /// Stops the guest: from here on neither its memory nor its disks change.
    ///
    /// # Errors
    /// The guest goes on.
    fn pause(&mut self) -> Result<()>;

    /// Saves the devices of a paused guest, and those pages of its memory that are not in a file already. What was
    /// written to the disks is in their files then.
    ///
    /// # Errors
    /// The guest stays paused, and can go on.
    fn save(&mut self, pages: &mut dyn Pages) -> Result<Vec<u8>>;

    /// Loads devices into a machine that was started to wait for them, and what changed of its memory, which is in a
    /// pack; it is then a paused guest.
    ///
    /// # Errors
    /// The machine is of no more use.
    fn load(&mut self, devices: &[u8], changed: &[Changed], pack: BorrowedFd<'_>) -> Result<()>;

    /// Ends the program, and waits until it has ended.
    fn quit(&mut self);
}
