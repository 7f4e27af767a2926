//! The list of relays, and who signed it.
//!
//! ```text
//! postern-directory:1
//! serial 7
//! from 20779                     first and last UTC day, counted from 1970
//! until 20793
//! relay a.test                   descriptors, in order of their domains
//! ...
//! signature KEY SIGNATURE        of all octets above the first of these lines, in order of the keys
//! ```

use std::fmt::Write;

use super::descriptor::{Descriptor, number};
use super::key::{DIRECTORY_KEYS_MAX, DirectoryKey, PublicKey, SIGNATURE};
use crate::Refused;
use crate::pack::{read_back, spelled};

const MARK: &str = "postern-directory:1";
const SIGNED: &str = "signature ";
/// Longest list with its signatures, in bytes.
pub const LIST_BYTES_MAX: usize = 1_048_576;
/// Most relays of a list.
pub const LIST_RELAYS_MAX: usize = 4_096;

/// Which relays there are.
#[derive(Clone, PartialEq, Eq)]
pub struct List {
    /// Counts up with every list.
    pub serial: u64,
    /// First UTC day on which it counts.
    pub from: u32,
    /// Last one.
    pub until: u32,
    /// In order of their domains, each once.
    pub relays: Vec<Descriptor>,
}

impl List {
    /// The relay of this domain.
    pub fn relay(&self, domain: &str) -> Option<&Descriptor> {
        self.relays.iter().find(|relay| relay.card.domain == domain)
    }

    /// All that is signed. Refused: the relays are not in order, a field of theirs is none, it ends before it begins, or it is
    /// too long.
    fn to_text(&self) -> Result<String, Refused> {
        let is_ordered = |pair: &[Descriptor]| pair[0].card.domain < pair[1].card.domain;
        if self.until < self.from || self.relays.len() > LIST_RELAYS_MAX || !self.relays.windows(2).all(is_ordered) {
            return Err(Refused);
        }
        let mut text = format!(
            "{MARK}\nserial {}\nfrom {}\nuntil {}\n",
            self.serial, self.from, self.until
        );
        for relay in &self.relays {
            text += &relay.to_text()?;
        }
        (text.len() <= LIST_BYTES_MAX).then_some(text).ok_or(Refused)
    }

    fn parse(body: &str) -> Result<Self, Refused> {
        let mut lines = body.strip_suffix('\n').ok_or(Refused)?.split('\n').peekable();
        if lines.next() != Some(MARK) {
            return Err(Refused);
        }
        let mut field = |name: &str| {
            let (word, value) = lines.next().and_then(|line| line.split_once(' ')).ok_or(Refused)?;
            (word == name).then_some(value).ok_or(Refused).and_then(number)
        };
        let (serial, from, until) = (field("serial")?, field("from")?, field("until")?);
        let day = |day: u64| u32::try_from(day).map_err(|_| Refused);
        let mut list = Self {
            serial,
            from: day(from)?,
            until: day(until)?,
            relays: Vec::new(),
        };
        while lines.peek().is_some() && list.relays.len() <= LIST_RELAYS_MAX {
            list.relays.push(Descriptor::read(&mut lines)?);
        }
        // Checks the rest, and that there is but one way to write it.
        (list.to_text()? == body).then_some(list).ok_or(Refused)
    }
}

/// A list and its signatures. Whose they are, and whether they fit, is for [`super::Pin::verify`].
#[derive(Clone, PartialEq, Eq)]
pub struct Signed {
    list: List,
    /// `list` as text, which is what is signed.
    body: String,
    /// In order of the keys, each once.
    signatures: Vec<(PublicKey, [u8; SIGNATURE])>,
}

impl Signed {
    /// A list that nobody signed yet. Refused: it is none.
    pub fn new(list: List) -> Result<Self, Refused> {
        Ok(Self {
            body: list.to_text()?,
            list,
            signatures: Vec::new(),
        })
    }

    /// The list.
    pub fn list(&self) -> &List {
        &self.list
    }

    /// What is signed.
    pub fn body(&self) -> &str {
        &self.body
    }

    /// Who signed, and how.
    pub fn signatures(&self) -> &[(PublicKey, [u8; SIGNATURE])] {
        &self.signatures
    }

    /// Signs it. A second signature by the same key takes the place of the first. Refused: it has as many as it may have.
    pub fn sign(&mut self, key: &DirectoryKey) -> Result<(), Refused> {
        let signature = (key.public(), key.sign(self.body.as_bytes()));
        match self.signatures.binary_search_by_key(&key.public(), |(by, _)| *by) {
            Ok(at) => self.signatures[at] = signature,
            Err(_) if self.signatures.len() == DIRECTORY_KEYS_MAX => return Err(Refused),
            Err(at) => self.signatures.insert(at, signature),
        }
        Ok(())
    }

    /// The whole file.
    pub fn to_text(&self) -> String {
        let mut text = self.body.clone();
        for (key, signature) in &self.signatures {
            let written = writeln!(text, "{SIGNED}{} {}", key.to_text(), spelled(signature));
            written.expect("a text takes any length");
        }
        text
    }

    /// Reads what [`Self::to_text`] wrote, and nothing else.
    pub fn parse(text: &str) -> Result<Self, Refused> {
        if text.len() > LIST_BYTES_MAX {
            return Err(Refused);
        }
        // No value of a descriptor has a line end, so that this is the first line of its kind.
        let end = text.find("\nsignature ").map_or(text.len(), |at| at + 1);
        let (body, below) = text.split_at(end);
        let mut signatures = Vec::new();
        for line in below.lines().take(DIRECTORY_KEYS_MAX + 1) {
            let (key, signature) = line
                .strip_prefix(SIGNED)
                .and_then(|rest| rest.split_once(' '))
                .ok_or(Refused)?;
            let signature = read_back(signature)
                .and_then(|bytes| bytes.try_into().ok())
                .ok_or(Refused)?;
            signatures.push((PublicKey::parse(key)?, signature));
        }
        let is_ordered = signatures.windows(2).all(|pair| pair[0].0 < pair[1].0);
        if signatures.len() > DIRECTORY_KEYS_MAX || !is_ordered {
            return Err(Refused);
        }
        let signed = Self {
            list: List::parse(body)?,
            body: body.to_owned(),
            signatures,
        };
        (signed.to_text() == text).then_some(signed).ok_or(Refused)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::descriptor::tests::descriptor;
    use super::*;
    use crate::Secret;
    use proptest::prelude::*;

    /// Two relays, from day 100 to 114.
    pub(crate) fn list(serial: u64) -> List {
        let mut far = descriptor("far.test");
        far.draining = true;
        List {
            serial,
            from: 100,
            until: 114,
            relays: vec![descriptor("a.test"), far],
        }
    }

    fn signed() -> Signed {
        let mut signed = Signed::new(list(7)).expect("well-formed");
        for seed in [2, 1] {
            signed.sign(&DirectoryKey::new(Secret::new([seed; 32]))).expect("room");
        }
        signed
    }

    #[test]
    fn a_list_is_read_as_it_is_written() {
        let text = signed().to_text();
        assert!(text.starts_with("postern-directory:1\nserial 7\nfrom 100\nuntil 114\nrelay a.test\n"));
        assert_eq!(text.matches("\nsignature ").count(), 2);
        assert!(Signed::parse(&text).is_ok_and(|read| read == signed()));
        let unsigned = Signed::new(list(7)).expect("well-formed");
        assert!(Signed::parse(unsigned.body()).is_ok_and(|read| read == unsigned));
    }

    #[test]
    fn relays_are_in_order_and_each_once() {
        for relays in [["b.test", "a.test"], ["a.test", "a.test"]] {
            let relays = relays.map(descriptor).to_vec();
            assert!(Signed::new(List { relays, ..list(7) }).is_err());
        }
        assert!(Signed::new(List { until: 99, ..list(7) }).is_err());
    }

    proptest! {
        /// Whatever is changed either is refused or reads as something else: nothing is passed over.
        #[test]
        fn no_octet_of_a_list_is_passed_over(at in any::<prop::sample::Index>(), by in 1u8..=255) {
            let mut octets = signed().to_text().into_bytes();
            let at = at.index(octets.len());
            octets[at] = octets[at].wrapping_add(by);
            if let Ok(text) = String::from_utf8(octets)
                && let Ok(read) = Signed::parse(&text)
            {
                prop_assert!(read != signed());
                prop_assert_eq!(read.to_text(), text);
            }
        }

        #[test]
        fn hostile_text_does_not_panic(text in "\\PC{0,200}", cut in any::<prop::sample::Index>()) {
            super::super::fuzz(text.as_bytes());
            let whole = signed().to_text();
            let cut = cut.index(whole.len());
            super::super::fuzz(&whole.as_bytes()[..cut]);
            super::super::fuzz(format!("{}{text}", &whole[..cut]).as_bytes());
        }
    }
}
