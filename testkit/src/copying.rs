//! Copies files with each system call that reads a file's content.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::ExitCode;

use rustix::fs::{copy_file_range, sendfile};
use rustix::io::{pread, read};
use rustix::pipe::{SpliceFlags, pipe, splice};

/// The system calls with which [`run`] can copy.
pub const CALLS: [&str; 6] = ["read", "pread", "readv", "sendfile", "splice", "copy_file_range"];

/// How many bytes are read at a time.
const CHUNK_BYTES: usize = 1 << 16;

/// Copies files into a directory with this system call. The copies have the files' names, or numbers. Files that can't be copied are reported on
/// standard error, and the others are copied all the same.
pub fn run(call: &str, into: &str, files: &[String], numbered: bool) -> ExitCode {
    let mut code = ExitCode::SUCCESS;
    for (number, file) in files.iter().enumerate() {
        let own = Path::new(file).file_name().unwrap_or_default().to_owned();
        let name = if numbered { number.to_string().into() } else { own };
        if let Err(error) = copy(call, Path::new(file), &Path::new(into).join(name)) {
            eprintln!("{call} {file}: {error}");
            code = ExitCode::FAILURE;
        }
    }
    code
}

fn copy(call: &str, from: &Path, to: &Path) -> io::Result<()> {
    copy_open(call, &File::open(from)?, &mut File::create(to)?)
}

/// Copies what an open file still has with this system call.
///
/// # Errors
/// The system call's.
pub fn copy_open(call: &str, input: &File, output: &mut File) -> io::Result<()> {
    let mut part = vec![0; CHUNK_BYTES];
    let (ends, mut offset) = (pipe()?, 0);
    loop {
        let count = match call {
            "read" => read(input, &mut part)?,
            "pread" => pread(input, &mut part, offset)?,
            "readv" => {
                // The first piece is shorter than most contents.
                let (first, second) = part.split_at_mut(7);
                rustix::io::readv(input, &mut [io::IoSliceMut::new(first), io::IoSliceMut::new(second)])?
            }
            "sendfile" => sendfile(&mut *output, input, None, CHUNK_BYTES)?,
            "splice" => {
                let (reader, writer) = (ends.0.as_fd(), ends.1.as_fd());
                let count = splice(input, None, writer, None, CHUNK_BYTES, SpliceFlags::empty())?;
                let mut left = count;
                while left > 0 {
                    left -= splice(reader, None, &mut *output, None, left, SpliceFlags::empty())?;
                }
                count
            }
            "copy_file_range" => match copy_file_range(input, None, &mut *output, None, CHUNK_BYTES) {
                // As everybody does who uses it.
                Err(rustix::io::Errno::XDEV) => return copy_open("read", input, output),
                other => other?,
            },
            other => return Err(io::Error::other(format!("no such call: {other}"))),
        };
        if count == 0 {
            return Ok(());
        }
        if matches!(call, "read" | "pread" | "readv") {
            output.write_all(part.get(..count).unwrap_or_default())?;
        }
        offset += count as u64;
    }
}
