//! Where the log goes, and how much of it.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Mutex;

use clap::{Args, ValueEnum};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::writer::BoxMakeWriter;

use super::error::Failed;

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    /// Lines for people
    Text,
    /// An object a line
    Json,
}

/// The log's options; they go before or behind the verb.
#[derive(Debug, Args)]
#[command(next_help_heading = "Logging")]
pub(super) struct Options {
    /// How much is logged: error, warn, info (every rejected operation), debug, trace
    #[arg(long, global = true, default_value = "warn", value_name = "LEVEL", value_parser = parse_level)]
    log_level: LevelFilter,
    /// How it is written
    #[arg(long, global = true, value_enum, default_value = "text", value_name = "FORMAT")]
    log_format: Format,
    /// Append it to this file instead of writing to stderr; a server in the background has no other log
    #[arg(long, global = true, value_name = "FILE")]
    log_file: Option<PathBuf>,
}

fn parse_level(text: &str) -> Result<LevelFilter, &'static str> {
    text.parse().map_err(|_| "use error, warn, info, debug, trace or off")
}

impl Options {
    /// Opens the log's file, if there's one, before the process changes its directory or namespaces.
    pub(super) fn open(&self) -> Result<Option<File>, Failed> {
        let Some(path) = &self.log_file else { return Ok(None) };
        let file = File::options().create(true).append(true).open(path);
        file.map(Some)
            .map_err(|error| Failed::system(format_args!("can't open the log file {}", path.display()), error))
    }

    /// Starts logging, to `file` or else to stderr.
    pub(super) fn start(&self, file: Option<File>) -> Result<(), Failed> {
        let file = match file {
            Some(file) => Some(file),
            None => self.open()?,
        };
        let writer = match file {
            Some(file) => BoxMakeWriter::new(Mutex::new(file)),
            None => BoxMakeWriter::new(std::io::stderr),
        };
        let log = tracing_subscriber::fmt()
            .with_max_level(self.log_level)
            .with_writer(writer)
            .with_ansi(false)
            .with_target(false);
        // Only a second start in one process could fail, and then the first one logs.
        let _ = match self.log_format {
            Format::Text => log.try_init(),
            Format::Json => log.json().flatten_event(true).try_init(),
        };
        Ok(())
    }
}
