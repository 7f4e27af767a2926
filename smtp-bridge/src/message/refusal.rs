//! Why a message cannot be rebuilt, and how that is said over SMTP.

use std::fmt;

use thiserror::Error;

/// The reason why a message is not let through. The text is one sentence for the person who sent it and says what to do;
/// it never repeats anything from the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Error)]
pub enum Refusal {
    /// From or Sender names someone else, or From names several.
    #[error(
        "From (or Sender) is not your alias: set the account's address to the alias, it is never rewritten to another pseudonym"
    )]
    Sender,
    /// Reply-To leads elsewhere.
    #[error("Reply-To names another address than your alias: remove it, it would tie the two together")]
    ReplyTo,
    /// A broken or non-ASCII address in To or Cc.
    #[error("an address in To or Cc cannot be read: write it as name@domain.example in ASCII")]
    Address,
    /// More mailboxes in To and Cc than [`limits::RECIPIENT_COUNT_MAX`](super::limits::RECIPIENT_COUNT_MAX).
    #[error("too many recipients in To and Cc: at most 100")]
    TooManyRecipients,
    /// A byte of value zero, raw or encoded in text.
    #[error("the message contains a NUL character in its header or text")]
    Nul,
    /// A header line that is no field, or a field that must be single and is not.
    #[error("the header is malformed: a line is not a field, or a field stands twice")]
    Header,
    /// No header, and one behind where it has to begin.
    #[error(
        "the header does not begin in the first line: an empty line, a blank or a byte order mark stands before it"
    )]
    LateHeader,
    /// Header bytes or fields beyond the bound.
    #[error("the header is too large")]
    HeaderTooLarge,
    /// The message, as it came or as it would leave, is beyond the bound.
    #[error("the message is too large: send less or smaller attachments")]
    TooLarge,
    /// More parts than [`limits::PART_COUNT_MAX`](super::limits::PART_COUNT_MAX).
    #[error("too many MIME parts: at most 100")]
    TooManyParts,
    /// Multiparts nested deeper than [`limits::DEPTH_MAX`](super::limits::DEPTH_MAX).
    #[error("the MIME parts are nested too deeply")]
    TooDeep,
    /// A MIME structure that does not hold together.
    #[error("the MIME structure is malformed")]
    Structure,
    /// S/MIME or OpenPGP signatures: rebuilding breaks them, and they carry the signer's name.
    #[error("a signature names its signer: switch signing off, or let it pass with the field 'X-Postern-Pass: signed'")]
    Signed,
    /// An OpenPGP key that is not the alias's, or something of OpenPGP that cannot be read.
    #[error("an OpenPGP key or block names someone else than your alias, or cannot be read: leave it out")]
    Identity,
    /// A real address or name of the user.
    #[error("an address or name of yours stands in {0}: take it out, or let it pass with 'X-Postern-Pass: traces'")]
    Trace(Place),
    /// The field that lets something pass has an unknown word.
    #[error("the field X-Postern-Pass has a word other than 'signed' and 'traces'")]
    Pass,
    /// The field that says how to mix it has an unknown word, or contradicts another.
    #[error("the field X-Postern-Mix has another word than 'fast', 'mixed' or 'paranoid', or several")]
    Mix,
    /// S/MIME or OpenPGP containers: their inside cannot be checked.
    #[error(
        "S/MIME and PGP/MIME messages and keys cannot be checked for traces: send without, or encrypt the text inline"
    )]
    Encrypted,
    /// A message inside the message, with a full header of its own.
    #[error("a message is attached with all its headers: forward it inline instead")]
    AttachedMessage,
    /// A media type that is a container of client metadata or unknown as a container.
    #[error("a part has a media type that cannot be rebuilt: attach it as an ordinary file")]
    MediaType,
    /// Text in a character set that is unknown or that does not decode.
    #[error("the text's character set is unknown or wrong: send as UTF-8")]
    Charset,
    /// A transfer encoding that is unknown or that does not decode.
    #[error("a part's transfer encoding is unknown or broken")]
    TransferEncoding,
}

/// Where a trace of the user stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Place {
    /// Subject.
    Subject,
    /// To or Cc.
    Recipients,
    /// The text; its line, from 1, as it would leave.
    Text(usize),
    /// A quoted line of the text.
    Quote(usize),
    /// The HTML, in its text or in a link.
    Html,
    /// The name of an attached file; which one, from 1.
    FileName(usize),
    /// An attached text; which file, from 1.
    File(usize),
    /// What is signed: a field, or a text of any alternative.
    Signed,
    /// The signature itself.
    Signature,
}

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Subject => formatter.write_str("the subject"),
            Place::Recipients => formatter.write_str("To or Cc"),
            Place::Text(line) => write!(formatter, "line {line} of the text"),
            Place::Quote(line) => write!(formatter, "the quotation in line {line} of the text"),
            Place::Html => formatter.write_str("the HTML"),
            Place::FileName(number) => write!(formatter, "the name of file {number}"),
            Place::File(number) => write!(formatter, "file {number}"),
            Place::Signed => formatter.write_str("the signed part"),
            Place::Signature => formatter.write_str("the signature, as in its certificate"),
        }
    }
}

impl Refusal {
    /// The sentence for the SMTP reply or the notice.
    pub fn reason(self) -> String {
        self.to_string()
    }

    /// The SMTP reply code (RFC 5321).
    pub fn code(self) -> u16 {
        match self {
            Refusal::TooLarge | Refusal::HeaderTooLarge => 552,
            _ => 554,
        }
    }

    /// The enhanced status code (RFC 3463).
    pub fn enhanced(self) -> &'static str {
        match self {
            Refusal::Sender | Refusal::ReplyTo | Refusal::Identity | Refusal::Trace(_) => "5.7.1",
            Refusal::Address => "5.1.3",
            Refusal::TooManyRecipients => "5.5.3",
            Refusal::TooLarge | Refusal::HeaderTooLarge => "5.3.4",
            Refusal::Signed | Refusal::Encrypted | Refusal::AttachedMessage | Refusal::MediaType => "5.6.1",
            Refusal::Charset => "5.6.5",
            Refusal::Nul
            | Refusal::Header
            | Refusal::LateHeader
            | Refusal::Pass
            | Refusal::Mix
            | Refusal::TooManyParts
            | Refusal::TooDeep
            | Refusal::Structure
            | Refusal::TransferEncoding => "5.6.0",
        }
    }
}
