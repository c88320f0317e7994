//! Cells of shared memory, of which records are made.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::layout::{self, Kind};
use crate::sys::shared::SharedMemory;

/// The word of the unused cell 0 that says how many cells were ever used.
const END: usize = 1;

/// The number of a cell. 0 stands for none.
pub(super) type CellNumber = u32;

/// A reference to a text: the first of its cells, and the length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TextRef(pub(super) u64);

/// The cells, and which of them are free.
#[derive(Debug)]
pub(super) struct Cells {
    memory: Option<Arc<SharedMemory>>,
    /// The word at which they begin.
    start: usize,
    most: usize,
    free: Mutex<FreeCells>,
}

#[derive(Debug)]
struct FreeCells {
    numbers: Vec<CellNumber>,
    /// The first cell that was never used.
    next: CellNumber,
}

impl Cells {
    /// The words of a cell.
    pub(super) const WORDS: usize = 8;

    /// The bytes of a text that a cell holds, after its first word.
    const TEXT: usize = (Self::WORDS - 1) * size_of::<u64>();

    pub(super) fn new(memory: Option<Arc<SharedMemory>>, start: usize, most: usize) -> Self {
        Self { memory, start, most, free: Mutex::new(FreeCells { numbers: Vec::new(), next: 1 }) }
    }

    pub(super) fn memory(&self) -> Option<&[AtomicU64]> {
        self.memory.as_ref().map(|memory| memory.words())
    }

    pub(super) fn shared_memory(&self) -> Option<&SharedMemory> {
        self.memory.as_deref()
    }

    /// A word of a cell.
    pub(super) fn word(&self, cell: CellNumber, index: usize) -> Option<&AtomicU64> {
        self.memory()?.get(self.start + cell as usize * Self::WORDS + index)
    }

    pub(super) fn load(&self, cell: CellNumber, index: usize) -> u64 {
        self.word(cell, index).map_or(0, |word| word.load(Ordering::Acquire))
    }

    pub(super) fn store(&self, cell: CellNumber, index: usize, value: u64) {
        if let Some(word) = self.word(cell, index) {
            word.store(value, Ordering::Release);
        }
    }

    pub(super) fn kind(&self, cell: CellNumber) -> u8 {
        self.load(cell, 0) as u8
    }

    /// Takes a free cell. Its first word has to be written last.
    pub(super) fn take(&self) -> Option<CellNumber> {
        self.memory.as_ref()?;
        let mut free = self.free.lock();
        if let Some(cell) = free.numbers.pop() {
            return Some(cell);
        }
        let cell = free.next;
        if cell as usize >= self.most {
            return None;
        }
        free.next += 1;
        self.store(0, END, u64::from(free.next));
        Some(cell)
    }

    /// Gives a cell back.
    pub(super) fn give_back(&self, cell: CellNumber) {
        if cell != 0 {
            self.store(cell, 0, Kind::Free as u64);
            self.free.lock().numbers.push(cell);
        }
    }

    /// Stores a text.
    pub(super) fn put_text(&self, text: &[u8]) -> Option<TextRef> {
        let mut next: CellNumber = 0;
        // From the end, since each cell names the next one.
        for piece in text.chunks(Self::TEXT).rev() {
            let Some(cell) = self.take() else {
                self.drop_cells(next);
                return None;
            };
            for (index, bytes) in piece.chunks(size_of::<u64>()).enumerate() {
                let mut word = [0; size_of::<u64>()];
                word.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
                self.store(cell, index + 1, u64::from_ne_bytes(word));
            }
            self.store(cell, 0, Kind::Part as u64 | u64::from(next) << 32);
            next = cell;
        }
        Some(TextRef(u64::from(next) << 32 | u64::from(u32::try_from(text.len()).ok()?)))
    }

    /// Reads a text.
    pub(super) fn text(&self, text: TextRef) -> Vec<u8> {
        let length = (text.0 & u64::from(u32::MAX)) as usize;
        let mut bytes = Vec::with_capacity(length.min(8192));
        for cell in self.chain(text) {
            for index in 1..Self::WORDS {
                bytes.extend_from_slice(&self.load(cell, index).to_ne_bytes());
            }
        }
        bytes.truncate(length);
        bytes
    }

    pub(super) fn drop_text(&self, text: TextRef) {
        self.drop_cells((text.0 >> 32) as CellNumber);
    }

    fn drop_cells(&self, first: CellNumber) {
        let mut cell = first;
        while cell != 0 {
            let next = (self.load(cell, 0) >> 32) as CellNumber;
            self.give_back(cell);
            cell = next;
        }
    }

    /// The cells of a text.
    pub(super) fn chain(&self, text: TextRef) -> Vec<CellNumber> {
        let length = (text.0 & u64::from(u32::MAX)) as usize;
        let mut cells = Vec::new();
        let mut cell = (text.0 >> 32) as CellNumber;
        while cell != 0 && cells.len() < length.div_ceil(Self::TEXT) {
            cells.push(cell);
            cell = (self.load(cell, 0) >> 32) as CellNumber;
        }
        cells
    }

    /// The first cells of all records of a kind.
    pub(super) fn all(&self, kind: Kind) -> Vec<CellNumber> {
        // Another process may have used more of them since this one started.
        let end = CellNumber::try_from(self.load(0, END)).unwrap_or_default();
        (1..end).filter(|cell| self.kind(*cell) == kind as u8).collect()
    }

    /// Finds out which cells are free, after another process has used them.
    pub(super) fn recover(&self) {
        let end = CellNumber::try_from(self.load(0, END)).unwrap_or_default().max(1);
        let mut is_used = vec![false; end as usize];
        let mut mark = |cell: CellNumber| {
            if let Some(used) = is_used.get_mut(cell as usize) {
                *used = true;
            }
        };
        for cell in 1..end {
            let kind = self.kind(cell);
            if kind != Kind::Free as u8 && kind != Kind::Part as u8 {
                mark(cell);
                self.parts(cell, kind).into_iter().for_each(&mut mark);
            }
        }
        let mut numbers: Vec<CellNumber> = Vec::new();
        for (cell, used) in (0..).zip(is_used).skip(1) {
            if !used {
                numbers.push(cell);
            }
        }
        numbers.reverse();
        *self.free.lock() = FreeCells { numbers, next: end };
    }

    /// The other cells of a record.
    fn parts(&self, cell: CellNumber, kind: u8) -> Vec<CellNumber> {
        let text = |index| self.chain(TextRef(self.load(cell, index)));
        match kind {
            kind if kind == Kind::Node as u8 => {
                let target = self.target(cell).map(|target| self.chain(target)).unwrap_or_default();
                [text(layout::node::NAME), target, vec![self.details(cell)]].concat()
            }
            kind if kind == Kind::File as u8 => text(layout::file::OPENER),
            kind if kind == Kind::Absence as u8 => text(layout::absence::NAME),
            kind if kind == Kind::Note as u8 => text(layout::note::TEXT),
            _ => Vec::new(),
        }
    }

    /// The cell with a node's details.
    pub(super) fn details(&self, node: CellNumber) -> CellNumber {
        self.load(node, layout::node::DETAILS) as CellNumber
    }

    /// The target of a node that is a symlink.
    pub(super) fn target(&self, node: CellNumber) -> Option<TextRef> {
        let has_target = self.load(node, 0) & layout::node::HAS_TARGET != 0;
        has_target.then(|| TextRef(self.load(self.details(node), layout::details::EXTRA)))
    }
}
