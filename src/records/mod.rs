//! What a server has to remember for the next one: records in memory that it shares with its keeper.
//!
//! A server can be killed at any moment. The next one continues with the same connection, so it needs to know what the
//! kernel was told: the nodes and the names that it holds, the open files and their descriptors, the backing files,
//! and what was done for requests that aren't answered yet.
//!
//! Every record is a chain of cells (`cells`), written word by word. Its first word is written last when it's made,
//! and first when it's dropped, so at each moment a record is either whole or not there.

mod absence;
mod cells;
pub mod descriptor;
mod entry;
mod events;
mod file;
mod held;
mod layout;
mod node;
mod note;
mod own_change;
mod own_write;
mod passthrough;
mod requests;
mod scope;
mod slots;
mod store;
mod xattr;

pub use absence::{AbsenceRecord, SavedAbsence};
pub use entry::{EntryRecord, SavedEntry};
pub use events::Events;
pub use file::{FileRecord, FileState, SavedFile};
pub use held::HeldDescriptors;
pub use node::{NodeAttributes, NodeRecord, NodeState, SavedNode};
pub use note::{NOTE_DESCRIPTORS, NoteRecord, SavedNote, Topic};
pub use own_change::{OwnChangeState, SavedOwnChange};
pub use own_write::SavedOwnWrite;
pub use passthrough::{PassthroughRecord, SavedPassthrough};
pub use requests::{Attempt, RequestGuard};
pub use scope::{ONE_VIEW, SavedRetry, SavedScope};
pub use store::{FORMAT, Number, Records, SELF_MOUNT_THREADS};
pub use xattr::{SavedXattr, XattrState};
