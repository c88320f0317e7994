//! `monitor --top`, on a terminal and without one.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use nix::pty::{Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::tcgetattr;
use nix::unistd::Pid;
use testkit::{TIMEOUT, end_of, run_to_end, wait_until};

use crate::scene::{Watched, program, refused};

/// A terminal with a program on it.
struct Terminal {
    child: Child,
    keys: File,
    /// The program's end, which keeps the terminal's settings.
    slave: OwnedFd,
    shown: Arc<Mutex<Vec<u8>>>,
}

impl Terminal {
    fn start(arguments: &[&str]) -> Self {
        let size = Winsize { ws_row: 30, ws_col: 200, ws_xpixel: 0, ws_ypixel: 0 };
        let pair = openpty(&size, None).expect("a terminal");
        let end = || Stdio::from(pair.slave.try_clone().expect("a descriptor"));
        let mut command = Command::new(program());
        command.arg("monitor").args(arguments).env("TERM", "xterm").stdin(end()).stdout(end()).stderr(end());
        let child = command.spawn().expect("the program");
        let (mut master, shown) = (File::from(pair.master), Arc::new(Mutex::new(Vec::new())));
        let (keys, to) = (master.try_clone().expect("a descriptor"), Arc::clone(&shown));
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = master.read(&mut bytes) {
                to.lock().expect("the lock").extend_from_slice(&bytes[..count]);
            }
        });
        Self { child, keys, slave: pair.slave, shown }
    }

    /// All that was written.
    fn text(&self) -> String {
        String::from_utf8(self.shown.lock().expect("the lock").clone()).unwrap_or_default()
    }

    /// The lines of the last whole screen.
    fn screen(&self) -> Vec<String> {
        let text = self.text();
        let whole = text.rsplit("\u{1b}[J").nth(1).unwrap_or_default();
        let last = whole.rsplit("\u{1b}[H").next().unwrap_or_default();
        last.lines().map(|line| line.trim_end_matches('\r').replace("\u{1b}[K", "")).collect()
    }

    fn press(&mut self, key: &str) {
        self.keys.write_all(key.as_bytes()).expect("a key");
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).expect("a signal");
    }

    fn flags(&self) -> String {
        format!("{:?}", tcgetattr(self.slave.as_fd()).expect("its settings").local_flags)
    }

    /// The program's end, and that the terminal is as before.
    #[track_caller]
    fn gives_back(mut self, flags: &str) {
        assert!(end_of(&mut self.child, TIMEOUT).expect("its end").success(), "{}", self.text());
        assert_eq!(self.flags(), flags);
        wait_until("the screen is left", || self.text().ends_with("\u{1b}[?7h\u{1b}[?25h\u{1b}[?1049l"));
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_table_shows_what_views_do() {
    require_watched!();
    let scene = Watched::new();
    let mut terminal = Terminal::start(&["--top", &scene.target()]);
    wait_until("a table is shown", || terminal.screen().len() > 2);
    assert!(terminal.flags().contains("ISIG") && !terminal.flags().contains("ICANON"), "{}", terminal.flags());
    wait_until("rejections are shown", || {
        scene.reject("x");
        let screen = terminal.screen();
        let numbers: Vec<&str> = screen.get(2).map(|row| row.split_whitespace().collect()).unwrap_or_default();
        numbers.get(1).and_then(|rate| rate.parse::<f64>().ok()).is_some_and(|rate| rate > 0.0)
    });
    let screen = terminal.screen();
    assert!(screen[0].starts_with("vcgroupfs ") && screen[0].contains("1 views by requests"), "{screen:?}");
    assert!(screen[1].contains("REQ/S   REJ/S") && screen[1].ends_with("CONTAINER\u{1b}[0m"), "{screen:?}");
    let row = &screen[2];
    assert!(row.contains(scene.cgroup.name()) && (row.contains(" mkdir ") || row.contains(" lookup ")), "{screen:?}");
    terminal.press("s");
    wait_until("the order changes", || terminal.screen()[0].contains("1 views by rejections"));
    terminal.press("q");
    wait_until("it ends", || terminal.child.try_wait().expect("its state").is_some());
    assert!(terminal.flags().contains("ICANON"), "{}", terminal.flags());
}

#[test]
fn the_terminal_is_given_back() {
    require_watched!();
    for end in ["q", "INT", "TERM", "the view"] {
        let scene = Watched::new();
        let mut terminal = Terminal::start(&["--top", &scene.target()]);
        wait_until("a table is shown", || terminal.screen().len() > 2);
        let flags = Terminal::start(&["--help"]).flags();
        match end {
            "INT" => terminal.signal(Signal::SIGINT),
            "TERM" => terminal.signal(Signal::SIGTERM),
            "the view" => drop(scene),
            key => terminal.press(key),
        }
        terminal.gives_back(&flags);
    }
}

#[test]
fn without_a_terminal_it_says_so() {
    let said = refused(&["monitor", "--top"], 2);
    assert!(said.contains("'--top' fills a terminal's screen: standard input isn't a terminal"), "{said}");
    let pair = openpty(None, None).expect("a terminal");
    let mut command = Command::new(program());
    let output =
        run_to_end(command.args(["monitor", "--top"]).stdin(pair.slave.try_clone().expect("a descriptor")), TIMEOUT);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(2) && said.contains("isn't a terminal"), "{said}");
    let said = refused(&["monitor", "--top", "--json"], 2);
    assert!(said.contains("can't be used with"), "{said}");
}
