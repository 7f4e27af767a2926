//! Each command: what it needs, and what it does at once.

use std::sync::Arc;

use imap_codec::imap_types::auth::AuthMechanism;
use imap_codec::imap_types::command::{Command, CommandBody};
use imap_codec::imap_types::datetime::DateTime;
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
use super::session::{Ask, Session, State, Step, Task};
use super::view::{Moment, Stored, View};

/// A message that came with its command.
type Literal = Option<Zeroizing<Vec<u8>>>;

impl Session {
    /// Begins a command, valid in any state or before LOGIN. `None`: nothing is needed from outside for now.
    pub(super) fn dispatch(&mut self, command: Command<'_>, message: Literal, inbox: &Arc<Snapshot>) -> Option<Step> {
        let tag = command.tag.as_ref().to_string();
        let anonymous = matches!(self.state, State::NotAuthenticated);
        match command.body {
            CommandBody::Noop => {}
            CommandBody::Capability => self.out.line(format_args!("* CAPABILITY {}", reply::CAPABILITIES)),
            CommandBody::Id { .. } => self.out.line(format_args!("* ID (\"name\" \"Postern\")")),
            CommandBody::Logout => {
                self.bye("Logging out");
                self.out.line(format_args!("{tag} {}", reply::COMPLETED));
                return None;
            }
            CommandBody::Login { .. } | CommandBody::Authenticate { .. } if !anonymous => {
                return self.reject(&tag, reply::LOGGED_IN);
            }
            CommandBody::Login { username, password } => {
                return Some(self.login(tag, username.as_ref(), password.declassify().as_ref()));
            }
            CommandBody::Authenticate {
                mechanism: AuthMechanism::Plain,
                initial_response,
            } => match initial_response {
                Some(response) => return self.authenticate(tag, response.declassify(), inbox),
                None => {
                    self.out.put(b"+ \r\n");
                    self.task = Task::Authenticate { tag };
                    return None;
                }
            },
            CommandBody::Authenticate { .. } => return self.reject(&tag, reply::NO_SUCH_MECHANISM),
            _ if anonymous => return self.reject(&tag, reply::NOT_LOGGED_IN),
            body => return self.dispatch_authenticated(tag, body, message, inbox),
        }
        self.conclude(&tag, reply::COMPLETED, Moment::ANY, inbox);
        None
    }

    fn dispatch_authenticated(
        &mut self,
        tag: String,
        body: CommandBody<'_>,
        message: Literal,
        inbox: &Arc<Snapshot>,
    ) -> Option<Step> {
        let reply = match body {
            CommandBody::Select { mailbox } => self.select(&mailbox, false, inbox),
            CommandBody::Examine { mailbox } => self.select(&mailbox, true, inbox),
            CommandBody::List {
                reference,
                mailbox_wildcard,
            } => {
                put_list("LIST", name(&reference), &mailbox_wildcard, &mut self.out);
                reply::COMPLETED
            }
            CommandBody::Lsub {
                reference,
                mailbox_wildcard,
            } => {
                put_list("LSUB", name(&reference), &mailbox_wildcard, &mut self.out);
                reply::COMPLETED
            }
            CommandBody::Status {
                mailbox: Mailbox::Inbox,
                item_names,
            } => {
                put_status(inbox, &item_names, &mut self.out);
                reply::COMPLETED
            }
            CommandBody::Namespace => {
                self.out.line(format_args!("* NAMESPACE ((\"\" \"/\")) NIL NIL"));
                reply::COMPLETED
            }
            CommandBody::Subscribe {
                mailbox: Mailbox::Inbox,
            } => reply::COMPLETED,
            CommandBody::Status { .. } | CommandBody::Subscribe { .. } => reply::NO_SUCH_MAILBOX,
            CommandBody::Create { .. }
            | CommandBody::Delete { .. }
            | CommandBody::Rename { .. }
            | CommandBody::Unsubscribe { .. } => reply::NO_FOLDERS,
            CommandBody::Idle => {
                self.out.put(b"+ Idling\r\n");
                self.task = Task::Idle { tag };
                return None;
            }
            CommandBody::Append {
                mailbox, flags, date, ..
            } => {
                return self.append(tag, &mailbox, &flags, date.as_ref(), message);
            }
            body => return self.dispatch_selected(tag, body, inbox),
        };
        self.conclude(&tag, reply, Moment::ANY, inbox);
        None
    }

    fn dispatch_selected(&mut self, tag: String, body: CommandBody<'_>, inbox: &Arc<Snapshot>) -> Option<Step> {
        let State::Selected(view) = &self.state else {
            let reply = if needs_mailbox(&body) {
                reply::NOT_SELECTED
            } else {
                reply::NOT_OFFERED
            };
            return self.reject(&tag, reply);
        };
        match body {
            CommandBody::Check => self.conclude(&tag, reply::COMPLETED, Moment::ANY, inbox),
            CommandBody::Unselect => {
                self.state = State::Authenticated;
                self.conclude(&tag, reply::COMPLETED, Moment::ANY, inbox);
            }
            CommandBody::Close => {
                let deleted = if view.read_only { Vec::new() } else { deleted(inbox) };
                if !deleted.is_empty() {
                    self.task = Task::Close { tag };
                    return Some(Step::Ask(Ask::Expunge(deleted)));
                }
                self.state = State::Authenticated;
                self.conclude(&tag, reply::COMPLETED, Moment::ANY, inbox);
            }
            CommandBody::Expunge => return self.expunge(tag, None, inbox),
            CommandBody::ExpungeUid { sequence_set } => return self.expunge(tag, Some(&sequence_set), inbox),
            CommandBody::Search {
                charset: Some(charset), ..
            } if !search::knows_charset(&charset) => {
                return self.reject(&tag, reply::BAD_CHARSET);
            }
            CommandBody::Search { criteria, uid, .. } => {
                let search = Box::new(Search::new(criteria.as_ref(), uid, view));
                self.task = Task::Search { tag, uid, search };
            }
            CommandBody::Fetch {
                sequence_set,
                macro_or_item_names,
                uid,
            } => {
                let Some(items) = Item::list(&macro_or_item_names) else {
                    return self.reject(&tag, reply::BAD_ARGUMENTS);
                };
                let Some(selection) = selection(view, &sequence_set, uid) else {
                    return self.reject(&tag, reply::NO_SUCH_MESSAGE);
                };
                self.task = Task::Fetch {
                    tag,
                    uid,
                    fetch: Box::new(Fetch::new(items, selection, uid)),
                };
            }
            CommandBody::Store {
                sequence_set,
                kind,
                response,
                flags,
                uid,
            } => {
                let Some(selection) = selection(view, &sequence_set, uid) else {
                    return self.reject(&tag, reply::NO_SUCH_MESSAGE);
                };
                let silent = response == StoreResponse::Silent;
                return self.store(tag, selection, change(&kind, &flags), silent, uid, inbox);
            }
            CommandBody::Copy { mailbox, .. } | CommandBody::Move { mailbox, .. } => {
                let reply = match mailbox {
                    Mailbox::Inbox => reply::NO_FOLDERS,
                    Mailbox::Other(_) => reply::NO_SUCH_MAILBOX,
                };
                self.conclude(&tag, reply, Moment::ANY, inbox);
            }
            _ => return self.reject(&tag, reply::NOT_OFFERED),
        }
        None
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

    fn append(
        &mut self,
        tag: String,
        mailbox: &Mailbox<'_>,
        flags: &[Flag<'_>],
        date: Option<&DateTime>,
        message: Literal,
    ) -> Option<Step> {
        let (Mailbox::Inbox, Some(message)) = (mailbox, message) else {
            return self.reject(&tag, reply::NO_SUCH_MAILBOX);
        };
        let internal_date = date.map(|date| u64::try_from(date.as_ref().timestamp()).unwrap_or(0));
        self.task = Task::Append { tag };
        Some(Step::Ask(Ask::Append {
            message,
            flags: system_flags(flags),
            internal_date,
        }))
    }

    fn store(
        &mut self,
        tag: String,
        selection: Selection,
        change: FlagChange,
        silent: bool,
        uid: bool,
        inbox: &Arc<Snapshot>,
    ) -> Option<Step> {
        let State::Selected(view) = &mut self.state else {
            return None;
        };
        if view.read_only {
            self.conclude(&tag, reply::EXAMINED, Moment::after(uid), inbox);
            return None;
        }
        let uids: Vec<u32> = selection
            .positions()
            .map(|position| view.entries()[position].uid)
            .collect();
        let stored = Stored {
            uids: uids.clone(),
            change,
            silent,
        };
        self.task = Task::Store { tag, uid, stored };
        Some(Step::Ask(Ask::Store { uids, change }))
    }

    /// `among`: only of these UIDs.
    fn expunge(&mut self, tag: String, among: Option<&SequenceSet>, inbox: &Arc<Snapshot>) -> Option<Step> {
        let State::Selected(view) = &self.state else {
            return None;
        };
        if view.read_only {
            self.conclude(&tag, reply::EXAMINED, Moment::ANY, inbox);
            return None;
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
            self.conclude(&tag, reply::COMPLETED, Moment::ANY, inbox);
            return None;
        }
        self.task = Task::Expunge { tag };
        Some(Step::Ask(Ask::Expunge(uids)))
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
