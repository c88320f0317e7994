//! The keeper's watchdog: it notices a server that no longer works, and requests that make servers crash.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::fuse::refuse_request;
use crate::records::{Number, Records};

/// How often the watchdog looks, and the service manager is told.
pub(super) const INTERVAL: Duration = Duration::from_secs(5);

/// After how many looks without progress a server is replaced. Looks are counted, and not time: if the keeper was stopped
/// or frozen, the server mostly was, too.
const LOOKS: u32 = 4;

/// How many servers a request may have crashed before it's refused.
const CRASHES: u32 = 3;

/// What the watchdog has seen of a server.
#[derive(Debug, Default)]
pub(super) struct Watchdog {
    /// The requests in hand that wait for nobody, when each was begun, and how often it was seen since.
    seen: HashMap<u64, (u64, u32)>,
    /// How many requests had begun at the last look, and for how many looks others have waited since.
    requests: u64,
    waited: u32,
}

impl Watchdog {
    /// Looks at the server. Returns why it has to be replaced, and refuses the requests that hang.
    pub(super) fn look(&mut self, records: &Records, device: BorrowedFd<'_>) -> Option<String> {
        let in_hand: HashMap<u64, u64> =
            records.requests_in_hand().into_iter().filter(|(_, begun)| *begun != 0).collect();
        let seen = std::mem::take(&mut self.seen);
        for (request, begun) in in_hand {
            let before = seen.get(&request).filter(|(same, _)| *same == begun).map_or(0, |(_, looks)| *looks);
            self.seen.insert(request, (begun, before + 1));
        }
        let requests = records.get(Number::Requests);
        let waits = requests == self.requests && is_readable(device);
        self.waited = if waits { self.waited + 1 } else { 0 };
        self.requests = requests;
        let seconds = INTERVAL.as_secs() * u64::from(LOOKS);
        let hanging: Vec<u64> =
            self.seen.iter().filter(|(_, (_, looks))| *looks >= LOOKS).map(|(one, _)| *one).collect();
        if !hanging.is_empty() {
            // The next server would hang as well.
            hanging.iter().for_each(|request| refuse_request(device, *request));
            return Some(format!("a request took more than {seconds} s"));
        }
        (self.waited >= LOOKS).then(|| format!("it read no request for {seconds} s"))
    }
}

/// How many servers each request has crashed.
#[derive(Debug, Default)]
pub(super) struct Crashes(HashMap<u64, u32>);

impl Crashes {
    /// Notes that a server has crashed, and refuses a request that has made several crash. Otherwise it would be sent to
    /// the next one, too.
    pub(super) fn note(&mut self, records: &Records, device: BorrowedFd<'_>) {
        let before = std::mem::take(&mut self.0);
        for (request, _) in records.requests_in_hand() {
            let count = before.get(&request).map_or(1, |count| count + 1);
            if count >= CRASHES {
                tracing::error!("a request has made {count} servers crash: refusing it");
                refuse_request(device, request);
            }
            self.0.insert(request, count);
        }
    }
}

fn is_readable(device: BorrowedFd<'_>) -> bool {
    let mut waited = [PollFd::new(device.as_fd(), PollFlags::POLLIN)];
    loop {
        match poll(&mut waited, PollTimeout::ZERO) {
            Err(Errno::EINTR) => {}
            ready => return ready.is_ok_and(|ready| ready > 0),
        }
    }
}
