//! The form of messages to the kernel that fuser doesn't send.

use std::os::fd::BorrowedFd;

/// Makes a `fuse_out_header` with a notification's code, and the notification.
pub(in crate::fuse) fn notification(code: i32, parts: &[&[u8]]) -> Vec<u8> {
    let body = parts.concat();
    let length = u32::try_from(16 + body.len()).unwrap_or(u32::MAX);
    let header: [&[u8]; 3] = [&length.to_ne_bytes(), &code.to_ne_bytes(), &0_u64.to_ne_bytes()];
    [header.concat(), body].concat()
}

/// Makes the answer to a request with this number: an error.
pub(in crate::fuse) fn error_message(request: u64, errno: i32) -> [u8; 16] {
    let mut answer = [0; 16];
    let (length, rest) = answer.split_at_mut(4);
    let (error, number) = rest.split_at_mut(4);
    length.copy_from_slice(&16_u32.to_ne_bytes());
    error.copy_from_slice(&(-errno).to_ne_bytes());
    number.copy_from_slice(&request.to_ne_bytes());
    answer
}

/// Answers a request that a server has read, and won't answer any more, with `EIO`.
pub fn refuse_request(device: BorrowedFd<'_>, request: u64) {
    // ENOENT: it's answered, or its caller is gone.
    let _ = nix::unistd::write(device, &error_message(request, libc::EIO));
}
