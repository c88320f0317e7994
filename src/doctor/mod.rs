//! Finds out what programs recognise of their cgroups, and which limits they read. Pure, except for [`probe`].
//!
//! Facts are texts of the kernel and results about paths, as the probed process would get them ([`facts`]). From
//! them, the models of [`clients`] compute the numbers that each program would take, and where it finds them.
//! [`limits`] finds the effective limits in the host's files, and [`verdict`] compares. [`general`] has the findings
//! that concern all programs. Only [`probe`] does I/O.

pub(crate) mod advice;
pub(crate) mod client_numbers;
pub(crate) mod clients;
pub(crate) mod compare;
pub(crate) mod facts;
pub(crate) mod finding;
pub(crate) mod general;
pub(crate) mod host_facts;
#[cfg(test)]
pub(crate) mod layouts;
pub(crate) mod limits;
pub(crate) mod native;
pub(crate) mod paths;
pub(crate) mod probe;
pub(crate) mod program_table;
pub(crate) mod programs;
pub(crate) mod reading;
pub(crate) mod situation;
#[cfg(test)]
mod tests;
pub(crate) mod verdict;
