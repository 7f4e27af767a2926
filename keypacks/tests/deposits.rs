//! Bodies and wraps: what goes in comes out, and nothing else does.

use keypacks::Secret;
use keypacks::chain::{BoxChain, BoxKind, BoxStep};
use keypacks::deposit::{self, BodySealer, CLASS_KILOBYTES_MAX, Dek, Sealed, TooLong, WrapFields};
use proptest::prelude::*;

fn dek() -> Dek {
    Dek::new(Secret::new([1; 32]))
}

fn seal(payload: &[u8], piece_bytes: usize) -> Sealed {
    let mut sealer = BodySealer::new(dek(), [2; 16]);
    for piece in payload.chunks(piece_bytes) {
        sealer.push(piece).expect("within the largest class");
    }
    sealer.finish()
}

fn step(index: u64) -> BoxStep {
    BoxChain::from_root(BoxKind::Post, &Secret::new([3; 32]))
        .step_at(index)
        .expect("within reach")
}

fn wrap(step: &BoxStep) -> Vec<u8> {
    let fields = WrapFields {
        dek: dek(),
        body_digest: [4; 32],
        length: 900,
        kilobytes: 1,
        day: 20_000,
        alias: 2,
    };
    deposit::seal_wrap(step, [5; 24], &fields)
}

#[test]
fn a_wrap_opens_under_its_own_index_only() {
    let sealed = wrap(&step(7));
    assert_eq!(sealed.len(), deposit::WRAP);
    let fields = deposit::open_wrap(&step(7), &sealed).expect("as made");
    assert!(fields.dek.secret() == dek().secret());
    assert_eq!(
        (
            fields.body_digest,
            fields.length,
            fields.kilobytes,
            fields.day,
            fields.alias
        ),
        ([4; 32], 900, 1, 20_000, 2)
    );
    for other in [6, 8] {
        assert!(deposit::open_wrap(&step(other), &sealed).is_err());
        let disguised = BoxStep {
            tag: step(7).tag,
            ..step(other)
        };
        assert!(deposit::open_wrap(&disguised, &sealed).is_err());
    }
}

#[test]
fn a_wrap_that_contradicts_itself_is_refused() {
    for (length, kilobytes) in [(969, 1), (0, 3), (0, 0), (u32::MAX, CLASS_KILOBYTES_MAX)] {
        let fields = WrapFields {
            dek: dek(),
            body_digest: [4; 32],
            length,
            kilobytes,
            day: 1,
            alias: 0,
        };
        assert!(deposit::open_wrap(&step(7), &deposit::seal_wrap(&step(7), [5; 24], &fields)).is_err());
    }
}

#[test]
fn chunks_cannot_change_places() {
    let sealed = seal(&[9; 40_000], 40_000);
    assert_eq!(sealed.kilobytes, 64);
    let mut swapped = sealed.body.clone();
    let (one, two) = swapped[16..].split_at_mut(16_000);
    one.swap_with_slice(&mut two[..16_000]);
    assert!(deposit::open_body(&dek(), swapped, sealed.length).is_err());
}

#[test]
fn a_body_cannot_be_cut_to_a_smaller_class() {
    let sealed = seal(&[9; 20_000], 1_000);
    assert_eq!(sealed.kilobytes, 32);
    for kilobytes in [1, 8, 16] {
        let cut = sealed.body[..deposit::class_bytes(kilobytes)].to_vec();
        assert!(deposit::open_body(&dek(), cut, 0).is_err());
    }
}

#[test]
fn a_length_beyond_the_class_is_refused() {
    let sealed = seal(b"payload", 7);
    assert!(deposit::open_body(&dek(), sealed.body.clone(), 968).is_ok());
    assert!(deposit::open_body(&dek(), sealed.body, 969).is_err());
}

#[test]
fn the_largest_class_takes_its_capacity_and_no_byte_more() {
    let capacity = deposit::sealed_capacity(CLASS_KILOBYTES_MAX);
    let mut sealer = BodySealer::new(dek(), [2; 16]);
    sealer.push(&vec![1; capacity]).expect("as much as fits");
    assert_eq!(sealer.push(&[1]), Err(TooLong));
    let sealed = sealer.finish();
    assert_eq!((sealed.kilobytes, sealed.body.len()), (CLASS_KILOBYTES_MAX, 65_536_000));
    let payload = deposit::open_body(&dek(), sealed.body, sealed.length).expect("as made");
    assert!(payload.len() == capacity && payload.iter().all(|byte| *byte == 1));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_body_is_the_same_however_it_streams_in(length in 0..70_000_usize, piece_bytes in 1..40_000_usize) {
        let payload: Vec<u8> = (0..length).map(|at| at.to_le_bytes()[0]).collect();
        let sealed = seal(&payload, piece_bytes);
        prop_assert_eq!(sealed.body.len(), deposit::class_bytes(sealed.kilobytes));
        prop_assert_eq!(Some(sealed.kilobytes), deposit::sealed_class_for(length));
        prop_assert!(sealed.body == seal(&payload, usize::MAX).body);
        prop_assert!(deposit::open_body(&dek(), sealed.body, sealed.length) == Ok(payload));
    }

    #[test]
    fn a_flipped_bit_in_a_body_is_refused(length in 0..40_000_usize, at: prop::sample::Index) {
        let mut sealed = seal(&vec![9; length], usize::MAX);
        let bit = at.index(sealed.body.len() * 8);
        sealed.body[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(deposit::open_body(&dek(), sealed.body, sealed.length).is_err());
    }

    #[test]
    fn a_flipped_bit_in_a_wrap_is_refused(bit in 0..deposit::WRAP * 8) {
        let mut sealed = wrap(&step(7));
        sealed[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(deposit::open_wrap(&step(7), &sealed).is_err());
    }

    #[test]
    fn a_wrap_of_another_length_is_refused(length in 0..2 * deposit::WRAP) {
        let mut sealed = wrap(&step(7));
        sealed.resize(length, 0);
        prop_assert_eq!(deposit::open_wrap(&step(7), &sealed).is_ok(), length == deposit::WRAP);
    }
}
