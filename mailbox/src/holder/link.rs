//! Positions of the link chain (`docs/PROTOCOL.md` section 8).

use crate::index::Write;
use keypacks::chain::{LINK_LOOK_AHEAD, LinkStep, STEPS_MAX};

use super::books::Books;
use super::stage::HolderStage;
use crate::StoreError;
use crate::holder_store::LinkPosition;

impl Books {
    /// Keys of an index within the look-ahead; what is behind `base` is gone.
    pub(super) fn link_step(&self, index: u64) -> Option<LinkStep> {
        may_try(&self.state.link, index)
            .then(|| self.link.step_at(index))
            .flatten()
    }
}

impl HolderStage {
    /// `h = index`, so that no cell 3 is ever sealed below it again; `base` follows.
    pub(super) fn reserve_link(&mut self, write: &Write<'_>, index: u64) -> Result<(), StoreError> {
        if !may_try(&self.books.state.link, index) {
            return Err(StoreError::Invalid);
        }
        self.hold(write, index)
    }

    /// The same for any index that is left: the relay answered it, so those below the look-ahead before it are burned.
    pub(super) fn resume_link(&mut self, write: &Write<'_>, index: u64) -> Result<(), StoreError> {
        let link = &self.books.state.link;
        if !(link.base..link.keys).contains(&index) || index - link.base > STEPS_MAX {
            return Err(StoreError::Invalid);
        }
        self.hold(write, index)
    }

    fn hold(&mut self, write: &Write<'_>, index: u64) -> Result<(), StoreError> {
        self.books.state.link.held = Some(index);
        self.move_base(write, index)
    }

    /// The link of `index` stands; the relay has burned everything up to it.
    pub(super) fn link_answered(&mut self, write: &Write<'_>, index: u64, token: [u8; 16]) -> Result<(), StoreError> {
        let link = &mut self.books.state.link;
        if link.held < Some(index) {
            return Err(StoreError::Invalid);
        }
        link.answered = link.answered.max(Some(index));
        self.books.state.token = token;
        self.move_base(write, index + 1)
    }

    /// A link under the pad has burned `index` for its price: what is left of the link keys counts links.
    pub(super) fn pad_linked(&mut self, write: &Write<'_>, index: u64, token: [u8; 16]) -> Result<(), StoreError> {
        if index >= self.books.state.link.keys {
            return Err(StoreError::Invalid);
        }
        let link = &mut self.books.state.link;
        (link.held, link.answered) = (link.held.max(Some(index)), link.answered.max(Some(index)));
        self.books.state.token = token;
        self.move_base(write, index + 1)
    }

    /// `base = max(h, answered + 1)`. Of `p`, the relay's lowest live index, nothing is kept: an index below it is met
    /// with silence, so the one that is reserved next is at least `p`.
    fn move_base(&mut self, write: &Write<'_>, to: u64) -> Result<(), StoreError> {
        self.books.state.link.base = self.books.state.link.base.max(to);
        self.books.follow_link()?;
        self.put_state(write)
    }
}

/// `base <= index < base + look-ahead`, and the pack has that key.
fn may_try(link: &LinkPosition, index: u64) -> bool {
    (link.base..link.base.saturating_add(LINK_LOOK_AHEAD).min(link.keys)).contains(&index)
}
