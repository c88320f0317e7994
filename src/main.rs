//! The `vcgroupfs` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    // One file serves as both programs; the helper's part comes first and shares nothing with the rest.
    if mount_helper::is_helper_name(std::env::args_os().next().as_deref()) {
        return mount_helper::main(std::env::args_os());
    }
    vcgroupfs::cli::main()
}
