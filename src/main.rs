//! vcgroupfs.
use std::process::ExitCode;

fn main() -> ExitCode {
    // One file, two programs. First of all: the helper must not inherit anything that a later
    // line might open.
    if mount_helper::is_helper_name(std::env::args_os().next().as_deref()) {
        return mount_helper::main(std::env::args_os());
    }
    ExitCode::SUCCESS
}
