//! FETCH: messages in slices, items one at a time, never further ahead than the client reads.

use std::collections::VecDeque;

use mailbox::holder_store::{FlagChange, Flags, StoreFlags};

use super::long::{Depth, LONG, Long, Words};
use super::output::Output;
use super::reply;
use super::section::{Item, Message, Needs};
use super::selection::Selection;
use super::session::{Answer, Ask, Turn};
use super::summary;
use super::view::View;
use super::{Failure, Summaries};

/// Messages that are looked up at one time.
const SLICE_MAX: usize = 256;

/// Bytes of texts that are asked for at one time; a text that is longer is asked for alone, and never in memory whole.
const TEXT_BYTES_MAX: usize = LONG;

/// A FETCH in progress.
pub(super) struct Fetch {
    items: Vec<Item>,
    selection: Selection,
    needs: Needs,
    /// Of a long text.
    depth: Depth,
    sees: bool,
    /// Whether it asks for part of a text.
    is_partial: bool,
    /// Where to look for the next message.
    next: usize,
    /// What comes before `next` and is not begun, in order.
    ahead: VecDeque<Ahead>,
    current: Option<Current>,
    /// A text of which there may be more to send: clients fetch a long one part by part, and it is read once.
    kept: Option<Kept>,
    /// UIDs of messages whose text went out while they were not `\Seen`.
    seen: Vec<u32>,
    some_gone: bool,
}

/// The text of a message that was fetched in part.
pub(super) struct Kept {
    uid: u32,
    message: Message,
}

impl Kept {
    /// Of which message.
    pub(super) fn uid(&self) -> u32 {
        self.uid
    }
}

/// A message whose turn comes soon.
struct Ahead {
    position: usize,
    /// `None`: its text is still to be read.
    message: Option<Message>,
}

/// The message that is being answered from.
struct Current {
    position: usize,
    /// Items already written.
    written: usize,
    message: Option<Message>,
}

impl Fetch {
    /// `kept`: what the FETCH before this one left.
    pub(super) fn new(items: Vec<Item>, selection: Selection, kept: Option<Kept>) -> Self {
        let needs = items.iter().map(Item::needs).max().unwrap_or(Needs::Entry);
        let depth = items.iter().map(Item::depth).max().unwrap_or(Depth::Length);
        let sees = items.iter().any(Item::sees);
        let is_partial = items.iter().any(Item::is_partial);
        Self {
            items,
            selection,
            needs,
            depth,
            sees,
            is_partial,
            next: 0,
            ahead: VecDeque::new(),
            current: None,
            kept,
            seen: Vec::new(),
            some_gone: false,
        }
    }

    /// Goes on until something is needed.
    pub(super) fn turn(&mut self, view: &View, answer: Option<Answer>, out: &mut Output) -> Turn {
        match answer {
            Some(Answer::Summaries(Ok(found))) => self.take_summaries(found),
            Some(Answer::Messages(Ok(found))) => self.take_texts(found),
            Some(Answer::Text(Ok(found))) => self.take_long(found),
            Some(Answer::Stored(Ok(_))) => return self.done(),
            // The folder is gone, and the messages in it.
            Some(Answer::Stored(Err(Failure::NoFolder))) => return Turn::Done(reply::SOME_EXPUNGED),
            Some(_) => return Turn::Done(reply::UNAVAILABLE),
            None => {}
        }
        loop {
            if out.is_high() {
                return Turn::Transmit;
            }
            if self.current.is_some() {
                self.put_item(view, out);
            } else if self.needs == Needs::Entry {
                let Some(position) = self.selection.next_from(self.next) else {
                    return self.finish(view);
                };
                self.next = position + 1;
                self.begin(position, None, out);
            } else if let Some(Ahead { message: Some(_), .. }) = self.ahead.front() {
                let Some(Ahead { position, message }) = self.ahead.pop_front() else {
                    continue;
                };
                self.begin(position, message, out);
            } else if self.ahead.is_empty() {
                self.look_ahead();
                if self.ahead.is_empty() {
                    return self.finish(view);
                }
                if self.needs < Needs::Text {
                    let uids = self.ahead.iter().map(|ahead| view.entries()[ahead.position].uid);
                    return Turn::Ask(Ask::Summaries(view.folder, uids.collect()));
                }
            } else if out.holds_text() {
                // Those that wait are enough.
                return Turn::Transmit;
            } else if !self.take_kept(view) {
                return Turn::Ask(match self.long_ahead(view) {
                    Some(uid) => Ask::Text(view.folder, uid, self.depth, Words::default()),
                    None => Ask::Messages(view.folder, self.wanted(view)),
                });
            }
        }
    }

    /// What is left for the next FETCH, at the end.
    pub(super) fn into_kept(self) -> Option<Kept> {
        self.kept.filter(|_| self.is_partial)
    }

    /// Whether the text of the first message ahead is the one that was kept.
    fn take_kept(&mut self, view: &View) -> bool {
        let Some(ahead) = self.ahead.front_mut() else {
            return false;
        };
        let uid = view.entries()[ahead.position].uid;
        let depth = self.depth;
        let suits = |message: &Message| message.long.as_ref().is_none_or(|long| long.depth >= depth);
        let kept = self.kept.take_if(|kept| kept.uid == uid && suits(&kept.message));
        ahead.message = kept.map(|kept| kept.message);
        ahead.message.is_some()
    }

    /// The next slice of the selection.
    fn look_ahead(&mut self) {
        while self.ahead.len() < SLICE_MAX
            && let Some(position) = self.selection.next_from(self.next)
        {
            self.next = position + 1;
            self.ahead.push_back(Ahead {
                position,
                message: None,
            });
        }
    }

    /// UID of the first message ahead, if its text is long.
    fn long_ahead(&self, view: &View) -> Option<u32> {
        let entry = &view.entries()[self.ahead.front()?.position];
        (entry.size as usize >= LONG).then_some(entry.uid)
    }

    /// UIDs of the first messages ahead, all of which need their text.
    fn wanted(&self, view: &View) -> Vec<u32> {
        let mut bytes: usize = 0;
        let without_text = self.ahead.iter().take_while(|ahead| ahead.message.is_none());
        let entries = without_text.map(|ahead| &view.entries()[ahead.position]);
        entries
            .enumerate()
            .take_while(|(index, entry)| {
                bytes = bytes.saturating_add(entry.size as usize);
                *index == 0 || bytes < TEXT_BYTES_MAX
            })
            .map(|(_, entry)| entry.uid)
            .collect()
    }

    fn take_summaries(&mut self, found: Summaries) {
        for (ahead, summary) in self.ahead.iter_mut().zip(found) {
            let message = summary.and_then(summary::read);
            ahead.message = message.filter(|message| message.satisfies >= self.needs);
        }
    }

    /// Texts of the first messages ahead; those behind are asked for again.
    fn take_texts(&mut self, found: Vec<Option<Vec<u8>>>) {
        let mut there = Vec::with_capacity(found.len());
        for text in found {
            let Some(mut ahead) = self.ahead.pop_front() else { break };
            ahead.message = text.map(Message::new);
            match ahead.message {
                Some(_) => there.push(ahead),
                None => self.some_gone = true,
            }
        }
        for ahead in there.into_iter().rev() {
            self.ahead.push_front(ahead);
        }
    }

    fn take_long(&mut self, found: Option<Long>) {
        match (found, self.ahead.front_mut()) {
            (Some(long), Some(ahead)) => ahead.message = Some(Message::long(long)),
            _ => {
                self.ahead.pop_front();
                self.some_gone = true;
            }
        }
    }

    fn begin(&mut self, position: usize, message: Option<Message>, out: &mut Output) {
        out.put_fmt(format_args!("* {} FETCH (", position + 1));
        self.current = Some(Current {
            position,
            written: 0,
            message,
        });
    }

    fn put_item(&mut self, view: &View, out: &mut Output) {
        let Some(current) = &mut self.current else { return };
        let entry = &view.entries()[current.position];
        if let Some(item) = self.items.get(current.written) {
            if current.written > 0 {
                out.put(b" ");
            }
            item.put(entry, view.names(), current.message.as_ref(), out);
            current.written += 1;
            return;
        }
        out.put(b")\r\n");
        if self.sees && !view.read_only && !entry.flags.contains(Flags::SEEN) {
            self.seen.push(entry.uid);
        }
        let uid = entry.uid;
        let message = self.current.take().and_then(|current| current.message);
        let message = message.filter(|message| self.is_partial && message.satisfies == Needs::Text);
        self.kept = message.map(|message| Kept { uid, message });
    }

    /// Marks what was read as read: behind the texts, so that a broken connection does not hide mail.
    fn finish(&mut self, view: &View) -> Turn {
        match std::mem::take(&mut self.seen) {
            uids if uids.is_empty() => self.done(),
            uids => {
                let store = StoreFlags {
                    uids,
                    change: FlagChange::Add(Flags::SEEN),
                    unchanged_since: None,
                };
                Turn::Ask(Ask::Store(view.folder, store))
            }
        }
    }

    fn done(&self) -> Turn {
        Turn::Done(if self.some_gone {
            reply::SOME_EXPUNGED
        } else {
            reply::COMPLETED
        })
    }
}
