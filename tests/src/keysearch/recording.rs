use std::fmt;

use keypacks::CELL;

use super::derive::{Mac, Stream, expand, label, words};

/// Where the tag ends, and the nonce begins.
const TAG: usize = 16;
/// Where the second block of the key stream lies in the cell: behind tag, nonce, MAC and the ephemeral key.
const KNOWN: usize = 88;

/// A first cell as it was on the wire, and what is known of its plaintext: from the version on, all of it.
pub struct Recording {
    tag: [u8; TAG],
    stream: Stream,
    labels: Labels,
}

struct Labels {
    link: Mac,
    hs1: Vec<u8>,
    step: Vec<u8>,
    chain: Vec<u8>,
}

/// What of the recorded link was found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Opens {
    /// The root of the pack.
    Root,
    /// The chain state of so many steps before the recorded index, whose own is 0.
    State(u32),
    /// Both halves of the link key, side by side.
    Halves,
    /// The pre-shared key.
    Psk,
    /// The key of the cell itself.
    BoxKey,
}

impl fmt::Display for Opens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Opens::Root => f.write_str("root of the pack"),
            Opens::State(0) => f.write_str("chain state"),
            Opens::State(steps) => write!(f, "chain state {steps} steps earlier"),
            Opens::Halves => f.write_str("both halves of the link key"),
            Opens::Psk => f.write_str("pre-shared key"),
            Opens::BoxKey => f.write_str("key of the cell"),
        }
    }
}

impl Recording {
    /// Reads a recorded first cell.
    pub fn of_cell(cell: &[u8; CELL]) -> Self {
        let nonce: [u32; 6] = words(&cell[TAG..]);
        let mut block: [u32; 16] = words(&cell[KNOWN..]);
        // The version is 1; capabilities and all that follows are zeros.
        block[0] ^= 1;
        Recording {
            tag: *cell.first_chunk().expect("a cell is longer than its tag"),
            stream: Stream {
                head: [nonce[0], nonce[1], nonce[2], nonce[3]],
                tail: [nonce[4], nonce[5]],
                block,
            },
            labels: Labels {
                link: Mac::keyed(&label("link")),
                hs1: label("hs1"),
                step: label("step/link"),
                chain: label("chain/link"),
            },
        }
    }

    /// What the first 32 bytes of `window`, or its first 64, are to this recording. A state is tried at its own index and
    /// hashed forward to `steps` indices in all.
    pub fn opened_by(&self, window: &[u8], steps: u32) -> Option<Opens> {
        let key = window.first_chunk()?;
        if self.stream.is_made_by(key) {
            return Some(Opens::BoxKey);
        }
        let keyed = Mac::keyed(key);
        if self.is_psk(&keyed) {
            return Some(Opens::Psk);
        }
        if let Some(halves) = window.first_chunk()
            && self.is_psk(&Mac::keyed(&self.labels.link.of_block(halves)))
        {
            return Some(Opens::Halves);
        }
        if let Some(steps) = self.steps_from(keyed, steps) {
            return Some(Opens::State(steps));
        }
        let [first] = expand(&keyed, &self.labels.chain);
        self.steps_from(Mac::keyed(&first), steps).map(|_| Opens::Root)
    }

    fn is_psk(&self, psk: &Mac) -> bool {
        let [box_key] = expand(psk, &self.labels.hs1);
        self.stream.is_made_by(&box_key)
    }

    /// How many steps before the recorded index this state is. A tag of 128 bits agrees with no other.
    fn steps_from(&self, mut state: Mac, steps: u32) -> Option<u32> {
        for step in 0..steps {
            let [next, _, _, tag] = expand(&state, &self.labels.step);
            if tag.starts_with(&self.tag) {
                return Some(step);
            }
            state = Mac::keyed(&next);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use keypacks::Secret;
    use keypacks::chain::LinkChain;
    use keypacks::kdf::{he, hx};
    use keypacks::link::{self, ClientEntropy};

    use super::super::KEY;
    use super::*;

    const ROOT: [u8; KEY] = *b"thirty-two octets of a test root";

    fn chain(index: u64) -> LinkChain {
        let mut chain = LinkChain::from_root(&Secret::new(ROOT));
        chain.forward_to(index).expect("near");
        chain
    }

    /// What was on the wire for `index`.
    fn recording(index: u64) -> Recording {
        let entropy = ClientEntropy {
            ephemeral: [7; 32],
            nonce: std::array::from_fn(|position| position as u8),
        };
        let (_, cell) = link::connect(chain(index).advance(), &[9; 32], entropy);
        Recording::of_cell(&cell)
    }

    #[test]
    fn every_secret_of_the_recorded_link_is_known_for_what_it_is() {
        let (recording, step) = (recording(3), chain(3).advance());
        let halves = [&step.up.expose()[..], step.down.expose()].concat();
        let psk = hx("link", &[&halves]);
        let box_key = he::<32>(&psk, "hs1", &[]);
        for (secret, opens) in [
            (&chain(3).state().expose()[..], Opens::State(0)),
            (&halves, Opens::Halves),
            (psk.expose(), Opens::Psk),
            (box_key.expose(), Opens::BoxKey),
        ] {
            assert_eq!(recording.opened_by(secret, 1), Some(opens));
            assert_eq!(recording.opened_by(&secret[1..], 1), None);
        }
    }

    #[test]
    fn what_is_earlier_opens_it_within_the_steps_allowed_and_what_is_later_never() {
        assert_eq!(recording(0).opened_by(&ROOT, 1), Some(Opens::Root));
        let recording = recording(3);
        assert_eq!(recording.opened_by(&ROOT, 3), None);
        assert_eq!(recording.opened_by(&ROOT, 4), Some(Opens::Root));
        assert_eq!(recording.opened_by(chain(1).state().expose(), 3), Some(Opens::State(2)));
        assert_eq!(recording.opened_by(chain(1).state().expose(), 2), None);
        assert_eq!(recording.opened_by(chain(4).state().expose(), 100), None);
    }
}
