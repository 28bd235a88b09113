//! Components: programs that are fed by ROM sessions and answer by Report sessions.
//!
//! A ROM is one named document. Its reader sees one version of it until it asks for the next; a change is signalled
//! without data, signals coalesce, and one comes when the session is opened, so that none is missed: the newest version
//! is always reached, those between may be skipped. A Report replaces its document whole, and has one writer. Which
//! report a ROM is says the scenario.
//!
//! [`run`] is all that most components need: a step from what is read to what is reported. Below it lies [`Session`],
//! and below that [`wire`], the protocol, which other languages speak as well. `docs/component.md` describes it.
#![forbid(unsafe_code)]

mod attention;
mod content;
mod error;
mod machine;
mod session;
pub mod wire;

pub use attention::Attention;
pub use content::Content;
pub use error::Error;
pub use machine::{Reports, Roms, run};
pub use session::{SOCKET, Session, Version};
