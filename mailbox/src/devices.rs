//! What the devices of one account are told of each other, and of what their relay procured (`docs/PROTOCOL.md` section 5).

use serde::{Deserialize, Serialize};

use crate::request::{Malformed, TELL_MAX};

/// Alias number in the wrap of a deposit that is no mail but events.
pub const EVENTS: u32 = u32::MAX - 3;
/// Deposits of events that a device may leave uncollected. Beyond it no device of the account changes its aliases.
pub const EVENTS_WAITING_MAX: u64 = 1_024;
/// Most events in one deposit.
pub const EVENTS_MAX: usize = TELL_MAX;

const VERSION: u8 = 1;

/// Something that one device did, or that happened to it. The order of variants and fields is part of the protocol.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// How an alias stands now.
    Alias {
        /// Its number, as wraps name it.
        number: u32,
        /// Full lower-case address.
        address: String,
        /// Whether it takes mail.
        open: bool,
    },
    /// Another device joined.
    Joined {
        /// Its number.
        device: u32,
        /// Number of the device that asked for it.
        by: u32,
    },
    /// A device was dropped.
    Dropped {
        /// Its number.
        device: u32,
        /// Number of the device that asked for it.
        by: u32,
    },
    /// A copy of a device's pack was in use: the device is frozen until it is given new keys.
    Frozen {
        /// Its number.
        device: u32,
    },
    /// A pack at a further relay that was ordered is made.
    Procured {
        /// SHA-256 of the X-Wing public key of the order.
        order: [u8; 32],
        /// X-Wing ciphertext, from which whoever ordered it computes its root.
        ciphertext: Vec<u8>,
        /// What shows that the root is the further relay's.
        confirm: [u8; keypacks::procure::CONFIRM],
    },
    /// Such a pack could not be made: what was debited for it is credited again.
    NotProcured {
        /// SHA-256 of the X-Wing public key of the order.
        order: [u8; 32],
    },
}

/// `version u8 = 1 | list of events`, the payload of a deposit for [`EVENTS`].
pub fn encode_events(events: &[Event]) -> Vec<u8> {
    postcard::to_extend(events, vec![VERSION]).expect("events are plain data, and a vector takes any length")
}

/// Reads what [`encode_events`] wrote; another version, no event, too many of them and trailing bytes are malformed.
pub fn decode_events(payload: &[u8]) -> Result<Vec<Event>, Malformed> {
    let (version, rest) = payload.split_first().ok_or(Malformed)?;
    match postcard::take_from_bytes::<Vec<Event>>(rest) {
        Ok((events, [])) if *version == VERSION && (1..=EVENTS_MAX).contains(&events.len()) => Ok(events),
        _ => Err(Malformed),
    }
}

/// Feeds hostile bytes to the decoder; must neither panic nor allocate beyond the input.
pub fn fuzz(bytes: &[u8]) {
    if let Ok(events) = decode_events(bytes) {
        assert!(decode_events(&encode_events(&events)).is_ok_and(|again| again == events));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_read_as_they_are_written() {
        let events = [
            Event::Alias {
                number: 300,
                address: "me@r.test".to_owned(),
                open: true,
            },
            Event::Joined { device: 2, by: 1 },
            Event::Dropped { device: 1, by: 2 },
            Event::Frozen { device: 2 },
            Event::Procured {
                order: [7; 32],
                ciphertext: vec![8; 3],
                confirm: [9; 16],
            },
            Event::NotProcured { order: [7; 32] },
        ];
        let written = encode_events(&events);
        let alias = [&[1, 6, 0, 0xac, 2, 9], b"me@r.test".as_slice(), &[1]].concat();
        let procured = [&[4][..], &[7; 32], &[3, 8, 8, 8], &[9; 16], &[5], &[7; 32]].concat();
        assert_eq!(written, [&alias[..], &[1, 2, 1, 2, 1, 2, 3, 2], &procured].concat());
        assert!(decode_events(&written).is_ok_and(|read| read == events));
        let many = vec![Event::Frozen { device: 1 }; EVENTS_MAX + 1];
        assert!(decode_events(&encode_events(&many[1..])).is_ok());
        for wrong in [
            encode_events(&many),
            encode_events(&[]),
            [&written[..], &[0]].concat(),
            [&[2], &written[1..]].concat(),
            vec![1, 1, 6, 0],
            vec![],
        ] {
            assert!(decode_events(&wrong).is_err());
        }
    }

    proptest::proptest! {
        #[test]
        fn hostile_bytes_do_not_panic(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
            fuzz(&bytes);
        }
    }
}
