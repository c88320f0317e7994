//! System calls that neither the standard library nor nix has as safe functions: the only unsafe code of vcgroupfs' programs.
//!
//! There's one safe function for each call, with its man page, and with what it takes of a kernel if that's newer than 3.10. Nothing here knows
//! cgroups, views or containers. The package exists for vcgroupfs and its mount-helper; it promises no stable interface.
// Everywhere else `unsafe_code` is denied; what is here explains each block.
#![allow(unsafe_code)]

pub mod credentials;
pub mod fdpass;
pub mod fowner;
pub mod fuse;
pub mod handle;
pub mod inotify;
pub mod mount;
pub mod namespace;
pub mod offset;
pub mod pidfd;
pub mod process;
pub mod signal;
pub mod spawn;
pub mod xattr;
