//! One-way key chains (`docs/PROTOCOL.md` section 2): each step gives the keys of one index and the state of the next.
//!
//! What was used cannot be computed again from what is left, so whoever takes a state takes the future only.

use crate::kdf::he;
use crate::{Secret, Tag};

/// Fewest link keys that a pack is issued with.
pub const LINK_KEYS_MIN: u64 = 16;
/// How far above its lowest live link index a relay looks for tags.
pub const LINK_LOOK_AHEAD: u64 = 4;
/// The last keys of a pack, which serve balance, top-up, collection and confirmation whatever the value is.
pub const KEYS_RESERVED: u64 = 8;
/// Most steps that a state is hashed forward at once: further off is damage, not a crash.
pub const STEPS_MAX: u64 = 1 << 20;

/// The keys of one link. Both ends make the same and use them for one handshake at a time.
pub struct LinkStep {
    /// Index in the chain.
    pub index: u64,
    /// `U[i]`, the holder's share of the handshake's pre-shared key.
    pub up: Secret<32>,
    /// `D[i]`, the relay's share.
    pub down: Secret<32>,
    /// `T[i]`, which opens cell 1 in clear.
    pub tag: Tag,
}

/// The key of one parcel or of one deposit's wrap.
pub struct BoxStep {
    /// Index in the chain.
    pub index: u64,
    /// `K[i]`, from which box keys are derived; never a box key itself.
    pub key: Secret<32>,
    /// `T[i]`, which names the unit in clear.
    pub tag: Tag,
}

/// The index asked for is behind the state, or more than [`STEPS_MAX`] ahead of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OutOfReach;

impl std::fmt::Display for OutOfReach {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the index is not within reach of the chain state")
    }
}

impl std::error::Error for OutOfReach {}

/// The chain of link keys: `C[i+1] | U[i] | D[i] | T[i] = HE(C[i], "step/link", 112)`.
pub struct LinkChain(State);

impl LinkChain {
    /// The chain of a pack from its beginning: `C[0] = HE(R, "chain/link", 32)`.
    pub fn from_root(root: &Secret<32>) -> Self {
        Self::from_root_at(root, 0)
    }

    /// The chain that goes on at `index` from another root: `C[index] = HE(R', "chain/link", 32)`.
    pub fn from_root_at(root: &Secret<32>, index: u64) -> Self {
        Self(State {
            index,
            state: he(root, "chain/link", &[]),
        })
    }

    /// The chain from a stored state: `state` is `C[index]`.
    pub fn from_state(index: u64, state: Secret<32>) -> Self {
        Self(State { index, state })
    }

    /// The next index to be taken.
    pub fn index(&self) -> u64 {
        self.0.index
    }

    /// `C[index]`, to be stored in an erasable slot.
    pub fn state(&self) -> &Secret<32> {
        &self.0.state
    }

    /// Takes the keys of the next index; the state they came from is gone.
    pub fn advance(&mut self) -> LinkStep {
        let index = self.0.index;
        let okm = self.0.step::<112>("step/link");
        LinkStep {
            index,
            up: okm.part(32),
            down: okm.part(64),
            tag: tag(&okm, 96),
        }
    }

    /// The keys of `index`, computed ahead on a copy; this chain stays where it is.
    /// `None` behind the state or more than [`STEPS_MAX`] ahead of it.
    pub fn step_at(&self, index: u64) -> Option<LinkStep> {
        let mut ahead = self.duplicate();
        ahead.forward_to(index).ok()?;
        Some(ahead.advance())
    }

    /// The tags of the [`LINK_LOOK_AHEAD`] next indices, as far as they are below `end`; this chain stays where it is.
    /// One step for each, where [`Self::step_at`] begins anew each time.
    pub fn tags_ahead(&self, end: u64) -> Vec<(u64, Tag)> {
        let index = self.0.index;
        let end = end.min(index.saturating_add(LINK_LOOK_AHEAD));
        let mut ahead = self.0.duplicate();
        (index..end)
            .map(|index| (index, tag(&ahead.step::<112>("step/link"), 96)))
            .collect()
    }

    /// A second chain at the same state, to work ahead on.
    #[must_use]
    pub fn duplicate(&self) -> Self {
        Self(self.0.duplicate())
    }

    /// Hashes the state forward to `index`; the states before it are gone.
    pub fn forward_to(&mut self, index: u64) -> Result<(), OutOfReach> {
        self.0.check_reach(index)?;
        while self.0.index < index {
            self.0.step::<112>("step/link");
        }
        Ok(())
    }
}

/// Which sequence a [`BoxChain`] is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BoxKind {
    /// Wraps of deposits, relay to user; without end.
    Post,
    /// Parcels, user to relay; reserved.
    Parcel,
    /// Look-up after a long absence, one index a day; reserved.
    Sync,
}

impl BoxKind {
    fn root_label(self) -> &'static str {
        match self {
            BoxKind::Post => "chain/post",
            BoxKind::Parcel => "chain/parcel",
            BoxKind::Sync => "chain/sync",
        }
    }

    fn step_label(self) -> &'static str {
        match self {
            BoxKind::Post => "step/post",
            BoxKind::Parcel => "step/parcel",
            BoxKind::Sync => "step/sync",
        }
    }
}

/// A chain of single keys: `C[i+1] | K[i] | T[i] = HE(C[i], "step/" kind, 80)`.
pub struct BoxChain {
    kind: BoxKind,
    state: State,
}

impl BoxChain {
    /// The chain of a pack from its beginning: `C[0] = HE(R, "chain/" kind, 32)`.
    pub fn from_root(kind: BoxKind, root: &Secret<32>) -> Self {
        Self::from_root_at(kind, root, 0)
    }

    /// The chain that goes on at `index` from another root: `C[index] = HE(R', "chain/" kind, 32)`.
    pub fn from_root_at(kind: BoxKind, root: &Secret<32>, index: u64) -> Self {
        Self {
            kind,
            state: State {
                index,
                state: he(root, kind.root_label(), &[]),
            },
        }
    }

    /// The chain from a stored state: `state` is `C[index]`.
    pub fn from_state(kind: BoxKind, index: u64, state: Secret<32>) -> Self {
        Self {
            kind,
            state: State { index, state },
        }
    }

    /// The next index to be taken.
    pub fn index(&self) -> u64 {
        self.state.index
    }

    /// `C[index]`, to be stored in an erasable slot.
    pub fn state(&self) -> &Secret<32> {
        &self.state.state
    }

    /// Takes the key of the next index; the state it came from is gone.
    pub fn advance(&mut self) -> BoxStep {
        let index = self.state.index;
        let okm = self.state.step::<80>(self.kind.step_label());
        BoxStep {
            index,
            key: okm.part(32),
            tag: tag(&okm, 64),
        }
    }

    /// The key of `index`, computed ahead on a copy; this chain stays where it is.
    /// `None` behind the state or more than [`STEPS_MAX`] ahead of it.
    pub fn step_at(&self, index: u64) -> Option<BoxStep> {
        let mut ahead = self.duplicate();
        ahead.forward_to(index).ok()?;
        Some(ahead.advance())
    }

    /// A second chain at the same state, to work ahead on.
    #[must_use]
    pub fn duplicate(&self) -> Self {
        Self {
            kind: self.kind,
            state: self.state.duplicate(),
        }
    }

    /// Hashes the state forward to `index`; the states before it are gone.
    pub fn forward_to(&mut self, index: u64) -> Result<(), OutOfReach> {
        self.state.check_reach(index)?;
        while self.state.index < index {
            self.state.step::<80>(self.kind.step_label());
        }
        Ok(())
    }
}

/// `C[index]`.
struct State {
    index: u64,
    state: Secret<32>,
}

impl State {
    /// Expands the state under `label`, replaces it by the first 32 bytes and returns the whole expansion.
    fn step<const N: usize>(&mut self, label: &str) -> Secret<N> {
        let okm = he::<N>(&self.state, label, &[]);
        self.state = okm.part(0);
        self.index += 1;
        okm
    }

    /// The last index of all stays out of reach, so that an index can always be counted up.
    fn check_reach(&self, index: u64) -> Result<(), OutOfReach> {
        match index.checked_sub(self.index) {
            Some(steps) if steps <= STEPS_MAX && index < u64::MAX => Ok(()),
            _ => Err(OutOfReach),
        }
    }

    fn duplicate(&self) -> Self {
        Self {
            index: self.index,
            state: self.state.duplicate(),
        }
    }
}

/// The tag is public: it need not be a secret of its own on the way.
fn tag<const N: usize>(okm: &Secret<N>, offset: usize) -> Tag {
    Tag(*okm.expose()[offset..]
        .first_chunk()
        .expect("the expansion ends with the tag"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn root() -> Secret<32> {
        Secret::new([3; 32])
    }

    #[test]
    fn looking_ahead_gives_what_advancing_gives_and_moves_nothing() {
        let mut chain = LinkChain::from_root(&root());
        let ahead = chain.step_at(3).expect("within reach");
        assert_eq!(chain.index(), 0);
        for _ in 0..3 {
            chain.advance();
        }
        let step = chain.advance();
        assert_eq!((step.index, chain.index()), (3, 4));
        assert!(step.up == ahead.up && step.down == ahead.down && step.tag == ahead.tag);
        assert!(chain.step_at(3).is_none(), "what is behind cannot be computed again");
    }

    proptest! {
        #[test]
        fn tags_ahead_are_those_of_the_steps(
            state: [u8; 32],
            index in prop_oneof![0..9u64, u64::MAX - 9..],
            keys in 0..9u64,
        ) {
            let chain = LinkChain::from_state(index, Secret::new(state));
            let end = index.saturating_add(keys);
            let known = (index..end).take(LINK_LOOK_AHEAD as usize);
            let steps = known.map(|index| chain.step_at(index).expect("near"));
            prop_assert!(chain.tags_ahead(end) == steps.map(|step| (step.index, step.tag)).collect::<Vec<_>>());
            prop_assert!(chain.tags_ahead(index.saturating_sub(keys)).is_empty());
        }
    }

    #[test]
    fn a_stored_state_goes_on_where_it_stopped() {
        let mut chain = BoxChain::from_root(BoxKind::Post, &root());
        chain.advance();
        let mut stored = BoxChain::from_state(BoxKind::Post, chain.index(), chain.state().duplicate());
        stored.forward_to(5).expect("within reach");
        assert!(stored.advance().key == chain.step_at(5).expect("within reach").key);
    }

    #[test]
    fn an_index_out_of_reach_is_refused_without_work() {
        let mut chain = LinkChain::from_state(10, root());
        for index in [9, 10 + STEPS_MAX + 1, u64::MAX] {
            assert!(chain.step_at(index).is_none());
            assert_eq!(chain.forward_to(index), Err(OutOfReach));
        }
        assert!(LinkChain::from_state(u64::MAX, root()).step_at(u64::MAX).is_none());
    }

    #[test]
    fn chains_of_one_root_share_nothing() {
        let posts = BoxChain::from_root(BoxKind::Post, &root()).advance();
        let parcels = BoxChain::from_root(BoxKind::Parcel, &root()).advance();
        let links = LinkChain::from_root(&root()).advance();
        assert!(posts.key != parcels.key && posts.key != links.up && links.up != links.down);
    }
}
