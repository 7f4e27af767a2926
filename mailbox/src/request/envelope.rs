//! The envelope of a payload (`docs/PROTOCOL.md` section 6): from whom, to whom, and what is asked for besides.

use std::num::NonZeroU8;

use serde::{Deserialize, Serialize};

use super::{Malformed, RECIPIENTS_MAX};

/// The envelope of a submission or of a deposit, first in the payload.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Envelope {
    /// Reverse-path without angle brackets; empty is the null reverse-path.
    pub reverse_path: String,
    /// Forward-paths; empty in a deposit, whose wrap names the alias.
    pub recipients: Vec<String>,
    /// Who wrote the envelope, and what that one says besides.
    pub origin: Origin,
}

/// Who wrote an envelope. Options are a sender's, and pass on with the message: no layout has them by themselves.
#[derive(Clone, Default, PartialEq, Eq)]
pub enum Origin {
    /// Nobody who says more: a deposit, or a sender who leaves the Message-ID to the relay.
    #[default]
    Plain,
    /// A sender's machine.
    Sender {
        /// Random octets, drawn there, that the exit spells into the Message-ID: so the sender knows it beforehand.
        message_id: MessageIdOctets,
        /// What the sender asks for besides.
        options: Vec<EnvelopeOption>,
    },
    /// A relay that passes the message on, which has its Message-ID in its text.
    Relay {
        /// How many relays have passed it on to the next, at most [`HOPS_MAX`].
        hops: NonZeroU8,
        /// What the sender asked for.
        options: Vec<EnvelopeOption>,
    },
}

/// What a Message-ID is spelled from.
pub type MessageIdOctets = [u8; 16];

/// What a sender asks for besides delivery. The order is part of the protocol: append, never move.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EnvelopeOption {
    /// Which reports on a recipient the sender wants (RFC 3461 section 4.1); those on failure and delay, if nothing is said.
    Notify {
        /// Position of the recipient in the envelope.
        recipient: u16,
        /// Never nothing.
        wishes: Wishes,
    },
    /// Number 1, which is not given out and not taken.
    Reserved,
    /// How every relay of the way is to mix the message: the number of a [`super::Profile`].
    Mix {
        /// At a relay that does not offer it, the submission is refused.
        profile: u8,
    },
}

/// Which reports a sender wants. The default is that nothing was said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wishes(u8);

impl Wishes {
    /// None at all: with nothing else.
    pub const NEVER: Self = Self(1);
    /// That the next host took it.
    pub const SUCCESS: Self = Self(1 << 1);
    /// That it was given up.
    pub const FAILURE: Self = Self(1 << 2);
    /// That it waits.
    pub const DELAY: Self = Self(1 << 3);

    /// Of these bits, if they say something and do not contradict each other.
    pub fn from_bits(bits: u8) -> Option<Self> {
        let is_never = bits == Self::NEVER.0;
        let is_some = bits != 0 && bits & !(Self::SUCCESS.0 | Self::FAILURE.0 | Self::DELAY.0) == 0;
        (is_never || is_some).then_some(Self(bits))
    }

    /// Bit 0 never, 1 success, 2 failure, 3 delay; 0 is that nothing was said.
    pub fn bits(self) -> u8 {
        self.0
    }

    /// Whether anything was said.
    pub fn are_said(self) -> bool {
        self.0 != 0
    }

    /// Whether a report of success is wanted.
    pub fn success(self) -> bool {
        self.0 & Self::SUCCESS.0 != 0
    }

    /// Whether a report of failure is wanted.
    pub fn failure(self) -> bool {
        !self.are_said() || self.0 & Self::FAILURE.0 != 0
    }

    /// Whether a report of delay is wanted.
    pub fn delay(self) -> bool {
        !self.are_said() || self.0 & Self::DELAY.0 != 0
    }
}

/// What all layouts of an envelope begin with, behind their version.
#[derive(Serialize, Deserialize)]
struct Paths {
    reverse_path: String,
    recipients: Vec<String>,
}

/// Version of the layout that is [`Paths`] alone.
const PATHS_ALONE: u8 = 1;
/// Version of the layout that is [`Paths`] and [`MessageIdOctets`].
const WITH_MESSAGE_ID: u8 = 2;
/// Version of the layout that is [`Paths`] and the hops, of which there are some.
const WITH_HOPS: u8 = 3;
/// Version of the layout that is [`WITH_MESSAGE_ID`] and options, of which there are some.
const WITH_MESSAGE_ID_AND_OPTIONS: u8 = 4;
/// Version of the layout that is [`WITH_HOPS`] and options, of which there are some.
const WITH_HOPS_AND_OPTIONS: u8 = 5;

/// Most relays that pass a message on before the one that delivers it: what goes in a circle ends.
pub const HOPS_MAX: u8 = 7;
/// Longest of the options, in bytes: one for each recipient, and some for the message.
pub const OPTIONS_BYTES_MAX: usize = 1_024;

impl Envelope {
    /// How many relays have passed the message on to the next; 0 from a sender's machine.
    pub fn hops(&self) -> u8 {
        match &self.origin {
            Origin::Plain | Origin::Sender { .. } => 0,
            Origin::Relay { hops, .. } => hops.get(),
        }
    }

    /// What the sender asks for besides delivery.
    pub fn options(&self) -> &[EnvelopeOption] {
        match &self.origin {
            Origin::Plain => &[],
            Origin::Sender { options, .. } | Origin::Relay { options, .. } => options,
        }
    }

    /// What was said of the reports on a recipient.
    pub fn wishes(&self, recipient: usize) -> Wishes {
        let of_it = self.options().iter().find_map(|option| match option {
            EnvelopeOption::Notify { recipient: of, wishes } if usize::from(*of) == recipient => Some(*wishes),
            _ => None,
        });
        of_it.unwrap_or_default()
    }

    /// The number of the profile that the sender asks for, if it asks for one.
    pub fn mix(&self) -> Option<u8> {
        self.options().iter().find_map(|option| match option {
            EnvelopeOption::Mix { profile } => Some(*profile),
            _ => None,
        })
    }

    fn encode(&self) -> Vec<u8> {
        let has_options = !self.options().is_empty();
        let version = match &self.origin {
            Origin::Plain => PATHS_ALONE,
            Origin::Sender { .. } if has_options => WITH_MESSAGE_ID_AND_OPTIONS,
            Origin::Sender { .. } => WITH_MESSAGE_ID,
            Origin::Relay { .. } if has_options => WITH_HOPS_AND_OPTIONS,
            Origin::Relay { .. } => WITH_HOPS,
        };
        let mut out = vec![version];
        // By reference: a list of strings reads the same as one of borrowed strings.
        let paths = (&self.reverse_path, &self.recipients);
        out = postcard::to_extend(&paths, out).expect("an envelope is plain data");
        match &self.origin {
            Origin::Plain => {}
            Origin::Sender { message_id, .. } => out.extend_from_slice(message_id),
            Origin::Relay { hops, .. } => out.push(hops.get()),
        }
        if has_options {
            out = postcard::to_extend(self.options(), out).expect("options are plain data");
        }
        out
    }

    fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let (version, rest) = bytes.split_first().ok_or(Malformed)?;
        let (paths, rest) = postcard::take_from_bytes::<Paths>(rest).map_err(|_| Malformed)?;
        let options_of = |rest: &[u8]| match *version {
            WITH_MESSAGE_ID_AND_OPTIONS | WITH_HOPS_AND_OPTIONS => options(rest, paths.recipients.len()),
            _ if rest.is_empty() => Ok(Vec::new()),
            _ => Err(Malformed),
        };
        let origin = match *version {
            PATHS_ALONE if rest.is_empty() => Origin::Plain,
            WITH_MESSAGE_ID | WITH_MESSAGE_ID_AND_OPTIONS => {
                let (octets, rest) = rest.split_first_chunk().ok_or(Malformed)?;
                Origin::Sender {
                    message_id: *octets,
                    options: options_of(rest)?,
                }
            }
            WITH_HOPS | WITH_HOPS_AND_OPTIONS => {
                let (hops, rest) = rest.split_first().ok_or(Malformed)?;
                let hops = NonZeroU8::new(*hops).filter(|hops| hops.get() <= HOPS_MAX);
                Origin::Relay {
                    hops: hops.ok_or(Malformed)?,
                    options: options_of(rest)?,
                }
            }
            _ => return Err(Malformed),
        };
        if paths.recipients.len() > RECIPIENTS_MAX {
            return Err(Malformed);
        }
        Ok(Self {
            reverse_path: paths.reverse_path,
            recipients: paths.recipients,
            origin,
        })
    }
}

/// Options that contradict neither each other nor the number of recipients. One that is unknown is refused with all: what is
/// asked for is done, or the sender hears that it is not.
fn options(bytes: &[u8], recipients: usize) -> Result<Vec<EnvelopeOption>, Malformed> {
    if bytes.len() > OPTIONS_BYTES_MAX {
        return Err(Malformed);
    }
    let Ok((options, [])) = postcard::take_from_bytes::<Vec<EnvelopeOption>>(bytes) else {
        return Err(Malformed);
    };
    let (mut next, mut is_mixed) = (0, false);
    for option in &options {
        match option {
            EnvelopeOption::Notify { recipient, wishes } => {
                let at = usize::from(*recipient);
                if at < next || at >= recipients || Wishes::from_bits(wishes.bits()).is_none() {
                    return Err(Malformed);
                }
                next = at + 1;
            }
            EnvelopeOption::Reserved => return Err(Malformed),
            // Another number is refused by who mixes, in words of its own.
            EnvelopeOption::Mix { .. } if std::mem::replace(&mut is_mixed, true) => return Err(Malformed),
            EnvelopeOption::Mix { .. } => {}
        }
    }
    match options.is_empty() {
        true => Err(Malformed),
        false => Ok(options),
    }
}

/// `payload = u16 envelope length | envelope | message`, the plaintext of bodies before padding.
pub fn payload(envelope: &Envelope, message: &[u8]) -> Vec<u8> {
    let head = payload_head(envelope);
    let mut out = Vec::with_capacity(head.len() + message.len());
    out.extend_from_slice(&head);
    out.extend_from_slice(message);
    out
}

/// The part of a payload before the message, for bodies that are sealed while they stream in.
pub fn payload_head(envelope: &Envelope) -> Vec<u8> {
    let encoded = envelope.encode();
    let length =
        u16::try_from(encoded.len()).expect("RECIPIENTS_MAX addresses of 254 bytes and the options fit 16 bits");
    let mut out = length.to_le_bytes().to_vec();
    out.extend_from_slice(&encoded);
    out
}

/// Splits a payload into envelope and message.
pub fn split_payload(payload: &[u8]) -> Result<(Envelope, &[u8]), Malformed> {
    let (length, rest) = payload.split_first_chunk::<2>().ok_or(Malformed)?;
    let length = usize::from(u16::from_le_bytes(*length));
    if rest.len() < length {
        return Err(Malformed);
    }
    let (encoded, message) = rest.split_at(length);
    let envelope = Envelope::decode(encoded)?;
    Ok((envelope, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn envelope(origin: Origin) -> Envelope {
        Envelope {
            reverse_path: "a@x".to_owned(),
            recipients: vec!["b@y".to_owned()],
            origin,
        }
    }

    fn sent(options: Vec<EnvelopeOption>) -> Origin {
        Origin::Sender {
            message_id: *b"0123456789abcdef",
            options,
        }
    }

    fn passed_on(hops: u8, options: Vec<EnvelopeOption>) -> Origin {
        let hops = NonZeroU8::new(hops).expect("some");
        Origin::Relay { hops, options }
    }

    #[test]
    fn both_layouts_of_an_envelope_are_read_as_they_are_written() {
        let without = payload(&envelope(Origin::Plain), b"text");
        assert_eq!(without, b"\x0a\0\x01\x03a@x\x01\x03b@ytext");
        let with = payload(&envelope(sent(Vec::new())), b"text");
        assert_eq!(with, b"\x1a\0\x02\x03a@x\x01\x03b@y0123456789abcdeftext");
        for (bytes, origin) in [(without, Origin::Plain), (with, sent(Vec::new()))] {
            let (read, message) = split_payload(&bytes).unwrap_or_else(|_| panic!("well-formed"));
            assert!(read == envelope(origin) && message == b"text");
        }
    }

    #[test]
    fn what_was_passed_on_says_how_often_and_no_more() {
        let passed = envelope(passed_on(3, Vec::new()));
        let bytes = payload(&passed, b"text");
        assert_eq!(bytes, b"\x0b\0\x03\x03a@x\x01\x03b@y\x03text");
        let (read, message) = split_payload(&bytes).unwrap_or_else(|_| panic!("well-formed"));
        assert!(read == passed && message == b"text");
        for hops in [0, HOPS_MAX + 1, 255] {
            let mut wrong = bytes.clone();
            wrong[12] = hops;
            assert!(split_payload(&wrong).is_err(), "{hops}");
        }
    }

    #[test]
    fn an_envelope_with_octets_of_another_number_is_malformed() {
        let with = |version: u8, octets: usize| {
            let encoded = [&[version][..], b"\x03a@x\x01\x03b@y", &vec![7; octets]].concat();
            let mut payload = u16::try_from(encoded.len()).expect("short").to_le_bytes().to_vec();
            payload.extend(encoded);
            split_payload(&payload).is_ok()
        };
        for octets in (0..16).chain(17..40) {
            assert!(!with(2, octets), "{octets}");
        }
        assert!(with(2, 16) && with(1, 0));
        assert!(!with(1, 16) && !with(0, 0) && !with(3, 16) && !with(4, 16) && !with(5, 1));
    }

    fn notify(recipient: u16, bits: u8) -> EnvelopeOption {
        EnvelopeOption::Notify {
            recipient,
            wishes: Wishes(bits),
        }
    }

    #[test]
    fn options_stand_behind_the_other_layouts() {
        let asked = envelope(sent(vec![notify(0, 6)]));
        let bytes = payload(&asked, b"text");
        assert_eq!(
            bytes,
            b"\x1e\0\x04\x03a@x\x01\x03b@y0123456789abcdef\x01\x00\x00\x06text"
        );
        let passed = envelope(passed_on(1, vec![notify(0, 6)]));
        let bytes_passed = payload(&passed, b"text");
        assert_eq!(bytes_passed, b"\x0f\0\x05\x03a@x\x01\x03b@y\x01\x01\x00\x00\x06text");
        for (bytes, envelope) in [(bytes, asked), (bytes_passed, passed)] {
            let (read, message) = split_payload(&bytes).unwrap_or_else(|_| panic!("well-formed"));
            assert!(read == envelope && message == b"text");
            assert_eq!(read.wishes(0).bits(), 6);
            assert!(!read.wishes(1).are_said());
        }
    }

    #[test]
    fn options_that_are_unknown_or_contradict_are_malformed() {
        let is_read = |options: &[u8]| {
            let encoded = [b"\x05\x03a@x\x02\x03b@y\x03c@y\x01", options].concat();
            let mut payload = u16::try_from(encoded.len()).expect("short").to_le_bytes().to_vec();
            payload.extend(encoded);
            split_payload(&payload).is_ok()
        };
        assert!(is_read(b"\x02\0\0\x01\0\x01\x0e"));
        assert!(is_read(b"\x02\0\0\x01\x02\x01") && is_read(b"\x01\x02\xff"));
        for (options, why) in [
            (&b""[..], "no list"),
            (b"\0", "an empty list"),
            (b"\x01\x01", "the reserved number"),
            (b"\x01\x63\0", "an unknown number"),
            (b"\x01\0\0\0", "no wish"),
            (b"\x01\0\0\x03", "never, and yet"),
            (b"\x01\0\0\x10", "an unknown wish"),
            (b"\x01\0\x02\x01", "no such recipient"),
            (b"\x02\0\0\x01\0\0\x01", "twice"),
            (b"\x02\0\x01\x01\0\0\x01", "out of order"),
            (b"\x01\0\0\x01\0", "octets behind it"),
            (b"\x02\x02\x01\x02\x01", "mixed twice"),
            (b"\x01\x02", "mixed somehow"),
        ] {
            assert!(!is_read(options), "{why}");
        }
    }

    #[test]
    fn wishes_say_which_reports_are_wanted() {
        let wanted = |wishes: Wishes| (wishes.success(), wishes.failure(), wishes.delay());
        assert_eq!(wanted(Wishes::default()), (false, true, true));
        assert_eq!(wanted(Wishes::NEVER), (false, false, false));
        assert_eq!(wanted(Wishes::SUCCESS), (true, false, false));
        assert_eq!(Wishes::from_bits(6).map(wanted), Some((true, true, false)));
        for bits in [0, 3, 5, 9, 15, 16, 255] {
            assert!(Wishes::from_bits(bits).is_none(), "{bits}");
        }
    }

    #[test]
    fn the_longest_options_are_read() {
        let most = u16::try_from(RECIPIENTS_MAX).expect("few");
        let all = Envelope {
            recipients: vec!["b@y".to_owned(); RECIPIENTS_MAX],
            ..envelope(sent((0..most).map(|recipient| notify(recipient, 14)).collect()))
        };
        assert!(split_payload(&payload(&all, b"")).is_ok_and(|(read, _)| read == all));
    }
}
