//! One command line, read once into a value that cannot be wrong.

use super::path::{ForwardPath, ReversePath, split_path};
use super::replies::{self, Reply};
use super::reports::{self, RecipientReports};

/// A command of RFC 5321 4.1.1, RFC 3030, RFC 3207 or RFC 4954, with its arguments checked.
pub(super) enum Command<'l> {
    Helo,
    Ehlo,
    StartTls,
    Mail(Mail),
    Rcpt(Rcpt),
    Data,
    Bdat(Bdat),
    Rset,
    Noop,
    Quit,
    Vrfy,
    Help,
    Auth {
        mechanism: &'l str,
        /// Base64, or `=` for an empty one.
        initial_response: Option<&'l str>,
    },
}

/// Arguments of MAIL.
pub(super) struct Mail {
    pub(super) reverse_path: ReversePath,
    /// SIZE (RFC 1870). Twenty digits may not fit; more than any limit is all that counts then.
    pub(super) size: Option<u64>,
    /// AUTH= was given (RFC 4954 section 5). Whom the client vouches for makes no difference here.
    pub(super) vouched: bool,
    /// SMTPUTF8 was given (RFC 6531 3.4).
    pub(super) utf8: bool,
    /// ENVID (RFC 3461 section 4.4), decoded.
    pub(super) envelope_id: Option<String>,
}

/// Arguments of RCPT.
pub(super) struct Rcpt {
    pub(super) recipient: ForwardPath,
    pub(super) reports: RecipientReports,
}

/// Arguments of BDAT (RFC 3030 section 2).
pub(super) struct Bdat {
    /// Octets that follow the command's CRLF. Twenty digits may not fit; more than any bound is all that counts then.
    pub(super) octets: u64,
    /// No chunk follows this one.
    pub(super) is_last: bool,
}

impl<'l> Command<'l> {
    /// Reads a line without its CRLF; an error is the reply to give. `dsn`: the parameters of RFC 3461 were offered.
    pub(super) fn parse(line: &'l [u8], dsn: bool) -> Result<Self, Reply> {
        let line = text(line)?.trim_end_matches(' ');
        let (verb, argument) = line.split_once(' ').unwrap_or((line, ""));
        let without_argument = |command| {
            if argument.is_empty() {
                Ok(command)
            } else {
                Err(replies::BAD_ARGUMENT)
            }
        };
        let with_argument = |command| {
            if argument.is_empty() {
                Err(replies::BAD_ARGUMENT)
            } else {
                Ok(command)
            }
        };
        match verb.to_ascii_uppercase().as_str() {
            // The name is whatever the client thinks it is; it is neither checked nor kept.
            "HELO" => with_argument(Self::Helo),
            "EHLO" => with_argument(Self::Ehlo),
            "MAIL" => mail(argument, dsn).map(Self::Mail),
            "RCPT" => rcpt(argument, dsn).map(Self::Rcpt),
            "DATA" => without_argument(Self::Data),
            "BDAT" => bdat(argument).map(Self::Bdat),
            "STARTTLS" => without_argument(Self::StartTls),
            "RSET" => without_argument(Self::Rset),
            "QUIT" => without_argument(Self::Quit),
            "VRFY" => with_argument(Self::Vrfy),
            "NOOP" => Ok(Self::Noop),
            "HELP" => Ok(Self::Help),
            "AUTH" => auth(argument),
            "EXPN" | "ETRN" | "TURN" | "SEND" | "SOML" | "SAML" => Err(replies::NOT_IMPLEMENTED),
            _ => Err(replies::UNKNOWN_COMMAND),
        }
    }
}

/// Commands are ASCII without controls: no NUL, no bare CR or LF. Addresses may be UTF-8, which the session judges.
fn text(line: &[u8]) -> Result<&str, Reply> {
    if line.iter().all(|octet| matches!(octet, b' '..=b'~')) {
        return str::from_utf8(line).map_err(|_| replies::NOT_PRINTABLE);
    }
    let names_address = line.get(..5).is_some_and(|verb| {
        [b"MAIL ", b"RCPT ", b"VRFY "]
            .iter()
            .any(|with_address| verb.eq_ignore_ascii_case(*with_address))
    });
    let has_controls = line.iter().any(|octet| matches!(octet, 0..b' ' | 0x7f));
    if !names_address || has_controls {
        return Err(replies::NOT_PRINTABLE);
    }
    str::from_utf8(line).map_err(|_| replies::ADDRESS_NOT_ASCII)
}

/// `FROM:` Reverse-path [SP Mail-parameters]
fn mail(argument: &str, dsn: bool) -> Result<Mail, Reply> {
    let (path, parameters) = path_argument(argument, "FROM:", replies::BAD_SENDER_SYNTAX)?;
    let reverse_path = ReversePath::parse_international(path).ok_or(replies::BAD_SENDER_SYNTAX)?;
    let (mut size, mut body, mut vouched, mut utf8) = (None, None, None, None);
    let (mut ret, mut envelope_id) = (None, None);
    for parameter in parameters {
        let (keyword, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        let repeated = match keyword.to_ascii_uppercase().as_str() {
            "SIZE" => size.replace(size_value(value)?).is_some(),
            // What the text is declared to be changes nothing: it is stored as it comes.
            "BODY" => body.replace(body_value(value)?).is_some(),
            "AUTH" => vouched.replace(()).is_some(),
            "SMTPUTF8" if parameter.contains('=') => return Err(replies::BAD_ARGUMENT),
            "SMTPUTF8" => utf8.replace(()).is_some(),
            // Reports return the header alone, whatever is asked for.
            "RET" if dsn => ret.replace(reports::ret(value)?).is_some(),
            "ENVID" if dsn => envelope_id.replace(reports::envelope_id(value)?).is_some(),
            _ => return Err(replies::UNKNOWN_PARAMETER),
        };
        if repeated {
            return Err(replies::BAD_ARGUMENT);
        }
    }
    Ok(Mail {
        reverse_path,
        size,
        vouched: vouched.is_some(),
        utf8: utf8.is_some(),
        envelope_id,
    })
}

/// `TO:` ( "<Postmaster>" / Forward-path ) [SP Rcpt-parameters]
fn rcpt(argument: &str, dsn: bool) -> Result<Rcpt, Reply> {
    let (path, parameters) = path_argument(argument, "TO:", replies::BAD_RECIPIENT_SYNTAX)?;
    let recipient = ForwardPath::parse_international(path).ok_or(replies::BAD_RECIPIENT_SYNTAX)?;
    let (mut wishes, mut original) = (None, None);
    for parameter in parameters {
        let (keyword, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        let repeated = match keyword.to_ascii_uppercase().as_str() {
            "NOTIFY" if dsn => wishes.replace(reports::notify(value)?).is_some(),
            "ORCPT" if dsn => original.replace(reports::original_recipient(value)?).is_some(),
            _ => return Err(replies::UNKNOWN_PARAMETER),
        };
        if repeated {
            return Err(replies::BAD_ARGUMENT);
        }
    }
    let reports = RecipientReports {
        wishes: wishes.unwrap_or_default(),
        original,
    };
    Ok(Rcpt { recipient, reports })
}

/// Cuts `keyword<path> parameters` into the path's inside and its parameters.
fn path_argument<'l>(
    argument: &'l str,
    keyword: &str,
    malformed: Reply,
) -> Result<(&'l str, impl Iterator<Item = &'l str>), Reply> {
    let begins = argument
        .get(..keyword.len())
        .is_some_and(|start| start.eq_ignore_ascii_case(keyword));
    if !begins {
        return Err(replies::BAD_ARGUMENT);
    }
    let (path, rest) = split_path(&argument[keyword.len()..]).ok_or_else(|| malformed.clone())?;
    if !rest.is_empty() && !rest.starts_with(' ') {
        return Err(malformed);
    }
    Ok((path, rest.split(' ').filter(|parameter| !parameter.is_empty())))
}

/// `1*20DIGIT`
fn size_value(value: &str) -> Result<u64, Reply> {
    let is_number = (1..=20).contains(&value.len()) && value.bytes().all(|octet| octet.is_ascii_digit());
    is_number
        .then(|| value.parse().unwrap_or(u64::MAX))
        .ok_or(replies::BAD_ARGUMENT)
}

/// `7BIT` or `8BITMIME` (RFC 6152)
fn body_value(value: &str) -> Result<(), Reply> {
    let is_known = ["7BIT", "8BITMIME"]
        .iter()
        .any(|known| value.eq_ignore_ascii_case(known));
    is_known.then_some(()).ok_or(replies::BAD_ARGUMENT)
}

/// `BDAT chunk-size [SP "LAST"]`. What follows a size that cannot be read cannot be skipped either.
fn bdat(argument: &str) -> Result<Bdat, Reply> {
    let (octets, rest) = argument.split_once(' ').unwrap_or((argument, ""));
    let is_last = rest.eq_ignore_ascii_case("LAST");
    if !is_last && !rest.is_empty() {
        return Err(replies::BAD_ARGUMENT);
    }
    size_value(octets).map(|octets| Bdat { octets, is_last })
}

/// `AUTH mechanism [initial-response]`
fn auth(argument: &str) -> Result<Command<'_>, Reply> {
    let mut words = argument.split(' ');
    match (words.next(), words.next(), words.next()) {
        (Some(mechanism), initial_response, None) if !mechanism.is_empty() => Ok(Command::Auth {
            mechanism,
            initial_response,
        }),
        _ => Err(replies::BAD_ARGUMENT),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The reply that a line is refused with, or 0.
    fn refusal(line: impl AsRef<[u8]>) -> u16 {
        Command::parse(line.as_ref(), false).err().map_or(0, |reply| reply.code)
    }

    #[test]
    fn reports_are_spoken_of_where_that_was_offered() {
        let code = |line: &str| {
            Command::parse(line.as_bytes(), true)
                .err()
                .map_or(0, |reply| reply.code)
        };
        for line in [
            "MAIL FROM:<a@b> RET=hdrs ENVID=QQ+2B1",
            "MAIL FROM:<a@b> ENVID=x RET=FULL SIZE=5",
            "RCPT TO:<a@b> NOTIFY=NEVER",
            "RCPT TO:<a@b> ORCPT=rfc822;a+2Bc@b NOTIFY=SUCCESS,DELAY",
        ] {
            assert_eq!(code(line), 0, "{line}");
            assert_eq!(refusal(line), 555, "{line}");
        }
        for line in [
            "MAIL FROM:<a@b> RET",
            "MAIL FROM:<a@b> RET=BOTH",
            "MAIL FROM:<a@b> RET=FULL RET=FULL",
            "MAIL FROM:<a@b> ENVID=a=b",
            "MAIL FROM:<a@b> ENVID=a ENVID=a",
            "RCPT TO:<a@b> NOTIFY",
            "RCPT TO:<a@b> NOTIFY=NEVER,SUCCESS",
            "RCPT TO:<a@b> NOTIFY=DELAY NOTIFY=DELAY",
            "RCPT TO:<a@b> ORCPT=rfc822",
            "RCPT TO:<a@b> ORCPT=rfc822;a ORCPT=rfc822;a",
        ] {
            assert_eq!(code(line), 501, "{line}");
            assert_eq!(refusal(line), 555, "{line}");
        }
        for line in [
            "MAIL FROM:<a@b> NOTIFY=NEVER",
            "RCPT TO:<a@b> RET=HDRS",
            "RCPT TO:<a@b> FOO",
        ] {
            assert_eq!(code(line), 555, "{line}");
        }
        let Ok(Command::Rcpt(rcpt)) = Command::parse(b"RCPT TO:<a@b> NOTIFY=FAILURE ORCPT=rfc822;c@d", true) else {
            panic!("refused");
        };
        assert_eq!(rcpt.reports.wishes.bits(), 4);
        assert_eq!(rcpt.reports.original.as_deref(), Some("rfc822;c@d"));
    }

    #[test]
    fn verbs_and_keywords_are_read_in_any_case() {
        for line in [
            "HELO x",
            "ehlo [127.0.0.1]",
            "mAiL fRoM:<>",
            "MAIL FROM:<a@b> size=5 Body=8bitmime auth=<>",
            "MAIL FROM:<a@b>  SIZE=5 ",
            "rcpt to:<postMaster>",
            "RCPT TO:<\"a>b\"@c>",
            "data",
            "DATA ",
            "rset",
            "quit",
            "NOOP",
            "NOOP whatever",
            "help",
            "HELP MAIL",
            "VRFY x",
            "AUTH PLAIN",
            "auth plain AAAA",
            "AUTH PLAIN =",
            "STARTTLS",
            "BDAT 0",
            "bdat 86 last",
            "BDAT 00000000000000000012 LAST ",
            "MAIL FROM:<gr\u{e5}@b> SMTPUTF8",
            "RCPT TO:<a@b\u{fc}cher.example>",
            "VRFY gr\u{e5}",
        ] {
            assert_eq!(refusal(line), 0, "{line}");
        }
    }

    #[test]
    fn malformed_lines_are_refused_with_the_reply_for_their_fault() {
        for (code, lines) in [
            (
                500,
                &[
                    "",
                    " ",
                    "MAILFROM:<a@b>",
                    "FOO",
                    "MA\0IL",
                    "NOOP\rRSET",
                    "NOOP\nRSET",
                    "GR\u{e5}",
                    "\tNOOP",
                ][..],
            ),
            (
                501,
                &[
                    "HELO",
                    "EHLO ",
                    "MAIL",
                    "MAIL FROM",
                    "MAIL FROM:",
                    "MAIL TO:<a@b>",
                    "MAIL FROM: <a@b>",
                    "MAIL FROM:a@b",
                    "MAIL FROM:<a@b",
                    "MAIL FROM:<a@b>x",
                    "MAIL FROM:<a@b>SIZE=1",
                    "MAIL FROM:<a@b> SIZE",
                    "RCPT TO:<>",
                    "MAIL FROM:<a@b> SIZE=",
                    "MAIL FROM:<a@b> SIZE=-1",
                    "MAIL FROM:<a@b> SIZE=1 SIZE=1",
                    "RCPT FROM:<a@b>",
                    "MAIL FROM:<a@b> SIZE=100000000000000000000",
                    "MAIL FROM:<a@b> BODY",
                    "MAIL FROM:<a@b> BODY=BINARYMIME",
                    "MAIL FROM:<a@b> BODY=7BIT BODY=7BIT",
                    "RCPT TO:a@b",
                    "DATA x",
                    "RSET x",
                    "QUIT x",
                    "VRFY",
                    "AUTH",
                    "AUTH PLAIN A B",
                    "MAIL FROM:<postmaster>",
                    "MAIL FROM:<a@b> SMTPUTF8=1",
                    "MAIL FROM:<a@b> SMTPUTF8 SMTPUTF8",
                    "MAIL FROM:<a\u{202e}@b> SMTPUTF8",
                    "STARTTLS now",
                    "BDAT",
                    "BDAT LAST",
                    "BDAT x",
                    "BDAT -1",
                    "BDAT +1",
                    "BDAT 0x10",
                    "BDAT 5  LAST",
                    "BDAT 5 FIRST",
                    "BDAT 5 LAST LAST",
                    "BDAT 100000000000000000000",
                ],
            ),
            (502, &["EXPN list", "ETRN x"]),
            (
                555,
                &[
                    "MAIL FROM:<a@b> FOO=BAR",
                    "MAIL FROM:<a@b> RET=HDRS",
                    "MAIL FROM:<a@b> \u{e9}=1",
                    "RCPT TO:<a@b> NOTIFY=NEVER",
                ],
            ),
        ] {
            for line in lines {
                assert_eq!(refusal(line), code, "{line}");
            }
        }
        assert_eq!(refusal(b"MAIL FROM:<\xff\xfe@b>"), 553);
        assert_eq!(refusal("MAIL FROM:<a\0b@c>"), 500);
        assert_eq!(refusal("MAIL FROM:<\u{e9}\0@c>"), 500);
        assert_eq!(refusal("EHLO gr\u{e5}"), 500);
    }

    #[test]
    fn sizes_of_twenty_digits_are_too_big_rather_than_malformed() {
        let Ok(Command::Mail(mail)) = Command::parse(b"MAIL FROM:<> SIZE=99999999999999999999", false) else {
            panic!("refused");
        };
        assert_eq!(mail.size, Some(u64::MAX));
    }
}
