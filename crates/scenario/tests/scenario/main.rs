//! Scenarios of real processes: wired, killed, replaced, edited, and what is denied.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends so")]

mod basics;
mod budgets;
mod confined;
mod guide;
mod kept;
mod members;
mod rounds;
mod stage;
mod wrong;
