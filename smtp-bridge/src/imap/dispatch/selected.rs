//! The commands of the selected state (RFC 3501 section 6.4).

use imap_codec::imap_types::command::{CommandBody, FetchModifier, StoreModifier};
use imap_codec::imap_types::fetch::MacroOrMessageDataItemNames;
use imap_codec::imap_types::flag::{Flag, StoreResponse, StoreType};
use imap_codec::imap_types::mailbox::Mailbox;
use imap_codec::imap_types::search::SearchKey;
use imap_codec::imap_types::sequence::SequenceSet;
use mailbox::holder_store::{Flags, FolderId, Snapshot};

use super::Outcome;
use crate::imap::Mailboxes;
use crate::imap::command;
use crate::imap::fetch::Fetch;
use crate::imap::flags::Named;
use crate::imap::reply;
use crate::imap::search::{self, Search};
use crate::imap::section::Item;
use crate::imap::selection::Selection;
use crate::imap::session::{Ask, Flagged, Session, State, Task};
use crate::imap::view::{Moment, View};

impl Session {
    pub(super) fn dispatch_selected(
        &mut self,
        tag: String,
        body: CommandBody<'_>,
        mailboxes: &dyn Mailboxes,
    ) -> Outcome {
        let State::Selected(view) = &self.state else {
            return if needs_mailbox(&body) {
                reply::NOT_SELECTED.into()
            } else {
                reply::NOT_OFFERED.into()
            };
        };
        if matches!(body, CommandBody::Unselect) {
            self.state = State::Authenticated;
            return reply::COMPLETED.into();
        }
        let folder = view.folder;
        let Some(now) = mailboxes.folder(folder) else {
            if matches!(body, CommandBody::Close) {
                self.state = State::Authenticated;
                return reply::COMPLETED.into();
            }
            return Outcome::Lost;
        };
        match body {
            CommandBody::Check => reply::COMPLETED.into(),
            CommandBody::Close => self.close(tag, folder, &now),
            CommandBody::Expunge => self.expunge(tag, None, &now),
            CommandBody::ExpungeUid { sequence_set } => self.expunge(tag, Some(&sequence_set), &now),
            CommandBody::Search {
                charset: Some(charset),
                uid,
                ..
            } if !search::knows_charset(&charset) => Outcome::Done(reply::BAD_CHARSET, Moment::after(uid)),
            CommandBody::Search { criteria, uid, .. } => self.search(tag, criteria.as_ref(), uid),
            CommandBody::Fetch {
                sequence_set,
                macro_or_item_names,
                uid,
                modifiers,
            } => self.fetch(tag, &sequence_set, &macro_or_item_names, &modifiers, uid),
            CommandBody::Store {
                sequence_set,
                kind,
                response,
                flags,
                uid,
                modifiers,
            } => {
                let silent = response == StoreResponse::Silent;
                self.store(tag, (&sequence_set, uid), (kind, &flags, silent), &modifiers, mailboxes)
            }
            CommandBody::Copy {
                sequence_set,
                mailbox,
                uid,
            } => self.copy(tag, (&sequence_set, uid), &mailbox, false, mailboxes),
            CommandBody::Move {
                sequence_set,
                mailbox,
                uid,
            } => self.copy(tag, (&sequence_set, uid), &mailbox, true, mailboxes),
            _ => reply::NOT_OFFERED.into(),
        }
    }

    fn close(&mut self, tag: String, folder: FolderId, now: &Snapshot) -> Outcome {
        if let State::Selected(View { read_only: false, .. }) = &self.state {
            let uids = deleted(now);
            if !uids.is_empty() {
                self.task = Task::Close { tag };
                return Outcome::Asks(Ask::Expunge(folder, uids));
            }
        }
        self.state = State::Authenticated;
        reply::COMPLETED.into()
    }

    /// `among`: only of these UIDs.
    fn expunge(&mut self, tag: String, among: Option<&SequenceSet>, now: &Snapshot) -> Outcome {
        let State::Selected(View {
            read_only: false,
            folder,
            ..
        }) = &self.state
        else {
            return reply::EXAMINED.into();
        };
        let mut uids = deleted(now);
        if let Some(set) = among {
            let selection = Selection::by_uid(set, &now.entries);
            let named = selection.uids(&now.entries);
            uids.retain(|uid| named.binary_search(uid).is_ok());
        }
        if uids.is_empty() {
            return reply::COMPLETED.into();
        }
        self.task = Task::Change { tag, deletes: None };
        Outcome::Asks(Ask::Expunge(*folder, uids))
    }

    fn search(&mut self, tag: String, criteria: &[SearchKey<'_>], uid: bool) -> Outcome {
        let State::Selected(view) = &self.state else {
            return reply::NOT_SELECTED.into();
        };
        let search = Box::new(Search::new(criteria, uid, view));
        self.condstore |= search.tells_modseq();
        self.task = Task::Search { tag, uid, search };
        Outcome::Begun
    }

    fn fetch(
        &mut self,
        tag: String,
        set: &SequenceSet,
        names: &MacroOrMessageDataItemNames<'_>,
        modifiers: &[FetchModifier],
        uid: bool,
    ) -> Outcome {
        let State::Selected(view) = &self.state else {
            return reply::NOT_SELECTED.into();
        };
        let Some(mut items) = Item::list(names) else {
            return reply::BAD_ARGUMENTS.into();
        };
        let Some(mut selection) = selection(view, set, uid) else {
            return reply::NO_SUCH_MESSAGE.into();
        };
        if uid && !items.iter().any(|item| matches!(item, Item::Uid)) {
            items.insert(0, Item::Uid);
        }
        for modifier in modifiers {
            let FetchModifier::ChangedSince(modseq) = modifier else {
                return reply::NOT_OFFERED.into();
            };
            // RFC 7162 section 3.1.4.1: it asks for MODSEQ too.
            if !items.iter().any(|item| matches!(item, Item::ModSeq)) {
                items.push(Item::ModSeq);
            }
            selection = selection.filter(view.entries(), |entry| entry.modseq > modseq.get());
        }
        self.condstore |= items.iter().any(|item| matches!(item, Item::ModSeq));
        self.task = Task::Fetch {
            tag,
            uid,
            fetch: Box::new(Fetch::new(items, selection, self.kept.take())),
        };
        Outcome::Begun
    }

    fn store(
        &mut self,
        tag: String,
        (set, uid): (&SequenceSet, bool),
        (kind, flags, silent): (StoreType, &[Flag<'_>], bool),
        modifiers: &[StoreModifier],
        mailboxes: &dyn Mailboxes,
    ) -> Outcome {
        let State::Selected(view) = &self.state else {
            return reply::NOT_SELECTED.into();
        };
        if view.read_only {
            return Outcome::Done(reply::EXAMINED, Moment::after(uid));
        }
        let Some(selection) = selection(view, set, uid) else {
            return reply::NO_SUCH_MESSAGE.into();
        };
        let uids = selection.uids(view.entries());
        let unchanged_since = modifiers
            .iter()
            .map(|StoreModifier::UnchangedSince(modseq)| *modseq)
            .min();
        self.condstore |= unchanged_since.is_some();
        if uids.is_empty() {
            return Outcome::Done(reply::COMPLETED, Moment::after(uid));
        }
        let mut named = Named::of(flags, &mailboxes.folders());
        if kind == StoreType::Remove {
            // What nobody has is removed already.
            named.new.clear();
        }
        let next = Flagged::Store {
            tag,
            uid,
            uids,
            kind,
            silent,
            unchanged_since,
        };
        self.begin_flagged(named, next)
    }

    /// COPY, and MOVE if it `moves` (RFC 6851).
    fn copy(
        &mut self,
        tag: String,
        (set, uid): (&SequenceSet, bool),
        to: &Mailbox<'_>,
        moves: bool,
        mailboxes: &dyn Mailboxes,
    ) -> Outcome {
        let State::Selected(view) = &self.state else {
            return reply::NOT_SELECTED.into();
        };
        if moves && view.read_only {
            return Outcome::Done(reply::EXAMINED, Moment::after(uid));
        }
        let Some(selection) = selection(view, set, uid) else {
            return reply::NO_SUCH_MESSAGE.into();
        };
        let folders = mailboxes.folders();
        let Some(to) = command::folder(to, &folders) else {
            return Outcome::Done(reply::TRY_CREATE, Moment::after(uid));
        };
        let uids = selection.uids(view.entries());
        if uids.is_empty() {
            return Outcome::Done(reply::COMPLETED, Moment::after(uid));
        }
        let from = view.folder;
        self.task = Task::Copy {
            tag,
            uid,
            moves,
            uid_validity: to.uid_validity,
        };
        Outcome::Asks(Ask::Copy {
            from,
            uids,
            to: to.id,
            moves,
        })
    }
}

/// The messages that a command means. `None`: one of them does not exist.
fn selection(view: &View, set: &SequenceSet, uid: bool) -> Option<Selection> {
    match uid {
        true => Some(Selection::by_uid(set, view.entries())),
        false => Selection::by_number(set, view.entries().len()),
    }
}

/// UIDs of the messages that are `\Deleted`.
fn deleted(folder: &Snapshot) -> Vec<u32> {
    let deleted = folder
        .entries
        .iter()
        .filter(|entry| entry.flags.contains(Flags::DELETED));
    deleted.map(|entry| entry.uid).collect()
}

/// Whether a command is one of the selected state.
fn needs_mailbox(body: &CommandBody<'_>) -> bool {
    matches!(
        body,
        CommandBody::Check
            | CommandBody::Close
            | CommandBody::Unselect
            | CommandBody::Expunge
            | CommandBody::ExpungeUid { .. }
            | CommandBody::Search { .. }
            | CommandBody::Fetch { .. }
            | CommandBody::Store { .. }
            | CommandBody::Copy { .. }
            | CommandBody::Move { .. }
    )
}
