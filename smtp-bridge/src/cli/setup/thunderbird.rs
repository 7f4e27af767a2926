//! Thunderbird: a profile of its own that has the account, or a file that its account assistant finds.

use std::path::Path;

use zeroize::Zeroizing;

use super::{Account, File, Plan, dirs};
use crate::bridge::autoconfig;

/// A profile for Postern alone; with `to` in another folder, or as a file of the assistant, which ends in `.xml`.
pub(super) fn plan(account: &Account, to: Option<&Path>) -> Plan {
    if let Some(path) = to.filter(|path| path.extension().is_some_and(|extension| extension == "xml")) {
        return Plan {
            files: vec![File {
                path: path.to_owned(),
                text: Zeroizing::new(autoconfig(account.smtp, account.imap)),
            }],
            folders: Vec::new(),
            remarks: format!(
                "Make this file readable for all if Thunderbird runs as another user. Then add an account in Thunderbird:\n  \
                 address   {}\n  password  {}",
                account.local_address(),
                account.password.as_str()
            ),
        };
    }
    let folder = match to {
        Some(folder) => folder.to_owned(),
        None => dirs::home().join(".thunderbird").join("postern"),
    };
    let shown = folder.display();
    Plan {
        files: vec![File {
            path: folder.join("user.js"),
            text: Zeroizing::new(user_js(account)),
        }],
        folders: vec![folder.clone()],
        remarks: format!(
            "Start it with: thunderbird --profile {shown}\nIt asks once for the password, and can keep it: {}",
            account.password.as_str()
        ),
    }
}

/// What to do in a profile that is there already.
pub(super) fn by_hand(account: &Account) -> String {
    format!(
        "'--write' makes a profile of its own out of this. {}",
        autoconfig_hint(account.page, &account.local_address(), &account.password)
    )
}

/// How Thunderbird's account assistant finds the rest from an address.
fn autoconfig_hint(page: Option<std::net::SocketAddr>, address: &str, password: &str) -> String {
    let mut text = format!(
        "In a profile that you have, add an account:\n  address   {address}\n  password  {password}\n\
         The assistant finds the rest if one of these holds:\n"
    );
    if let Some(page) = page {
        text.push_str(&format!(
            "  the setting mailnews.auto_config_url is http://{page}/autoconfig/\n"
        ));
    }
    text.push_str(
        "  postern setup thunderbird --write --to /usr/lib/thunderbird/isp/localhost.xml was run, as who may write there\n  \
         the bridge runs with --page 127.0.0.1:80\n",
    );
    text
}

/// Preferences in the order of Thunderbird's account manager. They are applied at every start.
fn user_js(account: &Account) -> String {
    let Account {
        user,
        smtp,
        imap,
        address,
        page,
        ..
    } = account;
    let (imap_host, imap_port) = (imap.ip(), imap.port());
    let (smtp_host, smtp_port) = (smtp.ip(), smtp.port());
    let text = |name: &str, value: &str| format!("user_pref(\"{name}\", \"{value}\");\n");
    let other = |name: &str, value: &str| format!("user_pref(\"{name}\", {value});\n");
    let folder = |name: &str| format!("imap://{user}@{imap_host}/{name}");
    let mut out = String::from("// Mail through Postern: made by 'postern setup'.\n");
    out += &text("mail.accountmanager.accounts", "account1,account2");
    out += &text("mail.accountmanager.defaultaccount", "account1");
    out += &text("mail.accountmanager.localfoldersserver", "server2");
    out += &text("mail.account.account1.server", "server1");
    out += &text("mail.account.account1.identities", "id1");
    out += &text("mail.account.account2.server", "server2");

    out += &text("mail.server.server1.type", "imap");
    out += &text("mail.server.server1.name", "Postern");
    out += &text("mail.server.server1.hostname", &imap_host.to_string());
    out += &other("mail.server.server1.port", &imap_port.to_string());
    out += &text("mail.server.server1.userName", user);
    // 0: no encryption, 3: the password as it is. Both stay on this machine.
    out += &other("mail.server.server1.socketType", "0");
    out += &other("mail.server.server1.authMethod", "3");
    out += &other("mail.server.server1.login_at_startup", "true");
    out += &other("mail.server.server1.check_new_mail", "true");
    out += &other("mail.server.server1.use_idle", "true");
    out += &other("mail.server.server1.delete_model", "1");
    out += &text("mail.server.server1.trash_folder_name", "Trash");
    out += &text("mail.server.server2.type", "none");
    out += &text("mail.server.server2.name", "Local Folders");
    out += &text("mail.server.server2.hostname", "Local Folders");
    out += &text("mail.server.server2.userName", "nobody");

    out += &text("mail.identity.id1.useremail", address);
    out += &text("mail.identity.id1.fullName", "");
    out += &text("mail.identity.id1.smtpServer", "smtp1");
    out += &other("mail.identity.id1.valid", "true");
    // Formatted text would be made plain on the way out.
    out += &other("mail.identity.id1.compose_html", "false");
    out += &other("mail.identity.id1.fcc", "true");
    for (name, place) in [("fcc", "Sent"), ("draft", "Drafts"), ("archive", "Archive")] {
        out += &text(&format!("mail.identity.id1.{name}_folder"), &folder(place));
        out += &text(&format!("mail.identity.id1.{name}_folder_picker_mode"), "0");
    }

    out += &text("mail.smtpservers", "smtp1");
    out += &text("mail.smtp.defaultserver", "smtp1");
    out += &text("mail.smtpserver.smtp1.description", "Postern");
    out += &text("mail.smtpserver.smtp1.hostname", &smtp_host.to_string());
    out += &other("mail.smtpserver.smtp1.port", &smtp_port.to_string());
    out += &text("mail.smtpserver.smtp1.username", user);
    out += &other("mail.smtpserver.smtp1.try_ssl", "0");
    out += &other("mail.smtpserver.smtp1.authMethod", "3");

    // Nothing about this account is asked of anybody but the bridge.
    if let Some(page) = page {
        out += &text("mailnews.auto_config_url", &format!("http://{page}/autoconfig/"));
    }
    out += &other("mailnews.auto_config.fetchFromISP.enabled", "false");
    out += &other("mail.provider.suppress_dialog_on_startup", "true");
    out += &other("mailnews.start_page.enabled", "false");
    out
}
