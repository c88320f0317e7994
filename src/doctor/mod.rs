//! What programs recognise of the cgroups that they see, and which limits they read. Pure, but for [`probe`].
//!
//! Facts are texts of the kernel's and answers about paths, as the process that is looked at would get them ([`facts`]). The models of
//! [`clients`] compute from them the numbers that each program would take, with where it finds them; [`limits`] says what holds in truth, from
//! the host's files; [`verdict`] compares. [`general`] is what concerns all programs. [`probe`] looks and reads; nothing else here does.

pub(crate) mod advice;
pub(crate) mod clients;
pub(crate) mod compare;
pub(crate) mod facts;
pub(crate) mod finding;
pub(crate) mod general;
#[cfg(test)]
mod layouts;
pub(crate) mod limits;
pub(crate) mod native;
pub(crate) mod paths;
pub(crate) mod probe;
pub(crate) mod reading;
#[cfg(test)]
mod tests;
pub(crate) mod verdict;
