//! The server's reaction to an agent's replies, honest or not.

use std::io::IoSliceMut;
use std::os::fd::{AsRawFd, OwnedFd};
use std::thread;
use std::time::Instant;

use mount_helper::request::reply_header;
use nix::sys::socket::{MsgFlags, recvmsg, send};

use super::*;

#[test]
fn implausible_replies_are_refused() {
    let read = Request::Read { offset: 0, len: 10 };
    let write = Request::Write { nice: false, data: b"123" };
    let name = Request::SetOwner { number: 7 };
    for (request, result, announced, data, expected) in [
        (&read, 10, 10, 10, Some(Ok(10))),
        (&read, 0, 0, 0, Some(Ok(0))),
        (&read, 11, 11, 11, None),
        (&read, 9, 10, 10, None),
        (&read, 10, 10, 9, None),
        (&read, -19, 0, 0, Some(Err(Errno::ENODEV))),
        (&read, -19, 1, 1, None),
        (&read, -4095, 0, 0, Some(Err(Errno::EIO))),
        (&read, -4096, 0, 0, None),
        (&read, i32::MIN, 0, 0, None),
        (&write, 3, 0, 0, Some(Ok(3))),
        (&write, 4, 0, 0, None),
        (&write, 3, 3, 3, None),
        (&name, 0, 0, 0, Some(Ok(0))),
        (&name, 1, 0, 0, None),
        (&name, -3, 0, 0, Some(Err(Errno::ESRCH))),
    ] {
        let got = check_reply(request, reply_header(result, announced), data);
        assert_eq!(got, expected, "{request:?} {result} {announced} {data}");
    }
}

/// Sends a request to a peer that runs `agent` on its end of the socket. The deadline is long enough for a busy
/// machine.
fn asked(agent: impl FnOnce(OwnedFd) + Send + 'static) -> Result<Result<usize, Errno>, AgentFailure> {
    asked_within(REQUEST_TIMEOUT * 12, agent)
}

fn asked_within(
    deadline: Duration,
    agent: impl FnOnce(OwnedFd) + Send + 'static,
) -> Result<Result<usize, Errno>, AgentFailure> {
    let (socket, theirs) = seqpacket::seqpacket_pair().unwrap();
    let (lifeline, _) = pipe2(OFlag::O_CLOEXEC).unwrap();
    let connection = Connection { socket, _lifeline: lifeline };
    let peer = thread::spawn(move || agent(theirs));
    let file = std::fs::File::open("/dev/null").unwrap();
    let mut data = [0; 10];
    let request = Request::Read { offset: 0, len: 10 };
    let result = connection.request(&request, &[file.as_fd()], &mut data, deadline_in(deadline));
    drop(connection);
    peer.join().unwrap();
    result
}

/// Waits for the request and receives it.
fn take(socket: &OwnedFd) {
    let mut bytes = [0; 64];
    let mut parts = [IoSliceMut::new(&mut bytes)];
    recvmsg::<()>(socket.as_raw_fd(), &mut parts, None, MsgFlags::empty()).unwrap();
}

fn say(socket: &OwnedFd, bytes: &[u8]) {
    send(socket.as_raw_fd(), bytes, MsgFlags::MSG_NOSIGNAL).unwrap();
}

#[test]
fn death_before_and_after_receiving_is_told_apart() {
    // Whether the request or the end comes first, the request was never received.
    for delay in [0, 0, 0, 20] {
        let result = asked(move |socket| {
            // The delay is what the test varies: the other end closes before or after the request.
            thread::sleep(Duration::from_millis(delay));
            drop(socket);
        });
        assert_eq!(result, Err(AgentFailure::NotDelivered), "after {delay} ms");
    }
    assert_eq!(asked(|socket| take(&socket)), Err(AgentFailure::Died));
}

#[test]
fn lies_are_no_answers() {
    let broken = Err(AgentFailure::NoValidReply);
    for lie in [&[0; 7][..], &[0xff; 8], &[0xff; 18], &[0; 19], &[1; 4096]] {
        let result = asked(move |socket| {
            take(&socket);
            say(&socket, lie);
        });
        assert_eq!(result, broken, "{} bytes", lie.len());
    }
    let mut honest = reply_header(10, 10).to_vec();
    honest.extend([b'x'; 10]);
    let result = asked(move |socket| {
        take(&socket);
        say(&socket, &honest);
    });
    assert_eq!(result, Ok(Ok(10)));
}

#[test]
fn silence_costs_the_deadline() {
    let (start, deadline) = (Instant::now(), REQUEST_TIMEOUT / 10);
    let result = asked_within(deadline, |socket| {
        take(&socket);
        take(&socket); // comes back when the connection is given up
    });
    assert_eq!(result, Err(AgentFailure::NoValidReply));
    let took = start.elapsed();
    assert!(took >= deadline && took < REQUEST_TIMEOUT * 12, "{took:?}");
}
