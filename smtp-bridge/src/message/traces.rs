//! Traces of the user: real addresses and names that must not leave, however they are written in what is sent.

use std::collections::VecDeque;

use super::encode;
use super::html;

/// Real addresses and names of the user, as registered. `Debug` is not there, so that no log shows them.
#[derive(Clone, Default)]
pub struct Traces {
    /// Local part and domain, in lower case.
    addresses: Vec<(String, String)>,
    /// The words of each name, in lower case.
    names: Vec<Vec<String>>,
}

/// Shortest name, in bytes, that is looked for among octets: a shorter one stands there by chance.
const NAME_AMONG_MIN: usize = 4;

/// Where in a text a trace stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Line {
    /// Counted from 1.
    pub(super) number: usize,
    pub(super) is_quoted: bool,
}

impl Traces {
    /// No trace at all.
    pub const NONE: Traces = Traces {
        addresses: Vec::new(),
        names: Vec::new(),
    };

    /// Takes what is registered: what has an `@` with something on both sides is an address, all else a name.
    pub fn new<T: AsRef<str>>(registered: &[T]) -> Self {
        let mut traces = Self::NONE;
        for entry in registered {
            let entry = entry.as_ref().trim().to_lowercase();
            match entry.rsplit_once('@') {
                Some((local, domain)) if !local.is_empty() && !domain.is_empty() => {
                    let local = local.split_once('+').map_or(local, |(base, _)| base);
                    traces.addresses.push((local.to_owned(), domain.to_owned()));
                }
                _ => {
                    let words: Vec<String> = words(&entry).map(str::to_owned).collect();
                    if !words.is_empty() {
                        traces.names.push(words);
                    }
                }
            }
        }
        traces
    }

    pub(super) fn is_empty(&self) -> bool {
        self.addresses.is_empty() && self.names.is_empty()
    }

    /// Whether a trace stands in a short text: a subject, a name.
    pub(super) fn are_in(&self, text: &str) -> bool {
        self.first_in(text).is_some()
    }

    /// Whether a trace stands in HTML as we write it: in its words, or in a link.
    pub(super) fn are_in_html(&self, document: &str) -> bool {
        let words = html::to_text(document, document.len() * 4);
        self.are_in(document) || words.is_some_and(|words| self.are_in(&words))
    }

    /// Whether a trace stands among octets that are no text, such as those of a certificate: in UTF-8, in Latin-1, or in UTF-16
    /// as far as Latin-1 goes. Lengths and tags stand directly beside it there: letters around it do not make it another name.
    pub(super) fn are_in_octets(&self, octets: &[u8]) -> bool {
        if self.is_empty() {
            return false;
        }
        let latin = |octets: &mut dyn Iterator<Item = u8>| octets.map(char::from).collect::<String>();
        let is_in = |text: String| self.are_in(&text) || self.are_among(&visible(&text));
        is_in(String::from_utf8_lossy(octets).into_owned())
            || is_in(latin(&mut octets.iter().copied()))
            || is_in(latin(&mut octets.iter().copied().filter(|octet| *octet != 0)))
    }

    /// Looks for traces with whatever around them.
    fn are_among(&self, text: &str) -> bool {
        let has_address = |(local, domain): &(String, String)| {
            memchr::memmem::find_iter(text.as_bytes(), &format!("@{domain}")).any(|at| {
                let before = text[..at].char_indices().rev();
                let start = before.take_while(|(_, character)| is_local(*character)).last();
                let written = &text[start.map_or(at, |(start, _)| start)..at];
                written.ends_with(local) || written.contains(&format!("{local}+"))
            })
        };
        let has_name = |name: &Vec<String>| {
            let is_long = name.iter().map(String::len).sum::<usize>() >= NAME_AMONG_MIN;
            let first = name.first().filter(|_| is_long);
            first.is_some_and(|first| {
                memchr::memmem::find_iter(text.as_bytes(), first)
                    .any(|at| follow(&text[at + first.len()..], &name[1..]).is_some())
            })
        };
        self.addresses.iter().any(has_address) || self.names.iter().any(has_name)
    }

    /// The line of the first trace in a text.
    pub(super) fn first_in(&self, text: &str) -> Option<Line> {
        if self.is_empty() {
            return None;
        }
        let text = visible(text);
        let address = self.first_address(&text);
        let name = self.first_name(&text);
        let number = match (address, name) {
            (Some(one), Some(other)) => one.min(other),
            (one, other) => one.or(other)?,
        };
        let line = text.lines().nth(number - 1).unwrap_or_default();
        let is_quoted = line.trim_start().starts_with('>');
        Some(Line { number, is_quoted })
    }

    fn first_address(&self, text: &str) -> Option<usize> {
        if self.addresses.is_empty() {
            return None;
        }
        let mut lines = text.lines().zip(1..).peekable();
        while let Some((line, number)) = lines.next() {
            if self.has_address(line) {
                return Some(number);
            }
            // What was copied out of a message's source goes on behind a soft line break.
            let Some(start) = line.strip_suffix('=') else { continue };
            if let Some((next, _)) = lines.peek() {
                let next = next.trim_start_matches(['>', ' ']);
                if self.has_address(&format!("{start}{next}")) {
                    return Some(number);
                }
            }
        }
        None
    }

    /// Looks at a line as it is, and as it reads with the encodings undone that sources and links are written in.
    fn has_address(&self, line: &str) -> bool {
        let plain = self.has_plain_address(line);
        plain
            || (line.contains('=') && self.has_plain_address(&quoted_printable(line)))
            || (line.contains('%') && self.has_plain_address(&html::percent_decoded(line)))
            || (line.contains('&') && {
                let unescaped = html::unescaped(line);
                self.has_plain_address(&unescaped) || self.has_plain_address(&html::percent_decoded(&unescaped))
            })
    }

    fn has_plain_address(&self, line: &str) -> bool {
        let is_of = |(local, domain): &(String, String)| {
            memchr::memmem::find_iter(line.as_bytes(), domain.as_bytes()).any(|at| {
                let Some(before) = line[..at].strip_suffix('@') else {
                    return false;
                };
                let before = before.trim_end_matches('"');
                let start = before
                    .char_indices()
                    .rev()
                    .take_while(|(_, character)| is_local(*character))
                    .last()
                    .map_or(before.len(), |(at, _)| at);
                let written = before[start..].trim_start_matches(['.', '-', '_', '\'']);
                let base = written.split_once('+').map_or(written, |(base, _)| base);
                base == local && ends_domain(&line[at + domain.len()..])
            })
        };
        self.addresses.iter().any(is_of)
    }

    /// Names go over line ends and quote marks: they are wrapped with the text.
    fn first_name(&self, text: &str) -> Option<usize> {
        if self.names.is_empty() {
            return None;
        }
        let encoded = text.contains('&').then(|| html::unescaped(text));
        let text = encoded.as_deref().unwrap_or(text);
        let longest = self.names.iter().map(Vec::len).max().unwrap_or_default();
        let mut last: VecDeque<(&str, usize)> = VecDeque::with_capacity(longest);
        for (line, number) in text.lines().zip(1..) {
            for word in words(line) {
                if last.len() == longest {
                    last.pop_front();
                }
                last.push_back((word, number));
                for name in &self.names {
                    let Some(start) = last.len().checked_sub(name.len()) else {
                        continue;
                    };
                    let found = last.range(start..).map(|(word, _)| *word);
                    if found.eq(name.iter().map(String::as_str)) {
                        return Some(last[start].1);
                    }
                }
            }
        }
        None
    }
}

/// Lower case, without what is not seen: soft hyphens and joiners would hide a trace.
fn visible(text: &str) -> String {
    let is_unseen = |character: char| matches!(character, '\u{ad}' | '\u{200b}'..='\u{200d}' | '\u{2060}' | '\u{feff}');
    let lower = text.to_lowercase().replace('\u{ff20}', "@");
    match lower.contains(is_unseen) {
        true => lower.replace(is_unseen, ""),
        false => lower,
    }
}

/// What follows these words at the beginning of a text, each with something before it that is no part of a word.
fn follow<'a>(text: &'a str, words: &[String]) -> Option<&'a str> {
    words.iter().try_fold(text, |text, word| {
        let rest = text.trim_start_matches(|character: char| !character.is_alphanumeric());
        (rest.len() < text.len())
            .then(|| rest.strip_prefix(word.as_str()))
            .flatten()
    })
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|character: char| !character.is_alphanumeric())
        .filter(|word| !word.is_empty())
}

fn is_local(character: char) -> bool {
    character.is_alphanumeric() || "%'+-_.".contains(character)
}

/// Whether a domain ends before this text: a further label makes it another domain.
fn ends_domain(after: &str) -> bool {
    let mut after = after.chars();
    match after.next() {
        Some('.') => !after.next().is_some_and(char::is_alphanumeric),
        Some(next) => !(next.is_alphanumeric() || next == '-' || next == '_'),
        None => true,
    }
}

/// Undoes the escapes of quoted-printable where they are ones.
fn quoted_printable(line: &str) -> String {
    String::from_utf8_lossy(&encode::unescaped(line.as_bytes(), b'=')).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn traces() -> Traces {
        Traces::new(&["Me@Work.example", " Alice  Liddell ", "ü.name@müller.example", "@", ""])
    }

    #[test]
    fn an_address_is_found_however_it_is_written() {
        for text in [
            "me@work.example",
            "ME@WORK.EXAMPLE",
            "mail <me@work.example>, or",
            "\"me\"@work.example.",
            "mailto:me@work.example?subject=x",
            "me+shop@work.example",
            "-- \n*me@work.example*",
            "On Monday, Me wrote (me@work.example):",
            "To: =?utf-8?Q?me=40work.example?=",
            "From: me=40work=2Eexample",
            "me@wo=\nrk.example",
            "> me@wo=\n> rk.example",
            "https://x.example/?u=me%40work.example&v",
            "me&#64;work.example me&#x40;work&period;example",
            "&lt;me@work.example&gt;",
            "me@\u{ad}work.\u{200b}example",
            "me\u{ff20}work.example",
            "ü.name@MÜLLER.example",
        ] {
            assert!(traces().are_in(text), "{text}");
        }
    }

    #[test]
    fn a_name_is_found_over_line_ends_and_quote_marks() {
        for text in [
            "alice liddell",
            "Yours, ALICE\tLIDDELL.",
            "> Alice\n> Liddell wrote",
            "Alice&nbsp;Liddell",
            "liddell, alice (alice-liddell)",
        ] {
            assert!(traces().are_in(text), "{text}");
        }
    }

    #[test]
    fn others_are_let_through() {
        for text in [
            "some@work.example",
            "home.me@work.example",
            "me@work.example.org",
            "me@work.example-x.org",
            "me@network.example",
            "me at work",
            "work.example",
            "Alice Liddells",
            "Alice and Liddell",
            "malice liddell",
            "",
        ] {
            assert!(!traces().are_in(text), "{text}");
        }
        assert!(Traces::new(&["", " ", "@", "--"]).names.is_empty());
        assert!(!Traces::NONE.are_in("me@work.example"));
    }

    #[test]
    fn a_trace_is_found_among_octets_whatever_stands_beside_it() {
        let certificate = |name: &[u8]| [b"\x30\x82\x01\x00\x06\x03\x55\x04\x03\x0c\x41", name, b"1\x1e0\x1c"].concat();
        for octets in [
            b"me@work.example".to_vec(),
            b"Me+x@Work.example".to_vec(),
            b"Alice Liddell".to_vec(),
            b"alice\0\0liddell".to_vec(),
            b"\xfc.name@m\xfcller.example".to_vec(),
            "\u{fc}.name@m\u{fc}ller.example".into(),
            "Alice Liddell".encode_utf16().flat_map(u16::to_be_bytes).collect(),
        ] {
            assert!(traces().are_in_octets(&certificate(&octets)), "{octets:?}");
            assert!(!Traces::NONE.are_in_octets(&certificate(&octets)));
        }
        for octets in [
            &b"we@work.example"[..],
            b"me@work.",
            b"AliceLiddell",
            b"Alice Lidde",
            b"",
        ] {
            assert!(!traces().are_in_octets(&certificate(octets)), "{octets:?}");
        }
        assert!(!Traces::new(&["Al"]).are_in_octets(b"\x01XalX\x02"), "by chance");
        assert!(!traces().are_in_octets(&b"alice \0".repeat(100_000)));
        assert!(!traces().are_in_octets(&b"x@work.example".repeat(100_000)));
    }

    #[test]
    fn the_line_and_the_quote_are_told() {
        let line = |text: &str| traces().first_in(text);
        let at = |number, is_quoted| Some(Line { number, is_quoted });
        assert_eq!(line("a\nb\nme@work.example\nAlice Liddell"), at(3, false));
        assert_eq!(line("a\n >> Alice\n>> Liddell"), at(2, true));
        assert_eq!(line("a\nb"), None);
    }

    #[test]
    fn hostile_text_takes_linear_time() {
        for piece in [
            "@work.example",
            "me",
            "alice ",
            "=\n",
            "&#",
            "%40",
            "> ",
            "work.example@",
        ] {
            assert!(!traces().are_in(&piece.repeat(1_000_000 / piece.len())), "{piece}");
        }
    }
}
