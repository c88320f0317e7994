//! Whether the kernel may be filling a page of a file, for a splice.
//!
//! A splice gets zeros if the kernel is told a size that is larger than the content ([`super::splice_size`]), up to that
//! size: while the page is being filled, and after that, since a reader comes back for more. The kernel begins before
//! the server learns of it by the request. So an open file counts from the beginning, until it's read in another way.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::fs::inode::Node;

/// Whether the kernel may be filling a page through one open file. Counted by the node while it may.
#[derive(Debug)]
pub(in crate::fs) struct Filling {
    node: Arc<Node>,
    /// Leaf lock.
    stage: Mutex<Stage>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Nothing was read yet.
    Unread,
    /// The kernel has filled a page.
    Spliced,
    /// It can't be read, or was read by read(2), and never spliced.
    Unspliced,
}

impl Filling {
    /// Of a file that was just opened.
    pub(in crate::fs) fn new(node: &Arc<Node>, is_readable: bool) -> Self {
        let filling = Self { node: Arc::clone(node), stage: Mutex::new(Stage::Unspliced) };
        if is_readable {
            filling.enter(Stage::Unread, |_| true);
        }
        filling
    }

    /// The kernel fills a page.
    pub(super) fn begin(&self) {
        self.enter(Stage::Spliced, |_| true);
    }

    /// It's read by read(2).
    pub(super) fn note_read(&self) {
        self.enter(Stage::Unspliced, |before| before == Stage::Unread);
    }

    /// Enters the next stage, if that follows the one before.
    fn enter(&self, next: Stage, follows: impl Fn(Stage) -> bool) {
        let mut stage = self.stage.lock();
        if !follows(*stage) {
            return;
        }
        match (*stage, next) {
            (Stage::Unspliced, Stage::Unspliced) => {}
            (Stage::Unspliced, _) => self.node.size().begin_filling(),
            (before, Stage::Unspliced) => {
                if before == Stage::Spliced {
                    self.node.size().note_filled();
                }
                self.node.size().end_filling();
            }
            _ => {}
        }
        *stage = next;
    }
}

impl Drop for Filling {
    fn drop(&mut self) {
        self.enter(Stage::Unspliced, |_| true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::inode::{Object, ROOT_ID};
    use crate::view::Position;

    #[test]
    fn a_file_counts_unless_it_is_read_by_read() {
        let node = Arc::new(Node::root(ROOT_ID, Position::VIEW_ROOT, Object::Synthetic, 1));
        let counts = || node.size().is_being_filled();
        let opened = |is_readable| Filling::new(&node, is_readable);
        let written = opened(false);
        assert!(!counts());
        let spliced = opened(true);
        assert!(counts());
        spliced.begin();
        spliced.note_read();
        assert!(counts());
        drop(spliced);
        assert!(!counts());
        let read = opened(true);
        read.note_read();
        read.note_read();
        assert!(!counts());
        read.begin();
        assert!(counts());
        drop((read, written));
        assert!(!counts());
    }
}
