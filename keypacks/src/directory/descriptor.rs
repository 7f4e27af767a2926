//! What a directory says of one relay.
//!
//! ```text
//! relay far.test
//! link relay.far.test:7465
//! key KEY                        52 characters
//! operator Far Cooperative
//! prices 10000 100 7             µtok for each recipient, kilobyte and link key
//! exit any                       or "own", or "only" and domains
//! links 4096                     most at one time
//! draining                       if it is being left
//! ```

use std::fmt::Write;

use crate::Refused;
use crate::pack::{read_back, spelled};
use crate::procure::{Card, is_domain};

/// Longest name of an operator, in bytes.
pub const OPERATOR_BYTES_MAX: usize = 64;
/// Most domains that a relay delivers to alone.
const EXIT_DOMAINS_MAX: usize = 32;

/// One relay, as its operator describes it.
#[derive(Clone, PartialEq, Eq)]
pub struct Descriptor {
    /// Its domain, where its links are, and its static X25519 key.
    pub card: Card,
    /// Who runs it: relays of one operator know together what each of them knows.
    pub operator: String,
    /// What it takes.
    pub prices: Prices,
    /// Where it delivers mail by itself.
    pub exit: Exit,
    /// Most links at one time.
    pub links: u64,
    /// Its operator is leaving: no new packs are made there.
    pub draining: bool,
}

/// Prices in µtok.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Prices {
    /// For each recipient of a message.
    pub message: u64,
    /// For each 1,000 bytes of size class, for each recipient.
    pub kilobyte: u64,
    /// For each link key.
    pub key: u64,
}

/// Where a relay delivers mail by itself, its own aliases besides.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Exit {
    /// Everywhere.
    Any,
    /// Nowhere else.
    Own,
    /// To these domains, in order.
    Only(Vec<String>),
}

impl Descriptor {
    /// As text. Refused: a field is none.
    pub fn to_text(&self) -> Result<String, Refused> {
        let domain = &self.card.domain;
        // Checks domain and address.
        self.card.to_text()?;
        let is_operator = |text: &str| {
            let is_printable = |byte: u8| byte.is_ascii_graphic() || byte == b' ';
            (1..=OPERATOR_BYTES_MAX).contains(&text.len()) && text.bytes().all(is_printable) && text.trim() == text
        };
        if !is_operator(&self.operator) {
            return Err(Refused);
        }
        let exit = match &self.exit {
            Exit::Any => "any".to_owned(),
            Exit::Own => "own".to_owned(),
            Exit::Only(domains) => {
                let is_ordered = domains.windows(2).all(|pair| pair[0] < pair[1]);
                let is_bounded = (1..=EXIT_DOMAINS_MAX).contains(&domains.len());
                if !is_ordered || !is_bounded || !domains.iter().all(|domain| is_domain(domain)) {
                    return Err(Refused);
                }
                format!("only {}", domains.join(" "))
            }
        };
        let Prices { message, kilobyte, key } = self.prices;
        let (address, public) = (&self.card.address, spelled(&self.card.relay_public));
        let mut text = format!(
            "relay {domain}\nlink {address}\nkey {public}\noperator {}\nprices {message} {kilobyte} {key}\nexit {exit}\nlinks {}\n",
            self.operator, self.links
        );
        if self.draining {
            text.write_str("draining\n").map_err(|_| Refused)?;
        }
        Ok(text)
    }

    /// Reads what [`Self::to_text`] wrote, and nothing else.
    pub fn parse(text: &str) -> Result<Self, Refused> {
        let mut lines = text.strip_suffix('\n').ok_or(Refused)?.split('\n').peekable();
        let descriptor = Self::read(&mut lines)?;
        match lines.next() {
            None if descriptor.to_text()? == text => Ok(descriptor),
            _ => Err(Refused),
        }
    }

    /// Reads the lines of one. Whether it is the only way to write it is for the caller to see.
    pub(super) fn read<'a>(lines: &mut std::iter::Peekable<impl Iterator<Item = &'a str>>) -> Result<Self, Refused> {
        let mut field = |name: &str| {
            let (word, value) = lines.next().and_then(|line| line.split_once(' ')).ok_or(Refused)?;
            (word == name).then_some(value).ok_or(Refused)
        };
        let (domain, address, key) = (field("relay")?, field("link")?, field("key")?);
        let operator = field("operator")?;
        let prices: Vec<u64> = field("prices")?.split(' ').map(number).collect::<Result<_, _>>()?;
        let [message, kilobyte, price] = prices[..] else {
            return Err(Refused);
        };
        let exit = match field("exit")? {
            "any" => Exit::Any,
            "own" => Exit::Own,
            only => {
                let domains = only.strip_prefix("only ").ok_or(Refused)?;
                Exit::Only(
                    domains
                        .split(' ')
                        .take(EXIT_DOMAINS_MAX + 1)
                        .map(str::to_owned)
                        .collect(),
                )
            }
        };
        let links = number(field("links")?)?;
        Ok(Self {
            card: Card {
                domain: domain.to_owned(),
                address: address.to_owned(),
                relay_public: read_back(key).and_then(|key| key.try_into().ok()).ok_or(Refused)?,
            },
            operator: operator.to_owned(),
            prices: Prices {
                message,
                kilobyte,
                key: price,
            },
            exit,
            links,
            draining: lines.next_if_eq(&"draining").is_some(),
        })
    }
}

pub(super) fn number(text: &str) -> Result<u64, Refused> {
    text.parse().map_err(|_| Refused)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) fn descriptor(domain: &str) -> Descriptor {
        Descriptor {
            card: Card {
                domain: domain.to_owned(),
                address: format!("relay.{domain}:7465"),
                relay_public: std::array::from_fn(|at| at as u8),
            },
            operator: "Far Cooperative".to_owned(),
            prices: Prices {
                message: 10_000,
                kilobyte: 100,
                key: 7,
            },
            exit: Exit::Any,
            links: 4_096,
            draining: false,
        }
    }

    #[test]
    fn a_descriptor_is_these_lines() {
        let text = descriptor("far.test").to_text().expect("well-formed");
        assert_eq!(
            text,
            "relay far.test\nlink relay.far.test:7465\nkey 000G40R40M30E209185GR38E1W8124GK2GAHC5RR34D1P70X3RFG\n\
             operator Far Cooperative\nprices 10000 100 7\nexit any\nlinks 4096\n"
        );
        assert!(Descriptor::parse(&text).is_ok_and(|read| read == descriptor("far.test")));
    }

    #[test]
    fn what_is_written_otherwise_is_refused() {
        let text = descriptor("far.test").to_text().expect("well-formed");
        for (from, to) in [
            ("far.test\n", "Far.test\n"),
            ("10000 100 7", "10000 100"),
            ("10000 100 7", "+10000 100 7"),
            ("10000 100 7", "10000 100 7 7"),
            ("exit any", "exit all"),
            ("exit any", "exit only b.test a.test"),
            ("operator Far Cooperative", "operator  Far Cooperative"),
            ("operator Far Cooperative", "operator Fär"),
            ("links 4096\n", "links 4096"),
            ("links 4096\n", "links 4096\ndraining\ndraining\n"),
            ("links 4096\n", "links 4096\nother 1\n"),
            ("3RFG", "3RFH"),
        ] {
            let wrong = text.replacen(from, to, 1);
            assert!(wrong != text, "{from}");
            assert!(Descriptor::parse(&wrong).is_err(), "{wrong}");
        }
    }

    fn exit() -> impl Strategy<Value = Exit> {
        let domains = proptest::collection::btree_set("[a-z0-9.-]{1,12}", 1..6);
        prop_oneof![
            Just(Exit::Any),
            Just(Exit::Own),
            domains.prop_map(|domains| Exit::Only(domains.into_iter().collect())),
        ]
    }

    proptest! {
        #[test]
        fn every_descriptor_is_read_as_it_is_written(
            operator in "[!-~]([ -~]{0,62}[!-~])?",
            (message, kilobyte, key, links) in any::<(u64, u64, u64, u64)>(),
            exit in exit(),
            draining in any::<bool>(),
            relay_public in any::<[u8; 32]>(),
        ) {
            let mut written = descriptor("a.test");
            written.card.relay_public = relay_public;
            written = Descriptor { operator, prices: Prices { message, kilobyte, key }, exit, links, draining, ..written };
            let text = written.to_text().expect("well-formed");
            prop_assert!(Descriptor::parse(&text).is_ok_and(|read| read == written));
        }
    }
}
