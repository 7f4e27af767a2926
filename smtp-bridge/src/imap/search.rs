//! SEARCH (RFC 3501 section 6.4.4).

use std::collections::VecDeque;
use std::sync::Arc;

use imap_codec::imap_types::core::Charset;
use imap_codec::imap_types::datetime::NaiveDate;
use imap_codec::imap_types::search::SearchKey;
use mail_parser::DateTime;
use mailbox::holder_store::{Entry, Flags};

use super::header;
use super::long::{Depth, LONG, Words};
use super::output::Output;
use super::reply;
use super::section::{Message, Needs};
use super::selection::Selection;
use super::session::{Answer, Ask, Turn};
use super::summary;
use super::text::Needle;
use super::view::View;

const DAY_SECONDS: u64 = 86_400;

/// Messages whose summaries are looked up at one time.
const SLICE_MAX: usize = 256;

/// A SEARCH in progress.
pub(super) struct Search {
    test: Test,
    /// What `test` looks for in bodies.
    words: Vec<Arc<Needle>>,
    uid: bool,
    /// The message that is looked at.
    position: usize,
    /// Summaries of messages from `position` on that it takes more than an entry to know of, in order.
    ahead: VecDeque<Ahead>,
    /// Highest MODSEQ of those found, if it is to be told (RFC 7162 section 3.1.5).
    modseq: Option<u64>,
    begun: bool,
    some_gone: bool,
}

/// A message that is not yet settled.
struct Ahead {
    position: usize,
    summary: Option<Message>,
}

impl Search {
    /// `keys` must all hold.
    pub(super) fn new(keys: &[SearchKey<'_>], uid: bool, view: &View) -> Self {
        let mut words = Vec::new();
        let test = Test::All(keys.iter().map(|key| Test::of(key, view, &mut words)).collect());
        let modseq = test.any(&|test| matches!(test, Test::ModSeq(_))).then_some(0);
        Self {
            test,
            words,
            uid,
            position: 0,
            ahead: VecDeque::new(),
            modseq,
            begun: false,
            some_gone: false,
        }
    }

    /// Whether the answer ends with a MODSEQ.
    pub(super) fn tells_modseq(&self) -> bool {
        self.modseq.is_some()
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
            Some(Answer::Text(Ok(Some(long)))) => {
                let message = Message::long(long);
                let found = view.entries().get(self.position);
                let matches = found.and_then(|entry| self.test.settle(self.position, entry, Some(&message)));
                self.settled(matches == Some(true), view, out);
            }
            Some(Answer::Message(Ok(None)) | Answer::Text(Ok(None))) => {
                self.some_gone = true;
                self.settled(false, view, out);
            }
            Some(Answer::Summaries(Ok(summaries))) => {
                for (ahead, summary) in self.ahead.iter_mut().zip(summaries) {
                    ahead.summary = summary.and_then(summary::read);
                }
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
            if let Some(matches) = self.test.settle(self.position, entry, None) {
                self.settled(matches, view, out);
                continue;
            }
            let first = self.ahead.front().is_some_and(|ahead| ahead.position == self.position);
            let ahead = if first { self.ahead.pop_front() } else { None };
            let Some(ahead) = ahead else {
                if self
                    .test
                    .any(&|test| matches!(test.needs(), Needs::Envelope | Needs::Structure))
                {
                    return Turn::Ask(Ask::Summaries(view.folder, self.look_ahead(view)));
                }
                self.ahead.push_back(Ahead {
                    position: self.position,
                    summary: None,
                });
                continue;
            };
            let summary = ahead.summary.as_ref();
            match summary.and_then(|summary| self.test.settle(self.position, entry, Some(summary))) {
                Some(matches) => self.settled(matches, view, out),
                None if out.holds_text() => {
                    self.ahead.push_front(ahead);
                    return Turn::Transmit;
                }
                None if entry.size as usize >= LONG => {
                    let words = Words(self.words.clone());
                    return Turn::Ask(Ask::Text(view.folder, entry.uid, Depth::Header, words));
                }
                None => return Turn::Ask(Ask::Message(view.folder, entry.uid)),
            }
        }
        if let Some(modseq) = self.modseq.filter(|modseq| *modseq > 0) {
            out.put_fmt(format_args!(" (MODSEQ {modseq})"));
        }
        out.put(b"\r\n");
        Turn::Done(if self.some_gone {
            reply::SOME_EXPUNGED
        } else {
            reply::COMPLETED
        })
    }

    /// The next messages that an entry does not settle, and their UIDs.
    fn look_ahead(&mut self, view: &View) -> Vec<u32> {
        let entries = (self.position..).zip(view.entries().iter_from(self.position));
        let unsettled = entries.filter(|(position, entry)| self.test.settle(*position, entry, None).is_none());
        let (positions, uids): (Vec<usize>, Vec<u32>) = unsettled
            .take(SLICE_MAX)
            .map(|(position, entry)| (position, entry.uid))
            .unzip();
        let ahead = positions.into_iter().map(|position| Ahead {
            position,
            summary: None,
        });
        self.ahead = ahead.collect();
        uids
    }

    fn settled(&mut self, matches: bool, view: &View, out: &mut Output) {
        if matches && let Some(entry) = view.entries().get(self.position) {
            let number = if self.uid {
                u64::from(entry.uid)
            } else {
                self.position as u64 + 1
            };
            self.modseq = self.modseq.map(|modseq| modseq.max(entry.modseq));
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
    /// Whether the message was changed at that MODSEQ or later.
    ModSeq(u64),
    Among(Selection),
    /// Whether INTERNALDATE is on a day that compares so to that one, in days since 1970.
    Received(Comparison, i64),
    /// The same of the `Date` field, whatever its zone.
    Sent(Comparison, i64),
    Larger(u32),
    Smaller(u32),
    Field(Vec<u8>, Needle),
    /// The same of a field of addresses, as it stands or without what is no part of them.
    Addresses(Vec<u8>, Needle),
    /// With its place among the words that are looked for in bodies.
    Body(Arc<Needle>, usize),
    Text(Arc<Needle>, usize),
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
    /// `words`: what is looked for in bodies so far.
    fn of(key: &SearchKey<'_>, view: &View, words: &mut Vec<Arc<Needle>>) -> Self {
        let entries = view.entries();
        use Comparison::{Before, On, Since};
        let not = |test| Self::Not(Box::new(test));
        let field = |name: &[u8], value: &[u8]| match Needle::new(value) {
            // Only HEADER asks whether a field is there at all.
            needle if needle.is_empty() => Self::Always(true),
            needle => Self::Field(name.to_vec(), needle),
        };
        let addresses = |name: &[u8], value: &[u8]| match Needle::new(value) {
            needle if needle.is_empty() => Self::Always(true),
            needle => Self::Addresses(name.to_vec(), needle),
        };
        let recent = || Self::Among(Selection::of(view.recent().collect()));
        let keyword = |name: &str| match view.folders().keyword(name) {
            Some(flag) => Self::Flag(flag),
            None => Self::Always(false),
        };
        match key {
            SearchKey::And(keys) => Self::All(keys.as_ref().iter().map(|key| Self::of(key, view, words)).collect()),
            SearchKey::Or(one, other) => Self::Or(Box::new([Self::of(one, view, words), Self::of(other, view, words)])),
            SearchKey::Not(key) => not(Self::of(key, view, words)),
            SearchKey::All => Self::Always(true),
            SearchKey::Recent => recent(),
            SearchKey::Old => not(recent()),
            SearchKey::New => Self::All(vec![recent(), not(Self::Flag(Flags::SEEN))]),
            SearchKey::Keyword(name) => keyword(name.as_ref()),
            SearchKey::Unkeyword(name) => not(keyword(name.as_ref())),
            // A message has one MODSEQ for all of its flags.
            SearchKey::ModSequence { modseq, .. } => Self::ModSeq(*modseq),
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
            SearchKey::Bcc(value) => addresses(b"Bcc", value.as_ref()),
            SearchKey::Cc(value) => addresses(b"Cc", value.as_ref()),
            SearchKey::From(value) => addresses(b"From", value.as_ref()),
            SearchKey::Subject(value) => field(b"Subject", value.as_ref()),
            SearchKey::To(value) => addresses(b"To", value.as_ref()),
            SearchKey::Header(name, value) => Self::Field(name.as_ref().to_vec(), Needle::new(value.as_ref())),
            SearchKey::Body(value) | SearchKey::Text(value) => {
                let (needle, place) = (Arc::new(Needle::new(value.as_ref())), words.len());
                words.push(Arc::clone(&needle));
                match key {
                    SearchKey::Body(_) => Self::Body(needle, place),
                    _ => Self::Text(needle, place),
                }
            }
        }
    }

    /// What it takes to settle this by itself.
    fn needs(&self) -> Needs {
        match self {
            Self::Sent(..) => Needs::Envelope,
            Self::Field(name, _) | Self::Addresses(name, _) => summary::needs(name),
            Self::Body(..) | Self::Text(..) => Needs::Text,
            _ => Needs::Entry,
        }
    }

    /// Whether this holds for the test or any inside it.
    fn any(&self, holds: &impl Fn(&Self) -> bool) -> bool {
        holds(self)
            || match self {
                Self::All(tests) => tests.iter().any(|test| test.any(holds)),
                Self::Or(tests) => tests.iter().any(|test| test.any(holds)),
                Self::Not(test) => test.any(holds),
                _ => false,
            }
    }

    /// The answer for one message. `None`: it takes more of the message to know.
    fn settle(&self, position: usize, entry: &Entry, message: Option<&Message>) -> Option<bool> {
        let settle = |test: &Self| test.settle(position, entry, message);
        let message = message.filter(|message| message.satisfies >= self.needs());
        Some(match self {
            Self::All(tests) => return all(tests, settle),
            Self::Or(tests) => {
                return all(tests.as_slice(), |test| settle(test).map(|holds| !holds)).map(|holds| !holds);
            }
            Self::Not(test) => !settle(test)?,
            Self::Always(answer) => *answer,
            Self::Flag(flag) => entry.flags.contains(*flag),
            Self::ModSeq(modseq) => entry.modseq >= *modseq,
            Self::Among(selection) => selection.contains(position),
            Self::Received(comparison, than) => comparison.holds((entry.internal_date / DAY_SECONDS) as i64, *than),
            Self::Larger(size) => entry.size > *size,
            Self::Smaller(size) => entry.size < *size,
            Self::Sent(comparison, than) => sent_day(message?.header()).is_some_and(|day| comparison.holds(day, *than)),
            Self::Field(name, needle) => needle.is_in_field(message?.header(), name),
            Self::Addresses(name, needle) => {
                let header = message?.header();
                needle.is_in_field(header, name) || needle.is_in_addresses(header, name)
            }
            Self::Body(needle, place) => is_in_body(needle, *place, message?),
            Self::Text(needle, place) => needle.is_in_header(message?.header()) || is_in_body(needle, *place, message?),
        })
    }
}

/// Of a long message it is known already what is in its body.
fn is_in_body(needle: &Needle, place: usize, message: &Message) -> bool {
    match &message.long {
        Some(long) => long.found.get(place).copied().unwrap_or(false),
        None => needle.is_in_body(message),
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
    use mailbox::holder_store::{FolderId, Folders, Snapshot};
    use zeroize::Zeroizing;

    use super::*;
    use crate::imap::command;
    use crate::imap::recent::Recent;
    use crate::imap::view::Now;

    const MESSAGES: [&str; 3] = [
        "From: ann@x.example\r\nSubject: One\r\nDate: Thu, 1 Jan 2026 23:30:00 -0800\r\n\r\nhello\r\n",
        "From: bob@x.example\r\nTo: ann@x.example\r\nSubject: =?utf-8?Q?gr=C3=BCn?=\r\n\r\nworld\r\n",
        "Cc: \r\n\r\nnothing\r\n",
    ];

    fn view() -> View {
        let entry = |(index, text): (usize, &&str)| Entry {
            uid: index as u32 * 10 + 10,
            flags: Flags([8, 2 | 32, 0][index]),
            size: text.len() as u32,
            internal_date: 1_767_225_600 + index as u64 * DAY_SECONDS,
            modseq: index as u64 * 100 + 100,
        };
        let entries = MESSAGES.iter().enumerate().map(entry).collect();
        let folders = Folders {
            keywords: vec!["$Forwarded".to_owned()],
            ..Folders::default()
        };
        let snapshot = Snapshot {
            version: 1,
            uid_validity: 1,
            uid_next: 99,
            highest_modseq: 300,
            entries,
        };
        let now = Now {
            snapshot: &Arc::new(snapshot),
            recent: &Recent::new(&folders, 30),
            folders: &Arc::new(folders),
        };
        View::new(FolderId::INBOX, &now, false)
    }

    /// What is found, and for how many messages the text was asked for.
    fn searched(keys: &str) -> (String, usize) {
        let line = format!("a SEARCH {keys}\r\n");
        let body = command::parse(line.as_bytes())
            .unwrap_or_else(|_| panic!("{keys}"))
            .command
            .body;
        let CommandBody::Search { criteria, .. } = body else {
            panic!("a SEARCH")
        };
        let (view, mut out) = (view(), Output::default());
        let mut search = Search::new(criteria.as_ref(), false, &view);
        let (mut answer, mut asked) = (None, 0);
        let text = |uid: u32| MESSAGES[uid as usize / 10 - 1].as_bytes();
        loop {
            answer = Some(match search.turn(&view, answer.take(), &mut out) {
                Turn::Ask(Ask::Message(_, uid)) => {
                    asked += 1;
                    Answer::Message(Ok(Some(text(uid).to_vec())))
                }
                Turn::Ask(Ask::Summaries(_, uids)) => {
                    let summary = |uid| (uid != 30).then(|| Zeroizing::new(summary::summary(text(uid))));
                    Answer::Summaries(Ok(uids.into_iter().map(summary).collect()))
                }
                _ => break,
            });
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
            ("KEYWORD $FORWARDED", "2", 0),
            ("UNKEYWORD $forwarded", "1 3", 0),
            ("MODSEQ 150", "2 3 (MODSEQ 300)", 0),
            ("MODSEQ \"/flags/\\\\seen\" all 100 SEEN", "1 (MODSEQ 100)", 0),
            ("MODSEQ 301", "", 0),
            ("UNKEYWORD x NEW", "3", 0),
            ("RECENT", "3", 0),
            ("OLD", "1 2", 0),
            ("UNDELETED UNDRAFT UNANSWERED", "1 2 3", 0),
            ("BEFORE 2-Jan-2026", "1", 0),
            ("ON 2-Jan-2026", "2", 0),
            ("SINCE 2-Jan-2026", "2 3", 0),
            ("LARGER 70", "1 2", 0),
            ("SMALLER 30", "3", 0),
            ("SENTON 1-Jan-2026", "1", 1),
            ("SENTBEFORE 1-Jan-2026", "", 1),
            ("FROM ANN", "1", 1),
            ("SEEN FROM x.example", "1", 0),
            ("OR SEEN FROM bob", "1 2", 1),
            ("NOT FROM bob", "1 3", 1),
            ("FROM bob@x.example", "2", 1),
            ("SUBJECT {5+}\r\nGR\u{dc}N", "2", 1),
            ("SUBJECT {5+}\r\ngr\u{fc}n", "2", 1),
            ("HEADER Cc \"\"", "3", 1),
            ("CC \"\"", "1 2 3", 0),
            ("HEADER subject one", "1", 1),
            ("HEADER X-None \"\"", "", 3),
            ("FROM bob BODY world", "2", 2),
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
