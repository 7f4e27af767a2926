//! A pack on paper (`docs/PROTOCOL.md` section 9): text for QR codes, in parts that are numbered and checked.
//!
//! ```text
//! part = "POSTERN:1:" set ":" number "/" parts ":" data ":" check
//! ```
//!
//! What is printed is sealed as it is in the file: paper adds a form, and no cryptography.

use crate::kdf;

use super::BLOCK;

const MARK: &str = "POSTERN:1:";
const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
/// Part of a header block that is not zeros.
const HEADER: usize = 112;
const CONTENT: usize = HEADER + BLOCK;
/// Bytes of content in one part: a camera reads a code of about 100 modules from paper.
const STEP: usize = 530;
/// Parts of a pack.
const PARTS: usize = CONTENT.div_ceil(STEP);

/// Why texts of codes are no pack: a sentence for whoever scanned them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PaperFault {
    /// No part is among them.
    Nothing,
    /// A part's check does not agree.
    Misread,
    /// Parts of two packs.
    Mixed,
    /// Numbers of parts that are not there.
    Missing(Vec<usize>),
    /// All parts agree, and what they make up does not.
    Wrong,
}

impl std::fmt::Display for PaperFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Nothing => f.write_str("no code of a pack is in there"),
            Self::Misread => f.write_str("a code was read wrongly: scan it again"),
            Self::Mixed => f.write_str("these codes are of different packs"),
            Self::Missing(numbers) => {
                let numbers: Vec<String> = numbers.iter().map(usize::to_string).collect();
                write!(f, "of {PARTS} codes these are missing: {}", numbers.join(", "))
            }
            Self::Wrong => f.write_str("the codes do not make up a pack"),
        }
    }
}

impl std::error::Error for PaperFault {}

/// The parts of a pack: of its header block and its issue block, one copy of each.
pub fn paper_parts(header: &[u8; BLOCK], issue: &[u8; BLOCK]) -> Vec<String> {
    parts(&[&header[..HEADER], issue].concat())
}

/// Header block and issue block from the parts in a text: one a line, in any order, any of them more than once, with anything
/// before them.
pub fn read_paper(text: &str) -> Result<Box<[[u8; BLOCK]; 2]>, PaperFault> {
    let content = joined(text)?;
    let mut blocks = Box::new([[0; BLOCK]; 2]);
    let (header, issue) = content.split_at(HEADER);
    blocks[0][..HEADER].copy_from_slice(header);
    blocks[1].copy_from_slice(issue);
    Ok(blocks)
}

fn parts(content: &[u8]) -> Vec<String> {
    let set = short(content);
    let count = content.len().div_ceil(STEP);
    let part = |(number, data): (usize, &[u8])| {
        let head = format!("{MARK}{set}:{}/{count}:{}:", number + 1, spelled(data));
        let check = short(head.as_bytes());
        head + &check
    };
    content.chunks(STEP).enumerate().map(part).collect()
}

/// The content of all parts in a text, or what is missing.
fn joined(text: &str) -> Result<Vec<u8>, PaperFault> {
    let mut set: Option<&str> = None;
    let mut found: Vec<Option<Vec<u8>>> = vec![None; PARTS];
    for line in text.lines() {
        let Some(at) = line.find(MARK) else { continue };
        let line = line[at..].trim_end();
        let part = Part::read(line).ok_or(PaperFault::Misread)?;
        if *set.get_or_insert(part.set) != part.set {
            return Err(PaperFault::Mixed);
        }
        found[part.number - 1] = Some(part.data);
    }
    let Some(set) = set else {
        return Err(PaperFault::Nothing);
    };
    let missing: Vec<usize> = (1..)
        .zip(&found)
        .filter(|(_, part)| part.is_none())
        .map(|(number, _)| number)
        .collect();
    if !missing.is_empty() {
        return Err(PaperFault::Missing(missing));
    }
    let content: Vec<u8> = found.into_iter().flatten().flatten().collect();
    if content.len() != CONTENT || short(&content) != set {
        return Err(PaperFault::Wrong);
    }
    Ok(content)
}

/// One code as it was read.
struct Part<'a> {
    set: &'a str,
    number: usize,
    data: Vec<u8>,
}

impl<'a> Part<'a> {
    /// `None`: its check does not agree, or it is none.
    fn read(line: &'a str) -> Option<Self> {
        let (head, check) = line.split_at_checked(line.rfind(':')? + 1)?;
        if short(head.as_bytes()) != check {
            return None;
        }
        let mut fields = head.strip_prefix(MARK)?.split(':');
        let (set, place, data) = (fields.next()?, fields.next()?, fields.next()?);
        let (number, count) = place.split_once('/')?;
        let (number, count): (usize, usize) = (number.parse().ok()?, count.parse().ok()?);
        if count != PARTS || !(1..=PARTS).contains(&number) {
            return None;
        }
        Some(Self {
            set,
            number,
            data: read_back(data)?,
        })
    }
}

/// The first 40 bits of SHA-256, spelled.
pub(crate) fn short(bytes: &[u8]) -> String {
    spelled(&kdf::hash(&[bytes])[..5])
}

/// Five bits to a character, most significant first, the last one filled up with zeros.
pub(crate) fn spelled(bytes: &[u8]) -> String {
    let bit = |at: usize| bytes.get(at / 8).map_or(0, |byte| byte >> (7 - at % 8) & 1);
    (0..bytes.len() * 8)
        .step_by(5)
        .map(|at| char::from(ALPHABET[(0..5).fold(0, |sum, next| sum << 1 | usize::from(bit(at + next)))]))
        .collect()
}

pub(crate) fn read_back(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() * 5 / 8);
    let (mut held, mut bits) = (0u32, 0);
    for character in text.bytes() {
        let five = ALPHABET.iter().position(|symbol| *symbol == character)?;
        held = held << 5 | u32::try_from(five).ok()?;
        bits += 5;
        if bits >= 8 {
            bits -= 8;
            bytes.push(u8::try_from(held >> bits & 0xff).ok()?);
        }
        held &= 0xff;
    }
    Some(bytes)
}

/// Feeds hostile text to the reader; must not panic.
pub(super) fn fuzz(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let _ = joined(text);
    if let Some(bytes) = read_back(text) {
        assert!(
            read_back(&spelled(&bytes)).is_some_and(|again| again == bytes),
            "what was read can be read again"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample() -> Vec<u8> {
        (0..CONTENT).map(|at| (at * 7 % 251) as u8).collect()
    }

    #[test]
    fn parts_in_any_order_and_twice_make_up_the_content() {
        let mut lines = parts(&sample());
        assert_eq!(lines.len(), PARTS);
        lines.reverse();
        lines.push(lines[2].clone());
        let text = format!("QR-Code:{}\n\nnoise", lines.join("\r\nQR-Code:"));
        assert_eq!(joined(&text), Ok(sample()));
    }

    #[test]
    fn what_is_missing_damaged_or_mixed_is_said() {
        let lines = parts(&sample());
        assert_eq!(joined(&lines[1..].join("\n")), Err(PaperFault::Missing(vec![1])));
        let damaged = lines.join("\n").replacen("0", "1", 40);
        assert!(joined(&damaged).is_err());
        let mut other = sample();
        other[0] ^= 1;
        let mixed = format!("{}\n{}", lines[..4].join("\n"), parts(&other)[4..].join("\n"));
        assert_eq!(joined(&mixed), Err(PaperFault::Mixed));
        assert_eq!(joined(""), Err(PaperFault::Nothing));
    }

    #[test]
    fn a_part_is_of_characters_that_codes_hold_densely() {
        let dense = |byte: u8| byte.is_ascii_digit() || byte.is_ascii_uppercase() || b" $%*+-./:".contains(&byte);
        assert!(parts(&sample()).iter().all(|part| part.bytes().all(dense)));
    }

    proptest! {
        #[test]
        fn what_is_spelled_reads_back(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            prop_assert_eq!(read_back(&spelled(&bytes)), Some(bytes));
        }

        #[test]
        fn one_changed_character_is_noticed(at in 0usize..800, by in 1u8..20) {
            let line = parts(&sample()).remove(0);
            let at = at % line.len();
            let mut changed = line.clone().into_bytes();
            changed[at] = changed[at].wrapping_add(by);
            if let Ok(changed) = String::from_utf8(changed) {
                prop_assert!(Part::read(&changed).is_none());
            }
        }
    }
}
