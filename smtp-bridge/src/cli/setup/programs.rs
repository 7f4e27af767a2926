//! Configurations that are one file of text.

use std::path::{Path, PathBuf};
use std::process::Command;

use zeroize::Zeroizing;

use super::super::init::shell;
use super::super::process::Failure;
use super::{Account, File, Plan, dirs};

impl Plan {
    fn of(default: PathBuf, to: Option<&Path>, text: String, remarks: &str) -> Plan {
        let path = to.map_or(default, Path::to_owned);
        Plan {
            files: vec![File {
                path,
                text: Zeroizing::new(text),
            }],
            folders: Vec::new(),
            remarks: remarks.to_owned(),
        }
    }
}

pub(super) fn mutt(account: &Account, to: Option<&Path>) -> Plan {
    Plan::of(dirs::home().join(".muttrc"), to, muttrc(account), "Start it with: mutt")
}

pub(super) fn neomutt(account: &Account, to: Option<&Path>) -> Plan {
    let path = dirs::config().join("neomutt").join("neomuttrc");
    Plan::of(path, to, muttrc(account), "Start it with: neomutt")
}

/// Both programs read the same words.
fn muttrc(account: &Account) -> String {
    let Account {
        user,
        password,
        smtp,
        imap,
        address,
        ..
    } = account;
    let password = password.as_str();
    let local = account.local_address();
    format!(
        r#"# Mail through Postern: made by 'postern setup'. Holds a password: keep it to yourself.
set from = "{address}"
set use_from = yes
set envelope_from = no
set realname = ""
alternates "^{local}$"
# The machine's own name is nobody's business.
set hostname = "localhost"
set user_agent = no

# The bridge is on this machine: nothing is encrypted on the way to it.
set ssl_starttls = no
set ssl_force_tls = no

set folder = "imap://{user}@{imap}/"
set imap_user = "{user}"
set imap_pass = "{password}"
set imap_check_subscribed = yes
set imap_idle = yes
set mail_check = 60
set spoolfile = "+INBOX"
set record = "+Sent"
set postponed = "+Drafts"
set trash = "+Trash"

set smtp_url = "smtp://{user}@{smtp}/"
set smtp_pass = "{password}"
"#
    )
}

pub(super) fn mbsync(account: &Account, to: Option<&Path>) -> Plan {
    let mail = dirs::home().join("Mail").join("postern");
    let Account {
        user, password, imap, ..
    } = account;
    let password = password.as_str();
    let (host, port) = (imap.ip(), imap.port());
    let text = format!(
        r#"# Mail through Postern: made by 'postern setup'. Holds a password: keep it to yourself.
IMAPAccount postern
Host {host}
Port {port}
User {user}
Pass {password}
SSLType None
AuthMechs LOGIN

IMAPStore postern-remote
Account postern

MaildirStore postern-local
Path "{mail}/"
Inbox "{mail}/INBOX"
SubFolders Verbatim

Channel postern
Far :postern-remote:
Near :postern-local:
Patterns *
Create Both
Expunge Both
SyncState *
"#,
        mail = mail.display()
    );
    let mut plan = Plan::of(
        dirs::home().join(".mbsyncrc"),
        to,
        text,
        "Fetch and keep in step with: mbsync postern",
    );
    plan.folders.push(mail);
    plan
}

pub(super) fn msmtp(account: &Account, to: Option<&Path>) -> Plan {
    let Account {
        user,
        password,
        smtp,
        address,
        ..
    } = account;
    let password = password.as_str();
    let (host, port) = (smtp.ip(), smtp.port());
    let text = format!(
        r#"# Mail through Postern: made by 'postern setup'. Holds a password: keep it to yourself.
defaults
tls off
domain localhost

account postern
host {host}
port {port}
auth plain
user {user}
password {password}
from {address}

account default : postern
"#
    );
    Plan::of(
        dirs::home().join(".msmtprc"),
        to,
        text,
        "Send with: msmtp RECIPIENT < MESSAGE",
    )
}

pub(super) fn aerc(account: &Account, to: Option<&Path>) -> Result<Plan, Failure> {
    let Account {
        user,
        password,
        imap,
        address,
        ..
    } = account;
    let password = password.as_str();
    // aerc's name for SMTP without TLS differs between its versions; a command means the same in both.
    let sendmail = sendmail_command(account)?;
    // Names and passwords are of letters, digits, '-', '_' and '.': nothing needs escaping in a URL.
    let text = format!(
        r#"# Mail through Postern: made by 'postern setup'. Holds a password: keep it to yourself.
[Postern]
source = imap+insecure://{user}:{password}@{imap}
outgoing = {sendmail}
from = <{address}>
default = INBOX
folders-sort = INBOX
copy-to = Sent
postpone = Drafts
archive = Archive
cache-headers = true
"#
    );
    let path = dirs::config().join("aerc").join("accounts.conf");
    Ok(Plan::of(path, to, text, "Start it with: aerc"))
}

/// git hands its mail to `postern sendmail`: no password is written anywhere.
pub(super) fn git(account: &Account, to: Option<&Path>) -> Result<Plan, Failure> {
    let command = sendmail_command(account)?;
    let quoted = command.replace('\\', r"\\").replace('"', "\\\"");
    let text = format!(
        r#"# Patches through Postern: made by 'postern setup'.
[sendemail]
	identity = postern
[sendemail "postern"]
	sendmailCmd = "{quoted}"
	from = {address}
"#,
        address = account.address
    );
    let path = dirs::config().join("postern").join("git");
    Ok(Plan::of(
        path,
        to,
        text,
        "Send with: git send-email --to RECIPIENT PATCHES\n\
         A patch names its author in its text: set user.name and user.email in the repository to what may be known.",
    ))
}

/// `postern sendmail` for this account, as a shell takes it.
fn sendmail_command(account: &Account) -> Result<String, Failure> {
    let program =
        std::env::current_exe().map_err(|error| Failure(format!("cannot tell where this program is: {error}")))?;
    Ok(format!("{} sendmail --dir {}", shell(&program), shell(&account.dir)))
}

/// Has git read the file; what it read before stays.
pub(super) fn include_in_git(path: &Path) -> Result<String, Failure> {
    let git = |arguments: &[&str]| {
        let failed = |error| Failure(format!("cannot run git: {error}"));
        Command::new("git")
            .arg("config")
            .arg("--global")
            .args(arguments)
            .arg(path)
            .output()
            .map_err(failed)
    };
    let known = Command::new("git")
        .args(["config", "--global", "--get-all", "include.path"])
        .output()
        .map_err(|error| Failure(format!("cannot run git: {error}")))?;
    let text = path.display().to_string();
    if String::from_utf8_lossy(&known.stdout).lines().any(|line| line == text) {
        return Ok("git reads it already".to_owned());
    }
    let added = git(&["--add", "include.path"])?;
    if added.status.success() {
        Ok("git's global configuration includes it now".to_owned())
    } else {
        let said = String::from_utf8_lossy(&added.stderr).trim().to_owned();
        Err(Failure(format!(
            "git did not take the file into its configuration: {said}"
        )))
    }
}
