//! What each command does to a session.

use super::super::auth::{Exchange, Turn};
use super::super::command::{Bdat, Command, Mail, Rcpt};
use super::super::intake::{Chunk, Chunked};
use super::super::limits::{DRAIN_MAX, LOGIN_FAILURES_MAX, RECIPIENTS_MAX};
use super::super::replies::{self, Reply};
use super::{Envelope, Event, Expects, LoginStage, Progress, Session, Stage};

impl Session<'_> {
    pub(super) fn command<'i>(&mut self, command: Command<'_>) -> Result<Progress<'i>, Reply> {
        let domain = self.limits.domain.as_str();
        match command {
            Command::Helo => return Ok(self.hello(&replies::hello(domain))),
            Command::Ehlo => {
                let more = self.offered();
                return Ok(self.hello(&replies::extended_hello(domain, self.limits.size_max, &more)));
            }
            Command::StartTls => return self.starttls(),
            Command::Mail(mail) => return self.mail(mail),
            Command::Rcpt(rcpt) => return self.rcpt(rcpt),
            Command::Data => return self.data(),
            Command::Bdat(bdat) => return Ok(self.bdat(&bdat)),
            Command::Auth {
                mechanism,
                initial_response,
            } => return self.auth(mechanism, initial_response),
            Command::Rset => {
                let dropped = self.end_transaction();
                self.reply(&replies::OK);
                return Ok(dropped);
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

    /// What EHLO shows beyond what every session has.
    fn offered(&self) -> Vec<&'static str> {
        let auth = !matches!(self.login, LoginStage::NotOffered);
        [
            (self.limits.utf8, "SMTPUTF8"),
            (self.limits.dsn, "DSN"),
            (self.offers_tls, "STARTTLS"),
            (auth, "AUTH PLAIN LOGIN"),
        ]
        .into_iter()
        .filter_map(|(is_offered, keyword)| is_offered.then_some(keyword))
        .collect()
    }

    /// HELO and EHLO also end a transaction (RFC 5321 4.1.4).
    fn hello<'i>(&mut self, reply: &Reply) -> Progress<'i> {
        let dropped = self.end_transaction();
        self.stage = Stage::Idle;
        self.reply(reply);
        dropped
    }

    /// Ends a transaction if there is one, and has what came of its message dropped.
    fn end_transaction<'i>(&mut self) -> Progress<'i> {
        match &self.stage {
            Stage::Unknown => return Progress::Continues,
            Stage::Transaction(Envelope { chunked: Some(_), .. }) => {
                self.stage = Stage::Idle;
                return Progress::Asks(Event::TextRefused);
            }
            Stage::Idle | Stage::Transaction(_) | Stage::Failed => {}
        }
        self.stage = Stage::Idle;
        Progress::Continues
    }

    fn starttls<'i>(&mut self) -> Result<Progress<'i>, Reply> {
        if self.is_secured || self.is_receiving() {
            Err(replies::BAD_SEQUENCE)
        } else if self.offers_tls {
            Ok(Progress::Asks(Event::StartTls))
        } else {
            Err(replies::NOT_IMPLEMENTED)
        }
    }

    fn mail<'i>(&mut self, mail: Mail) -> Result<Progress<'i>, Reply> {
        match (&self.login, &self.stage) {
            (LoginStage::NotOffered, _) if mail.vouched => Err(replies::UNKNOWN_PARAMETER),
            (LoginStage::Awaited { .. }, _) => Err(replies::AUTH_REQUIRED),
            (_, Stage::Unknown | Stage::Transaction(_)) => Err(replies::BAD_SEQUENCE),
            _ if mail.utf8 && !self.limits.utf8 => Err(replies::UNKNOWN_PARAMETER),
            _ if !mail.utf8 && !mail.reverse_path.is_ascii() => Err(replies::ADDRESS_NOT_ASCII),
            _ if mail.size.is_some_and(|size| size > self.limits.size_max) => Err(replies::TOO_BIG),
            _ => {
                self.mail_has_utf8 = mail.utf8;
                self.mail_envelope_id = mail.envelope_id;
                Ok(Progress::Asks(Event::Mail(mail.reverse_path, mail.size)))
            }
        }
    }

    fn rcpt<'i>(&mut self, Rcpt { recipient, reports }: Rcpt) -> Result<Progress<'i>, Reply> {
        let envelope = match &mut self.stage {
            Stage::Transaction(envelope) if envelope.chunked.is_none() => envelope,
            _ => return Err(replies::BAD_SEQUENCE),
        };
        if !envelope.utf8 && !recipient.is_ascii() {
            return Err(replies::ADDRESS_NOT_ASCII);
        }
        if envelope.rcpt_count >= RECIPIENTS_MAX {
            // No fault of the client: it may well send the message to these and the rest by the next one.
            self.reply(&replies::TOO_MANY_RECIPIENTS);
        } else if envelope.recipients.contains(&recipient) {
            // What was said first of it counts.
            envelope.rcpt_count += 1;
            self.reply(&replies::RECIPIENT_OK);
        } else {
            self.rcpt_reports = reports;
            return Ok(Progress::Asks(Event::Rcpt(recipient)));
        }
        Ok(Progress::Continues)
    }

    fn data<'i>(&self) -> Result<Progress<'i>, Reply> {
        if self.recipients().is_empty() || self.is_receiving() {
            Err(replies::BAD_SEQUENCE)
        } else {
            Ok(Progress::Asks(Event::Data))
        }
    }

    /// Whatever the answer, the octets of the chunk come first and are no commands (RFC 3030 section 2).
    fn bdat<'i>(&mut self, bdat: &Bdat) -> Progress<'i> {
        if bdat.octets > DRAIN_MAX {
            self.reply(&replies::TOO_BIG);
            self.expects = Expects::Nothing;
            return Progress::Continues;
        }
        let (message, progress) = match &mut self.stage {
            Stage::Transaction(envelope) if !envelope.recipients.is_empty() => {
                let is_first = envelope.chunked.is_none();
                let chunked = envelope.chunked.take().unwrap_or_else(Chunked::new);
                if chunked.has_no_room_for(bdat.octets, self.limits) {
                    (Err(replies::TOO_BIG), Progress::Asks(Event::TextRefused))
                } else if is_first {
                    (Ok(chunked), Progress::Asks(Event::Data))
                } else {
                    (Ok(chunked), Progress::Continues)
                }
            }
            _ if matches!(self.login, LoginStage::Awaited { .. }) => (Err(replies::AUTH_REQUIRED), Progress::Continues),
            _ => (Err(replies::BAD_SEQUENCE), Progress::Continues),
        };
        if message.is_err() {
            self.drained += bdat.octets;
        }
        self.expects = Expects::Chunk(Chunk::new(bdat.octets, bdat.is_last, message));
        progress
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

    pub(super) fn turn<'i>(&mut self, turn: Turn) -> Progress<'i> {
        match turn {
            Turn::Ask(exchange) => {
                self.reply(&exchange.challenge());
                self.expects = Expects::AuthResponse(exchange);
                Progress::Continues
            }
            Turn::Done(credentials) => Progress::Asks(Event::Auth(credentials)),
        }
    }
}
