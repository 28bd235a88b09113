//! A directory of images: drafts, commits, names, versions, and what became of the programs.
//!
//! ```no_run
//! # fn checkpoint() -> frost_model::Checkpoint { unimplemented!() }
//! # fn main() -> Result<(), frost_store::Error> {
//! use frost_store::{Name, OpenOptions, Store, Then, observe};
//!
//! let store = Store::open(&OpenOptions { root: "/home/me/.local/share/permafrost".into(), trust_owner: false })?;
//! let origin = observe(4127)?.unwrap_or_default();
//! let mut draft = store.begin(&Name::new("web").expect("a name"))?;
//! let offset = draft.pack().append(b"pages")?;
//! let committed = draft.commit(&checkpoint(), origin, Then::End)?;    // synced: the program may end now
//!
//! let image = store.open_image(&store.resolve("web")?)?;
//! let pack = image.pack()?;                                           // raw pages, to be read at offsets
//! # Ok(()) }
//! ```
//!
//! - [`Store`] is the directory; there is no daemon. [`Draft`] is an image being made, [`PackWriter`] its pages,
//!   [`Image`] one that is read, [`State`] whether its program runs.
//! - An image is visible when it is whole and synced, and not before: manifest and pack are written and synced in a
//!   directory below `drafts`, which is then renamed to its place.
//! - What a dead process left below `drafts` is removed by the next [`Store::open`]: each draft is locked (flock)
//!   while its process lives, a lock that also holds across pid namespaces and cannot be left behind.
//! - Versions ascend, and a number is not given twice while its name lives.
//! - One lock for the whole store is held for moments, by whoever commits, marks or removes. It is never held while
//!   a pack is written or read.
//!
//! The layout of the directory is in `root.rs`, that of the files in `docs/image.md`.
#![forbid(unsafe_code)]

mod cold;
mod draft;
mod duplicates;
mod ending;
mod error;
mod frame;
mod gc;
mod image;
mod instance;
mod list;
mod pack;
mod pages;
mod remove;
mod root;
mod state;
mod store;
mod stream;
mod verify;

pub use cold::Compressed;
pub use draft::{Committed, Draft, Intent};
pub use duplicates::Duplicates;
pub use ending::Ending;
pub use error::{Error, Result, SpaceLimit};
pub use frost_image::{Header, ImageId, Instance, Name, NameError, Then};
pub use gc::{Collected, GcOptions};
pub use image::{Image, PackBlocks};
pub use instance::{Liveness, liveness, observe};
pub use list::Summary;
pub use pack::PackWriter;
pub use pages::PackPages;
pub use remove::Removed;
pub use state::State;
pub use store::{Leftover, OpenOptions, Store};
pub use stream::Imported;
