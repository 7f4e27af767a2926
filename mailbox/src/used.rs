//! Used chain states, kept on purpose: the positive control of tests that search disk and memory for them.

use keypacks::Secret;
use keypacks::chain::{BoxChain, LinkChain};

use crate::StoreError;
use crate::disk::DiskFile;

/// States that should be gone, in memory and in a file.
pub(crate) struct UsedKeys {
    file: Box<dyn DiskFile>,
    states: Vec<Secret<32>>,
    written: usize,
}

impl UsedKeys {
    pub(crate) fn new(file: Box<dyn DiskFile>) -> Self {
        Self {
            file,
            states: Vec::new(),
            written: 0,
        }
    }

    /// Keeps the states from where `chain` stands up to `end`, without it.
    pub(crate) fn note_link(&mut self, chain: &LinkChain, end: u64) {
        let mut chain = LinkChain::from_state(chain.index(), chain.state().duplicate());
        while chain.index() < end {
            self.states.push(chain.state().duplicate());
            chain.advance();
        }
    }

    /// As [`Self::note_link`].
    pub(crate) fn note_boxes(&mut self, chain: &BoxChain, end: u64) {
        let mut chain = chain.duplicate();
        while chain.index() < end {
            self.states.push(chain.state().duplicate());
            chain.advance();
        }
    }

    /// Appends what is new to the file.
    pub(crate) fn write(&mut self) -> Result<(), StoreError> {
        for state in &self.states[self.written..] {
            self.file.write_at(self.file.len()?, state.expose())?;
        }
        self.written = self.states.len();
        Ok(self.file.sync()?)
    }
}
