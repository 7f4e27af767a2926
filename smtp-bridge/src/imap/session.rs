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

use std::sync::Arc;

use imap_codec::AuthenticateDataCodec;
use imap_codec::decode::Decoder as _;
use imap_codec::imap_types::auth::AuthenticateData;
use mailbox::holder_store::{FlagChange, Flags, Snapshot};
use zeroize::Zeroizing;

use super::command;
use super::dispatch::Outcome;
use super::fetch::Fetch;
use super::framing::{Frame, Framer};
use super::output::Output;
use super::reply::{self, Reply};
use super::search::Search;
use super::view::{Moment, Stored, View};
use super::{Limits, Summaries, Unavailable};

/// What a session needs next.
#[must_use]
pub enum Step {
    /// Some of [`Session::transmit`] is to be sent.
    Transmit,
    /// Bytes of the client. `watch`: or a change of INBOX, whichever is first.
    Receive {
        /// The client is in IDLE.
        watch: bool,
    },
    /// The answer to this, before the next poll.
    Ask(Ask),
    /// Nothing more: the conversation is over and everything is sent.
    Close,
}

/// A question to the [`Backend`](super::Backend).
pub enum Ask {
    /// Whether this is the user: [`Answer::Login`].
    Login {
        /// As the client gave it.
        user: Zeroizing<Vec<u8>>,
        /// As the client gave it.
        password: Zeroizing<Vec<u8>>,
    },
    /// The text of this UID: [`Answer::Message`].
    Message(u32),
    /// The texts of these UIDs: [`Answer::Messages`].
    Messages(Vec<u32>),
    /// The summaries of these UIDs: [`Answer::Summaries`].
    Summaries(Vec<u32>),
    /// To change flags: [`Answer::Done`].
    Store {
        /// In order.
        uids: Vec<u32>,
        /// The same for all of them.
        change: FlagChange,
    },
    /// To remove these UIDs: [`Answer::Done`].
    Expunge(Vec<u32>),
    /// To add a message: [`Answer::Appended`].
    Append {
        /// Its text.
        message: Zeroizing<Vec<u8>>,
        /// Its flags.
        flags: Flags,
        /// UTC second; `None`: now.
        internal_date: Option<u64>,
    },
}

/// The answer to an [`Ask`].
pub enum Answer {
    /// Whether it is the user's password.
    Login(bool),
    /// The text; `None`: expunged.
    Message(Result<Option<Vec<u8>>, Unavailable>),
    /// The texts in the order asked for, at least one; those behind may be asked for again. `None`: expunged.
    Messages(Result<Vec<Option<Vec<u8>>>, Unavailable>),
    /// The summaries, as [`Backend::summaries`](super::Backend::summaries) has them.
    Summaries(Result<Summaries, Unavailable>),
    /// Whether the change is durable.
    Done(Result<(), Unavailable>),
    /// The UID of the message, which is durable.
    Appended(Result<u32, Unavailable>),
}

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
    Store {
        tag: String,
        uid: bool,
        stored: Stored,
    },
    Expunge {
        tag: String,
    },
    Close {
        tag: String,
    },
    Append {
        tag: String,
    },
}

/// One conversation.
pub struct Session {
    limits: Limits,
    framer: Framer,
    pub(super) out: Output,
    pub(super) state: State,
    pub(super) task: Task,
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
            answer: None,
            login_failures: 0,
            bad_commands: 0,
        }
    }

    /// Takes bytes of the client.
    pub fn handle_bytes(&mut self, bytes: &[u8]) {
        self.framer.push(bytes);
    }

    /// Takes the answer to the last [`Step::Ask`].
    pub fn handle_answer(&mut self, answer: Answer) {
        self.answer = Some(answer);
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

    /// Goes on as far as it can; `inbox` is the mailbox as of now.
    pub fn poll(&mut self, inbox: &Arc<Snapshot>) -> Step {
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
            if let Some(step) = self.advance(inbox) {
                return step;
            }
        }
    }

    /// One step of the command in progress. `None`: there may be more to do.
    fn advance(&mut self, inbox: &Arc<Snapshot>) -> Option<Step> {
        match std::mem::replace(&mut self.task, Task::None) {
            task @ (Task::None | Task::Authenticate { .. } | Task::Idle { .. }) => {
                self.task = task;
                return self.receive(inbox);
            }
            Task::Login { tag } => self.finish_login(&tag, inbox),
            Task::Fetch { tag, uid, mut fetch } => {
                let State::Selected(view) = &self.state else {
                    return None;
                };
                match fetch.turn(view, self.answer.take(), &mut self.out) {
                    Turn::Done(reply) => self.conclude(&tag, reply, Moment::after(uid), inbox),
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
                    Turn::Done(reply) => self.conclude(&tag, reply, Moment::after(uid), inbox),
                    turn => {
                        self.task = Task::Search { tag, uid, search };
                        return Some(turn.into_step());
                    }
                }
            }
            Task::Store { tag, uid, stored } => {
                let reply = self.change_outcome();
                if let (State::Selected(view), reply::COMPLETED) = (&mut self.state, reply) {
                    view.catch_up(inbox, Moment::after(uid), Some(&stored), &mut self.out);
                }
                self.conclude(&tag, reply, Moment::after(uid), inbox);
            }
            Task::Expunge { tag } => {
                let reply = self.change_outcome();
                self.conclude(&tag, reply, Moment::ANY, inbox);
            }
            Task::Close { tag } => {
                let reply = self.change_outcome();
                if reply == reply::COMPLETED {
                    self.state = State::Authenticated;
                }
                self.conclude(&tag, reply, Moment::ANY, inbox);
            }
            Task::Append { tag } => self.finish_append(&tag, inbox),
        }
        None
    }

    /// Looks for the next command, or the next line of one.
    fn receive(&mut self, inbox: &Arc<Snapshot>) -> Option<Step> {
        if let (Task::Idle { .. }, State::Selected(view)) = (&self.task, &mut self.state) {
            view.catch_up(inbox, Moment::ANY, None, &mut self.out);
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
            Frame::Command => return self.handle_command(inbox),
            Frame::Literal { length, waits } => self.handle_literal(length, waits),
            Frame::TooLong => self.refuse_unfinished(reply::COMMAND_TOO_LONG),
            Frame::Flood => self.bye("Too much that cannot be taken"),
        }
        None
    }

    /// Whether the client is told of changes as they come.
    pub(super) fn is_watching(&self) -> bool {
        matches!((&self.task, &self.state), (Task::Idle { .. }, State::Selected(_)))
    }

    fn handle_command(&mut self, inbox: &Arc<Snapshot>) -> Option<Step> {
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
                    Ok(command) => (tag, self.dispatch(command, message, inbox)),
                    Err(reply) => (tag, reply.into()),
                }
            }
        };
        match outcome {
            Outcome::Done(reply, moment) => self.conclude(&tag, reply, moment, inbox),
            Outcome::Begun => {}
            Outcome::Asks(ask) => return Some(Step::Ask(ask)),
        }
        None
    }

    /// Decides on an announced literal before any of it is read.
    fn handle_literal(&mut self, length: u64, waits: bool) {
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
        } else if length > self.limits.append_max as u64 {
            Err(reply::TOO_BIG)
        } else {
            command::check_append(before).map(|()| true)
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

    fn finish_login(&mut self, tag: &str, inbox: &Arc<Snapshot>) {
        if let Some(Answer::Login(true)) = self.answer.take() {
            self.state = State::Authenticated;
            self.bad_commands = 0;
            self.out
                .line(format_args!("{tag} OK [CAPABILITY {}] Logged in", reply::CAPABILITIES));
            return;
        }
        self.login_failures += 1;
        self.conclude(tag, reply::LOGIN_FAILED, Moment::ANY, inbox);
        if self.login_failures >= self.limits.login_failures_max {
            self.bye("Too many wrong passwords");
        }
    }

    fn finish_append(&mut self, tag: &str, inbox: &Arc<Snapshot>) {
        let Some(Answer::Appended(Ok(uid))) = self.answer.take() else {
            return self.conclude(tag, reply::UNAVAILABLE, Moment::ANY, inbox);
        };
        if let State::Selected(view) = &mut self.state {
            view.catch_up(inbox, Moment::ANY, None, &mut self.out);
        }
        self.bad_commands = 0;
        self.out.line(format_args!(
            "{tag} OK [APPENDUID {} {uid}] Completed",
            inbox.uid_validity
        ));
    }

    /// How a change that was asked for went.
    fn change_outcome(&mut self) -> Reply {
        match self.answer.take() {
            Some(Answer::Done(Ok(()))) => reply::COMPLETED,
            _ => reply::UNAVAILABLE,
        }
    }

    /// Ends a command: first the news of the mailbox that may be told, then the tagged reply.
    fn conclude(&mut self, tag: &str, reply: Reply, moment: Moment, inbox: &Arc<Snapshot>) {
        if reply.is_bad() {
            return self.reject(tag, reply);
        }
        if let State::Selected(view) = &mut self.state {
            view.catch_up(inbox, moment, None, &mut self.out);
        }
        self.bad_commands = 0;
        self.out.line(format_args!("{tag} {reply}"));
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
        let inbox = super::MemoryInbox::new("user", "pass", || 0);
        inbox.add(bytes[..bytes.len().min(1_000)].to_vec(), Flags::default(), None);
        let mut session = Session::new(&Limits {
            append_max: 1_000,
            ..Limits::default()
        });
        session.handle_bytes(&[opening, bytes].concat());
        converse(&mut session, &inbox);
    }
}

/// Lets a session go on until it needs bytes, and returns what it says.
fn converse(session: &mut Session, inbox: &super::MemoryInbox) -> Vec<u8> {
    use super::Backend as _;
    let mut said = Vec::new();
    loop {
        match session.poll(&inbox.inbox()) {
            Step::Transmit => {
                said.extend_from_slice(session.transmit());
                session.handle_transmitted(session.transmit().len());
            }
            Step::Ask(ask) => session.handle_answer(inbox.answer(ask)),
            Step::Receive { .. } | Step::Close => return said,
        }
    }
}

#[cfg(test)]
mod tests;
