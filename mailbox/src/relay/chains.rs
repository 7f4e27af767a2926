//! The four chains of one account, as the relay holds them and as its slot keeps them.
//!
//! ```text
//! slot state   { index u64 | C[index] 32 } for link, post, parcel, sync | number of the root u64      168 bytes
//! ```
//!
//! The number is left out while the root is the pack's own.

use keypacks::Secret;
use keypacks::chain::{BoxChain, BoxKind, LinkChain};
use zeroize::Zeroizing;

use crate::StoreError;
use crate::slots::SlotFile;

/// Bytes that one slot of the relay takes: sixteen to a block.
pub(super) const SLOT_BYTES: usize = 256;

const CHAIN_BYTES: usize = 40;
const NUMBER_BYTES: usize = 8;

/// Chain states of one account. What they have passed cannot be computed from them.
pub(super) struct Chains {
    /// How many roots there were before this one.
    pub(super) root: u64,
    pub(super) link: LinkChain,
    pub(super) post: BoxChain,
    pub(super) parcel: BoxChain,
    sync: BoxChain,
}

impl Chains {
    /// All chains of a new pack.
    pub(super) fn from_root(root: &Secret<32>) -> Self {
        Self::from_root_at(0, root, (0, 0, 0))
    }

    /// All chains of the root of this number, which begin at these indices of link, post and parcel.
    pub(super) fn from_root_at(number: u64, root: &Secret<32>, (link, post, parcel): (u64, u64, u64)) -> Self {
        Self {
            root: number,
            link: LinkChain::from_root_at(root, link),
            post: BoxChain::from_root_at(BoxKind::Post, root, post),
            parcel: BoxChain::from_root_at(BoxKind::Parcel, root, parcel),
            sync: BoxChain::from_root(BoxKind::Sync, root),
        }
    }

    pub(super) fn to_state(&self) -> Zeroizing<Vec<u8>> {
        let mut out = Zeroizing::new(Vec::with_capacity(4 * CHAIN_BYTES + NUMBER_BYTES));
        let boxes = [&self.post, &self.parcel, &self.sync].map(|chain| (chain.index(), chain.state()));
        for (index, state) in [(self.link.index(), self.link.state())].into_iter().chain(boxes) {
            out.extend_from_slice(&index.to_le_bytes());
            out.extend_from_slice(state.expose());
        }
        if self.root > 0 {
            out.extend_from_slice(&self.root.to_le_bytes());
        }
        out
    }

    /// `None`: the bytes are no slot state.
    pub(super) fn parse(state: &[u8]) -> Option<Self> {
        let (chains, root) = match state.as_chunks::<CHAIN_BYTES>() {
            (chains, []) => (chains, 0),
            (chains, root) => (chains, u64::from_le_bytes(root.try_into().ok()?)),
        };
        let [link, post, parcel, sync] = chains else {
            return None;
        };
        let (link, link_state) = split(link)?;
        let boxed = |kind, chain| split(chain).map(|(index, state)| BoxChain::from_state(kind, index, state));
        Some(Self {
            root,
            link: LinkChain::from_state(link, link_state),
            post: boxed(BoxKind::Post, post)?,
            parcel: boxed(BoxKind::Parcel, parcel)?,
            sync: boxed(BoxKind::Sync, sync)?,
        })
    }
}

/// The chains of an account as memory keeps them: in one piece, as most of them are not looked at for months.
pub(super) struct KeptChains(Secret<{ 4 * CHAIN_BYTES + NUMBER_BYTES }>);

impl KeptChains {
    pub(super) fn new(chains: &Chains) -> Self {
        Self(Secret::from_fn(|kept| {
            // As the slot has them; the number is nothing where it leaves it out.
            let state = chains.to_state();
            kept[..state.len()].copy_from_slice(&state);
        }))
    }

    pub(super) fn root(&self) -> u64 {
        let (_, root) = self.0.expose().as_chunks::<CHAIN_BYTES>();
        u64::from_le_bytes(root.try_into().expect("eight octets are left"))
    }

    pub(super) fn link(&self) -> LinkChain {
        let (index, state) = self.chain(0);
        LinkChain::from_state(index, state)
    }

    pub(super) fn post(&self) -> BoxChain {
        let (index, state) = self.chain(1);
        BoxChain::from_state(BoxKind::Post, index, state)
    }

    pub(super) fn parcel(&self) -> BoxChain {
        let (index, state) = self.chain(2);
        BoxChain::from_state(BoxKind::Parcel, index, state)
    }

    /// Next indices of link, post and parcel.
    pub(super) fn stand(&self) -> (u64, u64, u64) {
        (self.index(0), self.index(1), self.index(2))
    }

    /// Changes the chains; what they were is wiped.
    pub(super) fn change(&mut self, change: impl FnOnce(&mut Chains)) {
        let sync = self.chain(3);
        let mut chains = Chains {
            root: self.root(),
            link: self.link(),
            post: self.post(),
            parcel: self.parcel(),
            sync: BoxChain::from_state(BoxKind::Sync, sync.0, sync.1),
        };
        change(&mut chains);
        *self = Self::new(&chains);
    }

    /// As the slot keeps them.
    pub(super) fn to_state(&self) -> Zeroizing<Vec<u8>> {
        let number = if self.root() > 0 { NUMBER_BYTES } else { 0 };
        Zeroizing::new(self.0.expose()[..4 * CHAIN_BYTES + number].to_vec())
    }

    fn bytes(&self, chain: usize) -> &[u8; CHAIN_BYTES] {
        &self.0.expose().as_chunks::<CHAIN_BYTES>().0[chain]
    }

    fn index(&self, chain: usize) -> u64 {
        u64::from_le_bytes(*self.bytes(chain).first_chunk().expect("eight octets of forty"))
    }

    fn chain(&self, chain: usize) -> (u64, Secret<32>) {
        split(self.bytes(chain)).expect("forty octets are an index and a state")
    }
}

/// Where the chains of an account are.
#[derive(Default)]
pub(super) enum Held {
    /// Nowhere: the slot is lost or contradicts the database, and the account is frozen.
    #[default]
    Lost,
    Here(KeptChains),
    /// In the slot, which is not behind: they were not used lately.
    InSlot,
}

impl Held {
    pub(super) fn is_lost(&self) -> bool {
        matches!(self, Self::Lost)
    }

    /// The chains, if memory has them. The committer brings those that it is about to change.
    pub(super) fn here(&self) -> Option<&KeptChains> {
        debug_assert!(!matches!(self, Self::InSlot), "they were not brought");
        match self {
            Self::Here(chains) => Some(chains),
            Self::Lost | Self::InSlot => None,
        }
    }

    /// As [`Self::here`], to be changed.
    pub(super) fn here_mut(&mut self) -> Option<&mut KeptChains> {
        debug_assert!(!matches!(self, Self::InSlot), "they were not brought");
        match self {
            Self::Here(chains) => Some(chains),
            Self::Lost | Self::InSlot => None,
        }
    }
}

/// The slots, to be read only: what memory does not hold of the chains.
pub(super) struct ChainSlots(SlotFile);

impl ChainSlots {
    pub(super) fn new(slots: SlotFile) -> Self {
        Self(slots)
    }

    /// The chains that an account's slot has.
    pub(super) fn read(&self, account: u64) -> Result<KeptChains, StoreError> {
        let slot = self.0.look(account)?.ok_or(StoreError::Corrupt)?;
        let chains = Chains::parse(&slot.state).ok_or(StoreError::Corrupt)?;
        Ok(KeptChains::new(&chains))
    }
}

fn split(chain: &[u8; CHAIN_BYTES]) -> Option<(u64, Secret<32>)> {
    let (index, state) = chain.split_first_chunk::<8>()?;
    Some((u64::from_le_bytes(*index), Secret::from_slice(state)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_memory_keeps_is_what_the_slot_has() {
        for number in [0, 3] {
            let mut chains = Chains::from_root_at(number, &Secret::new([5; 32]), (7, 8, 9));
            let mut kept = KeptChains::new(&chains);
            assert_eq!((kept.root(), kept.stand()), (number, (7, 8, 9)));
            let change = |chains: &mut Chains| {
                chains.link.forward_to(9).expect("near");
                chains.parcel.advance();
            };
            change(&mut chains);
            kept.change(change);
            assert!(kept.to_state() == chains.to_state());
            assert!(kept.link().state() == chains.link.state() && kept.post().state() == chains.post.state());
            assert!(kept.parcel().advance().tag == chains.parcel.advance().tag);
        }
    }

    #[test]
    fn a_slot_state_gives_the_same_chains_back() {
        let mut chains = Chains::from_root(&Secret::new([5; 32]));
        chains.link.advance();
        chains.post.forward_to(3).expect("near");
        let again = Chains::parse(&chains.to_state()).expect("as written");
        assert_eq!((again.link.index(), again.post.index(), again.sync.index()), (1, 3, 0));
        assert!(again.to_state() == chains.to_state());
        assert!(Chains::parse(&chains.to_state()[1..]).is_none());
        let next = Chains::from_root_at(3, &Secret::new([6; 32]), (7, 8, 9));
        let again = Chains::parse(&next.to_state()).expect("as written");
        assert_eq!(
            (again.root, again.link.index(), again.post.index(), again.parcel.index()),
            (3, 7, 8, 9)
        );
        assert!(again.to_state() == next.to_state() && next.to_state().len() == 168);
        assert!(Chains::parse(&next.to_state()[..167]).is_none());
    }
}
