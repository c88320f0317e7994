//! The only unsafe code: one safe function per system call.
// Everywhere else `unsafe_code` is denied; what is here explains each block.
#![allow(unsafe_code)]

pub mod fdpass;
pub mod fowner;
pub mod spawn;
