//! Traffic cells: `Box(key of this cell, 0^16 | u64 counter, u16 length | u8 kind | u8 flags | u32 stream | data | zeros)`.
//!
//! Every cell has a key of its own (`docs/PROTOCOL.md` section 4): the state of a long-lived link opens nothing that
//! was recorded before.

use crate::kdf::he;
use crate::secretbox::{self, MAC};
use crate::{CELL, Refused, Secret};

/// Most bytes of data that one cell carries.
pub const DATA_MAX: usize = CELL - MAC - HEAD;

/// Length of `length | kind | flags | stream`.
const HEAD: usize = 8;
/// Flag bit of the last cell of a message.
const FLAG_LAST: u8 = 1;

const _: () = assert!(DATA_MAX == 16_360);

/// What a cell carries. The numbers are part of the protocol.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Kind {
    /// The relay's first cell: the link stands. Data: [`crate::link::Linked`].
    Linked = 1,
    /// First cell of a request's message.
    Request = 2,
    /// A following cell of a message, either way.
    Data = 3,
    /// First cell of an answer's message.
    Answer = 4,
    /// Deposits wait for the holder. No data.
    New = 5,
    /// No more cells come in this direction. No data.
    Close = 6,
    /// Fills a burst up to a power of two; dropped by the receiver. No data.
    Pad = 7,
    /// The holder's last cell under a key. Data: [`crate::link::Rotate`].
    Rotate = 8,
    /// The relay's last cell under a key. Data: the link index of the next, a `u64`.
    Rotated = 9,
    /// The relay's first cell of a tick: it sends no cover from here on, as nothing more is paid. No data.
    Uncovered = 10,
}

impl Kind {
    /// The kind of a number. What no version defines is refused.
    pub(crate) fn of(number: u8) -> Result<Self, Refused> {
        Ok(match number {
            1 => Kind::Linked,
            2 => Kind::Request,
            3 => Kind::Data,
            4 => Kind::Answer,
            5 => Kind::New,
            6 => Kind::Close,
            7 => Kind::Pad,
            8 => Kind::Rotate,
            9 => Kind::Rotated,
            10 => Kind::Uncovered,
            _ => return Err(Refused),
        })
    }
}

/// The content of one cell.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// What it is.
    pub kind: Kind,
    /// Whether it is the last cell of its message.
    pub last: bool,
    /// Which conversation it belongs to; 0 is the link itself.
    pub stream: u32,
    /// At most [`DATA_MAX`] bytes.
    pub data: &'a [u8],
}

impl Frame<'static> {
    /// A cell without data that belongs to the link itself.
    pub fn bare(kind: Kind) -> Self {
        Self {
            kind,
            last: true,
            stream: 0,
            data: &[],
        }
    }
}

/// Seals one direction's cells, each under the next key.
pub struct Sealer(Ratchet);

/// Opens the other direction's cells, each under the next key.
pub struct Opener(Ratchet);

impl Sealer {
    /// Writes `frame` into `cell` and seals it there.
    ///
    /// # Panics
    /// If the frame has more than [`DATA_MAX`] bytes of data.
    pub fn seal(&mut self, frame: Frame<'_>, cell: &mut [u8; CELL]) {
        assert!(frame.data.len() <= DATA_MAX, "the caller cuts messages into cells");
        let plain = &mut cell[MAC..];
        let length = u16::try_from(frame.data.len()).expect("DATA_MAX fits 16 bits");
        plain[..2].copy_from_slice(&length.to_le_bytes());
        plain[2] = frame.kind as u8;
        plain[3] = if frame.last { FLAG_LAST } else { 0 };
        plain[4..HEAD].copy_from_slice(&frame.stream.to_le_bytes());
        let (data, fill) = plain[HEAD..].split_at_mut(frame.data.len());
        data.copy_from_slice(frame.data);
        fill.fill(0);
        let key = self.0.next();
        secretbox::seal_in_place(&key.box_key, &key.nonce, cell);
        self.0.step(key);
    }
}

impl Opener {
    /// Opens `cell` where it lies. The plaintext in `cell` is the caller's to wipe.
    ///
    /// When refused the opener has not moved, and the link is to be closed without an answer.
    pub fn open<'c>(&mut self, cell: &'c mut [u8; CELL]) -> Result<Frame<'c>, Refused> {
        let key = self.0.next();
        let plain = secretbox::open_in_place(&key.box_key, &key.nonce, cell)?;
        self.0.step(key);
        parse(plain)
    }
}

/// Number of [`Kind::Pad`] cells that bring a burst of `cells` to a power of two.
pub fn padding(cells: usize) -> usize {
    match cells {
        0 => 0,
        some => some.next_power_of_two() - some,
    }
}

/// Reads an opened cell. What fills it up behind the data is not looked at.
fn parse(plain: &[u8]) -> Result<Frame<'_>, Refused> {
    let (head, data) = plain.split_first_chunk::<HEAD>().ok_or(Refused)?;
    let [l0, l1, kind, flags, s0, s1, s2, s3] = *head;
    if flags & !FLAG_LAST != 0 {
        return Err(Refused);
    }
    Ok(Frame {
        kind: Kind::of(kind)?,
        last: flags & FLAG_LAST != 0,
        stream: u32::from_le_bytes([s0, s1, s2, s3]),
        data: data.get(..usize::from(u16::from_le_bytes([l0, l1]))).ok_or(Refused)?,
    })
}

/// `box key | k' = HE(k, "cell/up" or "cell/down", 64)`; the nonce counts cells from 0.
struct Ratchet {
    label: &'static str,
    state: Secret<32>,
    counter: u64,
}

/// The key of one cell and the state behind it.
struct CellKey {
    box_key: Secret<32>,
    next: Secret<32>,
    nonce: [u8; 24],
}

impl Ratchet {
    fn next(&self) -> CellKey {
        let okm = he::<64>(&self.state, self.label, &[]);
        let mut nonce = [0; 24];
        nonce[16..].copy_from_slice(&self.counter.to_le_bytes());
        CellKey {
            box_key: okm.part(0),
            next: okm.part(32),
            nonce,
        }
    }

    fn step(&mut self, used: CellKey) {
        self.state = used.next;
        self.counter += 1;
    }
}

/// The two directions of a link's traffic.
#[derive(Clone, Copy)]
pub(crate) enum Direction {
    /// Holder to relay.
    Up,
    /// Relay to holder.
    Down,
}

impl Direction {
    fn ratchet(self, state: Secret<32>) -> Ratchet {
        let label = match self {
            Direction::Up => "cell/up",
            Direction::Down => "cell/down",
        };
        Ratchet {
            label,
            state,
            counter: 0,
        }
    }

    pub(crate) fn sealer(self, traffic_key: Secret<32>) -> Sealer {
        Sealer(self.ratchet(traffic_key))
    }

    pub(crate) fn opener(self, traffic_key: Secret<32>) -> Opener {
        Opener(self.ratchet(traffic_key))
    }
}

/// Feeds hostile bytes to the parser of opened cells and to an opener; must not panic.
pub fn fuzz(bytes: &[u8]) {
    let _ = parse(bytes);
    let mut cell = [0; CELL];
    let length = bytes.len().min(CELL);
    cell[..length].copy_from_slice(&bytes[..length]);
    assert!(
        Direction::Up.opener(Secret::new([0; 32])).open(&mut cell).is_err(),
        "no input is sealed under this key"
    );
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_cell_key_comes_twice_in_a_link() {
        let mut keys = HashSet::new();
        for direction in [Direction::Up, Direction::Down] {
            let mut ratchet = direction.ratchet(Secret::new([1; 32]));
            for _ in 0..1_000 {
                let key = ratchet.next();
                assert!(keys.insert(*key.box_key.expose()) && keys.insert(*key.next.expose()));
                ratchet.step(key);
            }
        }
    }

    #[test]
    fn bursts_are_padded_to_the_next_power_of_two() {
        assert_eq!([0, 1, 2, 3, 4, 5, 4_097].map(padding), [0, 0, 0, 1, 0, 3, 4_095]);
        assert!((1..10_000).all(|cells| (cells + padding(cells)).is_power_of_two() && padding(cells) < cells));
    }

    #[test]
    fn unknown_kinds_unknown_flags_and_wrong_lengths_are_refused() {
        let plain = |length: usize, kind: u8, flags: u8| {
            let length = u16::try_from(length).expect("a test's own numbers").to_le_bytes();
            let mut plain = vec![0; HEAD + DATA_MAX];
            plain[..4].copy_from_slice(&[length[0], length[1], kind, flags]);
            plain
        };
        assert!(parse(&plain(DATA_MAX, 1, 1)).is_ok());
        for (length, kind, flags) in [(DATA_MAX + 1, 1, 1), (0, 0, 1), (0, 11, 1), (0, 255, 1), (0, 1, 2)] {
            assert!(parse(&plain(length, kind, flags)).is_err(), "{length} {kind} {flags}");
        }
    }
}
