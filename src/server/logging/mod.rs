//! The log: its options, its start, and its sink.
//!
//! A command writes its log directly, to stderr or a file. A server passes its records through a bounded queue to a
//! thread, so that a slow or missing reader, or a full disk, never stops the server. See [`queue`].

mod layout;
mod queue;
mod sink;
mod style;

use std::ffi::OsString;
use std::fs::File;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use clap::{Args, ValueEnum};
use nix::unistd::ForkResult;
use serde::{Deserialize, Serialize};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::prelude::*;
use tracing_subscriber::reload;

use crate::cgroup::escaped;
use crate::error::Error;
use crate::message::say;
use crate::records::Records;
use crate::server::logging::layout::LineLayout;
use crate::server::logging::queue::Log;
use crate::server::logging::sink::Sink;
use crate::server::logging::style::Style;
use crate::server::registry::options::LogOptions;
use crate::sys;

/// The log of this process.
static LOG: Log = Log::new();

/// How this process logs as a server, once it is one.
static SERVERS: OnceLock<ServerLog> = OnceLock::new();

/// Changes what this process logs, once it logs.
static SET_LEVEL: OnceLock<Box<dyn Fn(LevelFilter) + Send + Sync>> = OnceLock::new();

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Lines for people
    Text,
    /// One JSON object a line
    Json,
}

/// How a server logs, for a program that takes it over.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct ServerLog {
    options: LogOptions,
    is_in_background: bool,
}

/// The options of the log, which every verb takes.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Logging")]
pub(crate) struct Options {
    /// What is logged: error, warn, info (also each rejection by a rule), debug, trace, off [default: warn]
    #[arg(long, global = true, value_name = "LEVEL", value_parser = parse_level)]
    log_level: Option<LevelFilter>,
    /// The format of the log
    #[arg(long, global = true, value_enum, default_value = "text", value_name = "FORMAT")]
    log_format: Format,
    /// Append the log to this file. Without, commands log to stderr, and servers in the background to the journal or syslog
    #[arg(long, global = true, value_name = "FILE")]
    log_file: Option<PathBuf>,
}

fn parse_level(text: &str) -> Result<LevelFilter, String> {
    text.parse().map_err(|_| format!("'{text}' isn't one of error, warn, info, debug, trace, off"))
}

impl Options {
    /// Starts logging to the file, or to stderr without one.
    pub(crate) fn start(&self) -> Result<(), Error> {
        if let Some(path) = &self.log_file {
            let failed = |error| Error::system(format_args!("can't open the log file {}", escaped(path)), error);
            let file = File::options().create(true).append(true).open(path).map_err(failed)?;
            // Absolute, since the process may change its working directory before it reopens the file.
            let path = std::path::absolute(path).map_err(failed)?;
            LOG.set_sink(Sink::File { file, path });
        }
        LOG.set_style(self.style());
        let level = self.log_level.unwrap_or(LevelFilter::WARN);
        if let Some(set_level) = SET_LEVEL.get() {
            set_level(level);
            return Ok(());
        }
        let layer = tracing_subscriber::fmt::layer()
            .with_ansi(false)
            .log_internal_errors(false)
            .event_format(LineLayout::new(&LOG))
            .with_writer(&LOG);
        let (filter, handle) = reload::Layer::new(level);
        if tracing_subscriber::registry().with(filter).with(layer).try_init().is_ok() {
            let _ = SET_LEVEL.set(Box::new(move |level| drop(handle.reload(level))));
        }
        Ok(())
    }

    /// Takes over the recorded options that aren't given, and starts logging anew. Returns the options that hold now,
    /// and those that were taken over as words of a command line.
    ///
    /// # Errors
    /// If the recorded file can't be opened.
    pub(crate) fn take_over(&self, recorded: &LogOptions) -> Result<(Self, Vec<OsString>), Error> {
        let (mut options, mut words) = (self.clone(), Vec::new());
        let level = recorded.level.as_deref().and_then(|level| Some((level, parse_level(level).ok()?)));
        if let (None, Some((word, level))) = (self.log_level, level) {
            options.log_level = Some(level);
            words.extend(["--log-level".into(), word.into()]);
        }
        if self.log_format == Format::Text && recorded.format.as_deref() == Some("json") {
            options.log_format = Format::Json;
            words.extend(["--log-format".into(), "json".into()]);
        }
        if let (None, Some(file)) = (&self.log_file, &recorded.file) {
            options.log_file = Some(file.as_ref().to_owned());
            words.extend(["--log-file".into(), file.as_ref().into()]);
        }
        if !words.is_empty() {
            options.start()?;
        }
        Ok((options, words))
    }

    /// Makes this process log as a server, to the same place. Records wait for [`start_thread`].
    pub(crate) fn continue_as_server(&self) {
        let _ = SERVERS.set(ServerLog { options: self.recorded(), is_in_background: false });
        LOG.queue();
    }

    /// Makes this process log as a server in the background: without a file, to the journal or else to syslog.
    pub(crate) fn continue_in_background(&self) {
        if self.log_file.is_none() {
            let service = Sink::system();
            if !matches!(service, Sink::Nowhere) && self.log_format == Format::Text {
                LOG.set_style(Style::Bare);
            }
            LOG.set_sink(service);
        }
        let _ = SERVERS.set(ServerLog { options: self.recorded(), is_in_background: true });
        LOG.queue();
    }

    /// Warns if the user has asked for a log, and a server in the background has nowhere to write it.
    pub(crate) fn warn_if_unlogged(&self) {
        let is_wanted = self.log_level.is_some_and(|level| level != LevelFilter::OFF);
        if is_wanted && self.log_file.is_none() && matches!(Sink::system(), Sink::Nowhere) {
            say("the server logs nowhere: there is neither the journal nor /dev/log here; use --log-file FILE");
        }
    }

    /// The options as a view's record has them.
    pub(crate) fn recorded(&self) -> LogOptions {
        LogOptions {
            level: self.log_level.map(|level| level.to_string()),
            format: (self.log_format == Format::Json).then(|| "json".to_owned()),
            // As in `start`: the record is read in other directories.
            file: self.log_file.as_deref().map(|path| {
                let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
                path.as_os_str().into()
            }),
        }
    }

    fn style(&self) -> Style {
        match self.log_format {
            Format::Text => Style::Text,
            Format::Json => Style::Json,
        }
    }
}

/// How this process logs as a server.
pub(crate) fn of_server() -> ServerLog {
    SERVERS.get().cloned().unwrap_or_default()
}

impl ServerLog {
    /// Makes this process, which has the default options, log as the server that it takes over did. It does so as well as
    /// it can: the log's file may be gone.
    pub(crate) fn resume(&self, defaults: &Options) {
        let taken = defaults.take_over(&self.options);
        let (options, _) = taken.as_ref().cloned().unwrap_or_else(|_| (defaults.clone(), Vec::new()));
        if self.is_in_background {
            options.continue_in_background()
        } else {
            options.continue_as_server()
        }
        if let Err(error) = taken {
            tracing::error!("{error}");
        }
    }
}

/// Starts the thread that writes a server's log. The process can't fork afterwards.
pub(crate) fn start_thread() {
    LOG.start_thread();
}

/// Counts the records that are lost in what a view has done.
pub(crate) fn count_lost_in(records: &Arc<Records>) {
    LOG.count_in(Arc::clone(records));
}

/// Drops the records that wait to be written: a forked process has them as well, and writes them.
pub(crate) fn forget_queued() {
    LOG.forget_queued();
}

/// Lets a child write the records that wait: the log may be slow, and a process that must not wait for it, and that forks,
/// can't have the thread. The child ends soon, whatever the log does. The process must have a single thread. The child calls
/// `restore` first, since a server that shares the descriptor table may have closed the log's.
pub(crate) fn write_in_a_child(restore: impl FnOnce()) {
    if !LOG.has_waiting() {
        return;
    }
    match sys::process::fork() {
        Ok(ForkResult::Child) => {
            restore();
            LOG.reopen();
            LOG.finish();
            sys::process::exit_now(0)
        }
        Ok(ForkResult::Parent { .. }) => LOG.forget_queued(),
        // They wait for the next time.
        Err(_) => {}
    }
}

/// Reopens the log's file by its name.
pub(crate) fn reopen() {
    LOG.reopen();
}

/// Waits, with a limit, until the last records of a server are written. Without this call, a process that exits loses
/// them.
pub(crate) fn finish() {
    LOG.finish();
}

/// Logs panics like other records. The default hook would write to stderr, and block if nobody reads that.
pub(crate) fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let payload = panic.payload();
        let message = payload.downcast_ref::<String>().map(String::as_str).or_else(|| payload.downcast_ref().copied());
        let message = message.unwrap_or("no message");
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let thread = std::thread::current();
        tracing::error!(place, thread = thread.name().unwrap_or_default(), "internal error: {message}");
    }));
}
