//! The vocabulary of cgroups: paths, hierarchies, interface files, memberships, mounts. Pure: no I/O.

pub mod ancestor;
pub mod controller;
mod escape;
pub mod file;
pub mod hierarchy;
pub mod idmap;
pub mod membership;
pub mod mountinfo;
pub mod mounts;
pub mod name_as_text;
pub mod path;
mod proc_stat;

pub use controller::ControllerSet;
pub use escape::{escaped, shell_word};
pub use file::FileClass;
pub use hierarchy::{HierarchyClass, HierarchyKind, Setup};
pub use idmap::IdMap;
pub use membership::{Membership, parse_memberships};
pub use mountinfo::{MountEntry, VIEW_FSTYPE, parse_mountinfo};
pub use path::{CgroupPath, PathError};
pub use proc_stat::{parse_processor, parse_running, stat_field};
