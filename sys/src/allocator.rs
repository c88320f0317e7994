//! The program's allocator.

use std::alloc::{GlobalAlloc, Layout, System};

/// Blocks of at least this many bytes are buffers for the kernel's requests. Each is mapped by itself, and takes no memory before it's
/// written to.
const BUFFER_MIN: usize = 16 << 20;

/// How much of a buffer is in memory from the start, in bytes: the largest requests of an ordinary client are writes of 4096 bytes and names
/// of 4095, each with a header.
const RESIDENT: usize = 16 << 10;

const PAGE: usize = 4096;

/// The system's allocator, with the difference that the beginning of a large cleared block is in memory at once.
///
/// If a server is killed while it reads a request, and a page of its buffer isn't there yet, the kernel doesn't bring that page in for a process
/// that's about to end: it answers the request with EIO (`fuse_dev_do_read`), instead of sending it to the next server.
#[derive(Clone, Copy, Debug, Default)]
pub struct ResidentBuffers;

// SAFETY: `System` does everything; the blocks are its own, unchanged.
unsafe impl GlobalAlloc for ResidentBuffers {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps the contract, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        let block = unsafe { System.alloc_zeroed(layout) };
        if layout.size() >= BUFFER_MIN && !block.is_null() {
            for offset in (0..RESIDENT).step_by(PAGE) {
                let byte = block.wrapping_add(offset);
                // SAFETY: it's within the block, which nobody else has yet, and is 0 already.
                unsafe { byte.write_volatile(0) };
            }
        }
        block
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as above.
        unsafe { System.realloc(block, layout, size) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[global_allocator]
    static ALLOCATOR: ResidentBuffers = ResidentBuffers;

    /// Whether the page of a buffer with this offset is in memory.
    fn is_resident(buffer: &[u8], offset: usize) -> bool {
        let page = (buffer.as_ptr().addr() + offset) & !(PAGE - 1);
        let mut found = 0;
        // SAFETY: mincore(2) reads no memory of the range, and writes one byte for its one page.
        let result = unsafe { libc::mincore(page as *mut libc::c_void, PAGE, &raw mut found) };
        assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
        found & 1 == 1
    }

    #[test]
    fn the_beginning_of_a_buffer_is_in_memory_and_the_rest_is_not() {
        let buffer: Vec<u8> = vec![0; BUFFER_MIN + PAGE];
        assert!((0..RESIDENT).step_by(PAGE).all(|offset| is_resident(&buffer, offset)));
        assert!(!is_resident(&buffer, BUFFER_MIN / 2));
        assert!(buffer.iter().step_by(997).all(|byte| *byte == 0));
    }
}
