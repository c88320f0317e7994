//! The operations over a tree in memory: every shape and policy, without FUSE, root or a cgroupfs.

mod access;
mod changes;
mod containment;
mod explain;
mod fake;
mod fake_processes;
mod held;
mod listing;
mod lookup;
mod migration;
mod nodes;
mod percaller;
mod replay;
mod scene;
mod tree;
