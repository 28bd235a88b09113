//! The PD session: who a process is and what it may reach.

mod credentials;
pub mod filter;
mod identity;
mod limits;
mod signals;
mod timers;

pub use credentials::Credentials;
pub use filter::Filter;
pub use identity::{Descriptor, Life, PdState, PrctlState, Relation};
pub use limits::Limit;
pub use signals::{SIGNALS, SigInfo, SignalAction};
pub use timers::{IntervalTimers, Notify, PosixTimer};
