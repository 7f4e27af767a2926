//! The status responses of RFC 3501 section 7.1, with the codes of RFC 5530: all of them, in one place.

use std::fmt;

use super::Failure;

/// What a client may ask for: exactly what is implemented.
pub(super) const CAPABILITIES: &str = "IMAP4rev1 LITERAL+ SASL-IR AUTH=PLAIN ID ENABLE IDLE NAMESPACE UIDPLUS UNSELECT \
    MOVE CONDSTORE CHILDREN SPECIAL-USE CREATE-SPECIAL-USE STATUS=SIZE QUOTA QUOTA=RES-V-POSTERN-VALUE \
    QUOTA=RES-V-POSTERN-KEYS";

/// The end of a command, less its tag.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Reply {
    status: &'static str,
    /// In brackets on the wire; empty: none.
    code: &'static str,
    text: &'static str,
}

impl Reply {
    /// Whether the client has to mend its syntax.
    pub(super) fn is_bad(self) -> bool {
        self.status == "BAD"
    }
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.code {
            "" => write!(f, "{} {}", self.status, self.text),
            code => write!(f, "{} [{code}] {}", self.status, self.text),
        }
    }
}

impl From<Failure> for Reply {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::NoFolder => NO_SUCH_MAILBOX,
            Failure::Exists => MAILBOX_EXISTS,
            Failure::Cannot => CANNOT,
            Failure::Limit => LIMIT,
            Failure::Unavailable => UNAVAILABLE,
        }
    }
}

const fn ok(code: &'static str, text: &'static str) -> Reply {
    Reply {
        status: "OK",
        code,
        text,
    }
}

const fn no(code: &'static str, text: &'static str) -> Reply {
    Reply {
        status: "NO",
        code,
        text,
    }
}

const fn bad(text: &'static str) -> Reply {
    Reply {
        status: "BAD",
        code: "",
        text,
    }
}

pub(super) const COMPLETED: Reply = ok("", "Completed");
pub(super) const READ_WRITE: Reply = ok("READ-WRITE", "Selected");
pub(super) const READ_ONLY: Reply = ok("READ-ONLY", "Examined");
/// RFC 2180 section 4.1: what is left of the messages asked for has been sent.
pub(super) const SOME_EXPUNGED: Reply = ok("EXPUNGEISSUED", "Some of the messages are expunged");

pub(super) const LOGIN_FAILED: Reply = no("AUTHENTICATIONFAILED", "Wrong user name or password");
pub(super) const NO_SUCH_MECHANISM: Reply = no("CANNOT", "Only AUTHENTICATE PLAIN is offered");
pub(super) const NO_SUCH_MAILBOX: Reply = no("NONEXISTENT", "There is no such mailbox");
/// RFC 3501 section 6.3.11: CREATE may help.
pub(super) const TRY_CREATE: Reply = no("TRYCREATE", "There is no such mailbox");
pub(super) const MAILBOX_EXISTS: Reply = no("ALREADYEXISTS", "There is a mailbox of this name");
pub(super) const CANNOT: Reply = no(
    "CANNOT",
    "INBOX stays as it is, or the name is not one that a mailbox may have",
);
pub(super) const USE_REFUSED: Reply = no("USEATTR", "Another mailbox is for this, or the use is not known");
pub(super) const LIMIT: Reply = no("LIMIT", "There are as many as there may be, or it is too much at once");
pub(super) const NO_QUOTA_ROOT: Reply = no("NONEXISTENT", "There is one quota root, and its name is empty");
pub(super) const EXAMINED: Reply = no("CANNOT", "The mailbox was opened by EXAMINE, for reading only");
/// What SELECT says of the mailbox (RFC 3501 section 7.1), said again where something is to be changed.
pub(super) const NOTHING_CHANGES: Reply = no("READ-ONLY", "Nothing can be changed here");
pub(super) const NO_ROOM: Reply = no("UNAVAILABLE", "Too much mail comes in at once, try again later");
pub(super) const TOO_BIG: Reply = no("TOOBIG", "The message is longer than this server takes");
pub(super) const UNAVAILABLE: Reply = no("UNAVAILABLE", "The store does not answer, try again");
pub(super) const BAD_CHARSET: Reply = no("BADCHARSET (US-ASCII UTF-8)", "Search in US-ASCII or UTF-8");

pub(super) const NO_TAG: Reply = bad("A command starts with a tag");
pub(super) const UNKNOWN_COMMAND: Reply = bad("Unknown command");
pub(super) const BAD_ARGUMENTS: Reply = bad("The arguments are not understood");
pub(super) const COMMAND_TOO_LONG: Reply = bad("The command is too long");
pub(super) const LITERAL_REFUSED: Reply = bad("No literal is taken here");
pub(super) const NOT_LOGGED_IN: Reply = bad("Log in first");
pub(super) const LOGGED_IN: Reply = bad("Already logged in");
pub(super) const NOT_SELECTED: Reply = bad("Select a mailbox first");
pub(super) const NOT_OFFERED: Reply = bad("This extension is not offered");
pub(super) const NO_SUCH_MESSAGE: Reply = bad("There is no message of that number");
pub(super) const CANCELLED: Reply = bad("Cancelled");
pub(super) const NOT_DONE: Reply = bad("IDLE ends with DONE");
