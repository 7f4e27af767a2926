//! The status responses of RFC 3501 section 7.1, with the codes of RFC 5530: all of them, in one place.

use std::fmt;

/// What a client may ask for: exactly what is implemented.
pub(super) const CAPABILITIES: &str = "IMAP4rev1 LITERAL+ SASL-IR AUTH=PLAIN ID IDLE NAMESPACE UIDPLUS UNSELECT";

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
pub(super) const READ_WRITE: Reply = ok("READ-WRITE", "INBOX selected");
pub(super) const READ_ONLY: Reply = ok("READ-ONLY", "INBOX examined");
/// RFC 2180 section 4.1: what is left of the messages asked for has been sent.
pub(super) const SOME_EXPUNGED: Reply = ok("EXPUNGEISSUED", "Some of the messages are expunged");

pub(super) const LOGIN_FAILED: Reply = no("AUTHENTICATIONFAILED", "Wrong user name or password");
pub(super) const NO_SUCH_MECHANISM: Reply = no("CANNOT", "Only AUTHENTICATE PLAIN is offered");
pub(super) const NO_SUCH_MAILBOX: Reply = no("NONEXISTENT", "There is no mailbox but INBOX");
pub(super) const NO_FOLDERS: Reply = no("CANNOT", "There is one mailbox, INBOX, and it stays as it is");
pub(super) const EXAMINED: Reply = no("CANNOT", "INBOX was opened by EXAMINE, for reading only");
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
pub(super) const NOT_SELECTED: Reply = bad("Select INBOX first");
pub(super) const NOT_OFFERED: Reply = bad("This extension is not offered");
pub(super) const NO_SUCH_MESSAGE: Reply = bad("There is no message of that number");
pub(super) const CANCELLED: Reply = bad("Cancelled");
pub(super) const NOT_DONE: Reply = bad("IDLE ends with DONE");
