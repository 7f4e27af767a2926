use subtle::ConstantTimeEq;
use zeroize::Zeroize;

/// Secret bytes: wiped when dropped, compared in constant time, printed by nothing.
///
/// They live on the heap, so that moving the value does not leave a copy of them behind on the stack.
/// There is no `Clone`: [`Secret::duplicate`] makes each copy visible where it is made.
pub struct Secret<const N: usize>(Box<[u8; N]>);

impl<const N: usize> Secret<N> {
    /// Takes over bytes that come from elsewhere, and wipes the copy that the call itself made.
    pub fn new(mut bytes: [u8; N]) -> Self {
        let secret = Self::from_slice_of_same_length(&bytes);
        bytes.zeroize();
        secret
    }

    /// Lets `fill` write the bytes in their final place.
    pub fn from_fn(fill: impl FnOnce(&mut [u8; N])) -> Self {
        let mut bytes = Box::new([0; N]);
        fill(&mut bytes);
        Self(bytes)
    }

    /// Takes over `bytes`, if there are exactly `N`; the caller wipes its own copy.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        (bytes.len() == N).then(|| Self::from_slice_of_same_length(bytes))
    }

    /// The bytes, for the one use at hand.
    pub fn expose(&self) -> &[u8; N] {
        &self.0
    }

    /// A second copy.
    #[must_use]
    pub fn duplicate(&self) -> Self {
        Self::from_slice_of_same_length(&self.0[..])
    }

    /// `M` bytes from `offset` on, as a secret of their own: how one expansion becomes several keys.
    pub(crate) fn part<const M: usize>(&self, offset: usize) -> Secret<M> {
        Secret::from_slice_of_same_length(&self.0[offset..offset + M])
    }

    fn from_slice_of_same_length(bytes: &[u8]) -> Self {
        Self::from_fn(|own| own.copy_from_slice(bytes))
    }
}

impl<const N: usize> PartialEq for Secret<N> {
    fn eq(&self, other: &Self) -> bool {
        self.0[..].ct_eq(&other.0[..]).into()
    }
}

impl<const N: usize> Eq for Secret<N> {}

impl<const N: usize> Drop for Secret<N> {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl<const N: usize> zeroize::ZeroizeOnDrop for Secret<N> {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_compare_by_their_bytes() {
        assert!(Secret::new([1; 32]) == Secret::new([1; 32]));
        assert!(Secret::new([1; 32]) != Secret::new([2; 32]));
        assert!(Secret::<3>::from_slice(&[1, 2]).is_none());
    }

    #[test]
    fn a_part_is_the_bytes_at_its_offset() {
        let whole = Secret::new([0, 1, 2, 3, 4, 5]);
        assert_eq!(whole.part::<2>(3).expose(), &[3, 4]);
        assert!(whole.duplicate() == whole);
    }
}
