//! Reading and writing at an offset, also for files that have only a position.

use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::sys::uio::{pread, pwrite};
use nix::unistd::{Whence, lseek, read, write};

/// Reads at an offset with pread(2). If that returns ESPIPE, this moves the file's position instead, so nobody else
/// may use the same open file at that time.
///
/// # Errors
/// Those of the system calls; `EINVAL` for an offset beyond any file's.
pub fn read_at(file: impl AsFd, buffer: &mut [u8], offset: u64) -> nix::Result<usize> {
    let at = i64::try_from(offset).map_err(|_| Errno::EINVAL)?;
    match pread(&file, buffer, at) {
        Err(Errno::ESPIPE) => {
            lseek(&file, at, Whence::SeekSet)?;
            read(&file, buffer)
        }
        other => other,
    }
}

/// Writes once to an interface file, which ignores offsets. It calls pwrite(2), or write(2) if that returns ESPIPE.
/// Before Linux 3.14 all files that the kernel reads as sequences do (`seq_open` clears FMODE_PWRITE).
///
/// # Errors
/// Those of the system calls.
pub fn write_once(file: impl AsFd, data: &[u8]) -> nix::Result<usize> {
    match pwrite(&file, data, 0) {
        Err(Errno::ESPIPE) => write(&file, data),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    #[test]
    fn files_with_and_without_offsets() {
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(tempfile::tempdir().unwrap().path().join("file"));
        let file = file.unwrap();
        assert_eq!(write_once(&file, b"12345"), Ok(5));
        let mut part = [0; 2];
        assert_eq!((read_at(&file, &mut part, 3), part), (Ok(2), *b"45"));
        assert_eq!(read_at(&file, &mut part, u64::MAX), Err(Errno::EINVAL));
        let (reader, writer) = nix::unistd::pipe().unwrap();
        assert_eq!(write_once(&writer, b"7"), Ok(1));
        // A pipe has no position either.
        assert_eq!(read_at(&reader, &mut part, 0), Err(Errno::ESPIPE));
    }
}
