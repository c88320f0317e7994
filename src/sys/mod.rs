//! System calls: the only unsafe code, one safe function per call, each with its man page.
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
