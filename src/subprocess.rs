//! Programs of the host that answer a question.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// How long a program may take for its answer. A container manager that calls a hook may not answer until the hook has
/// ended.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Runs a program to its end, and returns what it wrote. Its standard input is empty. See [`output_within`].
///
/// # Errors
/// `TimedOut` if it hasn't answered within half a minute, and then it's killed; those of starting it.
pub(crate) fn output(command: &mut Command) -> io::Result<Output> {
    output_within(command, ANSWER_TIMEOUT)
}

/// The same with another limit. It starts no thread, so that a process that forks or confines itself can call it.
///
/// # Errors
/// `TimedOut` if it hasn't answered within the limit, and then it's killed; those of starting it.
pub(crate) fn output_within(command: &mut Command, limit: Duration) -> io::Result<Output> {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let (mut stdout, mut stderr) = (child.stdout.take(), child.stderr.take());
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let end = Instant::now() + limit;
    let read = loop {
        if stdout.is_none() && stderr.is_none() {
            break Ok(());
        }
        let open = [stdout.as_ref().map(AsFd::as_fd), stderr.as_ref().map(AsFd::as_fd)];
        let step = readable(open, end).and_then(|ready| {
            read_ready(ready.0, &mut stdout, &mut out)?;
            read_ready(ready.1, &mut stderr, &mut err)
        });
        if step.is_err() {
            break step;
        }
    };
    if let Err(error) = read {
        child.kill()?;
        child.wait()?;
        return Err(match error.kind() {
            io::ErrorKind::TimedOut => io::Error::new(error.kind(), format!("no answer within {} s", limit.as_secs())),
            _ => error,
        });
    }
    Ok(Output { status: child.wait()?, stdout: out, stderr: err })
}

/// Waits until one of the pipes can be read, or has ended.
fn readable(pipes: [Option<BorrowedFd<'_>>; 2], end: Instant) -> io::Result<(bool, bool)> {
    let mut waited: Vec<PollFd<'_>> =
        pipes.iter().flatten().map(|pipe| PollFd::new(*pipe, PollFlags::POLLIN)).collect();
    // Rounded up, so that the last wait isn't a busy one.
    let left = end.saturating_duration_since(Instant::now()).as_millis() + 1;
    match poll(&mut waited, PollTimeout::from(u16::try_from(left).unwrap_or(u16::MAX))) {
        Ok(0) if Instant::now() >= end => return Err(io::ErrorKind::TimedOut.into()),
        Ok(_) | Err(Errno::EINTR) => {}
        Err(errno) => return Err(errno.into()),
    }
    let mut answers = waited.iter().map(|pipe| pipe.any().unwrap_or(false));
    let [out, err] = pipes.map(|pipe| pipe.is_some() && answers.next().unwrap_or(false));
    Ok((out, err))
}

/// Reads what a pipe has, and closes it at its end.
fn read_ready(is_ready: bool, pipe: &mut Option<impl Read>, text: &mut Vec<u8>) -> io::Result<()> {
    let mut chunk = [0; 4096];
    if let Some(open) = pipe.as_mut().filter(|_| is_ready) {
        match open.read(&mut chunk) {
            Ok(0) => *pipe = None,
            Ok(length) => text.extend(chunk.iter().take(length)),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
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
    fn long_answers_are_read_while_they_come() {
        let script = "head -c 300000 /dev/zero >&2; head -c 200000 /dev/zero";
        let output = shell(script, ANSWER_TIMEOUT).unwrap();
        assert_eq!((output.stdout.len(), output.stderr.len()), (200_000, 300_000));
    }

    #[test]
    fn a_program_that_does_not_answer_is_killed() {
        let error = shell("exec sleep 1000", Duration::from_millis(50)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        let missing = output(&mut Command::new("/nonexistent")).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    }
}
