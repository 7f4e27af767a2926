//! The server's side of one SMTP session: octets in, replies and questions out.
//!
//! No socket, no clock, no decision about mail: [`serve`](super::serve) drives it, a backend decides.

use super::auth::{Credentials, Exchange, Turn};
use super::command::{Command, Mail};
use super::data::{DataScanner, Found};
use super::limits::{
    BAD_COMMANDS_MAX, BareNewlines, DRAIN_MAX, LINE_MAX, LOGIN_FAILURES_MAX, Limits, Login, RECIPIENTS_MAX,
    REFUSED_RECIPIENTS_MAX, Timer,
};
use super::path::{ForwardPath, ReversePath};
use super::replies::{self, Reply};

/// One session, from the greeting to QUIT.
///
/// Show it what came in by [`handle`](Self::handle), answer the [`Event`] it returns, send what
/// [`take_output`](Self::take_output) has. An event is answered before `handle` is called again.
pub struct Session<'l> {
    limits: &'l Limits,
    stage: Stage,
    expects: Expects,
    login: LoginStage,
    output: Vec<u8>,
    bad_commands: u32,
    refused_recipients: u32,
}

/// What the session wants its driver to do or to decide.
pub enum Event<'i> {
    /// Is this the user? [`Session::answer_auth`]
    Auth(Credentials),
    /// May mail come from here, of this announced size? [`Session::answer_mail`]
    Mail(ReversePath, Option<u64>),
    /// May it go there? [`Session::answer_rcpt`]
    Rcpt(ForwardPath),
    /// Is there room for a message with [`Session::reverse_path`] and [`Session::recipients`]?
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
}

struct Envelope {
    reverse_path: ReversePath,
    recipients: Vec<ForwardPath>,
    /// RCPTs answered 250, repetitions included.
    rcpt_count: usize,
}

/// What the next octets are.
enum Expects {
    Command,
    /// The rest of an overlong line, which is then answered.
    LineEnd(Reply),
    AuthResponse(Exchange),
    Text(Text),
    Nothing,
}

/// A message that comes in.
struct Text {
    scanner: DataScanner,
    octets: u64,
    /// Why it is drained instead of taken.
    refusal: Option<Reply>,
}

enum LoginStage {
    NotOffered,
    Awaited { failures: u32 },
    Done,
}

/// How far the session came with its input.
enum Progress<'i> {
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
            output: Vec::new(),
            bad_commands: 0,
            refused_recipients: 0,
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
                Expects::Nothing => (rest.len(), Progress::Asks(Event::Close)),
            };
            used += taken;
            match progress {
                Progress::Waits => return (used, None),
                Progress::Continues => {}
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
        if matches!(self.expects, Expects::Text(_)) {
            Timer::Text
        } else {
            Timer::Command
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
        match verdict {
            Ok(()) => {
                self.stage = Stage::Transaction(Envelope {
                    reverse_path,
                    recipients: Vec::new(),
                    rcpt_count: 0,
                });
                self.reply(&replies::SENDER_OK);
            }
            Err(refusal) => self.refuse(refusal),
        }
    }

    /// Answers [`Event::Rcpt`], whose recipient comes back here.
    pub fn answer_rcpt(&mut self, recipient: ForwardPath, verdict: Result<(), Reply>) {
        match (verdict, &mut self.stage) {
            (Ok(()), Stage::Transaction(envelope)) => {
                envelope.rcpt_count += 1;
                envelope.recipients.push(recipient);
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
        match verdict {
            Ok(()) => {
                self.expects = Expects::Text(Text {
                    scanner: DataScanner::new(),
                    octets: 0,
                    refusal: None,
                });
                self.reply(&replies::START_TEXT);
            }
            Err(refusal) => {
                self.stage = Stage::Idle;
                self.reply(&refusal);
            }
        }
    }

    /// Refuses the message that comes in: the rest is drained, then this reply given.
    pub fn refuse_text(&mut self, refusal: Reply) {
        if let Expects::Text(text) = &mut self.expects {
            text.refusal = Some(refusal);
        }
    }

    /// Answers [`Event::TextEnd`]: a positive reply says that the message is stored durably.
    pub fn answer_text(&mut self, reply: &Reply) {
        self.stage = Stage::Idle;
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
            _ => Command::parse(line).and_then(|command| self.command(command)),
        };
        outcome.unwrap_or_else(|refusal| {
            self.refuse(refusal);
            Progress::Continues
        })
    }

    fn command<'i>(&mut self, command: Command<'_>) -> Result<Progress<'i>, Reply> {
        let domain = self.limits.domain.as_str();
        match command {
            Command::Helo => self.hello(&replies::hello(domain)),
            Command::Ehlo => {
                let offers_auth = !matches!(self.login, LoginStage::NotOffered);
                self.hello(&replies::extended_hello(domain, self.limits.size_max, offers_auth));
            }
            Command::Mail(mail) => return self.mail(mail),
            Command::Rcpt(recipient) => return self.rcpt(recipient),
            Command::Data => return self.data(),
            Command::Auth {
                mechanism,
                initial_response,
            } => return self.auth(mechanism, initial_response),
            Command::Rset => {
                if matches!(self.stage, Stage::Transaction(_)) {
                    self.stage = Stage::Idle;
                }
                self.reply(&replies::OK);
            }
            Command::Noop => self.reply(&replies::OK),
            Command::Help => self.reply(&replies::HELP),
            Command::Vrfy => self.reply(&replies::NOT_VERIFIED),
            Command::Quit => {
                self.reply(&replies::BYE);
                self.expects = Expects::Nothing;
            }
        }
        Ok(Progress::Continues)
    }

    /// HELO and EHLO also end a transaction (RFC 5321 4.1.4).
    fn hello(&mut self, reply: &Reply) {
        self.stage = Stage::Idle;
        self.reply(reply);
    }

    fn mail<'i>(&mut self, mail: Mail) -> Result<Progress<'i>, Reply> {
        match (&self.login, &self.stage) {
            (LoginStage::NotOffered, _) if mail.vouched => Err(replies::UNKNOWN_PARAMETER),
            (LoginStage::Awaited { .. }, _) => Err(replies::AUTH_REQUIRED),
            (_, Stage::Unknown | Stage::Transaction(_)) => Err(replies::BAD_SEQUENCE),
            (_, Stage::Idle) if mail.size.is_some_and(|size| size > self.limits.size_max) => Err(replies::TOO_BIG),
            (_, Stage::Idle) => Ok(Progress::Asks(Event::Mail(mail.reverse_path, mail.size))),
        }
    }

    fn rcpt<'i>(&mut self, recipient: ForwardPath) -> Result<Progress<'i>, Reply> {
        let Stage::Transaction(envelope) = &mut self.stage else {
            return Err(replies::BAD_SEQUENCE);
        };
        if envelope.rcpt_count >= RECIPIENTS_MAX {
            // No fault of the client: it may well send the message to these and the rest by the next one.
            self.reply(&replies::TOO_MANY_RECIPIENTS);
        } else if envelope.recipients.contains(&recipient) {
            envelope.rcpt_count += 1;
            self.reply(&replies::RECIPIENT_OK);
        } else {
            return Ok(Progress::Asks(Event::Rcpt(recipient)));
        }
        Ok(Progress::Continues)
    }

    fn data<'i>(&self) -> Result<Progress<'i>, Reply> {
        if self.recipients().is_empty() {
            Err(replies::BAD_SEQUENCE)
        } else {
            Ok(Progress::Asks(Event::Data))
        }
    }

    fn auth<'i>(&mut self, mechanism: &str, initial_response: Option<&str>) -> Result<Progress<'i>, Reply> {
        match (&self.login, &self.stage) {
            (LoginStage::NotOffered, _) => return Err(replies::NOT_IMPLEMENTED),
            (LoginStage::Done, _) | (_, Stage::Unknown) => return Err(replies::BAD_SEQUENCE),
            (
                LoginStage::Awaited {
                    failures: LOGIN_FAILURES_MAX..,
                },
                _,
            ) => return Err(replies::TOO_MANY_LOGINS),
            (LoginStage::Awaited { .. }, _) => {}
        }
        let exchange = Exchange::begin(mechanism).ok_or(replies::UNKNOWN_MECHANISM)?;
        let turn = match initial_response {
            Some(response) => exchange.take_initial(response)?,
            None => Turn::Ask(exchange),
        };
        Ok(self.turn(turn))
    }

    fn turn<'i>(&mut self, turn: Turn) -> Progress<'i> {
        match turn {
            Turn::Ask(exchange) => {
                self.reply(&exchange.challenge());
                self.expects = Expects::AuthResponse(exchange);
                Progress::Continues
            }
            Turn::Done(credentials) => Progress::Asks(Event::Auth(credentials)),
        }
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

impl Text {
    /// Finds what is next; nothing when the message is over.
    fn handle<'i>(&mut self, input: &'i [u8], limits: &Limits) -> (usize, Option<Progress<'i>>) {
        let (used, found) = self.scanner.scan(input);
        let refuses_bare = limits.bare_newlines == BareNewlines::Refuse;
        let (text, fault) = match found {
            Found::Nothing => return (used, Some(Progress::Waits)),
            Found::End => return (used, None),
            Found::Text(text) => (text, None),
            Found::BareNewline => (&b"\r\n"[..], refuses_bare.then_some(replies::BARE_NEWLINE)),
        };
        self.octets += text.len() as u64;
        let too_big = (self.octets > limits.size_max).then_some(replies::TOO_BIG);
        let progress = match (&self.refusal, too_big.or(fault)) {
            (Some(_), _) if self.octets > DRAIN_MAX => return (used, None),
            (Some(_), _) => Progress::Continues,
            (None, Some(fault)) => {
                self.refusal = Some(fault);
                Progress::Asks(Event::TextRefused)
            }
            (None, None) => Progress::Asks(Event::Text(text)),
        };
        (used, Some(progress))
    }
}
