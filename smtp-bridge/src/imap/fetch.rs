//! FETCH: one message at a time, one item at a time, never further ahead than the client reads.

use mailbox::holder_store::{FlagChange, Flags};

use super::output::Output;
use super::reply;
use super::section::{Item, Message};
use super::selection::Selection;
use super::session::{Answer, Ask, Turn};
use super::view::View;

/// A FETCH in progress.
pub(super) struct Fetch {
    items: Vec<Item>,
    selection: Selection,
    needs_text: bool,
    sees: bool,
    /// Where to look for the next message.
    next: usize,
    current: Option<Current>,
    /// UIDs of messages whose text went out while they were not `\Seen`.
    seen: Vec<u32>,
    some_gone: bool,
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
        let needs_text = items.iter().any(Item::needs_text);
        let sees = items.iter().any(Item::sees);
        Self {
            items,
            selection,
            needs_text,
            sees,
            next: 0,
            current: None,
            seen: Vec::new(),
            some_gone: false,
        }
    }

    /// Goes on until something is needed.
    pub(super) fn turn(&mut self, view: &View, answer: Option<Answer>, out: &mut Output) -> Turn {
        match answer {
            Some(Answer::Message(Ok(Some(text)))) => self.begin(Some(Message::new(text)), out),
            Some(Answer::Message(Ok(None))) => {
                self.some_gone = true;
                self.next += 1;
            }
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
                continue;
            }
            let Some(position) = self.selection.next_from(self.next) else {
                return self.finish();
            };
            self.next = position;
            if !self.needs_text {
                self.begin(None, out);
                continue;
            }
            if out.holds_text() {
                // One text at a time.
                return Turn::Transmit;
            }
            return Turn::Ask(Ask::Message(view.entries()[position].uid));
        }
    }

    fn begin(&mut self, message: Option<Message>, out: &mut Output) {
        out.put_fmt(format_args!("* {} FETCH (", self.next + 1));
        self.current = Some(Current {
            position: self.next,
            written: 0,
            message,
        });
        self.next += 1;
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
