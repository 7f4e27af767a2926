//! The conversation with one client, without its socket.
//!
//! ```text
//!        greeting
//!           |
//!   NotAuthenticated --LOGIN, AUTHENTICATE--> Authenticated <--CLOSE, UNSELECT-- Selected
//!           |                                   |     |                           ^  |
//!           |                                   |     '------SELECT, EXAMINE------'  |
//!           '-------------LOGOUT----------------+------------------------------------'
//!                                               v
//!                                            Logout
//! ```
//!
//! One command is answered at a time. What it needs from outside it asks for ([`Step::Ask`]), and it goes on when the
//! answer is there; the bytes of commands sent ahead wait.

mod ask;
mod finish;

use imap_codec::AuthenticateDataCodec;
use imap_codec::decode::Decoder as _;
use imap_codec::imap_types::auth::AuthenticateData;
use imap_codec::imap_types::flag::StoreType;
use mailbox::holder_store::{Flags, FolderId};
use zeroize::Zeroizing;

pub use ask::{Answer, Ask, Step};

use super::command;
use super::dispatch::Outcome;
use super::fetch::{Fetch, Kept};
use super::framing::{Frame, Framer};
use super::output::Output;
use super::reply::{self, Reply};
use super::search::Search;
use super::view::{Moment, Now, Stored, View};
use super::{Limits, Mailboxes, Room};

/// What a client is told whose mailbox was deleted. An empty mailbox would have it forget its own copies.
const LOST: &str = "The selected mailbox was deleted";

/// What a command in progress says when it cannot go on by itself.
pub(super) enum Turn {
    Ask(Ask),
    Transmit,
    Done(Reply),
}

/// RFC 3501 section 3.
pub(super) enum State {
    NotAuthenticated,
    Authenticated,
    Selected(View),
    Logout,
}

/// The command in progress.
pub(super) enum Task {
    /// None: the next line is a command.
    None,
    /// The next line is the client's response to `+`.
    Authenticate {
        tag: String,
    },
    /// The next line is DONE.
    Idle {
        tag: String,
    },
    Login {
        tag: String,
    },
    Fetch {
        tag: String,
        uid: bool,
        fetch: Box<Fetch>,
    },
    Search {
        tag: String,
        uid: bool,
        search: Box<Search>,
    },
    /// Keywords are made for what comes next.
    Keywords {
        flags: Flags,
        next: Flagged,
    },
    Store {
        tag: String,
        uid: bool,
        stored: Stored,
    },
    Close {
        tag: String,
    },
    Append {
        tag: String,
        /// UIDVALIDITY of the folder.
        uid_validity: u32,
    },
    Copy {
        tag: String,
        uid: bool,
        moves: bool,
        /// UIDVALIDITY of the folder that they come to.
        uid_validity: u32,
    },
    /// A change that is done or not.
    Change {
        tag: String,
        /// The folder is no longer, if it is done.
        deletes: Option<FolderId>,
    },
}

/// What has flags, which are not all known yet.
pub(super) enum Flagged {
    Store {
        tag: String,
        uid: bool,
        uids: Vec<u32>,
        kind: StoreType,
        silent: bool,
        unchanged_since: Option<u64>,
    },
    Append {
        tag: String,
        folder: FolderId,
        uid_validity: u32,
        message: Zeroizing<Vec<u8>>,
        internal_date: Option<u64>,
    },
}

/// One conversation.
pub struct Session {
    limits: Limits,
    framer: Framer,
    pub(super) out: Output,
    pub(super) state: State,
    pub(super) task: Task,
    /// Whether the client wants to hear of MODSEQs (RFC 7162 section 3.1).
    pub(super) condstore: bool,
    /// What the last FETCH left for the next one.
    pub(super) kept: Option<Kept>,
    /// For the message of an APPEND, from its announcement to its answer.
    room: Option<Room>,
    answer: Option<Answer>,
    login_failures: u32,
    /// Commands in a row that were not understood.
    bad_commands: u32,
}

impl Session {
    /// A conversation at its beginning: the greeting waits to be sent.
    #[must_use]
    pub fn new(limits: &Limits) -> Self {
        let mut out = Output::default();
        out.line(format_args!("* OK [CAPABILITY {}] Postern", reply::CAPABILITIES));
        Self {
            limits: limits.clone(),
            framer: Framer::new(limits.command_max, (limits.append_max + limits.command_max) as u64),
            out,
            state: State::NotAuthenticated,
            task: Task::None,
            condstore: false,
            kept: None,
            room: None,
            answer: None,
            login_failures: 0,
            bad_commands: 0,
        }
    }

    /// Takes bytes of the client.
    pub fn handle_bytes(&mut self, bytes: &[u8]) {
        self.framer.push(bytes);
    }

    /// Whether the text of a message is kept for the client, or for its next FETCH.
    pub(super) fn holds_text(&self) -> bool {
        self.kept.is_some() || self.out.holds_text() || matches!(self.task, Task::Fetch { .. } | Task::Search { .. })
    }

    /// Whether the text of a message, or its key, is kept for the next FETCH alone.
    pub(super) fn keeps_text(&self) -> bool {
        self.kept.is_some()
    }

    /// Keeps nothing for the next FETCH.
    pub(super) fn forget_kept(&mut self) {
        self.kept = None;
    }

    /// How many pieces of output were sent.
    pub(super) fn pieces_sent(&self) -> u64 {
        self.out.pieces_sent()
    }

    /// Keeps nothing of a message that was expunged, by whomever.
    fn forget_expunged(&mut self, mailboxes: &dyn Mailboxes) {
        let State::Selected(view) = &self.state else { return };
        self.kept.take_if(|kept| {
            let folder = mailboxes.folder(view.folder);
            folder.is_none_or(|folder| folder.entries.by_uid(kept.uid()).is_none())
        });
    }

    /// Takes the answer to the last [`Step::Ask`].
    pub fn handle_answer(&mut self, answer: Answer) {
        let Answer::Piece(piece) = answer else {
            self.answer = Some(answer);
            return;
        };
        if !piece.is_ok_and(|octets| self.out.read(octets)) {
            // Within a literal nothing can be said, and no other octets may stand for those that are missing.
            self.out = Output::default();
            self.state = State::Logout;
            self.task = Task::None;
        }
    }

    /// The client has been silent for as long as it may be.
    pub fn handle_timeout(&mut self) {
        self.bye("Silent for too long");
    }

    /// How long the client may be silent.
    #[must_use]
    pub fn patience(&self) -> std::time::Duration {
        match self.state {
            State::NotAuthenticated => self.limits.inactivity_before_login,
            _ => self.limits.inactivity,
        }
    }

    /// Whether much is still to come, so that larger reads pay.
    #[must_use]
    pub fn expects_much(&self) -> bool {
        self.framer.in_literal()
    }

    /// What is to be sent next.
    #[must_use]
    pub fn transmit(&self) -> &[u8] {
        self.out.front()
    }

    /// The first `count` bytes of [`Self::transmit`] are sent.
    pub fn handle_transmitted(&mut self, count: usize) {
        self.out.sent(count);
    }

    /// Goes on as far as it can; `mailboxes` are those as of now.
    pub fn poll(&mut self, mailboxes: &dyn Mailboxes) -> Step {
        self.forget_expunged(mailboxes);
        match (self.advance_far(mailboxes), self.out.wanted()) {
            (Step::Transmit, Some((text, at))) => Step::Ask(Ask::Piece(text, at)),
            (step, _) => step,
        }
    }

    fn advance_far(&mut self, mailboxes: &dyn Mailboxes) -> Step {
        loop {
            if matches!(self.state, State::Logout) {
                return if self.out.is_empty() {
                    Step::Close
                } else {
                    Step::Transmit
                };
            }
            if self.out.is_high() {
                return Step::Transmit;
            }
            if let Some(step) = self.advance(mailboxes) {
                return step;
            }
        }
    }

    /// One step of the command in progress. `None`: there may be more to do.
    fn advance(&mut self, mailboxes: &dyn Mailboxes) -> Option<Step> {
        match std::mem::replace(&mut self.task, Task::None) {
            task @ (Task::None | Task::Authenticate { .. } | Task::Idle { .. }) => {
                self.task = task;
                return self.receive(mailboxes);
            }
            Task::Login { tag } => self.finish_login(&tag, mailboxes),
            Task::Fetch { tag, uid, mut fetch } => {
                let State::Selected(view) = &self.state else {
                    return None;
                };
                match fetch.turn(view, self.answer.take(), &mut self.out) {
                    Turn::Done(reply) => {
                        self.kept = fetch.into_kept();
                        self.conclude(&tag, reply, Moment::after(uid), mailboxes);
                    }
                    turn => {
                        self.task = Task::Fetch { tag, uid, fetch };
                        return Some(turn.into_step());
                    }
                }
            }
            Task::Search { tag, uid, mut search } => {
                let State::Selected(view) = &self.state else {
                    return None;
                };
                match search.turn(view, self.answer.take(), &mut self.out) {
                    Turn::Done(reply) => self.conclude(&tag, reply, Moment::after(uid), mailboxes),
                    turn => {
                        self.task = Task::Search { tag, uid, search };
                        return Some(turn.into_step());
                    }
                }
            }
            Task::Keywords { flags, next } => return self.finish_keywords(flags, next, mailboxes),
            Task::Store { tag, uid, stored } => self.finish_store(&tag, uid, stored, mailboxes),
            Task::Close { tag } => {
                let reply = self.change_outcome();
                if reply == reply::COMPLETED {
                    self.state = State::Authenticated;
                }
                self.conclude(&tag, reply, Moment::ANY, mailboxes);
            }
            Task::Append { tag, uid_validity } => self.finish_append(&tag, uid_validity, mailboxes),
            Task::Copy {
                tag,
                uid,
                moves,
                uid_validity,
            } => self.finish_copy(&tag, uid, moves, uid_validity, mailboxes),
            Task::Change { tag, deletes } => {
                let reply = self.change_outcome();
                if reply == reply::COMPLETED
                    && let State::Selected(view) = &self.state
                    && Some(view.folder) == deletes
                {
                    self.state = State::Authenticated;
                }
                self.conclude(&tag, reply, Moment::ANY, mailboxes);
            }
        }
        None
    }

    /// Looks for the next command, or the next line of one.
    fn receive(&mut self, mailboxes: &dyn Mailboxes) -> Option<Step> {
        if self.is_watching() {
            if self.is_lost(mailboxes) {
                self.bye(LOST);
                return None;
            }
            self.tell_news(Moment::ANY, None, mailboxes);
        }
        if matches!(self.task, Task::None) && !self.framer.has_message() {
            self.room = None;
        }
        let Some(frame) = self.framer.next() else {
            return Some(match self.out.is_empty() {
                true => Step::Receive {
                    watch: self.is_watching(),
                },
                false => Step::Transmit,
            });
        };
        match frame {
            Frame::Command => return self.handle_command(mailboxes),
            Frame::Literal { length, waits } => self.handle_literal(length, waits, mailboxes),
            Frame::TooLong => self.refuse_unfinished(reply::COMMAND_TOO_LONG),
            Frame::Flood => self.bye("Too much that cannot be taken"),
        }
        None
    }

    /// Whether the client is told of changes as they come.
    pub(super) fn is_watching(&self) -> bool {
        matches!((&self.task, &self.state), (Task::Idle { .. }, State::Selected(_)))
    }

    fn handle_command(&mut self, mailboxes: &dyn Mailboxes) -> Option<Step> {
        let (bytes, message) = self.framer.take();
        let (tag, outcome) = match std::mem::replace(&mut self.task, Task::None) {
            Task::Idle { tag } => match bytes.eq_ignore_ascii_case(b"DONE\r\n") {
                true => (tag, reply::COMPLETED.into()),
                false => (tag, reply::NOT_DONE.into()),
            },
            Task::Authenticate { tag } => match AuthenticateDataCodec::default().decode(&bytes) {
                Ok(([], AuthenticateData::Continue(data))) => {
                    let outcome = self.authenticate(tag.clone(), data.declassify());
                    (tag, outcome)
                }
                _ => (tag, reply::CANCELLED.into()),
            },
            _ => {
                let tag = command::tag(&bytes).unwrap_or("*").to_string();
                match command::parse(&bytes) {
                    Ok(request) => (tag, self.dispatch(request, message, mailboxes)),
                    Err(reply) => (tag, reply.into()),
                }
            }
        };
        match outcome {
            Outcome::Done(reply, moment) => self.conclude(&tag, reply, moment, mailboxes),
            Outcome::Begun => {}
            Outcome::Lost => self.bye(LOST),
            Outcome::Asks(ask) => return Some(Step::Ask(ask)),
        }
        None
    }

    /// Decides on an announced literal before any of it is read.
    fn handle_literal(&mut self, length: u64, waits: bool, mailboxes: &dyn Mailboxes) {
        let before = self.framer.before_literal();
        let verdict = if !matches!(self.task, Task::None) || self.framer.has_message() {
            Err(reply::LITERAL_REFUSED)
        } else if !command::is_append_message(before) {
            let room = self.limits.command_max.saturating_sub(self.framer.command().len());
            if length > room as u64 {
                Err(reply::COMMAND_TOO_LONG)
            } else {
                Ok(false)
            }
        } else if matches!(self.state, State::NotAuthenticated) {
            Err(reply::NOT_LOGGED_IN)
        } else if mailboxes.is_read_only() {
            Err(reply::NOTHING_CHANGES)
        } else if length > self.limits.append_max as u64 {
            Err(reply::TOO_BIG)
        } else {
            command::check_append(before, &mailboxes.folders()).and_then(|()| {
                self.room = mailboxes.room(usize::try_from(length).unwrap_or(usize::MAX));
                self.room.as_ref().map(|_| true).ok_or(reply::NO_ROOM)
            })
        };
        match verdict {
            Ok(is_message) => {
                if is_message {
                    self.framer.collect()
                } else {
                    self.framer.accept()
                }
                if waits {
                    self.out.put(b"+ Ready\r\n");
                }
            }
            Err(reply) => {
                self.refuse_unfinished(reply);
                self.framer.refuse();
            }
        }
    }

    /// Ends a command that has not come whole.
    fn refuse_unfinished(&mut self, reply: Reply) {
        let tag = match std::mem::replace(&mut self.task, Task::None) {
            Task::Idle { tag } | Task::Authenticate { tag } => tag,
            _ => command::tag(self.framer.command()).unwrap_or("*").to_string(),
        };
        self.reject(&tag, reply);
    }

    /// Checks the name and password of AUTHENTICATE PLAIN (RFC 4616).
    pub(super) fn authenticate(&mut self, tag: String, data: &[u8]) -> Outcome {
        let mut parts = data.split(|&byte| byte == 0);
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(on_behalf_of), Some(user), Some(password), None)
                if on_behalf_of.is_empty() || on_behalf_of == user =>
            {
                self.login(tag, user, password)
            }
            _ => reply::LOGIN_FAILED.into(),
        }
    }

    pub(super) fn login(&mut self, tag: String, user: &[u8], password: &[u8]) -> Outcome {
        self.task = Task::Login { tag };
        let (user, password) = (Zeroizing::new(user.to_vec()), Zeroizing::new(password.to_vec()));
        Outcome::Asks(Ask::Login { user, password })
    }

    /// Ends a command: first the news of the mailbox that may be told, then the tagged reply.
    fn conclude(&mut self, tag: &str, reply: Reply, moment: Moment, mailboxes: &dyn Mailboxes) {
        if reply.is_bad() {
            return self.reject(tag, reply);
        }
        self.tell_news(moment, None, mailboxes);
        self.bad_commands = 0;
        self.out.line(format_args!("{tag} {reply}"));
    }

    /// Tells the client what is new in its mailbox, as far as the moment allows.
    fn tell_news(&mut self, moment: Moment, stored: Option<&Stored>, mailboxes: &dyn Mailboxes) {
        let State::Selected(view) = &mut self.state else { return };
        // The messages first: the folders are then of the same time or later, and name every keyword.
        if let Some(now) = mailboxes.folder(view.folder) {
            let folders = mailboxes.folders();
            let now = Now {
                snapshot: &now,
                folders: &folders,
                recent: mailboxes.recent(),
            };
            view.catch_up(&now, moment, stored, self.condstore, &mut self.out);
        }
    }

    /// Whether the selected mailbox was deleted.
    pub(super) fn is_lost(&self, mailboxes: &dyn Mailboxes) -> bool {
        matches!(&self.state, State::Selected(view) if mailboxes.folder(view.folder).is_none())
    }

    /// Ends a command that was not carried out. Nothing else is told: there may have been no command.
    fn reject(&mut self, tag: &str, reply: Reply) {
        self.out.line(format_args!("{tag} {reply}"));
        if reply.is_bad() {
            self.bad_commands += 1;
            if self.bad_commands >= self.limits.bad_commands_max {
                self.bye("Too many commands that are not understood");
            }
        }
    }

    /// Ends the conversation.
    pub(super) fn bye(&mut self, why: &str) {
        self.out.line(format_args!("* BYE {why}"));
        self.state = State::Logout;
        self.task = Task::None;
    }
}

impl Turn {
    fn into_step(self) -> Step {
        match self {
            Self::Ask(ask) => Step::Ask(ask),
            Self::Transmit | Self::Done(_) => Step::Transmit,
        }
    }
}

/// Holds a conversation in which the client sends `bytes`, with and without logging in first, about a message that is
/// their beginning: as many commands as fit would each fetch all of it. For tests that feed it anything.
pub fn fuzz(bytes: &[u8]) {
    for opening in [&b""[..], b"a LOGIN user pass\r\nb SELECT INBOX\r\n"] {
        let store = super::MemoryStore::new("user", "pass", || 0);
        store.add(bytes[..bytes.len().min(1_000)].to_vec(), Flags::default(), None);
        let mut session = Session::new(&Limits {
            append_max: 1_000,
            ..Limits::default()
        });
        session.handle_bytes(&[opening, bytes].concat());
        converse(&mut session, &store);
    }
}

/// Lets a session go on until it needs bytes, and returns what it says.
fn converse(session: &mut Session, store: &super::MemoryStore) -> Vec<u8> {
    let mut said = Vec::new();
    loop {
        match session.poll(store) {
            Step::Transmit => {
                said.extend_from_slice(session.transmit());
                session.handle_transmitted(session.transmit().len());
            }
            Step::Ask(ask) => session.handle_answer(store.answer(ask)),
            Step::Receive { .. } | Step::Close => return said,
        }
    }
}

#[cfg(test)]
mod tests;
