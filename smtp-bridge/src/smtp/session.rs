//! The server's side of one SMTP session: octets in, replies and questions out.
//!
//! No socket, no clock, no decision about mail: [`serve`](super::serve) drives it, a backend decides.

use super::auth::{Credentials, Exchange};
use super::command::Command;
use super::intake::{Chunk, Chunked, Text};
use super::limits::{
    BAD_COMMANDS_MAX, DRAIN_MAX, IDLE_COMMANDS_MAX, LINE_MAX, Limits, Login, REFUSED_RECIPIENTS_MAX, Timer,
};
use super::path::{ForwardPath, ReversePath};
use super::replies::{self, Reply};
use super::reports::{RecipientReports, Reports};

mod commands;

/// One session, from the greeting to QUIT.
///
/// Show it what came in by [`handle`](Self::handle), answer the [`Event`] it returns, send what
/// [`take_output`](Self::take_output) has. An event is answered before `handle` is called again.
pub struct Session<'l> {
    limits: &'l Limits,
    stage: Stage,
    expects: Expects,
    login: LoginStage,
    /// Whether STARTTLS may come.
    offers_tls: bool,
    is_secured: bool,
    output: Vec<u8>,
    bad_commands: u32,
    refused_recipients: u32,
    /// Whether the MAIL that is asked about has SMTPUTF8.
    mail_has_utf8: bool,
    /// ENVID of the MAIL that is asked about.
    mail_envelope_id: Option<String>,
    /// What the RCPT that is asked about says of reports.
    rcpt_reports: RecipientReports,
    /// Commands since the last message.
    idle_commands: u32,
    /// Octets of chunks that belonged to no message.
    drained: u64,
}

/// What the session wants its driver to do or to decide.
pub enum Event<'i> {
    /// Send the output, then shake hands; nothing read so far is part of it. [`Session::secured`], or end.
    StartTls,
    /// Is this the user? [`Session::answer_auth`]
    Auth(Credentials),
    /// May mail come from here, of this announced size? [`Session::answer_mail`]
    Mail(ReversePath, Option<u64>),
    /// May it go there? [`Session::answer_rcpt`]
    Rcpt(ForwardPath),
    /// Is there room for a message with [`Session::reverse_path`], [`Session::recipients`] and [`Session::reports`]?
    /// [`Session::answer_data`]
    Data,
    /// The next octets of the message, unstuffed. Needs no answer; [`Session::refuse_text`] is one.
    Text(&'i [u8]),
    /// The message is refused and what came of it is to be dropped; the reply follows its end. Needs no answer.
    TextRefused,
    /// The message is complete: store it. [`Session::answer_text`]
    TextEnd,
    /// Send the output and close.
    Close,
}

/// Where RFC 5321 4.1.4 stands.
enum Stage {
    /// Neither HELO nor EHLO came.
    Unknown,
    /// No transaction.
    Idle,
    /// After MAIL.
    Transaction(Envelope),
    /// No transaction, as a chunk of it was refused: those that were sent behind it are expected (RFC 3030 section 2).
    Failed,
}

struct Envelope {
    reverse_path: ReversePath,
    recipients: Vec<ForwardPath>,
    reports: Reports,
    /// RCPTs answered 250, repetitions included.
    rcpt_count: usize,
    /// MAIL had SMTPUTF8.
    utf8: bool,
    /// What BDAT brought, between two chunks.
    chunked: Option<Chunked>,
}

/// What the next octets are.
enum Expects {
    Command,
    /// The rest of an overlong line, which is then answered.
    LineEnd(Reply),
    AuthResponse(Exchange),
    Text(Text),
    Chunk(Chunk),
    Nothing,
}

enum LoginStage {
    NotOffered,
    Awaited { failures: u32 },
    Done,
}

/// How far the session came with its input.
pub(super) enum Progress<'i> {
    /// Needs more octets.
    Waits,
    /// Has more to do.
    Continues,
    /// Wants its driver.
    Asks(Event<'i>),
}

impl<'l> Session<'l> {
    /// A session that greets.
    pub fn new(limits: &'l Limits) -> Self {
        let login = match limits.login {
            Login::None => LoginStage::NotOffered,
            Login::Required => LoginStage::Awaited { failures: 0 },
        };
        let mut session = Self {
            limits,
            stage: Stage::Unknown,
            expects: Expects::Command,
            login,
            offers_tls: limits.starttls,
            is_secured: false,
            output: Vec::new(),
            bad_commands: 0,
            refused_recipients: 0,
            mail_has_utf8: false,
            mail_envelope_id: None,
            rcpt_reports: RecipientReports::default(),
            idle_commands: 0,
            drained: 0,
        };
        session.reply(&replies::greeting(limits.domain.as_str()));
        session
    }

    /// Reads as much of `input` as it can: how many octets are used up, and what it wants then.
    ///
    /// Without an event it waits for more; what is not used up (less than [`LINE_MAX`]) is to be shown again with more
    /// behind it.
    pub fn handle<'i>(&mut self, input: &'i [u8]) -> (usize, Option<Event<'i>>) {
        let mut used = 0;
        loop {
            let rest = &input[used..];
            let (taken, progress) = match &mut self.expects {
                Expects::Command | Expects::AuthResponse(_) => self.handle_line(rest),
                Expects::LineEnd(_) => self.handle_line_end(rest),
                Expects::Text(text) => match text.handle(rest, self.limits) {
                    (taken, Some(progress)) => (taken, progress),
                    (taken, None) => (taken, self.handle_text_end()),
                },
                Expects::Chunk(chunk) => match chunk.handle(rest, self.limits) {
                    (taken, Some(progress)) => (taken, progress),
                    (taken, None) => (taken, self.handle_chunk_end()),
                },
                Expects::Nothing => (rest.len(), Progress::Asks(Event::Close)),
            };
            used += taken;
            match progress {
                Progress::Waits => return (used, None),
                Progress::Continues => {}
                // Whoever sits between could have put it there, to be read as if it had come under TLS.
                Progress::Asks(Event::StartTls) if used < input.len() => self.reply(&replies::INJECTED),
                Progress::Asks(Event::StartTls) => {
                    self.reply(&replies::READY_FOR_TLS);
                    return (used, Some(Event::StartTls));
                }
                Progress::Asks(event) => return (used, Some(event)),
            }
        }
    }

    /// What is to be sent, in order.
    pub fn take_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.output)
    }

    /// The clock that runs while the session waits.
    pub fn timer(&self) -> Timer {
        if self.is_receiving() {
            Timer::Text
        } else {
            Timer::Command
        }
    }

    /// Whether a message is coming in, between its chunks too.
    pub fn is_receiving(&self) -> bool {
        let between_chunks = matches!(&self.stage, Stage::Transaction(Envelope { chunked: Some(_), .. }));
        between_chunks || matches!(self.expects, Expects::Text(_) | Expects::Chunk(_))
    }

    /// The server stops: says so, and ends. A message that is coming in is lost by that, so it is waited for.
    pub fn shut_down(&mut self) {
        self.reply(&replies::SHUTTING_DOWN);
    }

    /// The handshake of [`Event::StartTls`] is done: nothing that was said before it counts (RFC 3207 section 4.2).
    pub fn secured(&mut self) {
        self.stage = Stage::Unknown;
        (self.offers_tls, self.is_secured) = (false, true);
        if matches!(self.login, LoginStage::Done) {
            self.login = LoginStage::Awaited { failures: 0 };
        }
    }

    /// The clock fired: says so, and ends.
    pub fn time_out(&mut self) {
        self.reply(&replies::TIMED_OUT);
    }

    /// Where the current message comes from.
    pub fn reverse_path(&self) -> &ReversePath {
        match &self.stage {
            Stage::Transaction(envelope) => &envelope.reverse_path,
            _ => &ReversePath::Null,
        }
    }

    /// Where the current message goes, each recipient once.
    pub fn recipients(&self) -> &[ForwardPath] {
        match &self.stage {
            Stage::Transaction(envelope) => &envelope.recipients,
            _ => &[],
        }
    }

    /// Which reports on the current message are wanted.
    pub fn reports(&self) -> &Reports {
        const NOTHING: &Reports = &Reports {
            envelope_id: None,
            recipients: Vec::new(),
        };
        match &self.stage {
            Stage::Transaction(envelope) => &envelope.reports,
            _ => NOTHING,
        }
    }

    /// Answers [`Event::Auth`].
    pub fn answer_auth(&mut self, is_user: bool) {
        if is_user {
            self.login = LoginStage::Done;
            return self.reply(&replies::AUTHENTICATED);
        }
        if let LoginStage::Awaited { failures } = &mut self.login {
            *failures += 1;
        }
        self.reply(&replies::BAD_CREDENTIALS);
    }

    /// Answers [`Event::Mail`], whose reverse-path comes back here.
    pub fn answer_mail(&mut self, reverse_path: ReversePath, verdict: Result<(), Reply>) {
        let utf8 = std::mem::take(&mut self.mail_has_utf8);
        let envelope_id = self.mail_envelope_id.take();
        match verdict {
            Ok(()) => {
                self.stage = Stage::Transaction(Envelope {
                    reverse_path,
                    recipients: Vec::new(),
                    reports: Reports {
                        envelope_id,
                        recipients: Vec::new(),
                    },
                    rcpt_count: 0,
                    utf8,
                    chunked: None,
                });
                self.reply(&replies::SENDER_OK);
            }
            Err(refusal) => self.refuse(refusal),
        }
    }

    /// Answers [`Event::Rcpt`], whose recipient comes back here.
    pub fn answer_rcpt(&mut self, recipient: ForwardPath, verdict: Result<(), Reply>) {
        let reports = std::mem::take(&mut self.rcpt_reports);
        match (verdict, &mut self.stage) {
            (Ok(()), Stage::Transaction(envelope)) => {
                envelope.rcpt_count += 1;
                envelope.recipients.push(recipient);
                envelope.reports.recipients.push(reports);
                self.reply(&replies::RECIPIENT_OK);
            }
            (Ok(()), _) => unreachable!("recipients are asked about within a transaction only"),
            (Err(refusal), _) => {
                self.refused_recipients += u32::from(refusal.is_permanent());
                let too_many = self.refused_recipients > REFUSED_RECIPIENTS_MAX;
                self.reply(&if too_many { replies::TOO_MANY_UNKNOWN } else { refusal });
            }
        }
    }

    /// Answers [`Event::Data`]. A refusal ends the transaction.
    pub fn answer_data(&mut self, verdict: Result<(), Reply>) {
        match (verdict, &mut self.expects) {
            (Ok(()), Expects::Chunk(_)) => {}
            (Err(refusal), Expects::Chunk(chunk)) => chunk.message = Err(refusal),
            (Ok(()), _) => {
                self.expects = Expects::Text(Text::new());
                self.reply(&replies::START_TEXT);
            }
            (Err(refusal), _) => {
                self.stage = Stage::Idle;
                self.reply(&refusal);
            }
        }
    }

    /// Refuses the message that comes in: the rest is drained, then this reply given.
    pub fn refuse_text(&mut self, refusal: Reply) {
        match &mut self.expects {
            Expects::Text(text) => text.refusal = Some(refusal),
            Expects::Chunk(chunk) => chunk.message = Err(refusal),
            _ => {}
        }
    }

    /// Answers [`Event::TextEnd`]: a positive reply says that the message is stored durably.
    pub fn answer_text(&mut self, reply: &Reply) {
        self.stage = Stage::Idle;
        self.idle_commands = 0;
        self.reply(reply);
    }

    fn handle_line<'i>(&mut self, input: &[u8]) -> (usize, Progress<'i>) {
        match input.windows(2).position(|pair| pair == b"\r\n") {
            Some(length) if length + 2 <= LINE_MAX => (length + 2, self.line(&input[..length])),
            None if input.len() < LINE_MAX => (0, Progress::Waits),
            _ => {
                let in_exchange = matches!(self.expects, Expects::AuthResponse(_));
                let too_long = if in_exchange {
                    replies::AUTH_LINE_TOO_LONG
                } else {
                    replies::LINE_TOO_LONG
                };
                self.expects = Expects::LineEnd(too_long);
                (0, Progress::Continues)
            }
        }
    }

    fn handle_line_end<'i>(&mut self, input: &[u8]) -> (usize, Progress<'i>) {
        let Some(length) = input.windows(2).position(|pair| pair == b"\r\n") else {
            let kept = usize::from(input.ends_with(b"\r"));
            return (input.len() - kept, Progress::Waits);
        };
        if let Expects::LineEnd(reply) = std::mem::replace(&mut self.expects, Expects::Command) {
            self.refuse(reply);
        }
        (length + 2, Progress::Continues)
    }

    fn line<'i>(&mut self, line: &[u8]) -> Progress<'i> {
        let outcome = match std::mem::replace(&mut self.expects, Expects::Command) {
            Expects::AuthResponse(exchange) => exchange.take(line).map(|turn| self.turn(turn)),
            _ => {
                self.idle_commands += 1;
                if self.idle_commands > IDLE_COMMANDS_MAX {
                    Err(replies::TOO_MANY_COMMANDS)
                } else {
                    Command::parse(line, self.limits.dsn).and_then(|command| self.command(command))
                }
            }
        };
        outcome.unwrap_or_else(|refusal| {
            self.refuse(refusal);
            Progress::Continues
        })
    }

    fn handle_text_end<'i>(&mut self) -> Progress<'i> {
        match std::mem::replace(&mut self.expects, Expects::Command) {
            Expects::Text(Text {
                refusal: Some(refusal),
                octets,
                ..
            }) => {
                self.answer_text(&refusal);
                if octets > DRAIN_MAX {
                    self.expects = Expects::Nothing;
                }
                Progress::Continues
            }
            _ => Progress::Asks(Event::TextEnd),
        }
    }

    fn handle_chunk_end<'i>(&mut self) -> Progress<'i> {
        let Expects::Chunk(chunk) = std::mem::replace(&mut self.expects, Expects::Command) else {
            unreachable!("a chunk ends only while one is expected");
        };
        match (chunk.message, &mut self.stage) {
            (Ok(_), _) if chunk.is_last => return Progress::Asks(Event::TextEnd),
            (Ok(chunked), Stage::Transaction(envelope)) => {
                envelope.chunked = Some(chunked);
                self.reply(&replies::CHUNK_OK);
            }
            (Ok(_), _) => unreachable!("a message has its transaction"),
            // Sent before the client knew.
            (Err(refusal), Stage::Failed) => self.reply(&refusal),
            (Err(refusal), Stage::Transaction(envelope)) if !envelope.recipients.is_empty() => {
                self.stage = Stage::Failed;
                self.reply(&refusal);
            }
            (Err(refusal), _) => self.refuse(refusal),
        }
        if self.drained > DRAIN_MAX {
            self.expects = Expects::Nothing;
        }
        Progress::Continues
    }

    /// Answers a command that failed; whoever sends too many of them is sent away.
    fn refuse(&mut self, refusal: Reply) {
        self.bad_commands += u32::from(refusal.is_permanent());
        let too_many = self.bad_commands > BAD_COMMANDS_MAX;
        self.reply(&if too_many { replies::TOO_MANY_ERRORS } else { refusal });
    }

    fn reply(&mut self, reply: &Reply) {
        reply.write_to(&mut self.output);
        if reply.code == 421 {
            self.expects = Expects::Nothing;
        }
    }
}
