//! Compares the kernel's cgroupfs, a view of vcgroupfs, lxcfs and bindfs: the same operations on the same kind of
//! cgroups, interleaved in one run. `benches/README.md` says what is measured and how to read it.

use std::process::ExitCode;

#[path = "compare/mod.rs"]
mod compare;

fn main() -> ExitCode {
    compare::main()
}
