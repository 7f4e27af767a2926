//! The handshake between two ends, and what happens to it under hands that hold no keys.

use keypacks::cell::{Frame, Kind};
use keypacks::chain::{LinkChain, LinkStep};
use keypacks::link::{
    self, Accepting, Answered, ClientEntropy, Confirm, Dialling, FloorVerdict, Link, PersistedIndex, RelaySecret,
    Rotate,
};
use keypacks::secretbox::seal_in_place;
use keypacks::{CELL, Refused, Secret, kdf};
use proptest::prelude::*;

const CONFIRM: Confirm = Confirm {
    token: [7; 16],
    answered: 41,
};

struct Index(u64);

impl PersistedIndex for Index {
    fn persisted_index(&self) -> u64 {
        self.0
    }
}

fn step(index: u64) -> LinkStep {
    LinkChain::from_root(&Secret::new([1; 32]))
        .step_at(index)
        .expect("within reach")
}

fn relay_secret() -> RelaySecret {
    RelaySecret::new(Secret::new([2; 32]))
}

/// A first cell for `index`; `seed` stands for the randomness of this attempt.
fn connect(index: u64, seed: u8) -> (Dialling, Box<[u8; CELL]>) {
    link::connect(
        step(index),
        &relay_secret().public(),
        ClientEntropy {
            ephemeral: [seed; 32],
            nonce: [seed; 24],
        },
    )
}

fn accept(index: u64, cell1: &[u8; CELL], seed: u8) -> Result<(Accepting, Box<[u8; CELL]>), Refused> {
    link::accept(
        step(index),
        &relay_secret(),
        3,
        &mut cell1.clone(),
        [seed; 32],
        [seed; 24],
    )
}

fn confirm(answered: Answered, index: u64) -> Result<(Box<[u8; CELL]>, Link), Refused> {
    answered.confirm(&Index(index), CONFIRM, &Secret::new([4; 32]), [5; 32])
}

/// Both ends at the point where cell 3 is on its way.
fn up_to_cell3() -> (Accepting, Box<[u8; CELL]>, Link) {
    let (dialling, cell1) = connect(5, 10);
    let (accepting, mut cell2) = accept(5, &cell1, 20).expect("as made");
    let (cell3, holder) = confirm(dialling.answer(&mut cell2).expect("as made"), 5).expect("its own index");
    (accepting, cell3, holder)
}

fn link() -> (Link, Link) {
    let (accepting, mut cell3, holder) = up_to_cell3();
    let relay = accepting
        .confirm(&mut cell3)
        .expect("as made")
        .burned(&Index(5))
        .expect("its own index");
    (holder, relay)
}

fn flip(cell: &[u8; CELL], bit: usize) -> Box<[u8; CELL]> {
    let mut flipped = Box::new(*cell);
    flipped[bit / 8] ^= 1 << (bit % 8);
    flipped
}

#[test]
fn both_ends_come_out_with_the_same_link() {
    let (dialling, cell1) = connect(5, 10);
    let (accepting, mut cell2) = accept(5, &cell1, 20).expect("as made");
    let answered = dialling.answer(&mut cell2).expect("as made");
    assert_eq!(answered.floor(), 3);
    let (mut cell3, mut holder) = confirm(answered, 5).expect("its own index");
    let confirmed = accepting.confirm(&mut cell3).expect("as made");
    assert!(confirmed.confirm == CONFIRM && confirmed.index() == 5);
    let mut relay = confirmed.burned(&Index(5)).expect("its own index");

    let mut cell = [0; CELL];
    holder.sealer.seal(
        Frame {
            kind: Kind::Request,
            last: true,
            stream: 9,
            data: b"up",
        },
        &mut cell,
    );
    assert_eq!(relay.opener.open(&mut cell).expect("as made").data, b"up");
    relay.sealer.seal(
        Frame {
            kind: Kind::Answer,
            last: true,
            stream: 9,
            data: b"down",
        },
        &mut cell,
    );
    assert_eq!(holder.opener.open(&mut cell).expect("as made").data, b"down");
}

#[test]
fn a_proof_of_another_index_is_refused() {
    for other in [4, 6] {
        let (dialling, cell1) = connect(5, 10);
        let (accepting, mut cell2) = accept(5, &cell1, 20).expect("as made");
        assert!(confirm(dialling.answer(&mut cell2).expect("as made"), other).is_err());
        drop(accepting);
        let (accepting, mut cell3, _) = up_to_cell3();
        assert!(
            accepting
                .confirm(&mut cell3)
                .expect("as made")
                .burned(&Index(other))
                .is_err()
        );
    }
}

#[test]
fn a_recorded_cell_opens_in_no_other_attempt() {
    let (_, old_cell1) = connect(5, 10);
    let (_, mut old_cell2) = accept(5, &old_cell1, 20).expect("as made");
    let (_, mut old_cell3, _) = up_to_cell3();

    let (dialling, _) = connect(5, 11);
    assert!(dialling.answer(&mut old_cell2).is_err(), "cell 2 answers one cell 1");
    let (accepting, _) = accept(5, &old_cell1, 21).expect("a replayed cell 1 is answered");
    assert!(accepting.confirm(&mut old_cell3).is_err(), "cell 3 answers one cell 2");
}

#[test]
fn keys_of_another_index_or_pack_open_nothing() {
    let (dialling, cell1) = connect(5, 10);
    assert!(accept(6, &cell1, 20).is_err());
    let mut other = step(6);
    other.tag = step(5).tag;
    assert!(link::accept(other, &relay_secret(), 3, &mut cell1.clone(), [20; 32], [20; 24]).is_err());
    let (_, cell1) = connect(6, 10);
    let (_, mut cell2) = accept(6, &cell1, 20).expect("as made");
    assert!(dialling.answer(&mut cell2).is_err());
}

#[test]
fn stolen_chain_keys_without_the_static_key_get_no_further_than_cell_2() {
    let thief = RelaySecret::new(Secret::new([66; 32]));
    let (dialling, mut cell1) = connect(5, 10);
    let (accepting, mut cell2) =
        link::accept(step(5), &thief, 3, &mut cell1, [20; 32], [20; 24]).expect("the thief holds the chain");
    let (mut cell3, _) = confirm(dialling.answer(&mut cell2).expect("the chain's keys"), 5).expect("its own index");
    assert!(accepting.confirm(&mut cell3).is_err());
}

/// Cell 1 by hand, from the formulas of the specification.
fn cell1_with(ephemeral: [u8; 32], version: u8) -> Box<[u8; CELL]> {
    let step = step(5);
    let psk = kdf::hx("link", &[step.up.expose(), step.down.expose()]);
    let mut cell1 = Box::new([0; CELL]);
    cell1[..16].copy_from_slice(&step.tag.0);
    cell1[56..88].copy_from_slice(&ephemeral);
    cell1[88] = version;
    seal_in_place(&kdf::he(&psk, "hs1", &[]), &[0; 24], &mut cell1[40..]);
    cell1
}

#[test]
fn another_version_and_ephemerals_of_low_order_are_refused() {
    let good = relay_secret().public();
    assert!(
        accept(5, &cell1_with(good, 1), 20).is_ok(),
        "the formulas are those of the crate"
    );
    assert!(accept(5, &cell1_with(good, 2), 20).is_err());
    let mut one = [0; 32];
    one[0] = 1;
    for low_order in [[0; 32], one] {
        assert!(accept(5, &cell1_with(low_order, 1), 20).is_err());
    }
}

#[test]
fn two_attempts_share_no_bytes_but_the_tag() {
    let (_, one) = connect(5, 10);
    let (_, two) = connect(5, 11);
    assert!(link::peek_tag(&one) == link::peek_tag(&two));
    let equal = one[16..].iter().zip(&two[16..]).filter(|(a, b)| a == b).count();
    assert!(equal < 150, "chance makes about 64 of 16,368 equal, not {equal}");
}

#[test]
fn the_floor_is_good_from_the_answered_to_the_held_index() {
    let verdict = |floor| link::floor_verdict(Some(4), Some(7), floor);
    assert_eq!(verdict(4), FloorVerdict::RolledBack);
    assert!((5..=8).all(|floor| verdict(floor) == FloorVerdict::Accept));
    assert_eq!(verdict(9), FloorVerdict::DoesNotOpen);
    assert_eq!(link::floor_verdict(None, None, 0), FloorVerdict::Accept);
    assert_eq!(link::floor_verdict(None, None, 1), FloorVerdict::DoesNotOpen);
    assert_eq!(
        link::floor_verdict(None, Some(u64::MAX), u64::MAX),
        FloorVerdict::Accept
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_flipped_bit_in_any_flight_is_refused(bit in 0..CELL * 8) {
        let (dialling, cell1) = connect(5, 10);
        prop_assert!(accept(5, &flip(&cell1, bit), 20).is_err());
        let (_, cell2) = accept(5, &cell1, 20).expect("as made");
        prop_assert!(dialling.answer(&mut flip(&cell2, bit)).is_err());
        let (accepting, cell3, _) = up_to_cell3();
        prop_assert!(accepting.confirm(&mut flip(&cell3, bit)).is_err());
    }

    #[test]
    fn a_flipped_bit_in_traffic_is_refused_and_the_cell_itself_still_opens(bit in 0..CELL * 8) {
        let (mut holder, mut relay) = link();
        let mut cell = [0; CELL];
        holder.sealer.seal(Frame::bare(Kind::Pad), &mut cell);
        prop_assert!(relay.opener.open(&mut flip(&cell, bit)).is_err());
        prop_assert!(relay.opener.open(&mut cell).is_ok());
    }

    #[test]
    fn cells_open_once_and_in_order_only(cells in 2..12_usize, picked in 0..12_usize) {
        let (mut holder, mut relay) = link();
        let sealed: Vec<Box<[u8; CELL]>> = (0..cells).map(|_| {
            let mut cell = Box::new([0; CELL]);
            holder.sealer.seal(Frame::bare(Kind::Pad), &mut cell);
            cell
        }).collect();
        let picked = picked % cells;
        for (at, cell) in sealed.iter().enumerate() {
            if picked != at {
                prop_assert!(relay.opener.open(&mut sealed[picked].clone()).is_err());
            }
            prop_assert!(relay.opener.open(&mut cell.clone()).is_ok());
        }
        prop_assert!(holder.opener.open(&mut sealed[0].clone()).is_err(), "nor in the other direction");
    }

    #[test]
    fn frames_come_out_as_they_went_in(
        kind in prop::sample::select(vec![Kind::Linked, Kind::Request, Kind::Data, Kind::Answer, Kind::New, Kind::Close, Kind::Pad]),
        last: bool,
        stream: u32,
        data in prop::collection::vec(any::<u8>(), 0..=keypacks::cell::DATA_MAX),
    ) {
        let (mut holder, mut relay) = link();
        let (mut cell, frame) = ([0xee; CELL], Frame { kind, last, stream, data: &data });
        holder.sealer.seal(frame, &mut cell);
        prop_assert!(relay.opener.open(&mut cell) == Ok(frame));
    }
}

/// Sends one cell with these bytes from one end to the other.
fn passes(sealer: &mut keypacks::cell::Sealer, opener: &mut keypacks::cell::Opener, data: &[u8]) -> bool {
    let mut cell = [0; CELL];
    let frame = Frame {
        kind: Kind::Request,
        last: true,
        stream: 1,
        data,
    };
    sealer.seal(frame, &mut cell);
    opener.open(&mut cell).is_ok_and(|frame| frame.data == data)
}

#[test]
fn a_link_goes_on_under_the_next_keys_and_the_old_ones_open_nothing_of_it() {
    let (mut holder, mut relay) = link();
    for index in 6..9 {
        let rotate = Rotate {
            index,
            random: [index as u8; 32],
        };
        let (up, down) = holder
            .rekey
            .rotate(&rotate, &step(index), &Index(index))
            .expect("its own");
        let (their_down, their_up) = relay
            .rekey
            .rotated(&rotate, &step(index), &Index(index))
            .expect("its own");
        let (mut before, mut after) = (std::mem::replace(&mut relay.opener, their_up), up);
        assert!(!passes(&mut after, &mut before, b"new under old"));
        // The refused cell moved the sealer alone: both ends begin again from the next keys.
        let again = Rotate {
            random: [99; 32],
            ..rotate
        };
        assert!(holder.rekey.rotate(&again, &step(index), &Index(index)).is_ok());
        assert!(relay.rekey.rotated(&again, &step(index), &Index(index)).is_ok());
        (holder.opener, relay.sealer) = (down, their_down);
        assert!(passes(&mut relay.sealer, &mut holder.opener, b"down"));
    }
}

#[test]
fn the_next_keys_need_the_proof_the_step_and_the_randomness_of_their_own() {
    let (mut holder, mut relay) = link();
    let rotate = Rotate {
        index: 6,
        random: [1; 32],
    };
    assert!(holder.rekey.rotate(&rotate, &step(6), &Index(5)).is_err());
    assert!(holder.rekey.rotate(&rotate, &step(5), &Index(6)).is_err());
    assert!(relay.rekey.rotated(&rotate, &step(7), &Index(6)).is_err());
    let (mut up, _) = holder.rekey.rotate(&rotate, &step(6), &Index(6)).expect("its own");
    let other = Rotate {
        random: [2; 32],
        ..rotate
    };
    let (_, mut opener) = relay.rekey.rotated(&other, &step(6), &Index(6)).expect("its own");
    assert!(!passes(&mut up, &mut opener, b"other randomness, other keys"));
}
