//! The `vcgroupfs` command.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: sys::allocator::ResidentBuffers = sys::allocator::ResidentBuffers;

fn main() -> ExitCode {
    // One file serves as both programs; the helper's part comes first and shares nothing with the rest.
    if mount_helper::is_helper_name(std::env::args_os().next().as_deref()) {
        return mount_helper::main(std::env::args_os());
    }
    vcgroupfs::cli::main()
}
