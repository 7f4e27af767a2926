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
    /// Mail waits at the relay, since the disk has no room for it.
    NoRoom,
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
    /// The relay took the message, and more value for it than it may.
    Overcharged {
        /// Its subject.
        subject: &'a str,
        /// What it was debited.
        debited: u64,
        /// How much of that is beyond its price.
        beyond: u64,
    },
    /// The relay no longer keeps its answer about a message.
    Unknown {
        /// Its subject.
        subject: &'a str,
    },
    /// Messages to the user outlived the relay's retention, or the relay lost them.
    Expired {
        /// How many.
        count: u64,
    },
    /// The relay was put back to a backup.
    RelayRestored,
    /// A message to the user arrived damaged.
    Damaged,
    /// The relay saw another user of the pack.
    SecondHolder,
    /// The same, of a pack with a recovery code: it sends nothing now.
    Frozen,
    /// Somebody else had the relay give the pack other keys.
    Replaced,
    /// Another device joined the account.
    DeviceJoined {
        /// Its number.
        device: u32,
        /// Number of the device that asked for it.
        by: u32,
    },
    /// A device of the account was dropped.
    DeviceDropped {
        /// Its number.
        device: u32,
        /// Number of the device that asked for it.
        by: u32,
    },
    /// Another device of the account is frozen.
    DeviceFrozen {
        /// Its number.
        device: u32,
    },
    /// Something is wrong with the directory of relays.
    Directory {
        /// What, in sentences.
        words: &'a str,
    },
    /// Mail waits for a second relay, and nothing comes of it.
    NotNested {
        /// What it waits for, and the way out.
        words: &'a str,
    },
    /// The second relay is lost, or about to be.
    SecondRelayLost {
        /// Why, and the way to another.
        words: &'a str,
    },
    /// A pack at a further relay that was ordered is made.
    Procured,
    /// It could not be made.
    NotProcured,
    /// Loops did not come back.
    LoopsLost {
        /// How many.
        lost: usize,
        /// Of how many.
        of: usize,
    },
    /// The link is not covered, though it should be.
    NoCover {
        /// Why; a sentence's end.
        reason: &'a str,
    },
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
            Notice::NoRoom => "Your disk has no room for your mail".into(),
            Notice::Held { subject, .. } => format!("Waiting for value: {subject}"),
            Notice::Repriced { subject, .. } => format!("Waiting for a new price: {subject}"),
            Notice::Overcharged { subject, .. } => format!("Debited too much: {subject}"),
            Notice::Unknown { subject } => format!("Perhaps sent: {subject}"),
            Notice::Expired { count: 1 } => "A message to you is gone".into(),
            Notice::Expired { count } => format!("{count} messages to you are gone"),
            Notice::RelayRestored => "Your relay was restored from a backup".into(),
            Notice::Damaged => "A message to you is damaged".into(),
            Notice::SecondHolder => "Your keypack is in use elsewhere, or was restored".into(),
            Notice::Frozen => "Your keypack is frozen: a copy of it was in use".into(),
            Notice::Replaced => "Your keypack has other keys now, and you do not have them".into(),
            Notice::DeviceJoined { device, .. } => format!("Device {device} joined your account"),
            Notice::DeviceDropped { device, .. } => format!("Device {device} was dropped from your account"),
            Notice::DeviceFrozen { device } => format!("Device {device} of your account is frozen"),
            Notice::Directory { .. } => "The directory of relays is not in order".into(),
            Notice::NotNested { .. } => "No mail is sent: there is no second relay yet".into(),
            Notice::SecondRelayLost { .. } => "Your mail needs another second relay".into(),
            Notice::Procured => "A pack that you ordered is there".into(),
            Notice::NotProcured => "A pack that you ordered could not be made".into(),
            Notice::LoopsLost { .. } => "Messages to yourself do not come back".into(),
            Notice::NoCover { .. } => "Your line has no cover now".into(),
            Notice::Warned(Warning::HtmlConverted) => "Your HTML was sent as plain text".into(),
            Notice::Warned(Warning::OpenPgpInText) => "OpenPGP was sent in your text".into(),
            Notice::Warned(Warning::SignaturePassed) => "A signature was sent, and names its signer".into(),
            Notice::Warned(Warning::UnknownCharset) => "Your text was sent without a charset".into(),
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
            Notice::NoRoom => "Mail waits at the relay, because this machine's disk has no room for it. Free\nsome space, and it is \
                 collected by itself. Smaller messages may still come, and\nwhat waits too long is dropped at the relay.\n"
                .into(),
            Notice::Held { subject, shortfall } => format!(
                "This message waits in the outbox, because {shortfall} µtok are missing:\n\n    {subject}\n\nIt goes by itself after a \
                 top-up. `postern outbox` shows it and can cancel it.\n"
            ),
            Notice::Repriced { subject, price } => format!(
                "The relay's prices have changed. This message waits in the outbox:\n\n    {subject}\n\nIt goes by itself for {price} µtok, \
                 unless `postern outbox` cancels it first.\n"
            ),
            Notice::Overcharged {
                subject,
                debited,
                beyond,
            } => format!(
                "The relay took this message, and debited {debited} µtok for it, which is {beyond} more\nthan by its own prices:\n\n    \
                 {subject}\n\nIts program does not do that by itself. Ask its operator before you send more; `postern\nstatement` shows \
                 what was taken. Each message that is dearer still is told too.\n"
            ),
            Notice::Unknown { subject } => format!(
                "The relay was asked about this message too late to know what became of it:\n\n    {subject}\n\nIt may have been sent, \
                 and is not sent again by itself.\n"
            ),
            Notice::Expired { count } => format!(
                "Messages to you that this bridge had not collected are gone: {count}. The relay\nkeeps mail for a limited time; or it was restored from a \
                 backup that is older\nthan they were. What they were is not known.\n"
            ),
            Notice::RelayRestored => "Your relay was restored from a backup. What it took in for you since the backup\nand this bridge had not collected is \
                 lost; another notice says so if it was\nanything. Messages that were on their way to the relay may have been sent or \
                 not:\nthose are told one by one, and not sent again by themselves. The value of the\nkeypack stands as it stood then: debits since are \
                 forgotten, and so are top-ups,\nwhich its operator can give again. Your addresses are opened again as they were.\n".into(),
            Notice::Damaged => "A message to you does not open: what the relay served is not what it had\nsealed. Its key is kept, in case the relay's operator can put it right.\n".into(),
            Notice::SecondHolder => "The relay saw another user of your keypack since this bridge was last linked. If you\nrestored this bridge from a copy, or run it in one place after another, that was you\nand there is nothing to do. If not, somebody else holds your pack: whoever does can\nread what comes from now on and spend its value. Ask the relay's operator for another pack.\n".into(),
            Notice::Frozen => "The relay saw a copy of your keypack in use, beside yours or a restored one of your\nown, and has frozen it: mail still comes in, and nothing is sent until the pack has\nnew keys. Have your recovery code at hand and say\n\n    postern rekey\n\nCopies of the pack and of this bridge's folder open nothing afterwards. What waits in\nthe outbox goes then by itself.\n".into(),
            Notice::Replaced => "Somebody who has a copy of your keypack had the relay give it new keys. Yours open\nnothing any more. If that was you, with another copy, go on with that one. If not,\nwhoever had the pack before you keeps its value and reads what comes to its aliases:\nwrite to the relay's operator, and do not use these aliases any more.\n".into(),
            Notice::DeviceJoined { device, by } => format!(
                "Device {by} had the relay make device {device}, which has this account's value, addresses and\nmail as this one has. \
                 If that was not you, or somebody whom you trust with all of it,\nsay at once\n\n    postern keypack drop {device}\n\nand drop device {by} too, if that is not this one.\n"
            ),
            Notice::DeviceDropped { device, by } => format!(
                "Device {by} dropped device {device}: it is served nothing any more, and its keys are device\n{by}'s. What \
                 'postern keypack devices' shows is left. If that was not you, somebody else\nhas device {by}.\n"
            ),
            Notice::DeviceFrozen { device } => format!(
                "The relay saw a copy of device {device} of your account in use, and has frozen that device:\nit sends nothing until it has new \
                 keys ('postern rekey' there, with its recovery code).\nThis one goes on. Whoever has the copy reads what comes to device {device}: if you do \
                 not\nhave the code at hand, say\n\n    postern keypack drop {device}\n"
            ),
            Notice::Directory { words } => {
                format!("{words}\n\n`postern directory` shows what is held. Mail goes and comes as before.\n")
            }
            Notice::NotNested { words } => {
                format!("{words}\n\nWhat your mail program hands over meanwhile is refused, and it can try again later.\n")
            }
            Notice::SecondRelayLost { words } => format!("{words}\n\nUntil then mail goes by what there is, or waits.\n"),
            Notice::Procured => "A pack at another relay that you ordered is made. Give the command again that ordered it,\n\n    postern \
                 procure\n\nwith the same arguments: it writes the pack's file, and tells whether the pack is\nthat relay's own. If it did so already, there is nothing to do.\n".into(),
            Notice::NotProcured => "The other relay did not make a pack that you ordered. What was debited for it is credited\nagain, as 'postern \
                 statement' shows. You may order another one.\n".into(),
            Notice::LoopsLost { lost, of } => format!(
                "The bridge sends messages to itself through your relay. {lost} of the last {of}\ndid not come back in time. The relay \
                 loses mail, or holds it up: ask its operator.\n'postern status' shows how it goes on.\n"
            ),
            Notice::NoCover { reason } => format!(
                "bridge.toml asks for cover on the line to the relay, and there is none: {reason}.\n\nMail goes and comes \
                 without: whoever watches the line sees when, and how much.\n'postern cover' shows what the relay offers.\n"
            ),
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
        Warning::UnknownCharset => {
            "A message that you sent does not say in which character set its text is\nwritten, and it is not UTF-8. Its octets left as \
             they were, with control\ncharacters and blanks: they can show the program and the system that wrote\nthem, and the recipient's \
             program guesses what they mean. Have your program\nsend UTF-8.\n\nThis is told once a day at most.\n"
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
