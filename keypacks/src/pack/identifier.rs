//! The identifier of a pack, as people read and type it.

use sha2::{Digest, Sha256};

use zeroize::Zeroizing;

use crate::{Refused, Secret};

/// What names a pack towards its holder and the relay's operator. It never crosses the wire, and is not printed by
/// accident: only [`Identifier::to_text`] shows it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Identifier(pub [u8; 16]);

/// Crockford's base 32: no I, L, O or U.
const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
/// What an identifier's checksum is made for.
const PURPOSE: &str = "identifier";
/// 128 bits and 12 bits of checksum, 5 to a character.
const CHARACTERS: usize = 28;
const GROUP: usize = 4;

impl Identifier {
    /// Seven groups of four characters: `XXXX-XXXX-XXXX-XXXX-XXXX-XXXX-XXXX`.
    ///
    /// The last 12 bits are the first of `SHA-256("postern/1/identifier" 0x00 | identifier)`: of 4,096 slips of
    /// the pen, one is taken for another account and the rest are refused.
    pub fn to_text(&self) -> String {
        spell(&self.0, PURPOSE)
    }

    /// Reads what [`Identifier::to_text`] wrote, in either case, with or without hyphens and spaces, and with the
    /// letters O, I and L for the digits they are taken for.
    pub fn parse(text: &str) -> Result<Self, Refused> {
        let read = unspell(text, PURPOSE)?;
        Ok(Self(*read.expose()))
    }
}

/// 16 octets as seven groups of four characters, the last 12 bits a checksum of their own for each purpose.
pub(crate) fn spell(octets: &[u8; 16], purpose: &str) -> String {
    let bits = Bits {
        octets: Secret::new(*octets),
        checksum: checksum(octets, purpose),
    };
    let mut text = String::with_capacity(CHARACTERS + CHARACTERS / GROUP - 1);
    for position in 0..CHARACTERS {
        if position > 0 && position % GROUP == 0 {
            text.push('-');
        }
        text.push(char::from(ALPHABET[usize::from(bits.five(position))]));
    }
    text
}

/// Reads what [`spell`] wrote for the same purpose.
pub(crate) fn unspell(text: &str, purpose: &str) -> Result<Secret<16>, Refused> {
    let mut whole = Zeroizing::new([0; 18]);
    let mut position = 0;
    for character in text.bytes().filter(|byte| !matches!(byte, b'-' | b' ')) {
        if position == CHARACTERS {
            return Err(Refused);
        }
        put_five(&mut whole, position, value(character)?);
        position += 1;
    }
    let (octets, rest) = whole.split_first_chunk::<16>().ok_or(Refused)?;
    let sum = u16::from_be_bytes([rest[0], rest[1]]) >> 4;
    if position == CHARACTERS && sum == checksum(octets, purpose) {
        Ok(Secret::new(*octets))
    } else {
        Err(Refused)
    }
}

/// The 140 bits of the text, most significant first.
struct Bits {
    octets: Secret<16>,
    checksum: u16,
}

impl Bits {
    fn five(&self, position: usize) -> u8 {
        let mut whole = Zeroizing::new([0; 19]);
        whole[..16].copy_from_slice(self.octets.expose());
        whole[16..18].copy_from_slice(&(self.checksum << 4).to_be_bytes());
        let (byte, shift) = (position * 5 / 8, position * 5 % 8);
        let pair = u16::from_be_bytes([whole[byte], whole[byte + 1]]);
        u8::try_from((pair >> (11 - shift)) & 31).expect("five bits fit a byte")
    }
}

fn put_five(whole: &mut [u8; 18], position: usize, five: u8) {
    let (byte, shift) = (position * 5 / 8, position * 5 % 8);
    let [high, low] = (u16::from(five) << (11 - shift)).to_be_bytes();
    whole[byte] |= high;
    if let Some(next) = whole.get_mut(byte + 1) {
        *next |= low;
    }
}

fn value(character: u8) -> Result<u8, Refused> {
    let digit = match character.to_ascii_uppercase() {
        b'O' => b'0',
        b'I' | b'L' => b'1',
        other => other,
    };
    let found = ALPHABET.iter().position(|symbol| *symbol == digit).ok_or(Refused)?;
    u8::try_from(found).map_err(|_| Refused)
}

/// 12 bits.
fn checksum(octets: &[u8; 16], purpose: &str) -> u16 {
    let digest = Sha256::new()
        .chain_update(b"postern/1/")
        .chain_update(purpose)
        .chain_update([0])
        .chain_update(octets)
        .finalize();
    u16::from_be_bytes([digest[0], digest[1]]) >> 4
}

pub(super) fn fuzz(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(identifier) = Identifier::parse(text) {
        assert!(
            Identifier::parse(&identifier.to_text()) == Ok(identifier),
            "what was read can be read again"
        );
    }
}
