//! Entry point of the stand-alone helper.
use std::process::ExitCode;

fn main() -> ExitCode {
    mount_helper::main(std::env::args_os())
}
