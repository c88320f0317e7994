//! What a view has done: counters, the last rejections, and the requests that somebody watches. It's in memory that
//! the keeper and its servers share, and that a reader has a descriptor of. So it outlives a server, and a reader costs
//! the server nothing.
//!
//! A request is noted in three steps, all in the thread that answers it: [`Activity::begin`], [`note`] with the outcome,
//! and [`Activity::finish`] after the reply. Each adds to counters ([`counters`]). A rejected request is also an [`Event`]
//! in the ring of the last rejections, and while somebody watches, every request is one in the ring of requests
//! (`ring`).

mod clock;
pub mod counters;
mod current;
mod event;
mod kind;
mod layout;
mod reader;
mod ring;
mod writer;

pub use clock::monotonic_coarse;
pub use current::{Pending, Subject, describe, hand_over, note, note_errno, set_caller};
pub use event::Event;
pub use kind::RequestKind;
pub use layout::{FORMAT, Number, REJECTIONS};
pub use reader::{ActivityReader, Follower};
pub use writer::Activity;
