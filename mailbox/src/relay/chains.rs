//! The four chains of one account, as the relay holds them and as its slot keeps them.
//!
//! ```text
//! slot state   { index u64 | C[index] 32 } for link, post, parcel, sync      160 bytes
//! ```

use keypacks::Secret;
use keypacks::chain::{BoxChain, BoxKind, LinkChain};
use zeroize::Zeroizing;

/// Bytes that one slot of the relay takes: sixteen to a block.
pub(super) const SLOT_BYTES: usize = 256;

const CHAIN_BYTES: usize = 40;

/// Chain states of one account. What they have passed cannot be computed from them.
pub(super) struct Chains {
    pub(super) link: LinkChain,
    pub(super) post: BoxChain,
    pub(super) parcel: BoxChain,
    sync: BoxChain,
}

impl Chains {
    /// All chains of a new pack.
    pub(super) fn from_root(root: &Secret<32>) -> Self {
        Self {
            link: LinkChain::from_root(root),
            post: BoxChain::from_root(BoxKind::Post, root),
            parcel: BoxChain::from_root(BoxKind::Parcel, root),
            sync: BoxChain::from_root(BoxKind::Sync, root),
        }
    }

    pub(super) fn to_state(&self) -> Zeroizing<Vec<u8>> {
        let mut out = Zeroizing::new(Vec::with_capacity(4 * CHAIN_BYTES));
        let boxes = [&self.post, &self.parcel, &self.sync].map(|chain| (chain.index(), chain.state()));
        for (index, state) in [(self.link.index(), self.link.state())].into_iter().chain(boxes) {
            out.extend_from_slice(&index.to_le_bytes());
            out.extend_from_slice(state.expose());
        }
        out
    }

    /// `None`: the bytes are no slot state.
    pub(super) fn parse(state: &[u8]) -> Option<Self> {
        let (chains, []) = state.as_chunks::<CHAIN_BYTES>() else {
            return None;
        };
        let [link, post, parcel, sync] = chains else {
            return None;
        };
        let (link, link_state) = split(link)?;
        let boxed = |kind, chain| split(chain).map(|(index, state)| BoxChain::from_state(kind, index, state));
        Some(Self {
            link: LinkChain::from_state(link, link_state),
            post: boxed(BoxKind::Post, post)?,
            parcel: boxed(BoxKind::Parcel, parcel)?,
            sync: boxed(BoxKind::Sync, sync)?,
        })
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
    fn a_slot_state_gives_the_same_chains_back() {
        let mut chains = Chains::from_root(&Secret::new([5; 32]));
        chains.link.advance();
        chains.post.forward_to(3).expect("near");
        let again = Chains::parse(&chains.to_state()).expect("as written");
        assert_eq!((again.link.index(), again.post.index(), again.sync.index()), (1, 3, 0));
        assert!(again.to_state() == chains.to_state());
        assert!(Chains::parse(&chains.to_state()[1..]).is_none());
    }
}
