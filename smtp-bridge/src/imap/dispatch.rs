//! Each command: what it needs, and what it does at once.

use std::sync::Arc;

use imap_codec::imap_types::auth::AuthMechanism;
use imap_codec::imap_types::command::{Command, CommandBody};
use imap_codec::imap_types::flag::{Flag, StoreResponse, StoreType};
use imap_codec::imap_types::mailbox::Mailbox;
use imap_codec::imap_types::sequence::SequenceSet;
use mailbox::holder_store::{FlagChange, Flags, Snapshot};
use zeroize::Zeroizing;

use super::fetch::Fetch;
use super::inbox::{put_list, put_selected, put_status};
use super::reply::{self, Reply};
use super::search::{self, Search};
use super::section::Item;
use super::selection::Selection;
use super::session::{Ask, Session, State, Task};
use super::view::{Moment, Stored, View};

/// A message that came with its command.
type Literal = Option<Zeroizing<Vec<u8>>>;

/// How a command begins.
pub(super) enum Outcome {
    /// It is over already.
    Done(Reply, Moment),
    /// It goes on as the session's task.
    Begun,
    /// The same, and it needs this first.
    Asks(Ask),
}

impl From<Reply> for Outcome {
    fn from(reply: Reply) -> Self {
        Self::Done(reply, Moment::ANY)
    }
}

impl Session {
    /// Begins a command: here those of any state, and those before LOGIN.
    pub(super) fn dispatch(&mut self, command: Command<'_>, message: Literal, inbox: &Arc<Snapshot>) -> Outcome {
        let tag = command.tag.as_ref().to_string();
        let anonymous = matches!(self.state, State::NotAuthenticated);
        match command.body {
            CommandBody::Noop => {}
            CommandBody::Capability => self.out.line(format_args!("* CAPABILITY {}", reply::CAPABILITIES)),
            CommandBody::Id { .. } => self.out.line(format_args!("* ID (\"name\" \"Postern\")")),
            CommandBody::Logout => self.bye("Logging out"),
            CommandBody::Login { .. } | CommandBody::Authenticate { .. } if !anonymous => {
                return reply::LOGGED_IN.into();
            }
            CommandBody::Login { username, password } => {
                return self.login(tag, username.as_ref(), password.declassify().as_ref());
            }
            CommandBody::Authenticate {
                mechanism: AuthMechanism::Plain,
                initial_response,
            } => {
                let Some(response) = initial_response else {
                    self.out.put(b"+ \r\n");
                    self.task = Task::Authenticate { tag };
                    return Outcome::Begun;
                };
                return self.authenticate(tag, response.declassify());
            }
            CommandBody::Authenticate { .. } => return reply::NO_SUCH_MECHANISM.into(),
            _ if anonymous => return reply::NOT_LOGGED_IN.into(),
            body => return self.dispatch_authenticated(tag, body, message, inbox),
        }
        reply::COMPLETED.into()
    }

    fn dispatch_authenticated(
        &mut self,
        tag: String,
        body: CommandBody<'_>,
        message: Literal,
        inbox: &Arc<Snapshot>,
    ) -> Outcome {
        match body {
            CommandBody::Select { mailbox } => return self.select(&mailbox, false, inbox).into(),
            CommandBody::Examine { mailbox } => return self.select(&mailbox, true, inbox).into(),
            CommandBody::List {
                reference,
                mailbox_wildcard,
            } => {
                put_list("LIST", name(&reference), &mailbox_wildcard, &mut self.out);
            }
            CommandBody::Lsub {
                reference,
                mailbox_wildcard,
            } => {
                put_list("LSUB", name(&reference), &mailbox_wildcard, &mut self.out);
            }
            CommandBody::Status {
                mailbox: Mailbox::Inbox,
                item_names,
            } => {
                put_status(inbox, &item_names, &mut self.out);
            }
            CommandBody::Namespace => self.out.line(format_args!("* NAMESPACE ((\"\" \"/\")) NIL NIL")),
            CommandBody::Subscribe {
                mailbox: Mailbox::Inbox,
            } => {}
            CommandBody::Status { .. } | CommandBody::Subscribe { .. } => return reply::NO_SUCH_MAILBOX.into(),
            CommandBody::Create { .. }
            | CommandBody::Delete { .. }
            | CommandBody::Rename { .. }
            | CommandBody::Unsubscribe { .. } => return reply::NO_FOLDERS.into(),
            CommandBody::Idle => {
                self.out.put(b"+ Idling\r\n");
                self.task = Task::Idle { tag };
                return Outcome::Begun;
            }
            CommandBody::Append {
                mailbox: Mailbox::Inbox,
                flags,
                date,
                ..
            } => {
                let Some(message) = message else {
                    return reply::BAD_ARGUMENTS.into();
                };
                let internal_date = date.map(|date| u64::try_from(date.as_ref().timestamp()).unwrap_or(0));
                self.task = Task::Append { tag };
                return Outcome::Asks(Ask::Append {
                    message,
                    flags: system_flags(&flags),
                    internal_date,
                });
            }
            CommandBody::Append { .. } => return reply::NO_SUCH_MAILBOX.into(),
            body => return self.dispatch_selected(tag, body, inbox),
        }
        reply::COMPLETED.into()
    }

    fn dispatch_selected(&mut self, tag: String, body: CommandBody<'_>, inbox: &Arc<Snapshot>) -> Outcome {
        let State::Selected(view) = &self.state else {
            return if needs_mailbox(&body) {
                reply::NOT_SELECTED.into()
            } else {
                reply::NOT_OFFERED.into()
            };
        };
        match body {
            CommandBody::Check => reply::COMPLETED.into(),
            CommandBody::Unselect => {
                self.state = State::Authenticated;
                reply::COMPLETED.into()
            }
            CommandBody::Close => self.close(tag, inbox),
            CommandBody::Expunge => self.expunge(tag, None, inbox),
            CommandBody::ExpungeUid { sequence_set } => self.expunge(tag, Some(&sequence_set), inbox),
            CommandBody::Search {
                charset: Some(charset),
                uid,
                ..
            } if !search::knows_charset(&charset) => Outcome::Done(reply::BAD_CHARSET, Moment::after(uid)),
            CommandBody::Search { criteria, uid, .. } => {
                let search = Box::new(Search::new(criteria.as_ref(), uid, view));
                self.task = Task::Search { tag, uid, search };
                Outcome::Begun
            }
            CommandBody::Fetch {
                sequence_set,
                macro_or_item_names,
                uid,
            } => {
                let Some(items) = Item::list(&macro_or_item_names) else {
                    return reply::BAD_ARGUMENTS.into();
                };
                let Some(selection) = selection(view, &sequence_set, uid) else {
                    return reply::NO_SUCH_MESSAGE.into();
                };
                self.task = Task::Fetch {
                    tag,
                    uid,
                    fetch: Box::new(Fetch::new(items, selection, uid)),
                };
                Outcome::Begun
            }
            CommandBody::Store {
                sequence_set,
                kind,
                response,
                flags,
                uid,
            } => {
                if view.read_only {
                    return Outcome::Done(reply::EXAMINED, Moment::after(uid));
                }
                let Some(selection) = selection(view, &sequence_set, uid) else {
                    return reply::NO_SUCH_MESSAGE.into();
                };
                let uids: Vec<u32> = selection
                    .positions()
                    .map(|position| view.entries()[position].uid)
                    .collect();
                if uids.is_empty() {
                    return Outcome::Done(reply::COMPLETED, Moment::after(uid));
                }
                let (change, silent) = (change(&kind, &flags), response == StoreResponse::Silent);
                self.task = Task::Store {
                    tag,
                    uid,
                    stored: Stored {
                        uids: uids.clone(),
                        change,
                        silent,
                    },
                };
                Outcome::Asks(Ask::Store { uids, change })
            }
            CommandBody::Copy {
                mailbox: Mailbox::Inbox,
                ..
            }
            | CommandBody::Move {
                mailbox: Mailbox::Inbox,
                ..
            } => reply::NO_FOLDERS.into(),
            CommandBody::Copy { .. } | CommandBody::Move { .. } => reply::NO_SUCH_MAILBOX.into(),
            _ => reply::NOT_OFFERED.into(),
        }
    }

    fn select(&mut self, mailbox: &Mailbox<'_>, read_only: bool, inbox: &Arc<Snapshot>) -> Reply {
        if *mailbox != Mailbox::Inbox {
            // RFC 3501 section 6.3.1: a SELECT that fails leaves nothing selected.
            self.state = State::Authenticated;
            return reply::NO_SUCH_MAILBOX;
        }
        put_selected(inbox, read_only, &mut self.out);
        self.state = State::Selected(View::new(inbox, read_only));
        if read_only { reply::READ_ONLY } else { reply::READ_WRITE }
    }

    fn close(&mut self, tag: String, inbox: &Snapshot) -> Outcome {
        if let State::Selected(View { read_only: false, .. }) = &self.state {
            let uids = deleted(inbox);
            if !uids.is_empty() {
                self.task = Task::Close { tag };
                return Outcome::Asks(Ask::Expunge(uids));
            }
        }
        self.state = State::Authenticated;
        reply::COMPLETED.into()
    }

    /// `among`: only of these UIDs.
    fn expunge(&mut self, tag: String, among: Option<&SequenceSet>, inbox: &Snapshot) -> Outcome {
        if let State::Selected(View { read_only: true, .. }) = &self.state {
            return reply::EXAMINED.into();
        }
        let mut uids = deleted(inbox);
        if let Some(set) = among {
            let selection = Selection::by_uid(set, &inbox.entries);
            let named: Vec<u32> = selection
                .positions()
                .map(|position| inbox.entries[position].uid)
                .collect();
            uids.retain(|uid| named.binary_search(uid).is_ok());
        }
        if uids.is_empty() {
            return reply::COMPLETED.into();
        }
        self.task = Task::Expunge { tag };
        Outcome::Asks(Ask::Expunge(uids))
    }
}

/// The messages a FETCH or STORE means. `None`: one of them does not exist.
fn selection(view: &View, set: &SequenceSet, uid: bool) -> Option<Selection> {
    match uid {
        true => Some(Selection::by_uid(set, view.entries())),
        false => Selection::by_number(set, view.entries().len()),
    }
}

/// UIDs of the messages that are `\Deleted`.
fn deleted(inbox: &Snapshot) -> Vec<u32> {
    inbox
        .entries
        .iter()
        .filter(|entry| entry.flags.contains(Flags::DELETED))
        .map(|entry| entry.uid)
        .collect()
}

fn change(kind: &StoreType, flags: &[Flag<'_>]) -> FlagChange {
    let flags = system_flags(flags);
    match kind {
        StoreType::Replace => FlagChange::Set(flags),
        StoreType::Add => FlagChange::Add(flags),
        StoreType::Remove => FlagChange::Remove(flags),
    }
}

/// The flags that are kept; others are passed over, as PERMANENTFLAGS announces.
fn system_flags(flags: &[Flag<'_>]) -> Flags {
    flags.iter().fold(Flags::default(), |set, flag| match flag {
        Flag::Answered => set.with(Flags::ANSWERED),
        Flag::Deleted => set.with(Flags::DELETED),
        Flag::Draft => set.with(Flags::DRAFT),
        Flag::Flagged => set.with(Flags::FLAGGED),
        Flag::Seen => set.with(Flags::SEEN),
        Flag::Extension(_) | Flag::Keyword(_) => set,
    })
}

fn name<'a>(mailbox: &'a Mailbox<'_>) -> &'a [u8] {
    match mailbox {
        Mailbox::Inbox => b"INBOX",
        Mailbox::Other(other) => other.inner().as_ref(),
    }
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
