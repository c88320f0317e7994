//! The probe's loop, which reads operations and writes outcomes, a line each.

use std::io::{self, BufRead, Write};
use std::sync::Arc;

use nix::errno::Errno;
use serde_json::{Value, json};

use super::op::{Op, Outcome};
use super::state::{Failure, State};
use super::{files, passing, people, ring, trees, waiting, watching};

/// Performs one operation in the calling thread.
fn perform(state: &Arc<State>, op: &Op) -> Outcome {
    let answer = match op {
        Op::Set { name, value } => state.expand(value).map(|value| {
            state.define(name, value);
            Value::Null
        }),
        Op::On { thread, then } => return people::on(state, thread, then),
        _ => people::execute(state, op)
            .or_else(|| passing::execute(state, op))
            .or_else(|| ring::execute(state, op))
            .or_else(|| waiting::execute(state, op))
            .or_else(|| watching::execute(state, op))
            .or_else(|| files::execute(state, op))
            .or_else(|| trees::execute(state, op))
            .unwrap_or_else(|| Err(Failure::Script(format!("nobody executes {op:?}")))),
    };
    match answer {
        Ok(value) => Outcome::Ok(value),
        Err(Failure::Sys(stage, raw)) => {
            Outcome::Err { errno: format!("{:?}", Errno::from_raw(raw)), stage: stage.into() }
        }
        Err(Failure::Script(what)) => Outcome::Bad(what),
    }
}

fn text_of(outcome: &Outcome) -> String {
    serde_json::to_string(outcome).unwrap_or_else(|error| json!({"bad": error.to_string()}).to_string())
}

/// Writes each outcome as soon as it's there, so that whoever waits for the answer knows which operation hangs.
fn perform_all(state: &Arc<State>, line: &str, output: &mut impl Write) -> io::Result<()> {
    let ops = match serde_json::from_str::<Vec<Op>>(line) {
        Ok(ops) => ops,
        Err(error) => return writeln!(output, "[{}]", text_of(&Outcome::Bad(error.to_string()))),
    };
    write!(output, "[")?;
    for (number, op) in ops.iter().enumerate() {
        let separator = if number == 0 { "" } else { "," };
        write!(output, "{separator}{}", text_of(&state.perform(op)))?;
        output.flush()?;
    }
    writeln!(output, "]")
}

/// Executes the operations that `input` brings, one JSON object a line, and writes one answer a line to `output`.
///
/// # Errors
///
/// Only those of `input` and `output`; everything else is an answer.
pub fn run(input: impl BufRead, mut output: impl Write) -> io::Result<()> {
    let state = Arc::new(State::new(perform)?);
    state.define("PID", std::process::id());
    for line in input.lines() {
        let line = line?;
        if line.trim().is_empty() {
            continue;
        }
        if line.starts_with('[') {
            perform_all(&state, &line, &mut output)?;
        } else {
            let outcome = match serde_json::from_str::<Op>(&line) {
                Ok(op) => state.perform(&op),
                Err(error) => Outcome::Bad(error.to_string()),
            };
            writeln!(output, "{}", text_of(&outcome))?;
        }
        output.flush()?;
    }
    for child in state.children().values_mut() {
        // The process may have ended already, or be of a user whom this one can't signal: it ends with its parent then.
        let _ = child.kill();
    }
    Ok(())
}
