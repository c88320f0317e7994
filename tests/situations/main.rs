//! Ten broken situations. In each, `doctor` or `explain` names the cause and the remedy, and the command, typed as it's printed, mends it.

mod named_by_doctor;
mod named_by_explain;
mod scene;
mod support;
