//! A message that comes in: by DATA up to its final dot, or by BDAT chunk by chunk (RFC 3030).

use super::data::{ChunkScanner, DataScanner, Found};
use super::limits::{BareNewlines, DRAIN_MAX, Limits};
use super::replies::{self, Reply};
use super::session::{Event, Progress};

/// A message that comes by DATA.
pub(super) struct Text {
    scanner: DataScanner,
    pub(super) octets: u64,
    /// Why it is drained instead of taken.
    pub(super) refusal: Option<Reply>,
}

impl Text {
    pub(super) fn new() -> Self {
        Self {
            scanner: DataScanner::new(),
            octets: 0,
            refusal: None,
        }
    }

    /// Finds what is next; nothing when the message is over.
    pub(super) fn handle<'i>(&mut self, input: &'i [u8], limits: &Limits) -> (usize, Option<Progress<'i>>) {
        let (used, found) = self.scanner.scan(input);
        let (text, fault) = match found {
            Found::Nothing => return (used, Some(Progress::Waits)),
            Found::End => return (used, None),
            found => octets_of(found, limits),
        };
        self.octets += text.len() as u64;
        let too_big = (self.octets > limits.size_max).then_some(replies::TOO_BIG);
        let progress = match (&self.refusal, too_big.or(fault)) {
            (Some(_), _) if self.octets > DRAIN_MAX => return (used, None),
            (Some(_), _) => Progress::Continues,
            (None, Some(fault)) => {
                self.refusal = Some(fault);
                Progress::Asks(Event::TextRefused)
            }
            (None, None) => Progress::Asks(Event::Text(text)),
        };
        (used, Some(progress))
    }
}

/// What a message is stored with of a thing found in it, and why it may not be.
fn octets_of<'i>(found: Found<'i>, limits: &Limits) -> (&'i [u8], Option<Reply>) {
    let refuses_bare = limits.bare_newlines == BareNewlines::Refuse;
    match found {
        Found::Text(text) => (text, None),
        Found::BareNewline => (b"\r\n", refuses_bare.then_some(replies::BARE_NEWLINE)),
        Found::Nothing | Found::End => (b"", None),
    }
}

/// A message of which chunks came, and more are to come.
pub(super) struct Chunked {
    scanner: ChunkScanner,
    /// Octets so far.
    octets: u64,
}

impl Chunked {
    pub(super) fn new() -> Self {
        Self {
            scanner: ChunkScanner::new(),
            octets: 0,
        }
    }

    /// Whether a chunk of so many octets is more than may come: told before any of them is read.
    pub(super) fn has_no_room_for(&self, octets: u64, limits: &Limits) -> bool {
        self.octets.saturating_add(octets) > limits.size_max
    }
}

/// The octets of one BDAT.
pub(super) struct Chunk {
    left: u64,
    pub(super) is_last: bool,
    /// The message that it belongs to, or why the chunk is drained.
    pub(super) message: Result<Chunked, Reply>,
}

impl Chunk {
    pub(super) fn new(octets: u64, is_last: bool, message: Result<Chunked, Reply>) -> Self {
        Self {
            left: octets,
            is_last,
            message,
        }
    }

    /// Finds what is next; nothing when the chunk is over, and with the last one the message.
    ///
    /// Never takes an octet beyond the chunk.
    pub(super) fn handle<'i>(&mut self, input: &'i [u8], limits: &Limits) -> (usize, Option<Progress<'i>>) {
        let in_chunk = usize::try_from(self.left).unwrap_or(usize::MAX).min(input.len());
        let Ok(message) = &mut self.message else {
            self.left -= in_chunk as u64;
            return (in_chunk, (self.left > 0).then_some(Progress::Waits));
        };
        let (used, found) = match (self.left, self.is_last) {
            (0, true) => (0, message.scanner.end()),
            (0, false) => (0, Found::End),
            _ => message.scanner.scan(&input[..in_chunk]),
        };
        self.left -= used as u64;
        let (text, fault) = match found {
            Found::End => return (used, None),
            Found::Nothing if used == 0 => return (0, Some(Progress::Waits)),
            Found::Nothing => return (used, Some(Progress::Continues)),
            found => octets_of(found, limits),
        };
        message.octets += text.len() as u64;
        let too_big = (message.octets > limits.size_max).then_some(replies::TOO_BIG);
        let progress = match too_big.or(fault) {
            Some(fault) => {
                self.message = Err(fault);
                Progress::Asks(Event::TextRefused)
            }
            None => Progress::Asks(Event::Text(text)),
        };
        (used, Some(progress))
    }
}
