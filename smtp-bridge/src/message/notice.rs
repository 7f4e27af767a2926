//! Notices of the bridge to its user, as messages in INBOX. They never leave the machine.

use super::Warning;
use super::address::{Address, Mailbox};
use super::emit::Writer;
use super::text::Text;
use super::words::collapse;
use crate::figures::span;

/// Who notices are from.
const FROM: (&str, &str) = ("Postern", "postmaster@localhost");

/// Something that the user should know or do. Values are in micro-tokens (µtok).
#[derive(Clone, PartialEq, Eq)]
pub enum Notice<'a> {
    /// The first message of a new pack.
    Welcome {
        /// The alias that mail comes in and goes out under.
        alias: &'a str,
        /// Value of the pack.
        balance: u64,
        /// Session keys left.
        keys: u64,
    },
    /// Value or keys are running out.
    LowValue {
        /// Value left.
        balance: u64,
        /// Session keys left.
        keys: u64,
    },
    /// The relay has not been reached for long.
    Unreachable {
        /// For how long, in seconds.
        seconds: u64,
    },
    /// Mail that waits at the relay is about to be dropped, since nobody collects it.
    Retention {
        /// Days since the relay was last reached.
        days: u64,
        /// Days that the relay keeps mail.
        kept: u32,
    },
    /// The relay refused a message for lack of value; it waits in the outbox.
    Held {
        /// Its subject.
        subject: &'a str,
        /// What is missing.
        shortfall: u64,
    },
    /// The relay's prices changed; the message waits to go at the new one.
    Repriced {
        /// Its subject.
        subject: &'a str,
        /// What it costs now.
        price: u64,
    },
    /// The relay no longer keeps its answer about a message.
    Unknown {
        /// Its subject.
        subject: &'a str,
    },
    /// A message to the user outlived the relay's retention.
    Expired,
    /// A message to the user arrived damaged.
    Damaged,
    /// The relay saw another user of the pack.
    SecondHolder,
    /// Something was let through that its sender may not expect.
    Warned(Warning),
    /// The relay refused a message for good.
    Refused {
        /// Its subject.
        subject: &'a str,
        /// Why, and what to do; one sentence.
        reason: &'a str,
    },
}

impl Notice<'_> {
    fn subject(&self) -> String {
        match self {
            Notice::Welcome { .. } => "Welcome to Postern".into(),
            Notice::LowValue { .. } => "Your keypack is running low".into(),
            Notice::Unreachable { .. } => "Your relay cannot be reached".into(),
            Notice::Retention { .. } => "Mail that waits for you may be lost soon".into(),
            Notice::Held { subject, .. } => format!("Waiting for value: {subject}"),
            Notice::Repriced { subject, .. } => format!("Waiting for a new price: {subject}"),
            Notice::Unknown { subject } => format!("Perhaps sent: {subject}"),
            Notice::Expired => "A message to you has expired".into(),
            Notice::Damaged => "A message to you is damaged".into(),
            Notice::SecondHolder => "Your keypack is in use elsewhere, or was restored".into(),
            Notice::Warned(Warning::HtmlConverted) => "Your HTML was sent as plain text".into(),
            Notice::Warned(Warning::OpenPgpInText) => "OpenPGP was sent in your text".into(),
            Notice::Warned(Warning::SignaturePassed) => "A signature was sent, and names its signer".into(),
            Notice::Refused { subject, .. } => format!("Not sent: {subject}"),
        }
    }

    fn body(&self) -> String {
        match self {
            Notice::Welcome { alias, balance, keys } => format!(
                "Your mail goes out and comes in as\n\n    {alias}\n\nThe keypack holds {balance} µtok and {keys} session keys. Each \
                 message costs\nvalue, each connection a key; `postern status` shows what is left.\n\nWrite from this account as from \
                 any other. Messages are rebuilt before\nthey leave: the recipient sees the alias, your text and your attachments,\nand \
                 nothing of your mail program, your clock or your computer.\n"
            ),
            Notice::LowValue { balance, keys } => format!(
                "The keypack has {balance} µtok and {keys} session keys left. When either is\nused up, sending and fetching stop. Top it \
                 up or get a new one in time.\n"
            ),
            Notice::Unreachable { seconds } => format!(
                "The bridge has not reached its relay for {}. Nothing is\nsent or fetched until it does; it goes on trying by itself. Is this \
                 machine on\nthe network, and the proxy running, if there is one? If other things work, the\nrelay itself may be out of \
                 service.\n",
                span(*seconds)
            ),
            Notice::Retention { days, kept } => format!(
                "The bridge last reached its relay {days} days ago, and the relay keeps mail for\n{kept} days. What has waited longest is \
                 dropped there soon, unless the bridge\nreaches it.\n"
            ),
            Notice::Held { subject, shortfall } => format!(
                "This message waits in the outbox, because {shortfall} µtok are missing:\n\n    {subject}\n\nIt goes by itself after a \
                 top-up. `postern outbox` shows it and can cancel it.\n"
            ),
            Notice::Repriced { subject, price } => format!(
                "The relay's prices have changed. This message waits in the outbox:\n\n    {subject}\n\nIt goes by itself for {price} µtok, \
                 unless `postern outbox` cancels it first.\n"
            ),
            Notice::Unknown { subject } => format!(
                "The relay was asked about this message too late to know what became of it:\n\n    {subject}\n\nIt may have been sent, \
                 and is not sent again by itself.\n"
            ),
            Notice::Expired => "The relay keeps mail for a limited time. A message to you was not collected\nwithin it and is gone.\n".into(),
            Notice::Damaged => "A message to you does not open: what the relay served is not what it had\nsealed. Its key is kept, in case the relay's operator can put it right.\n".into(),
            Notice::SecondHolder => "The relay saw another user of your keypack since this bridge was last linked. If you\nrestored this bridge from a copy, or run it in one place after another, that was you\nand there is nothing to do. If not, somebody else holds your pack: whoever does can\nread what comes from now on and spend its value. Ask the relay's operator for another pack.\n".into(),
            Notice::Warned(warning) => warned(*warning).into(),
            Notice::Refused { subject, reason } => {
                format!("The relay did not take this message, and nothing was charged:\n\n    {subject}\n\n{reason}\n")
            }
        }
    }
}

fn warned(warning: Warning) -> &'static str {
    match warning {
        Warning::HtmlConverted => {
            "A message that you sent was HTML alone. Its text was sent, without its\nappearance: HTML shows the program that made it. \
             A line in bridge.toml,\n\n    html = \"keep\"\n\nlets it leave too, written anew with the few elements that a text \
             needs.\n\nThis is told once a day at most.\n"
        }
        Warning::OpenPgpInText => {
            "A message that you sent has an OpenPGP block in its text. Keys and signatures\nin it were looked at, and name no one but \
             your alias. That you use OpenPGP, and\nto which keys something is encrypted, can be seen.\n\nThis is told once a day at \
             most.\n"
        }
        Warning::SignaturePassed => {
            "A message left with a signature, as its X-Postern-Pass field asked for. A\nsignature names the key that made it, and by \
             it whoever owns that key: everybody\nwho reads the message can tie your alias to that owner, now and later. What is\nsigned left \
             as your mail program wrote it, with all that it shows.\n\nThis is told once a day at most.\n"
        }
    }
}

/// Writes a notice to the user's address. `message_id_local` is random, `date` in seconds since 1970, UTC.
pub fn notice(notice: &Notice<'_>, to: &Address, message_id_local: &str, date: u64) -> Vec<u8> {
    let from = Address::parse(FROM.1).expect("a valid address");
    let mut out = Writer::default();
    out.origin(message_id_local, from.domain(), date);
    out.mailboxes(
        "From",
        &[Mailbox {
            name: FROM.0.into(),
            address: from,
        }],
    );
    out.mailboxes(
        "To",
        &[Mailbox {
            name: String::new(),
            address: to.clone(),
        }],
    );
    out.text_field("Subject", &collapse(&notice.subject()));
    out.line("Auto-Submitted: auto-generated");
    out.line("MIME-Version: 1.0");
    let mut text = Text::default();
    text.add(&notice.body().replace('\0', ""), None)
        .expect("NUL was taken out");
    out.text_part("text/plain", &text, usize::MAX)
        .expect("no bound is reached");
    out.bytes
}
