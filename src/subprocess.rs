//! Programs of the host that answer a question.

use std::io::{self, Read};
use std::process::{Command, Output, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

/// How long a program may take for its answer. A container manager that calls a hook may not answer until the hook has
/// ended.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Runs a program to its end, and returns what it wrote. Its standard input is empty.
///
/// # Errors
/// `TimedOut` if it hasn't answered within half a minute, and then it's killed; those of starting it.
pub(crate) fn output(command: &mut Command) -> io::Result<Output> {
    output_within(command, ANSWER_TIMEOUT)
}

fn output_within(command: &mut Command, limit: Duration) -> io::Result<Output> {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let (sender, receiver) = channel();
    let pipes: [Option<Box<dyn Read + Send>>; 2] =
        [child.stdout.take().map(|pipe| Box::new(pipe) as _), child.stderr.take().map(|pipe| Box::new(pipe) as _)];
    for (index, pipe) in pipes.into_iter().enumerate() {
        let Some(mut pipe) = pipe else { continue };
        let sender = sender.clone();
        thread::spawn(move || {
            let mut text = Vec::new();
            let _ = sender.send((index, pipe.read_to_end(&mut text).map(|_| text)));
        });
    }
    drop(sender);
    let (end, mut texts) = (Instant::now() + limit, [Vec::new(), Vec::new()]);
    loop {
        match receiver.recv_timeout(end.saturating_duration_since(Instant::now())) {
            Ok((index, text)) => {
                if let Some(place) = texts.get_mut(index) {
                    *place = text?;
                }
            }
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                child.kill()?;
                child.wait()?;
                return Err(io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {} s", limit.as_secs())));
            }
        }
    }
    let [stdout, stderr] = texts;
    Ok(Output { status: child.wait()?, stdout, stderr })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, limit: Duration) -> io::Result<Output> {
        output_within(Command::new("sh").args(["-c", script]), limit)
    }

    #[test]
    fn both_outputs_and_the_status_are_returned() {
        let output = shell("cat; echo out; echo err >&2; exit 3", ANSWER_TIMEOUT).unwrap();
        assert_eq!((output.stdout.as_slice(), output.stderr.as_slice()), (&b"out\n"[..], &b"err\n"[..]));
        assert_eq!(output.status.code(), Some(3));
    }

    #[test]
    fn a_program_that_does_not_answer_is_killed() {
        let error = shell("exec sleep 1000", Duration::from_millis(50)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        let missing = output(&mut Command::new("/nonexistent")).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    }
}
