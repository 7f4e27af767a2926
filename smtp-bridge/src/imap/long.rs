//! Long texts: never in memory whole. They are sent piece by piece, and what must be known of them is found in one pass.
//!
//! The session holds a [`Long`], which can be read as long as it is held, even if another session expunges the message:
//! what was begun is sent whole. The session itself reads nothing; it asks for each piece when the one before is sent.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use mailbox::StoreError;
use mailbox::holder_store::MessageText;
use zeroize::Zeroizing;

use super::header::{self, HEADER_MAX};
use super::mime::{Content, Octets, Part};
use super::output::Text;
use super::text::Needle;

/// Texts from this length on are long, in octets.
pub(super) const LONG: usize = 256 << 10;

/// How much of the headers inside a long message is looked at, in bytes.
const INNER_HEADERS_MAX: usize = HEADER_MAX;

/// How much of a long text must be known, from the least to the most.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Depth {
    /// Its length.
    Length,
    /// Its header.
    Header,
    /// Its parts: it is read once from its beginning to its end.
    Parts,
}

/// A long text, and what is known of it.
pub struct Long {
    pub(super) source: Arc<dyn MessageText>,
    pub(super) depth: Depth,
    /// Where the body starts; the end of the text as long as that is not known.
    pub(super) header_end: usize,
    /// The parts where they lie, once they are known.
    pub(super) parts: Option<Part>,
    /// All headers that are looked at, one behind the other: the message's own first, to `own_end`.
    pub(super) headers: Text,
    pub(super) own_end: usize,
    /// The same parts, with their headers where they lie in `headers`. Their bodies are nowhere.
    pub(super) gathered: Option<Part>,
    /// Whether each of the words looked for is in the body.
    pub(super) found: Vec<bool>,
}

/// Words to look for in the body of a message.
#[derive(Default)]
pub struct Words(pub(super) Vec<Arc<Needle>>);

impl Long {
    /// Reads as much of a text as must be known of it, and looks for words in all of it.
    ///
    /// # Errors
    /// A chunk cannot be read.
    pub fn of(source: Arc<dyn MessageText>, depth: Depth, words: &Words) -> Result<Self, StoreError> {
        let depth = if words.0.is_empty() { depth } else { Depth::Parts };
        let mut window = Window::new(&*source);
        let mut long = Self {
            depth,
            header_end: source.len(),
            parts: None,
            headers: Text::default(),
            own_end: 0,
            gathered: None,
            found: Vec::new(),
            source: Arc::clone(&source),
        };
        if depth >= Depth::Header {
            long.header_end = window.header_end();
            long.headers.extend_from_slice(&window.cut(0..long.header_end));
            long.own_end = long.headers.len();
        }
        if depth >= Depth::Parts {
            let parts = Part::found_in(&mut window);
            let gathered = gather(&parts, Some(0..long.own_end), &mut window, &mut long.headers);
            long.found = vec![false; words.0.len()];
            look(
                &words.0,
                (&parts, &gathered),
                &long.headers,
                &mut window,
                &mut long.found,
            );
            (long.parts, long.gathered) = (Some(parts), Some(gathered));
        }
        match window.failure {
            Some(error) => Err(error),
            None => Ok(long),
        }
    }
}

/// Copies the headers of parts behind each other. `own`: where that of this one is already.
fn gather(part: &Part, own: Option<Range<usize>>, window: &mut Window<'_>, headers: &mut Text) -> Part {
    let header = own.unwrap_or_else(|| {
        let start = headers.len();
        let room = (HEADER_MAX + INNER_HEADERS_MAX).saturating_sub(start);
        let wanted = part.header.start..part.header.end.min(part.header.start + room);
        headers.extend_from_slice(&window.cut(wanted));
        start..headers.len()
    });
    let content = match &part.content {
        Content::Single => Content::Single,
        Content::Opaque => Content::Opaque,
        Content::Multipart(parts) => {
            Content::Multipart(parts.iter().map(|part| gather(part, None, window, headers)).collect())
        }
        Content::Message(message) => Content::Message(Box::new(gather(message, None, window, headers))),
    };
    Part {
        header,
        body: 0..part.body.len(),
        lines: part.lines,
        content,
    }
}

/// Looks for words in a part, which is given as it lies in the text and as it was gathered.
fn look(
    words: &[Arc<Needle>],
    (part, gathered): (&Part, &Part),
    headers: &[u8],
    window: &mut Window<'_>,
    found: &mut [bool],
) {
    if found.iter().all(|found| *found) {
        return;
    }
    let mut mark = |is_in: &dyn Fn(&Needle) -> bool| {
        for (word, found) in words.iter().zip(&mut *found).filter(|(_, found)| !**found) {
            *found = is_in(word);
        }
    };
    let body = part.body.start..part.body.end.min(part.body.start + super::text::PART_MAX);
    match (&part.content, &gathered.content) {
        (Content::Multipart(parts), Content::Multipart(gathered)) => {
            for pair in parts.iter().zip(gathered) {
                look(words, pair, headers, window, found);
            }
        }
        (Content::Message(message), Content::Message(gathered)) => {
            let header = &headers[gathered.header.clone()];
            mark(&|word| word.is_in_header(header));
            look(words, (message, gathered), headers, window, found);
        }
        (Content::Single, _) => {
            let header = &headers[gathered.header.clone()];
            if let Some(decoding) = super::text::Decoding::of(header) {
                let octets = window.copy(body);
                let decoded = decoding.decode(&octets);
                mark(&|word| word.is_in(&decoded));
            }
        }
        _ => {
            let octets = window.copy(body);
            mark(&|word| word.is_in(&octets));
        }
    }
}

/// A text of which one chunk is in memory.
struct Window<'t> {
    source: &'t dyn MessageText,
    start: usize,
    chunk: Text,
    failure: Option<StoreError>,
}

impl<'t> Window<'t> {
    fn new(source: &'t dyn MessageText) -> Self {
        Self {
            source,
            start: 0,
            chunk: Text::default(),
            failure: None,
        }
    }

    /// What is at hand from `at` on: nothing at the end of the text, or after a failure.
    fn from(&mut self, at: usize) -> &[u8] {
        let end = self.start + self.chunk.len();
        if !(self.start..end).contains(&at) && at < self.source.len() && self.failure.is_none() {
            match self.source.read(at) {
                Ok(chunk) => (self.start, self.chunk) = (at, chunk),
                Err(error) => self.failure = Some(error),
            }
        }
        match self.failure {
            None => self.chunk.get(at.wrapping_sub(self.start)..).unwrap_or_default(),
            Some(_) => &[],
        }
    }

    /// Octets of the text, however many.
    fn copy(&mut self, range: Range<usize>) -> Text {
        let mut octets = Zeroizing::new(Vec::with_capacity(range.len()));
        while octets.len() < range.len() {
            let left = range.len() - octets.len();
            let next = self.from(range.start + octets.len());
            if next.is_empty() {
                break;
            }
            octets.extend_from_slice(&next[..next.len().min(left)]);
        }
        octets
    }

    /// As [`header::header_end`].
    fn header_end(&mut self) -> usize {
        let mut at = 0;
        loop {
            let end = self.line_end(at);
            if end == at || header::is_blank(&self.cut(at..end.min(at + 3))) {
                return end;
            }
            at = end;
        }
    }
}

impl Octets for Window<'_> {
    fn length(&self) -> usize {
        self.source.len()
    }

    fn line_end(&mut self, mut at: usize) -> usize {
        loop {
            let next = self.from(at);
            if next.is_empty() {
                return self.length();
            }
            match next.iter().position(|&byte| byte == b'\n') {
                Some(found) => return at + found + 1,
                None => at += next.len(),
            }
        }
    }

    fn cut(&mut self, range: Range<usize>) -> Cow<'_, [u8]> {
        let range = range.start..range.end.min(range.start.saturating_add(HEADER_MAX));
        // Asked for twice, as the borrow checker does not see that the first is gone.
        match self.from(range.start).len() >= range.len() {
            true => Cow::Borrowed(&self.from(range.start)[..range.len()]),
            false => Cow::Owned(std::mem::take(&mut *self.copy(range))),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::imap::fetched;
    use crate::imap::section::{Item, Message};

    /// A text whose chunks have so many octets; from `broken` on they cannot be read.
    struct Chunked {
        text: Vec<u8>,
        chunk: usize,
        broken: usize,
    }

    impl MessageText for Chunked {
        fn len(&self) -> usize {
            self.text.len()
        }

        fn read(&self, at: usize) -> Result<Text, StoreError> {
            let end = self.len().min(at - at % self.chunk + self.chunk);
            match end > self.broken {
                true => Err(StoreError::Corrupt),
                false => Ok(Text::new(self.text.get(at..end).unwrap_or_default().to_vec())),
            }
        }
    }

    fn chunked(text: &[u8], chunk: usize) -> Arc<dyn MessageText> {
        Arc::new(Chunked {
            text: text.to_vec(),
            chunk,
            broken: usize::MAX,
        })
    }

    /// What FETCH says of these items, answered from `message`.
    fn fetched(items: &[Item], message: &Message) -> String {
        String::from_utf8_lossy(&fetched::fetched(items, message)).into_owned()
    }

    fn items(list: &str) -> Vec<Item> {
        fetched::items(list).expect("known items")
    }

    const LISTS: [&str; 7] = [
        "(BODY[] RFC822 BODY[]<3.50> BODY[]<9999.1>)",
        "(BODY[TEXT] BODY[TEXT]<5.20> RFC822.TEXT RFC822.HEADER BODY[HEADER])",
        "(BODY[HEADER.FIELDS (Subject To)] BODY[HEADER.FIELDS.NOT (Subject)]<2.9> ENVELOPE)",
        "(BODY[1] BODY[2] BODY[2.MIME] BODY[3] BODY[3.2] BODY[4] BODY[1.1])",
        "(BODY[2.HEADER] BODY[2.TEXT]<1.2> BODY[3.HEADER.FIELDS (Subject Content-Type)] BODY[2.HEADER.FIELDS.NOT (A)])",
        "(BODY BODYSTRUCTURE)",
        "(ENVELOPE BODYSTRUCTURE BODY[2] BODY[])",
    ];

    /// Lines of which messages with parts are made.
    fn lines() -> impl Strategy<Value = Vec<u8>> {
        let line = prop_oneof![
            Just("Subject: s\r\n"),
            Just("Content-Type: multipart/mixed; boundary=b\r\n"),
            Just("Content-Type: multipart/digest; boundary=\"c d\"\r\n"),
            Just("Content-Type: message/rfc822\r\n"),
            Just("Content-Type: text/plain\r\n"),
            Just("\r\n"),
            Just("\n"),
            Just("--b\r\n"),
            Just("--b  \r\n"),
            Just("--b--\r\n"),
            Just("--c d\n"),
            Just("--c d--\r\n"),
            Just("some text that has a hidden word\r\n"),
            Just("no line end"),
        ];
        proptest::collection::vec(line, 0..40).prop_map(|lines| lines.concat().into_bytes())
    }

    proptest! {
        #[test]
        fn a_long_text_is_answered_as_one_in_memory(text in lines(), chunk in 1usize..40) {
            let whole = Message::new(text.clone());
            for list in LISTS {
                let items = items(list);
                let depth = items.iter().map(Item::depth).max().expect("some");
                let long = Long::of(chunked(&text, chunk), depth, &Words::default()).expect("readable");
                prop_assert_eq!(fetched(&items, &Message::long(long)), fetched(&items, &whole), "{}", list);
            }
        }

        #[test]
        fn words_are_found_in_a_long_text_as_in_one_in_memory(text in lines(), chunk in 1usize..40) {
            let words = ["hidden WORD", "subject", "", "text that\r\n", "nowhere"];
            let words = Words(words.map(|word| Arc::new(Needle::new(word.as_bytes()))).to_vec());
            let whole = Message::new(text.clone());
            let expected: Vec<bool> = words.0.iter().map(|word| word.is_in_body(&whole)).collect();
            let long = Long::of(chunked(&text, chunk), Depth::Header, &words).expect("readable");
            prop_assert_eq!(long.found, expected);
        }

        #[test]
        fn what_cannot_be_read_is_an_error_and_no_message(text in lines(), broken in 0usize..400) {
            let is_broken = broken < text.len();
            let source = Arc::new(Chunked { text, chunk: 1, broken });
            let long = Long::of(source, Depth::Parts, &Words::default());
            prop_assert_eq!(long.is_err(), is_broken);
        }
    }

    /// A text that counts how often it is read.
    struct Counted(Arc<dyn MessageText>, std::sync::atomic::AtomicUsize);

    impl MessageText for Counted {
        fn len(&self) -> usize {
            self.0.len()
        }

        fn read(&self, at: usize) -> Result<Text, StoreError> {
            self.1.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            self.0.read(at)
        }
    }

    #[test]
    fn what_is_behind_the_last_word_is_not_read_again() {
        let start = "Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\na word\r\n".to_owned();
        let text = start + &"--b\r\n\r\nmore text\r\n".repeat(500);
        let reads = |words: &[&str]| {
            let counted = Arc::new(Counted(chunked(text.as_bytes(), 100), Default::default()));
            let words = words.iter().map(|word| Arc::new(Needle::new(word.as_bytes())));
            let long = Long::of(counted.clone(), Depth::Parts, &Words(words.collect())).expect("readable");
            (long.found, counted.1.load(std::sync::atomic::Ordering::Relaxed))
        };
        let (_, without) = reads(&[]);
        let (found, first) = reads(&["word"]);
        assert!(found == [true] && first < without + 10, "{first} {without}");
        let (found, all) = reads(&["word", "nowhere"]);
        assert!(found == [true, false] && all > without + 50, "{all} {without}");
    }

    #[test]
    fn headers_without_end_are_cut_where_they_are_kept() {
        let endless = b"Received: x\r\n".repeat(HEADER_MAX / 10);
        let inner = [b"--b\r\n".as_slice(), &endless, b"\r\none\r\n"].concat();
        let start = b"Content-Type: multipart/mixed; boundary=b\r\n\r\n";
        let text = [start.as_slice(), &inner, &inner, &inner, b"--b--\r\n"].concat();
        let long = Long::of(chunked(&text, 64 << 10), Depth::Parts, &Words::default()).expect("readable");
        assert!(long.headers.len() <= HEADER_MAX + INNER_HEADERS_MAX);
        let message = Message::long(long);
        let third = fetched(&items("BODY[3]"), &message);
        assert_eq!(third, "BODY[3] {3}\r\none");
        let header = fetched(&items("BODY[2.MIME]"), &message);
        assert_eq!(header.len(), "BODY[2.MIME] {1362992}\r\n".len() + endless.len() + 2);
    }
}
