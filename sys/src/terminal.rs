//! Terminals ([tty_ioctl(4)](https://man7.org/linux/man-pages/man2/TIOCSWINSZ.2const.html)).

use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;

/// The size of a terminal, in columns and lines. Both are 0 if the terminal doesn't know.
///
/// # Errors
/// ENOTTY if it's none.
pub fn size(terminal: BorrowedFd<'_>) -> Result<(u16, u16), Errno> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the kernel writes to `size`, which is as large as this request needs.
    Errno::result(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) })?;
    Ok((size.ws_col, size.ws_row))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_file_has_no_size() {
        let file = std::fs::File::open("/dev/null").unwrap();
        assert_eq!(size(file.as_fd()), Err(Errno::ENOTTY));
    }
}
