//! Parcels: what goes in comes out, under its own index, whole, and nothing else does.

use keypacks::Secret;
use keypacks::chain::{BoxChain, BoxKind, BoxStep};
use keypacks::parcel::{self, CLASS_MAX, HEAD, HOP, Header, Kind, LayerOpener, LayerSealer};
use proptest::prelude::*;

fn step(index: u64) -> BoxStep {
    BoxChain::from_root(BoxKind::Parcel, &Secret::new([3; 32]))
        .step_at(index)
        .expect("within reach")
}

fn header(class: u32, length: usize) -> Header {
    Header {
        kind: Kind::Deliver,
        class,
        length: u32::try_from(length).expect("below the largest class"),
        hop: [7; HOP],
    }
}

fn payload(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at * 31 + at / 251) as u8).collect()
}

fn seal(step: BoxStep, header: &Header, payload: &[u8], piece_bytes: usize) -> Vec<u8> {
    let mut out = Vec::new();
    let mut sealer = LayerSealer::new(step, [2; 16], header, &mut out).expect("a class that holds it");
    for piece in payload.chunks(piece_bytes) {
        sealer.push(piece, &mut out).expect("as long as the header says");
    }
    sealer.finish(|fill| fill.fill(9), &mut out);
    out
}

/// The payload, if all of the parcel is as it was sealed.
fn open(step: &BoxStep, parcel: &[u8], piece_bytes: usize) -> Option<(Header, Vec<u8>)> {
    let (head, rest) = parcel.split_first_chunk::<HEAD>()?;
    let mut opener = LayerOpener::new(step, head).ok()?;
    let mut opened = Vec::new();
    for piece in rest.chunks(piece_bytes) {
        opener.push(piece, |plain| opened.extend_from_slice(plain)).ok()?;
    }
    Some((opener.finish().ok()?, opened))
}

#[test]
fn a_parcel_opens_under_its_own_index_only() {
    let sealed = seal(step(4), &header(1, 5), b"hello", 5);
    assert!(open(&step(4), &sealed, 999).is_some_and(|(read, plain)| read == header(1, 5) && plain == b"hello"));
    for other in [3, 5] {
        assert!(open(&step(other), &sealed, 999).is_none());
        let disguised = BoxStep {
            tag: step(4).tag,
            ..step(other)
        };
        assert!(open(&disguised, &sealed, 999).is_none());
    }
}

#[test]
fn a_parcel_is_of_the_class_that_it_was_sealed_for() {
    let sealed = seal(step(0), &header(2, 20_000), &payload(20_000), 4_096);
    assert_eq!(sealed.len(), 32_000);
    for length in [HEAD, 16_000, 31_999] {
        assert!(open(&step(0), &sealed[..length], 999).is_none(), "cut to {length}");
    }
    let mut longer = sealed.clone();
    longer.resize(64_000, 0);
    assert!(open(&step(0), &longer, 999).is_none());
}

#[test]
fn chunks_can_neither_change_places_nor_be_left_out() {
    let sealed = seal(step(0), &header(4, 50_000), &payload(50_000), 50_000);
    let mut swapped = sealed.clone();
    let (one, two) = swapped[HEAD..].split_at_mut(16_000);
    one.swap_with_slice(&mut two[..16_000]);
    assert!(open(&step(0), &swapped, 999).is_none());
    let left_out = [&sealed[..HEAD], &sealed[HEAD + 16_000..], &[0; 16_000]].concat();
    assert!(open(&step(0), &left_out, 999).is_none());
}

#[test]
fn the_fill_is_any_bytes_and_a_forwarder_may_replace_it() {
    let mut sealed = seal(step(0), &header(1, 100), &payload(100), 100);
    sealed[HEAD + 116..].fill(0x5a);
    assert!(open(&step(0), &sealed, 16_000).is_some_and(|(_, plain)| plain == payload(100)));
}

#[test]
fn a_header_that_contradicts_itself_seals_nothing() {
    for (class, length) in [(0, 0), (3, 5), (1, parcel::capacity(1) + 1), (CLASS_MAX * 2, 5)] {
        assert!(LayerSealer::new(step(0), [2; 16], &header(class, length), &mut Vec::new()).is_err());
    }
    let mut out = Vec::new();
    let mut sealer = LayerSealer::new(step(0), [2; 16], &header(1, 5), &mut out).expect("coherent");
    assert!(sealer.push(b"sixsix", &mut out).is_err() && out.len() == HEAD);
    sealer.push(b"hello", &mut out).expect("as much as it says");
    assert!(sealer.push(b"!", &mut out).is_err());
}

#[test]
fn the_largest_class_takes_its_capacity() {
    let plain = payload(parcel::capacity(CLASS_MAX));
    let sealed = seal(step(0), &header(CLASS_MAX, plain.len()), &plain, 100_000);
    assert_eq!(sealed.len(), 65_536_000);
    assert!(open(&step(0), &sealed, 70_000).is_some_and(|(_, opened)| opened == plain));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_parcel_is_the_same_however_it_streams(
        length in prop_oneof![0..70_000_usize, Just(15_984), Just(31_968)],
        sealed_by in 1..40_000_usize,
        opened_by in 1..40_000_usize,
    ) {
        let class = parcel::class_for(length).expect("small");
        let plain = payload(length);
        let sealed = seal(step(1), &header(class, length), &plain, sealed_by);
        prop_assert_eq!(parcel::class_of(sealed.len() as u64), Some(class));
        prop_assert!(sealed == seal(step(1), &header(class, length), &plain, usize::MAX));
        let opened = open(&step(1), &sealed, opened_by);
        prop_assert!(opened.is_some_and(|(read, opened)| read == header(class, length) && opened == plain));
    }

    #[test]
    fn a_flipped_bit_before_the_fill_is_refused(length in 0..40_000_usize, at: prop::sample::Index) {
        let class = parcel::class_for(length).expect("small");
        let mut sealed = seal(step(1), &header(class, length), &payload(length), usize::MAX);
        let filled = HEAD + length + 16 * length.div_ceil(15_984).max(1);
        let bit = at.index(filled * 8);
        sealed[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(open(&step(1), &sealed, 999).is_none());
    }
}
