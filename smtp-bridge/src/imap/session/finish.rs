//! How commands end that had to ask: with the answer, and the tagged reply.

use mailbox::holder_store::Flags;

use super::{Answer, Flagged, Session, State, Step};
use crate::imap::reply::{self, Reply};
use crate::imap::view::{Moment, Stored};
use crate::imap::{Failure, Mailboxes};

impl Session {
    pub(super) fn finish_login(&mut self, tag: &str, mailboxes: &dyn Mailboxes) {
        if let Some(Answer::Login(true)) = self.answer.take() {
            self.state = State::Authenticated;
            self.bad_commands = 0;
            self.out
                .line(format_args!("{tag} OK [CAPABILITY {}] Logged in", reply::CAPABILITIES));
            return;
        }
        self.login_failures += 1;
        self.conclude(tag, reply::LOGIN_FAILED, Moment::ANY, mailboxes);
        if self.login_failures >= self.limits.login_failures_max {
            self.bye("Too many wrong passwords");
        }
    }

    /// Goes on with what has flags, now that the keywords among them have theirs.
    pub(super) fn finish_keywords(&mut self, flags: Flags, next: Flagged, mailboxes: &dyn Mailboxes) -> Option<Step> {
        match (self.answer.take(), next) {
            (Some(Answer::Keywords(Ok(new))), next) => {
                let ask = self.go_on(flags.with(new), next);
                return ask.map(Step::Ask);
            }
            (_, Flagged::Store { tag, uid, .. }) => {
                self.conclude(&tag, reply::UNAVAILABLE, Moment::after(uid), mailboxes);
            }
            (_, Flagged::Append { tag, .. }) => self.conclude(&tag, reply::UNAVAILABLE, Moment::ANY, mailboxes),
        }
        None
    }

    pub(super) fn finish_store(&mut self, tag: &str, uid: bool, mut stored: Stored, mailboxes: &dyn Mailboxes) {
        let moment = Moment::after(uid);
        let left = match self.answer.take() {
            Some(Answer::Stored(Ok(left))) => left,
            // The folder went meanwhile: flags that were not kept are not said to be.
            Some(Answer::Stored(Err(failure))) => return self.conclude(tag, failure.into(), moment, mailboxes),
            _ => return self.conclude(tag, reply::UNAVAILABLE, moment, mailboxes),
        };
        stored.uids.retain(|uid| left.binary_search(uid).is_err());
        self.tell_news(moment, Some(&stored), mailboxes);
        let State::Selected(view) = &self.state else { return };
        if left.is_empty() {
            return self.conclude(tag, reply::COMPLETED, moment, mailboxes);
        }
        // RFC 7162 section 3.1.3; numbers have not shifted, or UIDs are told.
        self.out.put_fmt(format_args!("{tag} OK [MODIFIED "));
        match uid {
            true => self.out.put_set(left),
            false => {
                let positions = left.iter().filter_map(|uid| view.entries().position_of(*uid));
                self.out.put_set(positions.map(|position| position as u32 + 1));
            }
        }
        self.out.line(format_args!("] Some have changed since"));
        self.bad_commands = 0;
    }

    pub(super) fn finish_append(&mut self, tag: &str, uid_validity: u32, mailboxes: &dyn Mailboxes) {
        let uid = match self.answer.take() {
            Some(Answer::Appended(Ok(uid))) => uid,
            Some(Answer::Appended(Err(Failure::NoFolder))) => {
                return self.conclude(tag, reply::TRY_CREATE, Moment::ANY, mailboxes);
            }
            Some(Answer::Appended(Err(failure))) => {
                return self.conclude(tag, failure.into(), Moment::ANY, mailboxes);
            }
            _ => return self.conclude(tag, reply::UNAVAILABLE, Moment::ANY, mailboxes),
        };
        self.tell_news(Moment::ANY, None, mailboxes);
        self.bad_commands = 0;
        self.out
            .line(format_args!("{tag} OK [APPENDUID {uid_validity} {uid}] Completed"));
    }

    pub(super) fn finish_copy(
        &mut self,
        tag: &str,
        uid: bool,
        moves: bool,
        uid_validity: u32,
        mailboxes: &dyn Mailboxes,
    ) {
        let moment = if moves { Moment::ANY } else { Moment::after(uid) };
        let copied = match self.answer.take() {
            Some(Answer::Copied(Ok(copied))) => copied,
            Some(Answer::Copied(Err(Failure::NoFolder))) if !self.is_lost(mailboxes) => {
                return self.conclude(tag, reply::TRY_CREATE, moment, mailboxes);
            }
            Some(Answer::Copied(Err(failure))) => return self.conclude(tag, failure.into(), moment, mailboxes),
            _ => return self.conclude(tag, reply::UNAVAILABLE, moment, mailboxes),
        };
        if copied.is_empty() {
            return self.conclude(tag, reply::COMPLETED, moment, mailboxes);
        }
        // A move tells it before the EXPUNGEs (RFC 6851 section 4.3).
        if !moves {
            self.tell_news(moment, None, mailboxes);
        }
        self.out.put_fmt(format_args!(
            "{} OK [COPYUID {uid_validity} ",
            if moves { "*" } else { tag }
        ));
        self.out.put_set(copied.iter().map(|(here, _)| *here));
        self.out.put(b" ");
        self.out.put_set(copied.iter().map(|(_, there)| *there));
        self.out.line(format_args!("] Completed"));
        self.bad_commands = 0;
        if moves {
            self.conclude(tag, reply::COMPLETED, moment, mailboxes);
        }
    }

    /// How a change that was asked for went.
    pub(super) fn change_outcome(&mut self) -> Reply {
        match self.answer.take() {
            Some(Answer::Done(Ok(()))) => reply::COMPLETED,
            Some(Answer::Done(Err(failure))) => failure.into(),
            _ => reply::UNAVAILABLE,
        }
    }
}
