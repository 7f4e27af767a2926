//! Every parser under bytes from outside: none may panic. The checks are inside the `fuzz` functions.

use keypacks::{CELL, cell, deposit, link, pack, parcel};
use proptest::prelude::*;

fn every_parser(bytes: &[u8]) {
    cell::fuzz(bytes);
    link::fuzz(bytes);
    deposit::fuzz(bytes);
    pack::fuzz(bytes);
    parcel::fuzz(bytes);
}

#[test]
fn plain_patterns_panic_nothing() {
    for length in [
        0,
        1,
        2,
        8,
        16,
        24,
        33,
        40,
        80,
        136,
        512,
        560,
        1_000,
        2_000,
        4_056,
        4_096,
        16_000,
        CELL,
        CELL + 1,
    ] {
        for byte in [0x00, 0x01, 0x7f, 0x80, 0xff] {
            every_parser(&vec![byte; length]);
        }
    }
    pack::fuzz("0OIL-\u{e9}".as_bytes());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn random_bytes_panic_nothing(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        every_parser(&bytes);
    }

    #[test]
    fn random_bytes_behind_a_plausible_head_panic_nothing(
        kind in 0..12_u8, version in 0..3_u8, bytes in prop::collection::vec(any::<u8>(), 0..5_000),
    ) {
        every_parser(&[&[version, 0, kind, version][..], &bytes].concat());
        every_parser(&[&b"POSTERNP\x01\x00\x01\x00\x08\x00\x00\x00\x01\x00\x00\x00\x01\x00\x00\x00"[..], &bytes].concat());
    }
}
