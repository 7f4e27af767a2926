//! Each command: what it needs, and what it does at once.

mod selected;

use imap_codec::imap_types::auth::AuthMechanism;
use imap_codec::imap_types::command::{Command, CommandBody, SelectParameter};
use imap_codec::imap_types::datetime::DateTime;
use imap_codec::imap_types::extensions::enable::CapabilityEnable;
use imap_codec::imap_types::flag::{Flag, StoreType};
use imap_codec::imap_types::mailbox::Mailbox;
use imap_codec::imap_types::status::StatusDataItemName;
use mailbox::holder_store::{FlagChange, Flags, FolderId, StoreFlags};
use zeroize::Zeroizing;

use super::command::{self, Request, Use};
use super::flags::Named;
use super::list::{put_list, put_lsub};
use super::reply::{self, Reply};
use super::session::{Ask, Flagged, Session, State, Task};
use super::status::{put_quota, put_quota_root, put_selected, put_status};
use super::view::{Moment, Now, Stored, View};
use super::{Mailboxes, utf7};

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
    /// The mailbox that it is about is gone.
    Lost,
}

impl From<Reply> for Outcome {
    fn from(reply: Reply) -> Self {
        Self::Done(reply, Moment::ANY)
    }
}

impl Session {
    /// Begins a command: here those of any state, and those before LOGIN.
    pub(super) fn dispatch(&mut self, request: Request<'_>, message: Literal, mailboxes: &dyn Mailboxes) -> Outcome {
        let Request { command, special_use } = request;
        let Command { tag, body } = command;
        if !matches!(body, CommandBody::Fetch { .. }) {
            self.kept = None;
        }
        let tag = tag.as_ref().to_string();
        let anonymous = matches!(self.state, State::NotAuthenticated);
        match body {
            CommandBody::Noop | CommandBody::Check | CommandBody::Idle if self.is_lost(mailboxes) => {
                return Outcome::Lost;
            }
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
            body if mailboxes.is_read_only() && changes(&body) => {
                // fetchmail takes a refusal of this for a broken conversation.
                return if marks_seen(&body) {
                    reply::COMPLETED
                } else {
                    reply::NOTHING_CHANGES
                }
                .into();
            }
            CommandBody::Create { mailbox } => return self.create(tag, &mailbox, special_use, mailboxes),
            CommandBody::Append {
                mailbox, flags, date, ..
            } => return self.append(tag, &mailbox, &flags, date, message, mailboxes),
            body => return self.dispatch_authenticated(tag, body, mailboxes),
        }
        reply::COMPLETED.into()
    }

    fn dispatch_authenticated(&mut self, tag: String, body: CommandBody<'_>, mailboxes: &dyn Mailboxes) -> Outcome {
        match body {
            CommandBody::Select { mailbox, parameters } => {
                let read_only = mailboxes.is_read_only();
                return self.select(&mailbox, &parameters, read_only, mailboxes).into();
            }
            CommandBody::Examine { mailbox, parameters } => {
                return self.select(&mailbox, &parameters, true, mailboxes).into();
            }
            CommandBody::List {
                reference,
                mailbox_wildcard,
            } => put_list(name(&reference), &mailbox_wildcard, &mailboxes.folders(), &mut self.out),
            CommandBody::Lsub {
                reference,
                mailbox_wildcard,
            } => put_lsub(name(&reference), &mailbox_wildcard, &mailboxes.folders(), &mut self.out),
            CommandBody::Status { mailbox, item_names } => return self.status(&mailbox, &item_names, mailboxes).into(),
            CommandBody::Namespace => self.out.line(format_args!("* NAMESPACE ((\"\" \"/\")) NIL NIL")),
            CommandBody::Enable { capabilities } => self.enable(capabilities.as_ref()),
            CommandBody::Subscribe { mailbox } => return self.subscribe(tag, &mailbox, true, mailboxes),
            CommandBody::Unsubscribe { mailbox } => return self.subscribe(tag, &mailbox, false, mailboxes),
            CommandBody::Delete { mailbox } => return self.delete(tag, &mailbox, mailboxes),
            CommandBody::Rename { from, to } => return self.rename(tag, &from, &to, mailboxes),
            CommandBody::GetQuota { root } => {
                if !root.as_ref().is_empty() {
                    return reply::NO_QUOTA_ROOT.into();
                }
                put_quota(mailboxes.quota(), &mut self.out);
            }
            CommandBody::GetQuotaRoot { mailbox } => {
                let folders = mailboxes.folders();
                let Some(folder) = command::folder(&mailbox, &folders) else {
                    return reply::NO_SUCH_MAILBOX.into();
                };
                put_quota_root(&utf7::encode(&folder.name), &mut self.out);
                put_quota(mailboxes.quota(), &mut self.out);
            }
            CommandBody::Idle => {
                self.out.put(b"+ Idling\r\n");
                self.task = Task::Idle { tag };
                return Outcome::Begun;
            }
            body => return self.dispatch_selected(tag, body, mailboxes),
        }
        reply::COMPLETED.into()
    }

    fn select(
        &mut self,
        mailbox: &Mailbox<'_>,
        parameters: &[SelectParameter],
        read_only: bool,
        mailboxes: &dyn Mailboxes,
    ) -> Reply {
        if parameters
            .iter()
            .any(|parameter| *parameter != SelectParameter::CondStore)
        {
            return reply::NOT_OFFERED;
        }
        self.condstore |= !parameters.is_empty();
        // RFC 3501 section 6.3.1: a SELECT that fails leaves nothing selected.
        self.state = State::Authenticated;
        let Some(id) = command::folder(mailbox, &mailboxes.folders()).map(|folder| folder.id) else {
            return reply::NO_SUCH_MAILBOX;
        };
        let Some(folder) = mailboxes.folder(id) else {
            return reply::NO_SUCH_MAILBOX;
        };
        // Those of now name all keywords that the messages have.
        let folders = mailboxes.folders();
        let now = Now {
            snapshot: &folder,
            folders: &folders,
            recent: mailboxes.recent(),
        };
        let view = View::new(id, &now, read_only);
        put_selected(&folder, &view, &mut self.out);
        self.state = State::Selected(view);
        if read_only { reply::READ_ONLY } else { reply::READ_WRITE }
    }

    fn status(&mut self, mailbox: &Mailbox<'_>, items: &[StatusDataItemName], mailboxes: &dyn Mailboxes) -> Reply {
        let folders = mailboxes.folders();
        let found = command::folder(mailbox, &folders);
        let Some((found, folder)) = found.and_then(|found| Some((found, mailboxes.folder(found.id)?))) else {
            return reply::NO_SUCH_MAILBOX;
        };
        self.condstore |= items.contains(&StatusDataItemName::HighestModSeq);
        let recent = mailboxes.recent().first(found.id, folder.uid_next);
        put_status(&utf7::encode(&found.name), &folder, recent, items, &mut self.out);
        reply::COMPLETED
    }

    /// RFC 5161: what is not known is passed over.
    fn enable(&mut self, capabilities: &[CapabilityEnable<'_>]) {
        let asked = capabilities
            .iter()
            .any(|capability| capability.to_string().eq_ignore_ascii_case("CONDSTORE"));
        let news = if asked && !self.condstore { " CONDSTORE" } else { "" };
        self.condstore |= asked;
        self.out.line(format_args!("* ENABLED{news}"));
    }

    fn create(
        &mut self,
        tag: String,
        mailbox: &Mailbox<'_>,
        special_use: Option<Use>,
        mailboxes: &dyn Mailboxes,
    ) -> Outcome {
        let special_use = match special_use {
            None => None,
            Some(Use::Known(special_use)) => Some(special_use),
            Some(Use::Unknown) => return reply::USE_REFUSED.into(),
        };
        let taken = |folder: &mailbox::holder_store::Folder| folder.special_use == special_use;
        if special_use.is_some() && mailboxes.folders().all.iter().any(taken) {
            return reply::USE_REFUSED.into();
        }
        let Some(mut name) = command::name(mailbox) else {
            return reply::CANNOT.into();
        };
        // A delimiter at the end announces names below (RFC 3501 section 6.3.3).
        if name.ends_with('/') {
            name.pop();
        }
        self.task = Task::Change { tag, deletes: None };
        Outcome::Asks(Ask::Create(name, special_use))
    }

    fn delete(&mut self, tag: String, mailbox: &Mailbox<'_>, mailboxes: &dyn Mailboxes) -> Outcome {
        let Some(id) = command::folder(mailbox, &mailboxes.folders()).map(|folder| folder.id) else {
            return reply::NO_SUCH_MAILBOX.into();
        };
        if id == FolderId::INBOX {
            return reply::CANNOT.into();
        }
        self.task = Task::Change { tag, deletes: Some(id) };
        Outcome::Asks(Ask::Delete(id))
    }

    fn rename(&mut self, tag: String, from: &Mailbox<'_>, to: &Mailbox<'_>, mailboxes: &dyn Mailboxes) -> Outcome {
        let Some(id) = command::folder(from, &mailboxes.folders()).map(|folder| folder.id) else {
            return reply::NO_SUCH_MAILBOX.into();
        };
        let Some(mut name) = command::name(to) else {
            return reply::CANNOT.into();
        };
        if name.ends_with('/') {
            name.pop();
        }
        self.task = Task::Change { tag, deletes: None };
        Outcome::Asks(Ask::Rename(id, name))
    }

    fn subscribe(
        &mut self,
        tag: String,
        mailbox: &Mailbox<'_>,
        subscribed: bool,
        mailboxes: &dyn Mailboxes,
    ) -> Outcome {
        // RFC 3501 section 6.3.6: what is subscribed may be gone later, but it has to be there at first.
        let known = !subscribed || command::folder(mailbox, &mailboxes.folders()).is_some();
        let Some(name) = command::name(mailbox).filter(|_| known) else {
            return reply::NO_SUCH_MAILBOX.into();
        };
        self.task = Task::Change { tag, deletes: None };
        Outcome::Asks(Ask::Subscribe(name, subscribed))
    }

    fn append(
        &mut self,
        tag: String,
        mailbox: &Mailbox<'_>,
        flags: &[Flag<'_>],
        date: Option<DateTime>,
        message: Literal,
        mailboxes: &dyn Mailboxes,
    ) -> Outcome {
        let Some(message) = message else {
            return reply::BAD_ARGUMENTS.into();
        };
        let folders = mailboxes.folders();
        let Some(folder) = command::folder(mailbox, &folders) else {
            return reply::TRY_CREATE.into();
        };
        let named = Named::of(flags, &folders);
        let internal_date = date.map(|date| u64::try_from(date.as_ref().timestamp()).unwrap_or(0));
        let next = Flagged::Append {
            tag,
            folder: folder.id,
            uid_validity: folder.uid_validity,
            message,
            internal_date,
        };
        self.begin_flagged(named, next)
    }

    /// Begins what has flags: with a question for keywords that are new.
    fn begin_flagged(&mut self, named: Named, next: Flagged) -> Outcome {
        if named.new.is_empty() {
            return match self.go_on(named.flags, next) {
                Some(ask) => Outcome::Asks(ask),
                None => Outcome::Begun,
            };
        }
        self.task = Task::Keywords {
            flags: named.flags,
            next,
        };
        Outcome::Asks(Ask::Keywords(named.new))
    }

    /// Goes on with what has these flags. `None`: the mailbox is not selected any more, which cannot be.
    pub(super) fn go_on(&mut self, flags: Flags, next: Flagged) -> Option<Ask> {
        match next {
            Flagged::Store {
                tag,
                uid,
                uids,
                kind,
                silent,
                unchanged_since,
            } => {
                let State::Selected(view) = &self.state else {
                    return None;
                };
                let change = match kind {
                    StoreType::Replace => FlagChange::Set(flags),
                    StoreType::Add => FlagChange::Add(flags),
                    StoreType::Remove => FlagChange::Remove(flags),
                };
                self.task = Task::Store {
                    tag,
                    uid,
                    stored: Stored {
                        uids: uids.clone(),
                        change,
                        silent,
                    },
                };
                let store = StoreFlags {
                    uids,
                    change,
                    unchanged_since,
                };
                Some(Ask::Store(view.folder, store))
            }
            Flagged::Append {
                tag,
                folder,
                uid_validity,
                message,
                internal_date,
            } => {
                self.task = Task::Append { tag, uid_validity };
                Some(Ask::Append {
                    folder,
                    message,
                    flags,
                    internal_date,
                })
            }
        }
    }
}

fn name<'a>(mailbox: &'a Mailbox<'_>) -> &'a [u8] {
    match mailbox {
        Mailbox::Inbox => b"INBOX",
        Mailbox::Other(other) => other.inner().as_ref(),
    }
}
/// Whether a command says that messages were read, and nothing else.
fn marks_seen(body: &CommandBody<'_>) -> bool {
    match body {
        CommandBody::Store {
            kind: StoreType::Add,
            flags,
            ..
        } => flags.as_slice() == [Flag::Seen],
        _ => false,
    }
}

/// Whether a command is there to change something.
fn changes(body: &CommandBody<'_>) -> bool {
    matches!(
        body,
        CommandBody::Create { .. }
            | CommandBody::Delete { .. }
            | CommandBody::Rename { .. }
            | CommandBody::Subscribe { .. }
            | CommandBody::Unsubscribe { .. }
            | CommandBody::Append { .. }
            | CommandBody::Store { .. }
            | CommandBody::Expunge
            | CommandBody::ExpungeUid { .. }
            | CommandBody::Copy { .. }
            | CommandBody::Move { .. }
    )
}
