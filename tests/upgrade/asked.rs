//! How a keeper is asked: the command, and what isn't one.

use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, UnixCredentials, connect, recv, sendmsg,
    socket,
};
use nix::unistd::Pid;
use serde_json::Value;
use testkit::{NEXT_COMMIT, TIMEOUT, next_version, run_to_end};

use crate::view::{Mounted, program, run, told};

fn socket_of(scene: &Mounted) -> PathBuf {
    Path::new("/run/vcgroupfs").join(format!("{}.control", scene.listed.process("keeper")))
}

fn connected(path: &Path) -> OwnedFd {
    let client = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).expect("a socket");
    connect(client.as_raw_fd(), &UnixAddr::new(path).expect("an address")).expect("a connection");
    client
}

/// Sends a message with a program in the name of a process, and returns the answer; nothing if there's none.
fn ask(path: &Path, sender: Pid, message: &[u8], program: Option<&Path>) -> String {
    let client = connected(path);
    let sender: UnixCredentials = libc::ucred { pid: sender.as_raw(), uid: 0, gid: 0 }.into();
    let file = program.map(|program| fs::File::open(program).expect("the program"));
    let numbers: Vec<i32> = file.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&numbers)];
    let control = [ControlMessage::ScmCredentials(&sender)].into_iter();
    let control: Vec<_> = control.chain(rights.into_iter().filter(|_| !numbers.is_empty())).collect();
    let parts = [std::io::IoSlice::new(message)];
    sendmsg::<()>(client.as_raw_fd(), &parts, &control, MsgFlags::empty(), None).expect("a message");
    let mut answer = vec![0; 64 * 1024];
    let length = recv(client.as_raw_fd(), &mut answer, MsgFlags::empty()).unwrap_or(0);
    String::from_utf8(answer[..length].to_vec()).expect("text")
}

#[test]
fn all_views_at_once() {
    require_upgrade!();
    let scenes = [(); 2].map(|()| Mounted::new(|options| options));
    // Those of other tests that run now are upgraded as well.
    let listed: Value =
        serde_json::from_str(&told(next_version(), &["upgrade", "--json", &scenes[0].target()])).expect("JSON");
    let entry = &listed.as_array().expect("views")[0];
    assert_eq!(entry["directory"], scenes[0].target());
    assert!(entry["version"].as_str().expect("a version").contains(NEXT_COMMIT), "{entry}");
    assert_eq!(entry["error"], Value::Null);
    assert!(!entry["former_version"].as_str().expect("a version").contains(NEXT_COMMIT), "{entry}");
    let text = told(program(), &["list"]);
    assert!(text.contains("isn't this program") && text.contains(NEXT_COMMIT), "{text}");
    assert!(scenes[0].listed.is_next() && !scenes[1].listed.is_next());
}

#[test]
fn what_is_wrong_is_said() {
    require_upgrade!();
    let none = run(program(), &["upgrade"]);
    assert_eq!(none.status.code(), Some(2), "{}", String::from_utf8_lossy(&none.stderr));
    let folder = tempfile::tempdir().expect("a directory");
    let nothing = run(program(), &["upgrade", folder.path().to_str().expect("text")]);
    let said = String::from_utf8_lossy(&nothing.stderr);
    assert!(nothing.status.code() == Some(1) && said.contains("no live view is mounted on"), "{said}");
    let both = run(program(), &["upgrade", "--all", "1"]);
    assert_eq!(both.status.code(), Some(2));
    let mut stranger = Command::new("setpriv");
    stranger.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(program()).args(["upgrade", "--all"]);
    let output = run_to_end(&mut stranger, TIMEOUT);
    assert_eq!(output.status.code(), Some(4), "{}", String::from_utf8_lossy(&output.stderr));
}

/// As in a container that sees the socket.
#[test]
fn user_0_alone_is_not_enough() {
    require_upgrade!();
    let scene = Mounted::new(|options| options);
    let target = scene.target();
    let upgrade = [program().to_str().expect("text"), "upgrade", &target];
    for before in [
        &["setpriv", "--bounding-set", "-sys_admin", "--inh-caps", "-sys_admin"][..],
        // It has all capabilities, but over namespaces of its own.
        &["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc"],
        &["unshare", "--pid", "--fork", "--mount-proc"],
    ] {
        let mut command = Command::new(before[0]);
        let output = run_to_end(command.args(&before[1..]).args(upgrade), TIMEOUT);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(matches!(output.status.code(), Some(1 | 4)), "{before:?}: {said}");
        assert!(!scene.listed.is_next(), "{before:?}: {said}");
    }
}

#[test]
fn a_keeper_that_was_killed() {
    require_upgrade!();
    let scene = Mounted::new(|options| options);
    let keeper = scene.listed.process("keeper");
    nix::sys::signal::kill(keeper, nix::sys::signal::Signal::SIGKILL).expect("a signal");
    testkit::wait_until("its end", || testkit::is_over(keeper));
    let said = scene.fail();
    assert!(said.contains("its keeper was killed"), "{said}");
}

#[test]
fn only_root_reaches_the_socket() {
    require_upgrade!();
    let scene = Mounted::new(|options| options);
    let path = socket_of(&scene);
    assert_eq!(fs::metadata(&path).expect("the socket").permissions().mode() & 0o7777, 0o600);
    drop(scene);
    assert!(!path.exists());
}

#[test]
fn nonsense_changes_nothing() {
    require_upgrade!();
    let scene = Mounted::new(|options| options);
    let (path, server) = (socket_of(&scene), scene.listed.process("pid"));
    let keeper = scene.listed.process("keeper");
    let offer = |state: &str, records: u32| format!(r#"{{"upgrade":{{"state":{state},"records":{records}}}}}"#);
    for (message, with, expected) in [
        (b"".to_vec(), None, "doesn't take the request"),
        (b"{".to_vec(), None, "doesn't take the request"),
        (b"\xff".to_vec(), Some(program()), "doesn't take the request"),
        (br#"{"other":1}"#.to_vec(), None, "doesn't take the request"),
        (br#"{"activity":{"requests":1}}"#.to_vec(), None, "doesn't take the request"),
        (vec![b' '; 100_000], None, "doesn't take the request"),
        (offer("[1]", 3).into_bytes(), None, "no program came with the request"),
        (offer("[]", 3).into_bytes(), Some(program()), "reads the state in version "),
        (offer("[99]", 3).into_bytes(), Some(program()), "reads the state in version 99, and this one writes 1"),
        (offer("[1]", 99).into_bytes(), Some(program()), "works with records in format 99"),
        (offer("[1]", 3).into_bytes(), Some(Path::new("/bin/true")), "ended before it has looked at the state"),
        (offer("[1]", 3).into_bytes(), Some(Path::new("/etc/passwd")), "can't execute the new program"),
        (offer("[1]", 3).into_bytes(), Some(Path::new("/dev/null")), "can't execute the new program"),
    ] {
        let answer = ask(&path, keeper, &message, with);
        assert!(
            answer.contains(expected),
            "{:?}: {answer:?}",
            String::from_utf8_lossy(&message[..message.len().min(80)])
        );
        assert_eq!(scene.listed.process("pid"), server);
    }
    // In the own name, as everybody may.
    for message in [offer("[1]", 3).as_bytes(), br#"{"activity":{"requests":true}}"#] {
        let answer = ask(&path, Pid::this(), message, Some(program()));
        assert!(answer.contains("Operation not permitted"), "{answer}");
    }
    // Clients that say nothing keep nobody waiting for long.
    let silent = [(); 3].map(|()| connected(&path));
    scene.upgrade(next_version());
    drop(silent);
    // A server is started again as before.
    let server = scene.listed.process("pid");
    nix::sys::signal::kill(server, nix::sys::signal::Signal::SIGKILL).expect("a signal");
    testkit::wait_until("another server", || scene.listed.process("pid") != server);
}

/// Clients that may not ask come all the time, and a server that is killed meanwhile is still started again.
#[test]
fn strangers_do_not_keep_the_keeper_busy() {
    require_upgrade!();
    let scene = Mounted::new(|options| options);
    let (path, stop) = (socket_of(&scene), AtomicBool::new(false));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !stop.load(Ordering::Acquire) {
                    let client = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None);
                    let client = client.expect("a socket");
                    if connect(client.as_raw_fd(), &UnixAddr::new(&path).expect("an address")).is_ok() {
                        let _ = nix::sys::socket::send(client.as_raw_fd(), b"{}", MsgFlags::MSG_NOSIGNAL);
                    }
                }
            });
        }
        for _ in 0..3 {
            let server = scene.listed.process("pid");
            nix::sys::signal::kill(server, nix::sys::signal::Signal::SIGKILL).expect("a signal");
            testkit::wait_until("another server", || scene.listed.process("pid") != server);
        }
        stop.store(true, Ordering::Release);
    });
}

/// The hidden verb, as somebody finds it.
#[test]
fn resuming_nothing_is_refused() {
    require_upgrade!();
    for arguments in [["resume", "--state", "77"], ["resume", "--state", "0"], ["resume", "--state", "x"]] {
        let output = run(program(), &arguments);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(matches!(output.status.code(), Some(1 | 2)), "{arguments:?}: {said}");
        assert!(!said.contains("panicked"), "{said}");
    }
}
