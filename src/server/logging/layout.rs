//! Formats records of the log.

use std::fmt;

use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::{Format, Full, Json, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::server::logging::queue::Log;
use crate::server::logging::style::Style;

/// Formats events in the log's current style.
#[derive(Debug)]
pub(crate) struct LineLayout {
    log: &'static Log,
    text: Format<Full>,
    bare: Format<Full, ()>,
    json: Format<Json>,
}

impl LineLayout {
    pub(crate) fn new(log: &'static Log) -> Self {
        let text = || Format::default().with_target(false);
        Self {
            log,
            text: text(),
            bare: text().without_time().with_level(false),
            json: text().json().flatten_event(true),
        }
    }
}

impl<S, N> FormatEvent<S, N> for LineLayout
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        match self.log.style() {
            Style::Text => self.text.format_event(context, writer, event),
            Style::Bare => self.bare.format_event(context, writer, event),
            Style::Json => self.json.format_event(context, writer, event),
        }
    }
}
