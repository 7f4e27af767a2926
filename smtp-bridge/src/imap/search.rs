//! SEARCH (RFC 3501 section 6.4.4).

use imap_codec::imap_types::core::Charset;
use imap_codec::imap_types::datetime::NaiveDate;
use imap_codec::imap_types::search::SearchKey;
use mail_parser::DateTime;
use mailbox::holder_store::{Entries, Entry, Flags};

use super::header;
use super::output::Output;
use super::reply;
use super::section::Message;
use super::selection::Selection;
use super::session::{Answer, Ask, Turn};
use super::text::Needle;
use super::view::View;

const DAY_SECONDS: u64 = 86_400;

/// A SEARCH in progress.
pub(super) struct Search {
    test: Test,
    uid: bool,
    /// The message that is looked at.
    position: usize,
    begun: bool,
    some_gone: bool,
}

impl Search {
    /// `keys` must all hold.
    pub(super) fn new(keys: &[SearchKey<'_>], uid: bool, view: &View) -> Self {
        let test = Test::All(keys.iter().map(|key| Test::of(key, view.entries())).collect());
        Self {
            test,
            uid,
            position: 0,
            begun: false,
            some_gone: false,
        }
    }

    /// Goes on until something is needed.
    pub(super) fn turn(&mut self, view: &View, answer: Option<Answer>, out: &mut Output) -> Turn {
        if !std::mem::replace(&mut self.begun, true) {
            out.put(b"* SEARCH");
        }
        match answer {
            Some(Answer::Message(Ok(Some(text)))) => {
                let message = Message::new(text);
                let found = view.entries().get(self.position);
                let matches = found.and_then(|entry| self.test.settle(self.position, entry, Some(&message)));
                self.settled(matches == Some(true), view, out);
            }
            Some(Answer::Message(Ok(None))) => {
                self.some_gone = true;
                self.settled(false, view, out);
            }
            Some(_) => {
                out.put(b"\r\n");
                return Turn::Done(reply::UNAVAILABLE);
            }
            None => {}
        }
        while let Some(entry) = view.entries().get(self.position) {
            if out.is_high() {
                return Turn::Transmit;
            }
            match self.test.settle(self.position, entry, None) {
                Some(matches) => self.settled(matches, view, out),
                None if out.holds_text() => return Turn::Transmit,
                None => return Turn::Ask(Ask::Message(entry.uid)),
            }
        }
        out.put(b"\r\n");
        Turn::Done(if self.some_gone {
            reply::SOME_EXPUNGED
        } else {
            reply::COMPLETED
        })
    }

    fn settled(&mut self, matches: bool, view: &View, out: &mut Output) {
        if matches {
            let uid = view.entries().get(self.position).map_or(0, |entry| entry.uid);
            let number = if self.uid {
                u64::from(uid)
            } else {
                self.position as u64 + 1
            };
            out.put_fmt(format_args!(" {number}"));
        }
        self.position += 1;
    }
}

/// Whether the strings of a SEARCH are in a character set that is understood.
pub(super) fn knows_charset(charset: &Charset<'_>) -> bool {
    ["US-ASCII", "UTF-8"]
        .iter()
        .any(|known| charset.as_ref().eq_ignore_ascii_case(known))
}

/// A search key, ready to be asked of each message.
enum Test {
    All(Vec<Test>),
    Or(Box<[Test; 2]>),
    Not(Box<Test>),
    Always(bool),
    Flag(Flags),
    Among(Selection),
    /// Whether INTERNALDATE is on a day that compares so to that one, in days since 1970.
    Received(Comparison, i64),
    /// The same of the `Date` field, whatever its zone.
    Sent(Comparison, i64),
    Larger(u32),
    Smaller(u32),
    Field(Vec<u8>, Needle),
    Body(Needle),
    Text(Needle),
}

#[derive(Clone, Copy)]
enum Comparison {
    Before,
    On,
    Since,
}

impl Comparison {
    fn holds(self, day: i64, than: i64) -> bool {
        match self {
            Self::Before => day < than,
            Self::On => day == than,
            Self::Since => day >= than,
        }
    }
}

impl Test {
    fn of(key: &SearchKey<'_>, entries: &Entries) -> Self {
        use Comparison::{Before, On, Since};
        let not = |test| Self::Not(Box::new(test));
        let field = |name: &[u8], value: &[u8]| match Needle::new(value) {
            // Only HEADER asks whether a field is there at all.
            needle if needle.is_empty() => Self::Always(true),
            needle => Self::Field(name.to_vec(), needle),
        };
        match key {
            SearchKey::And(keys) => Self::All(keys.as_ref().iter().map(|key| Self::of(key, entries)).collect()),
            SearchKey::Or(one, other) => Self::Or(Box::new([Self::of(one, entries), Self::of(other, entries)])),
            SearchKey::Not(key) => not(Self::of(key, entries)),
            SearchKey::All | SearchKey::Old | SearchKey::Unkeyword(_) => Self::Always(true),
            // No message has keywords, or is recent.
            SearchKey::Keyword(_) | SearchKey::New | SearchKey::Recent => Self::Always(false),
            SearchKey::SequenceSet(set) => Self::Among(Selection::by_number_within(set, entries.len())),
            SearchKey::Uid(set) => Self::Among(Selection::by_uid(set, entries)),
            SearchKey::Answered => Self::Flag(Flags::ANSWERED),
            SearchKey::Deleted => Self::Flag(Flags::DELETED),
            SearchKey::Draft => Self::Flag(Flags::DRAFT),
            SearchKey::Flagged => Self::Flag(Flags::FLAGGED),
            SearchKey::Seen => Self::Flag(Flags::SEEN),
            SearchKey::Unanswered => not(Self::Flag(Flags::ANSWERED)),
            SearchKey::Undeleted => not(Self::Flag(Flags::DELETED)),
            SearchKey::Undraft => not(Self::Flag(Flags::DRAFT)),
            SearchKey::Unflagged => not(Self::Flag(Flags::FLAGGED)),
            SearchKey::Unseen => not(Self::Flag(Flags::SEEN)),
            SearchKey::Before(date) => Self::Received(Before, day(date)),
            SearchKey::On(date) => Self::Received(On, day(date)),
            SearchKey::Since(date) => Self::Received(Since, day(date)),
            SearchKey::SentBefore(date) => Self::Sent(Before, day(date)),
            SearchKey::SentOn(date) => Self::Sent(On, day(date)),
            SearchKey::SentSince(date) => Self::Sent(Since, day(date)),
            SearchKey::Larger(size) => Self::Larger(*size),
            SearchKey::Smaller(size) => Self::Smaller(*size),
            SearchKey::Bcc(value) => field(b"Bcc", value.as_ref()),
            SearchKey::Cc(value) => field(b"Cc", value.as_ref()),
            SearchKey::From(value) => field(b"From", value.as_ref()),
            SearchKey::Subject(value) => field(b"Subject", value.as_ref()),
            SearchKey::To(value) => field(b"To", value.as_ref()),
            SearchKey::Header(name, value) => Self::Field(name.as_ref().to_vec(), Needle::new(value.as_ref())),
            SearchKey::Body(value) => Self::Body(Needle::new(value.as_ref())),
            SearchKey::Text(value) => Self::Text(Needle::new(value.as_ref())),
        }
    }

    /// The answer for one message. `None`: it takes the message's text to know.
    fn settle(&self, position: usize, entry: &Entry, message: Option<&Message>) -> Option<bool> {
        let settle = |test: &Self| test.settle(position, entry, message);
        Some(match self {
            Self::All(tests) => return all(tests, settle),
            Self::Or(tests) => {
                return all(tests.as_slice(), |test| settle(test).map(|holds| !holds)).map(|holds| !holds);
            }
            Self::Not(test) => !settle(test)?,
            Self::Always(answer) => *answer,
            Self::Flag(flag) => entry.flags.contains(*flag),
            Self::Among(selection) => selection.contains(position),
            Self::Received(comparison, than) => comparison.holds((entry.internal_date / DAY_SECONDS) as i64, *than),
            Self::Larger(size) => entry.size > *size,
            Self::Smaller(size) => entry.size < *size,
            Self::Sent(comparison, than) => sent_day(message?.header()).is_some_and(|day| comparison.holds(day, *than)),
            Self::Field(name, needle) => needle.is_in_field(message?.header(), name),
            Self::Body(needle) => needle.is_in_body(message?),
            Self::Text(needle) => needle.is_in_header(message?.header()) || needle.is_in_body(message?),
        })
    }
}

/// Whether all hold: `false` as soon as one is known not to, even if others are not known.
fn all(tests: &[Test], settle: impl Fn(&Test) -> Option<bool>) -> Option<bool> {
    let mut answer = Some(true);
    for test in tests {
        match settle(test) {
            Some(false) => return Some(false),
            None => answer = None,
            Some(true) => {}
        }
    }
    answer
}

/// Days since 1970, which is the default of the type inside.
fn day(date: &NaiveDate) -> i64 {
    date.as_ref().signed_duration_since(Default::default()).num_days()
}

/// The day a message says it was sent, as written there.
fn sent_day(header: &[u8]) -> Option<i64> {
    let value = header::unfold(header::value(header, "Date")?);
    let date = DateTime::parse_rfc822(std::str::from_utf8(&value).ok()?)?;
    Some(date.to_timestamp_local().div_euclid(DAY_SECONDS as i64))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use imap_codec::imap_types::command::CommandBody;
    use mailbox::holder_store::Snapshot;

    use super::*;
    use crate::imap::command;

    const MESSAGES: [&str; 3] = [
        "From: ann@x.example\r\nSubject: One\r\nDate: Thu, 1 Jan 2026 23:30:00 -0800\r\n\r\nhello\r\n",
        "From: bob@x.example\r\nTo: ann@x.example\r\nSubject: =?utf-8?Q?gr=C3=BCn?=\r\n\r\nworld\r\n",
        "Cc: \r\n\r\nnothing\r\n",
    ];

    fn view() -> View {
        let entry = |(index, text): (usize, &&str)| Entry {
            uid: index as u32 * 10 + 10,
            flags: Flags([8, 2, 0][index]),
            size: text.len() as u32,
            internal_date: 1_767_225_600 + index as u64 * DAY_SECONDS,
            modseq: 1,
        };
        let entries = MESSAGES.iter().enumerate().map(entry).collect();
        View::new(
            &Arc::new(Snapshot {
                version: 1,
                uid_validity: 1,
                uid_next: 99,
                highest_modseq: 1,
                entries,
            }),
            false,
        )
    }

    /// What is found, and for how many messages the text was asked for.
    fn searched(keys: &str) -> (String, usize) {
        let line = format!("a SEARCH {keys}\r\n");
        let body = command::parse(line.as_bytes())
            .unwrap_or_else(|_| panic!("{keys}"))
            .body;
        let CommandBody::Search { criteria, .. } = body else {
            panic!("a SEARCH")
        };
        let (view, mut out) = (view(), Output::default());
        let mut search = Search::new(criteria.as_ref(), false, &view);
        let (mut answer, mut asked) = (None, 0);
        while let Turn::Ask(Ask::Message(uid)) = search.turn(&view, answer.take(), &mut out) {
            asked += 1;
            answer = Some(Answer::Message(Ok(Some(
                MESSAGES[uid as usize / 10 - 1].as_bytes().to_vec(),
            ))));
        }
        let found = String::from_utf8_lossy(out.front()).replace("* SEARCH", "");
        (found.trim().to_string(), asked)
    }

    #[test]
    fn keys_find_their_messages_and_read_no_more_than_they_must() {
        let cases = [
            ("ALL", "1 2 3", 0),
            ("SEEN", "1", 0),
            ("UNSEEN UNFLAGGED", "3", 0),
            ("NOT (SEEN)", "2 3", 0),
            ("OR SEEN FLAGGED", "1 2", 0),
            ("2:*", "2 3", 0),
            ("7", "", 0),
            ("UID 10,30:40", "1 3", 0),
            ("KEYWORD x", "", 0),
            ("UNKEYWORD x NEW", "", 0),
            ("RECENT", "", 0),
            ("OLD UNDELETED UNDRAFT UNANSWERED", "1 2 3", 0),
            ("BEFORE 2-Jan-2026", "1", 0),
            ("ON 2-Jan-2026", "2", 0),
            ("SINCE 2-Jan-2026", "2 3", 0),
            ("LARGER 70", "1 2", 0),
            ("SMALLER 30", "3", 0),
            ("SENTON 1-Jan-2026", "1", 3),
            ("SENTBEFORE 1-Jan-2026", "", 3),
            ("FROM ANN", "1", 3),
            ("SEEN FROM x.example", "1", 1),
            ("OR SEEN FROM bob", "1 2", 2),
            ("NOT FROM bob", "1 3", 3),
            ("SUBJECT {5+}\r\nGR\u{dc}N", "2", 3),
            ("SUBJECT {5+}\r\ngr\u{fc}n", "2", 3),
            ("HEADER Cc \"\"", "3", 3),
            ("CC \"\"", "1 2 3", 0),
            ("HEADER subject one", "1", 3),
            ("BODY hello", "1", 3),
            ("BODY subject", "", 3),
            ("TEXT subject", "1 2", 3),
            ("TEXT nothing", "3", 3),
            ("(1 BODY hello) ALL", "1", 1),
        ];
        for (keys, found, asked) in cases {
            assert_eq!(searched(keys), (found.to_string(), asked), "{keys}");
        }
    }
}
