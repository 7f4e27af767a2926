//! What a quickstart says once everything is ready.

use std::net::SocketAddr;
use std::path::Path;

use serde::Serialize;
use serde_json::{Value, json};

use super::process::Process;
use super::relays::Place;
use super::{Plan, Ready, TICK_S};

impl Plan {
    /// One line for programs.
    pub(super) fn as_json(&self, relays: &[Process], bridges: &[Process], ready: &[Ready]) -> Value {
        #[derive(Serialize)]
        struct Bridge<'a> {
            name: &'a str,
            smtp: SocketAddr,
            imap: SocketAddr,
            user: &'a str,
            password: &'a str,
            alias: &'a str,
            data: &'a Path,
            pid: u32,
        }
        #[derive(Serialize)]
        struct Relay<'a> {
            link: SocketAddr,
            mx: SocketAddr,
            status: SocketAddr,
            domain: &'a str,
            data: &'a Path,
            pid: u32,
        }
        let bridges: Vec<Bridge<'_>> = self
            .people
            .iter()
            .zip(ready)
            .zip(bridges)
            .map(|((person, ready), process)| Bridge {
                name: person.name,
                smtp: person.smtp,
                imap: person.imap,
                user: person.name,
                password: &ready.password,
                alias: &ready.alias,
                data: &person.dir,
                pid: process.pid(),
            })
            .collect();
        let relays: Vec<Relay<'_>> = self
            .relays
            .iter()
            .zip(relays)
            .map(|(Place { config, .. }, process)| Relay {
                link: config.link,
                mx: config.mx,
                status: config.status,
                domain: &config.domain,
                data: &config.data,
                pid: process.pid(),
            })
            .collect();
        let prices = ready.first().map(|ready| &ready.prices);
        let price = |key: &str| prices.map(|prices| prices[key].clone()).unwrap_or_default();
        json!({
            "relay": relays[0],
            "relays": relays,
            "bridges": bridges,
            "prices": { "version": price("version"), "message": price("message"), "kilobyte": price("kilobyte"), "key": price("key") },
        })
    }

    /// For people: what runs, and what to try.
    pub(super) fn as_text(&self, ready: &[Ready]) -> String {
        let mut out = format!(
            "\n{} and two people run on this machine, with data under {}.\n",
            match self.relays.len() {
                1 => "A relay".to_owned(),
                count => format!("{count} relays"),
            },
            self.options.dir.display()
        );
        for (person, ready) in self.people.iter().zip(ready) {
            out += &format!(
                "\n  {name}  {alias}\n     outgoing mail (SMTP)  {smtp}   no encryption, normal password\n     incoming mail (IMAP)  {imap}   no encryption, normal password\n     user {name}   password {password}\n",
                name = person.name,
                alias = ready.alias,
                smtp = person.smtp,
                imap = person.imap,
                password = ready.password
            );
        }
        let (a, b) = (&self.people[0], &ready[1]);
        let (first, last) = (&self.relays[0].config, &self.relays[self.relays.len() - 1].config);
        let way = match self.relays.len() {
            1 => format!(
                "It is sealed under the next key of a's pack, debited, sent out by the relay, comes back through its MX ({}) and\n\
                 is in b's INBOX within a few seconds",
                first.mx
            ),
            _ => format!(
                "It is sealed under the next key of a's pack and debited by {}; each relay seals it anew under the pack that\n\
                 it holds at the next one, and pays for it; {} gives it to its MX ({}). b's mailbox is there, and b's link runs inside\n\
                 one to {}: that relay sees where b is, the other one b's mail. It is in b's INBOX within a few seconds",
                first.domain, last.domain, last.mx, first.domain
            ),
        };
        out += &format!(
            "\nTry it, or enter the settings above in any mail program:\n\n  swaks --server {} --auth-user a --auth-password {} --from a@localhost --to {}\n\n\
             {way} (ticks are {TICK_S} s here instead of 60):\n\n  curl --user b:{} 'imap://{}/INBOX;UID=*'\n\n",
            a.smtp, ready[0].password, b.alias, b.password, self.people[1].imap,
        );
        for relay in &self.relays {
            out += &match self.relays.len() {
                1 => format!("Status page: http://{}/\n", relay.config.status),
                _ => format!(
                    "{}: status page http://{}/, neighbours: posternd peer list --data {}\n",
                    relay.config.domain,
                    relay.config.status,
                    relay.config.data.display()
                ),
            };
        }
        out += &match &self.options.smarthost {
            Some(smarthost) => format!("Mail for other domains goes to {smarthost}.\n"),
            None => "Mail for other domains is refused: give --smarthost HOST:PORT to let it out.\n".to_owned(),
        };
        out += "\nCtrl-C stops everything; the same command goes on from there.\n";
        out
    }
}
