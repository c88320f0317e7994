//! Processes that use as much of a resource as they get, for tests of limits.

use std::io::{self, Read};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::signal::Signal;

/// At so many processes a limit isn't looked for any more.
const MAX_PROCESSES: usize = 500;

/// Uses so many bytes of memory, each page of them, and prints how many.
///
/// # Errors
///
/// That of the standard output.
pub fn allocate(bytes: usize) -> io::Result<()> {
    let memory = vec![1_u8; bytes];
    println!("{}", std::hint::black_box(&memory).len());
    Ok(())
}

/// Waits for the end of standard input, then starts processes until the kernel refuses one, and prints how many it has granted. They end
/// with this one.
///
/// # Errors
///
/// That of starting a process, if it isn't EAGAIN. If the kernel doesn't refuse any.
pub fn start_all() -> io::Result<()> {
    set_pdeathsig(Signal::SIGKILL)?;
    io::stdin().read_to_end(&mut Vec::new())?;
    let exe = std::env::current_exe()?;
    let mut started: Vec<Child> = Vec::new();
    let refused = loop {
        match Command::new(&exe).arg("--sleep").stdin(Stdio::null()).stdout(Stdio::null()).spawn() {
            Ok(child) if started.len() < MAX_PROCESSES => started.push(child),
            Ok(mut child) => {
                child.kill()?;
                break io::Error::other("no limit was hit");
            }
            Err(error) => break error,
        }
    };
    let count = started.len();
    for mut child in started {
        child.kill()?;
        child.wait()?;
    }
    if refused.raw_os_error() != Some(Errno::EAGAIN as i32) {
        return Err(refused);
    }
    println!("{count}");
    Ok(())
}

/// Computes for this long, and prints which thousandth of the time it had a CPU.
///
/// # Errors
///
/// That of asking for the CPU time.
pub fn compute(duration: Duration) -> io::Result<()> {
    let start = Instant::now();
    while start.elapsed() < duration {
        std::hint::spin_loop();
    }
    let elapsed = start.elapsed();
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let used = [usage.user_time(), usage.system_time()];
    let micros: i64 = used.iter().map(|time| time.tv_sec() * 1_000_000 + time.tv_usec()).sum();
    println!("{}", micros * 1000 / i64::try_from(elapsed.as_micros()).unwrap_or(i64::MAX));
    Ok(())
}
