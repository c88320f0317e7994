//! The command line as a user meets it: what it says, with which status it ends, and what it leaves behind, which is nothing.

mod bad_input;
mod doctor;
mod doctor_numbers;
mod doctor_summary;
mod explain;
mod explain_ends;
mod explain_live;
mod help;
mod log;
mod mount;
mod output;
mod privilege;
mod run;
mod run_ends;
mod run_recognised;
mod support;
