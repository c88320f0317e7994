//! `dist-files DIR` writes the man pages and the completions of vcgroupfs into `DIR/man` and `DIR/completions`, from the definition of its
//! command line.

use std::path::Path;
use std::process::ExitCode;
use std::{fs, io};

use clap::Command;
use clap_complete::Shell;
use clap_mangen::Man;

/// Administrators use it.
const SECTION: &str = "8";

fn main() -> ExitCode {
    let mut words = std::env::args_os().skip(1);
    let (Some(directory), None) = (words.next(), words.next()) else {
        eprintln!("usage: dist-files DIR");
        return ExitCode::from(2);
    };
    let directory = Path::new(&directory);
    match write_man_pages(&directory.join("man")).and_then(|()| write_completions(&directory.join("completions"))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("dist-files: can't write into {}: {error}", directory.display());
            ExitCode::FAILURE
        }
    }
}

fn write_man_pages(directory: &Path) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    let mut command = vcgroupfs::cli::command().disable_help_subcommand(true);
    command.build();
    for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set()) {
        write_man_page(verb.clone(), directory)?;
    }
    write_man_page(command, directory)
}

fn write_man_page(command: Command, directory: &Path) -> io::Result<()> {
    let name = command.get_display_name().unwrap_or(command.get_name());
    let file = directory.join(format!("{name}.{SECTION}"));
    let mut page = Vec::new();
    // No date, so that one commit makes the same file every time.
    let source = format!("vcgroupfs {}", env!("CARGO_PKG_VERSION"));
    Man::new(command).section(SECTION).date("").source(source).manual("vcgroupfs").render(&mut page)?;
    fs::write(file, page)
}

fn write_completions(directory: &Path) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    let mut command = vcgroupfs::cli::command();
    for shell in [Shell::Bash, Shell::Fish, Shell::Zsh] {
        clap_complete::generate_to(shell, &mut command, "vcgroupfs", directory)?;
    }
    Ok(())
}
