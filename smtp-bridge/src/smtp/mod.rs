//! SMTP: the server that the bridge's submission port and a relay's MX share, and the client that delivers.
//!
//! [`Session`] is the server without I/O; [`serve`] drives it over a stream behind a [`Door`] and asks a [`Backend`]. [`Connection`] hands
//! messages to one server. Neither dials, listens, looks anything up or logs. Start at [`Session`].

mod auth;
mod command;
mod data;
mod deliver;
mod intake;
pub mod limits;
mod login;
mod path;
mod peer;
pub mod replies;
mod reports;
mod serve;
mod session;
#[cfg(test)]
mod tests;

pub use self::auth::Credentials;
pub use self::deliver::{Attempt, Connection, DeliveryResult};
pub use self::limits::{BareNewlines, Limits, Login, Timer};
pub use self::path::{Domain, ForwardPath, Mailbox, ReversePath};
pub use self::replies::{Enhanced, Reply};
pub use self::reports::{RecipientReports, Reports};
pub(crate) use self::reports::{envelope_id_word, is_notify, is_ret};
pub use self::serve::{Backend, Door, Receiver, Secure, serve, turn_away};
pub use self::session::{Event, Session};

/// Plays a session of either kind on arbitrary octets, agreeing to everything. Must not panic.
pub fn fuzz(octets: &[u8]) {
    let Some(domain) = Domain::parse("relay.test") else {
        return;
    };
    let mut mx = Limits::mx(domain.clone(), 512);
    mx.starttls = true;
    for limits in [mx, Limits::submission(domain, 512)] {
        let mut session = Session::new(&limits);
        let mut rest = octets;
        loop {
            let (used, event) = session.handle(rest);
            rest = &rest[used..];
            match event {
                None | Some(Event::Close) => break,
                Some(Event::StartTls) => session.secured(),
                Some(Event::Auth(_)) => session.answer_auth(true),
                Some(Event::Mail(reverse_path, _)) => session.answer_mail(reverse_path, Ok(())),
                Some(Event::Rcpt(recipient)) => session.answer_rcpt(recipient, Ok(())),
                Some(Event::Data) => session.answer_data(Ok(())),
                Some(Event::Text(_) | Event::TextRefused) => {}
                Some(Event::TextEnd) => session.answer_text(&replies::ACCEPTED),
            }
        }
    }
}

/// Reads arbitrary octets as a server's replies to us. Must not panic.
pub fn fuzz_reply(octets: &[u8]) {
    peer::fuzz(octets);
}
