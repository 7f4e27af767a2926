//! FETCH: messages in slices, items one at a time, never further ahead than the client reads.

use std::collections::VecDeque;

use mailbox::holder_store::{FlagChange, Flags};

use super::Summaries;
use super::output::Output;
use super::reply;
use super::section::{Item, Message, Needs};
use super::selection::Selection;
use super::session::{Answer, Ask, Turn};
use super::summary;
use super::view::View;

/// Messages that are looked up at one time.
const SLICE_MAX: usize = 256;

/// Bytes of texts that are asked for at one time; a longer text is asked for alone.
const TEXT_BYTES_MAX: usize = 256 << 10;

/// A FETCH in progress.
pub(super) struct Fetch {
    items: Vec<Item>,
    selection: Selection,
    needs: Needs,
    sees: bool,
    /// Where to look for the next message.
    next: usize,
    /// What comes before `next` and is not begun, in order.
    ahead: VecDeque<Ahead>,
    current: Option<Current>,
    /// UIDs of messages whose text went out while they were not `\Seen`.
    seen: Vec<u32>,
    some_gone: bool,
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
    /// `uid`: the items include the UID, whether it is asked for or not.
    pub(super) fn new(mut items: Vec<Item>, selection: Selection, uid: bool) -> Self {
        if uid && !items.iter().any(|item| matches!(item, Item::Uid)) {
            items.insert(0, Item::Uid);
        }
        let needs = items.iter().map(Item::needs).max().unwrap_or(Needs::Entry);
        let sees = items.iter().any(Item::sees);
        Self {
            items,
            selection,
            needs,
            sees,
            next: 0,
            ahead: VecDeque::new(),
            current: None,
            seen: Vec::new(),
            some_gone: false,
        }
    }

    /// Goes on until something is needed.
    pub(super) fn turn(&mut self, view: &View, answer: Option<Answer>, out: &mut Output) -> Turn {
        match answer {
            Some(Answer::Summaries(Ok(found))) => self.take_summaries(found),
            Some(Answer::Messages(Ok(found))) => self.take_texts(found),
            Some(Answer::Done(Ok(()))) => return self.done(),
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
                    return self.finish();
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
                    return self.finish();
                }
                if self.needs == Needs::Summary {
                    let uids = self.ahead.iter().map(|ahead| view.entries()[ahead.position].uid);
                    return Turn::Ask(Ask::Summaries(uids.collect()));
                }
            } else if out.holds_text() {
                // Those that wait are enough.
                return Turn::Transmit;
            } else {
                return Turn::Ask(Ask::Messages(self.wanted(view)));
            }
        }
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

    /// UIDs of the first messages ahead, all of which need their text.
    fn wanted(&self, view: &View) -> Vec<u32> {
        let mut bytes: usize = 0;
        let without_text = self.ahead.iter().take_while(|ahead| ahead.message.is_none());
        let entries = without_text.map(|ahead| &view.entries()[ahead.position]);
        entries
            .enumerate()
            .take_while(|(index, entry)| {
                bytes = bytes.saturating_add(entry.size as usize);
                *index == 0 || bytes <= TEXT_BYTES_MAX
            })
            .map(|(_, entry)| entry.uid)
            .collect()
    }

    fn take_summaries(&mut self, found: Summaries) {
        for (ahead, summary) in self.ahead.iter_mut().zip(found) {
            ahead.message = summary.and_then(summary::fields_of).map(Message::new);
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
            item.put(entry, current.message.as_ref(), out);
            current.written += 1;
            return;
        }
        out.put(b")\r\n");
        if self.sees && !view.read_only && !entry.flags.contains(Flags::SEEN) {
            self.seen.push(entry.uid);
        }
        self.current = None;
    }

    /// Marks what was read as read: behind the texts, so that a broken connection does not hide mail.
    fn finish(&mut self) -> Turn {
        match std::mem::take(&mut self.seen) {
            seen if seen.is_empty() => self.done(),
            seen => Turn::Ask(Ask::Store {
                uids: seen,
                change: FlagChange::Add(Flags::SEEN),
            }),
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
