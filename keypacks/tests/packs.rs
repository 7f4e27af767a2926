//! The pack file and the identifier.

use keypacks::Secret;
use keypacks::pack::{ALIASES_MAX, BLOCK, Header, Identifier, Issue, NAME_BYTES_MAX, PassphraseCost};
use proptest::prelude::*;

fn file_key() -> Secret<32> {
    Secret::new([1; 32])
}

fn header(passphrase: &[u8]) -> [u8; BLOCK] {
    Header::create(passphrase, &file_key(), [2; 16], [3; 24], PassphraseCost::LEAST)
}

fn issue() -> Issue {
    Issue {
        identifier: Identifier([4; 16]),
        relay_public: [5; 32],
        link_keys: 1_000,
        root: Secret::new([6; 32]),
        day: 20_000,
        relay_address: "relay.example:7025".into(),
        relay_domain: "relay.example".into(),
        aliases: vec!["heron@relay.example".into(); ALIASES_MAX],
        rotation: Default::default(),
        pad: None,
    }
}

#[test]
fn the_passphrase_opens_the_header_and_another_does_not() {
    let block = header(b"right");
    assert!(Header::open(&block, b"right") == Ok(file_key()));
    assert!(Header::open(&block, b"wrong").is_err());
    assert!(Header::open(&block, b"").is_err());
}

#[test]
fn a_header_may_not_ask_for_more_than_the_bounds() {
    let put = |at: usize, number: u32| {
        let mut block = header(b"right");
        block[at..at + 4].copy_from_slice(&number.to_le_bytes());
        Header::parse(&block).is_ok()
    };
    let (memory, passes, lanes) = (12, 16, 20);
    assert!(put(memory, 262_144) && put(passes, 16) && put(lanes, 1));
    for (at, number) in [
        (memory, 262_145),
        (memory, 7),
        (passes, 17),
        (passes, 0),
        (lanes, 0),
        (lanes, 2),
    ] {
        assert!(!put(at, number), "{number} at {at}");
    }
}

#[test]
fn an_issue_block_says_what_was_issued() {
    let block = issue().seal(&file_key(), [7; 24]).expect("short names");
    let (opened, made) = (Issue::open(&file_key(), &block).expect("as made"), issue());
    assert!(opened.identifier == made.identifier && opened.root == made.root);
    assert_eq!(
        (opened.relay_public, opened.link_keys, opened.day),
        (made.relay_public, made.link_keys, made.day)
    );
    assert_eq!(
        (opened.relay_address, opened.relay_domain),
        (made.relay_address, made.relay_domain)
    );
    assert_eq!(opened.aliases, made.aliases);
    assert!(Issue::open(&Secret::new([9; 32]), &block).is_err());
    assert!(
        Issue::open(&file_key(), &[0; BLOCK]).is_err(),
        "what init has overwritten"
    );
}

#[test]
fn what_does_not_fit_is_refused_when_it_is_issued() {
    let longest = Issue {
        relay_domain: "d".repeat(NAME_BYTES_MAX),
        ..issue()
    };
    assert!(longest.seal(&file_key(), [7; 24]).is_ok());
    let too_long = Issue {
        relay_domain: "d".repeat(NAME_BYTES_MAX + 1),
        ..issue()
    };
    assert!(too_long.seal(&file_key(), [7; 24]).is_err());
    let too_many = Issue {
        aliases: vec![String::new(); ALIASES_MAX + 1],
        pad: None,
        ..issue()
    };
    assert!(too_many.seal(&file_key(), [7; 24]).is_err());
}

#[test]
fn an_identifier_with_a_slip_of_the_pen_is_refused() {
    let text = Identifier([4; 16]).to_text();
    assert_eq!(text.len(), 34);
    for slip in [
        text.replacen('0', "1", 1),
        format!("{text}0"),
        text[..33].to_owned(),
        text.replacen('0', "U", 1),
        String::new(),
    ] {
        assert!(Identifier::parse(&slip).is_err());
    }
}

proptest! {
    #[test]
    fn identifiers_are_read_as_people_write_them(bytes: [u8; 16], lower: bool, grouped: bool) {
        let mut text = Identifier(bytes).to_text();
        if lower {
            text = text.to_lowercase().replace('1', "l").replace('0', "o");
        }
        if !grouped {
            text = text.replace('-', " ");
        }
        prop_assert!(Identifier::parse(&text) == Ok(Identifier(bytes)));
    }

    #[test]
    fn a_flipped_bit_in_what_is_sealed_is_refused(bit in 0..BLOCK * 8) {
        let mut block = *issue().seal(&file_key(), [7; 24]).expect("short names");
        block[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(Issue::open(&file_key(), &block).is_err());
    }

    #[test]
    fn a_flipped_bit_in_salt_nonce_or_file_key_is_refused(bit in 24 * 8..112 * 8_usize) {
        let mut block = header(b"right");
        block[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(Header::open(&block, b"right").is_err());
    }
}
