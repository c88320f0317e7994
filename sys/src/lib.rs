//! System calls that neither the standard library nor nix has as safe functions: the only unsafe code of vcgroupfs' programs.
//!
//! There's one safe function for each call. Its documentation names the man page, and the kernel version if that's
//! newer than 3.10. On an older kernel the caller gets `ENOSYS` or another errno, and falls back. Nothing here knows
//! cgroups, views or containers.
//!
//! The package exists for vcgroupfs and its mount-helper; it promises no stable interface.
// As in vcgroupfs itself, nothing may panic.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
#![deny(clippy::unreachable, clippy::unimplemented, clippy::print_stdout, clippy::print_stderr)]
#![cfg_attr(not(test), deny(clippy::disallowed_macros, clippy::string_slice))]
// The other packages deny `unsafe_code`. Here each block explains why it's sound.
#![allow(unsafe_code)]

pub mod allocator;
pub mod capability;
pub mod credentials;
pub mod descriptors;
pub mod fuse;
pub mod handle;
pub mod inotify;
pub mod mount;
pub mod namespace;
pub mod offset;
pub mod owner;
pub mod pidfd;
pub mod process;
pub mod seccomp;
pub mod seqpacket;
pub mod shared;
pub mod signal;
pub mod spawn;
pub mod stat;
pub mod terminal;
pub mod xattr;
