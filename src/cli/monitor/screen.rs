//! A terminal that shows a full screen, and is left as it was found.
//!
//! The escape sequences are those of ECMA-48 and xterm, which every terminal of today knows.

use std::io::{self, IsTerminal, Stdin, Stdout, Write};
use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::termios::{LocalFlags, SetArg, SpecialCharacterIndices, Termios, tcgetattr, tcsetattr};

use crate::error::Error;
use crate::sys::terminal;

/// Another screen, without a cursor, and without wrapping of lines that are too long.
const ENTER: &str = "\x1b[?1049h\x1b[?25l\x1b[?7l";
const LEAVE: &str = "\x1b[?7h\x1b[?25h\x1b[?1049l";
const HOME: &str = "\x1b[H";
const CLEAR_LINE: &str = "\x1b[K";
const CLEAR_BELOW: &str = "\x1b[J";
const REVERSED: &str = "\x1b[7m";
const PLAIN: &str = "\x1b[0m";

/// The size where a terminal doesn't know its own.
const USUAL_SIZE: (u16, u16) = (80, 24);

/// A line of a screen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Line {
    Plain(String),
    /// A heading, in reversed colours.
    Heading(String),
}

/// The terminal on standard input and output. Dropping this gives it back.
#[derive(Debug)]
pub(super) struct Screen {
    input: Stdin,
    output: Stdout,
    before: Termios,
}

impl Screen {
    /// Checks that there's a terminal that can show a screen.
    ///
    /// # Errors
    /// A usage error if there's none.
    pub(super) fn check() -> Result<(), Error> {
        let (input, output) = (io::stdin(), io::stdout());
        let refused = |why: &str| Error::usage("'--top' fills a terminal's screen").because(why.to_owned());
        for (is_terminal, name) in [(input.is_terminal(), "input"), (output.is_terminal(), "output")] {
            if !is_terminal {
                return Err(refused(&format!("standard {name} isn't a terminal"))
                    .advise("'--summary' and 'vcgroupfs metrics' print the same numbers"));
            }
        }
        if std::env::var_os("TERM").is_some_and(|name| name == "dumb") {
            return Err(refused("the terminal has none (TERM=dumb)"));
        }
        Ok(())
    }

    /// Takes the terminal.
    ///
    /// # Errors
    /// Those of tcsetattr(3) and write(2).
    pub(super) fn take() -> Result<Self, Error> {
        let (input, output) = (io::stdin(), io::stdout());
        let cant = |error: io::Error| Error::system("can't use the terminal", error);
        let before = tcgetattr(&input).map_err(|errno| cant(errno.into()))?;
        let mut raw = before.clone();
        raw.local_flags.remove(LocalFlags::ICANON | LocalFlags::ECHO);
        // Stopped, it would leave the terminal without a cursor: Ctrl-Z is a key like others.
        if let Some(suspend) = raw.control_chars.get_mut(SpecialCharacterIndices::VSUSP as usize) {
            *suspend = 0;
        }
        tcsetattr(&input, SetArg::TCSANOW, &raw).map_err(|errno| cant(errno.into()))?;
        // From here on it's given back.
        let screen = Self { input, output, before };
        screen.write(ENTER).map_err(cant)?;
        Ok(screen)
    }

    /// The columns and lines that there are now.
    pub(super) fn size(&self) -> (usize, usize) {
        let (columns, lines) = terminal::size(self.output.as_fd()).unwrap_or(USUAL_SIZE);
        let known = |size: u16, usual: u16| usize::from(if size == 0 { usual } else { size });
        (known(columns, USUAL_SIZE.0), known(lines, USUAL_SIZE.1))
    }

    /// Shows lines from the top on, instead of what was there.
    pub(super) fn show(&self, lines: &[Line]) -> io::Result<()> {
        let lines = lines.iter().map(|line| match line {
            Line::Plain(text) => format!("{text}{CLEAR_LINE}"),
            Line::Heading(text) => format!("{REVERSED}{text}{CLEAR_LINE}{PLAIN}"),
        });
        self.write(&format!("{HOME}{}{CLEAR_BELOW}", lines.collect::<Vec<_>>().join("\r\n")))
    }

    /// Readable when a key was pressed.
    pub(super) fn input(&self) -> BorrowedFd<'_> {
        self.input.as_fd()
    }

    /// The keys that were pressed; `None` if the terminal is gone.
    pub(super) fn keys(&self) -> Option<Vec<u8>> {
        let mut keys = [0; 64];
        let count = nix::unistd::read(&self.input, &mut keys).ok().filter(|count| *count > 0)?;
        keys.get(..count).map(<[u8]>::to_vec)
    }

    fn write(&self, text: &str) -> io::Result<()> {
        let mut out = self.output.lock();
        out.write_all(text.as_bytes())?;
        out.flush()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = self.write(LEAVE);
        let _ = tcsetattr(&self.input, SetArg::TCSANOW, &self.before);
    }
}
