//! A backend in memory, and the same decisions for a session without I/O.

use std::future::ready;
use std::sync::{Arc, Mutex};

use super::super::*;

pub(super) const SIZE_MAX: u64 = 2_000;

pub(super) fn domain() -> Domain {
    Domain::parse("relay.test").expect("a domain")
}

pub(super) fn mx() -> Limits {
    Limits::mx(domain(), SIZE_MAX)
}

pub(super) fn submission() -> Limits {
    Limits::submission(domain(), SIZE_MAX)
}

/// A message as it was stored.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Stored {
    pub(super) from: String,
    pub(super) to: Vec<String>,
    pub(super) text: String,
}

/// Knows the user `me` with the password `secret`, takes mail for everybody at relay.test whose name has no digit,
/// and refuses text with `POISON` in it.
#[derive(Clone, Default)]
pub(super) struct Memory {
    stored: Arc<Mutex<Vec<Stored>>>,
}

pub(super) struct Incoming {
    message: Stored,
    stored: Arc<Mutex<Vec<Stored>>>,
}

impl Memory {
    pub(super) fn stored(&self) -> Vec<Stored> {
        self.stored.lock().expect("no test panics in here").clone()
    }

    fn judge(recipient: &ForwardPath) -> Result<(), Reply> {
        match recipient {
            ForwardPath::Postmaster => Ok(()),
            ForwardPath::Mailbox(mailbox) if *mailbox.domain() != domain() => Err(replies::NO_RELAYING),
            ForwardPath::Mailbox(mailbox) if mailbox.local().contains(|octet: char| octet.is_ascii_digit()) => {
                Err(replies::UNKNOWN_RECIPIENT)
            }
            ForwardPath::Mailbox(_) => Ok(()),
        }
    }

    fn begin(&self, reverse_path: &ReversePath, recipients: &[ForwardPath]) -> Incoming {
        let to = recipients.iter().map(ToString::to_string).collect();
        let message = Stored {
            from: reverse_path.to_string(),
            to,
            text: String::new(),
        };
        Incoming {
            message,
            stored: Arc::clone(&self.stored),
        }
    }

    /// Shows `session` the segments one after the other, as a driver would; what it replied.
    pub(super) fn converse<'s>(&self, limits: &Limits, segments: impl IntoIterator<Item = &'s [u8]>) -> String {
        let (mut session, mut left, mut message) = (Session::new(limits), Vec::new(), None);
        let mut replied = session.take_output();
        for segment in segments {
            left.extend_from_slice(segment);
            loop {
                let (used, event) = session.handle(&left);
                replied.append(&mut session.take_output());
                let mut waits = false;
                match event {
                    None => waits = true,
                    Some(Event::Close) => return String::from_utf8(replied).expect("ASCII") + "closed",
                    Some(Event::StartTls) => session.secured(),
                    Some(Event::Auth(credentials)) => {
                        session.answer_auth(self.auth(&credentials.user, &credentials.password));
                    }
                    Some(Event::Mail(reverse_path, size)) => {
                        let verdict = self.mail(&reverse_path, size);
                        session.answer_mail(reverse_path, verdict);
                    }
                    Some(Event::Rcpt(recipient)) => {
                        let verdict = Self::judge(&recipient);
                        session.answer_rcpt(recipient, verdict);
                    }
                    Some(Event::Data) => {
                        message = Some(self.begin(session.reverse_path(), session.recipients()));
                        session.answer_data(Ok(()));
                    }
                    Some(Event::Text(octets)) => {
                        let message = message.as_mut().expect("text comes after DATA");
                        if let Err(refusal) = message.chunk(octets) {
                            session.refuse_text(refusal);
                        }
                    }
                    Some(Event::TextRefused) => message = None,
                    Some(Event::TextEnd) => {
                        let reply = message.take().expect("text comes after DATA").store();
                        session.answer_text(&reply);
                    }
                }
                replied.append(&mut session.take_output());
                left.drain(..used);
                if waits {
                    assert!(
                        left.len() < limits::LINE_MAX,
                        "more is kept than a driver's buffer holds"
                    );
                    break;
                }
            }
        }
        String::from_utf8(replied).expect("ASCII")
    }
}

impl Incoming {
    fn store(self) -> Reply {
        self.stored.lock().expect("no test panics in here").push(self.message);
        replies::ACCEPTED
    }
}

impl Backend for Memory {
    type Message = Incoming;

    fn auth(&self, user: &[u8], password: &[u8]) -> bool {
        user == b"me" && password == b"secret"
    }

    fn mail(&self, reverse_path: &ReversePath, _size: Option<u64>) -> Result<(), Reply> {
        let is_owned = !reverse_path.to_string().contains("somebody-else");
        if is_owned {
            Ok(())
        } else {
            Err(replies::SENDER_NOT_OWNED)
        }
    }

    fn rcpt(
        &self,
        _reverse_path: &ReversePath,
        recipient: &ForwardPath,
        _so_far: &[ForwardPath],
    ) -> impl Future<Output = Result<(), Reply>> + Send {
        ready(Self::judge(recipient))
    }

    fn data(
        &self,
        reverse_path: &ReversePath,
        recipients: &[ForwardPath],
        _reports: &Reports,
    ) -> impl Future<Output = Result<Incoming, Reply>> + Send {
        ready(Ok(self.begin(reverse_path, recipients)))
    }
}

impl Receiver for Incoming {
    fn chunk(&mut self, octets: &[u8]) -> Result<(), Reply> {
        let fresh = self.message.text.len().saturating_sub(b"POISON".len() - 1);
        // One character an octet, so that a failed comparison can be read.
        self.message.text.extend(octets.iter().map(|octet| char::from(*octet)));
        let mut words = self.message.text.as_bytes()[fresh..].windows(b"POISON".len());
        if words.any(|word| word == b"POISON") {
            Err(replies::TRY_LATER)
        } else {
            Ok(())
        }
    }

    fn finish(self) -> impl Future<Output = Reply> + Send {
        ready(self.store())
    }
}
