//! The IMAP port: folders as the store has them.

use std::sync::Arc;

use mailbox::holder_store::{Flags, FolderError, FolderId, Folders, MessageText, Snapshot, SpecialUse, StoreFlags};
use mailbox::{HolderStore, StoreError};
use tokio::sync::watch;

use super::Bridge;
use crate::holder::LARGE_BYTES;
use crate::imap::{self, Failure, Unavailable};
use crate::net::BoxStream;

/// Serves one session to its end. How it ended is the client's own business.
pub(super) async fn serve<S: HolderStore>(stream: BoxStream, bridge: Arc<Bridge<S>>) {
    let _ = imap::serve(stream, &imap::Limits::default(), &Reading(bridge)).await;
}

/// Tells a client that there are too many sessions.
pub(super) async fn turn_away(stream: BoxStream) {
    let _ = imap::turn_away(stream).await;
}

/// The reading side of the IMAP engine.
pub(super) struct Reading<S>(pub(super) Arc<Bridge<S>>);

impl<S: HolderStore> Bridge<S> {
    /// Compares user and password in a time that does not depend on where they differ.
    pub(super) fn login(&self, user: &[u8], password: &[u8]) -> bool {
        let shown = keypacks::kdf::hash(&[&(user.len() as u64).to_le_bytes(), user, password]);
        let expected = keypacks::kdf::hash(&[
            &(self.user.len() as u64).to_le_bytes(),
            self.user.as_bytes(),
            self.password.as_bytes(),
        ]);
        keypacks::Secret::new(shown) == keypacks::Secret::new(expected)
    }
}

impl<S: HolderStore> imap::Mailboxes for Reading<S> {
    fn folders(&self) -> Arc<Folders> {
        self.0.store.folders()
    }

    fn folder(&self, folder: FolderId) -> Option<Arc<Snapshot>> {
        self.0.store.folder(folder)
    }

    fn recent(&self) -> &imap::Recent {
        &self.0.recent
    }

    /// Large ones share the room of submissions: a hundred sessions would otherwise be as many times the largest.
    fn room(&self, octets: usize) -> Option<imap::Room> {
        if octets < LARGE_BYTES {
            return Some(Box::new(()));
        }
        let octets = u32::try_from(octets).ok()?;
        let room = self.0.room.clone().try_acquire_many_owned(octets).ok()?;
        Some(Box::new(room))
    }

    fn quota(&self) -> imap::Quota {
        let value = self.0.store.value();
        let keys = self.0.store.link_position().keys;
        // Mail programs show numbers, not µtok.
        let milli = |amount: u64| amount / 1_000;
        imap::Quota {
            value: imap::Usage {
                used: milli(value.credits.saturating_sub(value.balance)),
                limit: milli(value.credits),
            },
            keys: imap::Usage {
                used: keys.saturating_sub(value.keys),
                limit: keys,
            },
        }
    }
}

impl<S: HolderStore> imap::Backend for Reading<S> {
    async fn login(&self, user: &[u8], password: &[u8]) -> bool {
        self.0.login(user, password)
    }

    fn changed(&self) -> watch::Receiver<u64> {
        self.0.store.changed()
    }

    async fn text(&self, folder: FolderId, uid: u32) -> Result<Option<Arc<dyn MessageText>>, Unavailable> {
        self.0.store.text(folder, uid).map_err(unavailable)
    }

    async fn message(&self, folder: FolderId, uid: u32) -> Result<Option<Vec<u8>>, Unavailable> {
        self.0.store.message(folder, uid).map_err(unavailable)
    }

    async fn look_through(
        &self,
        text: Arc<dyn MessageText>,
        depth: imap::Depth,
        words: imap::Words,
    ) -> Option<Result<imap::Long, StoreError>> {
        self.0.host.compute(move || imap::Long::of(text, depth, &words)).await
    }

    async fn summaries(&self, folder: FolderId, uids: &[u32]) -> Result<imap::Summaries, Unavailable> {
        self.0.store.summaries(folder, uids).map_err(unavailable)
    }

    async fn keyword(&self, name: String) -> Result<Option<Flags>, Unavailable> {
        self.0.store.keyword(name).await.map_err(unavailable)
    }

    async fn store(&self, folder: FolderId, store: StoreFlags) -> Result<Vec<u32>, Failure> {
        self.0.store.change_flags(folder, store).await.map_err(failure)
    }

    async fn expunge(&self, folder: FolderId, uids: Vec<u32>) -> Result<(), Failure> {
        self.0.store.expunge(folder, uids).await.map(|_| ()).map_err(failure)
    }

    async fn append(
        &self,
        folder: FolderId,
        message: Vec<u8>,
        flags: Flags,
        internal_date: Option<u64>,
    ) -> Result<u32, Failure> {
        let date = internal_date.unwrap_or_else(|| self.0.host.clock.unix_seconds());
        let length = message.len();
        let summarised = move || (imap::summary(&message), message);
        let (summary, message) = match length {
            ..LARGE_BYTES => summarised(),
            _ => self.0.host.compute(summarised).await.ok_or(Failure::Unavailable)?,
        };
        let appended = self.0.store.append(folder, message, summary, flags, date).await;
        appended.map_err(failure)
    }

    async fn copy(&self, from: FolderId, uids: Vec<u32>, to: FolderId) -> Result<Vec<(u32, u32)>, Failure> {
        self.0.store.copy(from, uids, to).await.map_err(failure)
    }

    async fn move_to(&self, from: FolderId, uids: Vec<u32>, to: FolderId) -> Result<Vec<(u32, u32)>, Failure> {
        self.0.store.move_to(from, uids, to).await.map_err(failure)
    }

    async fn create(&self, name: String, special_use: Option<SpecialUse>) -> Result<(), Failure> {
        let created = self.0.store.create_folder(name, special_use).await;
        created.map(|_| ()).map_err(failure)
    }

    async fn delete(&self, folder: FolderId) -> Result<(), Failure> {
        self.0.store.delete_folder(folder).await.map_err(failure)
    }

    async fn rename(&self, folder: FolderId, name: String) -> Result<(), Failure> {
        self.0.store.rename_folder(folder, name).await.map_err(failure)
    }

    async fn subscribe(&self, name: String, subscribed: bool) -> Result<(), Failure> {
        self.0.store.subscribe(name, subscribed).await.map_err(failure)
    }
}

/// The client learns that there is trouble, the log which.
fn unavailable(error: StoreError) -> Unavailable {
    tracing::error!(%error, "the store does not answer");
    Unavailable
}

fn failure(error: FolderError) -> Failure {
    match error {
        FolderError::NoFolder => Failure::NoFolder,
        FolderError::Exists => Failure::Exists,
        FolderError::Cannot => Failure::Cannot,
        FolderError::TooMany | FolderError::Store(StoreError::Busy | StoreError::Full) => Failure::Limit,
        FolderError::Store(error) => unavailable(error).into(),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::path::Path;
    use std::time::Duration;

    use keypacks::Secret;
    use keypacks::pack::{Identifier, Issue, PassphraseCost};
    use mailbox::Entropy;
    use mailbox::disk::{Disk, MemoryDisk};
    use mailbox::entropy::SeededEntropy;
    use mailbox::holder::{HolderFiles, HolderOptions};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::sync::Semaphore;

    use super::*;
    use crate::holder::{self, HolderConfig};
    use crate::message::Address;
    use crate::net::system;

    /// A bridge whose store has nothing in it, and which never dials.
    pub(in crate::bridge) async fn bridge() -> Arc<Bridge<HolderFiles>> {
        bridge_of(vec!["first@relay.test".to_owned()]).await
    }

    /// One whose pack was issued with these aliases.
    pub(in crate::bridge) async fn bridge_of(aliases: Vec<String>) -> Arc<Bridge<HolderFiles>> {
        let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::new());
        let entropy: Arc<dyn Entropy> = Arc::new(SeededEntropy::new(1));
        let options = HolderOptions {
            passphrase_cost: PassphraseCost::LEAST,
            ..HolderOptions::default()
        };
        let issue = Issue {
            identifier: Identifier([1; 16]),
            relay_public: [9; 32],
            link_keys: 64,
            root: Secret::new([5; 32]),
            day: 20_000,
            relay_address: "127.0.0.1:9".to_owned(),
            relay_domain: "relay.test".to_owned(),
            aliases,
            rotation: Default::default(),
            pad: None,
        };
        HolderFiles::create(&disk, Path::new("/h"), &issue, b"word", &options, &entropy).expect("made");
        let (store, actor) = HolderFiles::open(&disk, Path::new("/h"), b"word", &options, &entropy).expect("opened");
        tokio::spawn(actor);
        let (stop, stopping) = watch::channel(false);
        let config = HolderConfig::new(Address::parse("a@localhost").expect("an address"));
        let (holder, _) = holder::new(system::host(), store.clone(), config, stopping);
        let at = std::net::SocketAddr::from(([127, 0, 0, 1], 9));
        Arc::new(Bridge {
            ports: super::super::Ports {
                smtp: at,
                imap: at,
                page: None,
            },
            page_keys: super::super::page::Keys::draw(&system::host()),
            notices: super::super::NoticeSettings {
                low_balance: Some(100),
                ..super::super::NoticeSettings::default()
            },
            diary: std::sync::Mutex::default(),
            directory: super::super::directory::Directory::load(&system::host(), std::path::Path::new("/h"), None),
            dir: "/h".into(),
            host: crate::net::Host { disk, ..system::host() },
            store,
            user: "user".to_owned(),
            password: zeroize::Zeroizing::new("pass".to_owned()),
            holder,
            room: Arc::new(Semaphore::new(0)),
            spending: tokio::sync::Mutex::default(),
            recent: imap::Recent::default(),
            hygiene: super::super::Hygiene::default(),
            cover: None,
            pool: None,
            looping: super::super::looping::Looping {
                wish: None,
                loops: Arc::new(crate::holder::loops::Loops::new(keypacks::Secret::new([0; 32]))),
            },
            caveat: None,
            entry: None,
            stands_since: None,
            awaiting: None,
            warned: super::super::warned::Warned::default(),
            stop,
        })
    }

    #[tokio::test]
    async fn large_messages_are_appended_within_the_room_of_submissions() {
        let mut bridge = bridge().await;
        Arc::get_mut(&mut bridge).expect("nobody else has it").room = Arc::new(Semaphore::new(1_000_000));
        let (mut client, server) = tokio::io::duplex(64 << 10);
        let serving = tokio::spawn(serve(Box::new(server), Arc::clone(&bridge)));
        // The first is on its way when the second is announced; a small one needs no room.
        let (mut other, server) = tokio::io::duplex(64 << 10);
        let other_serving = tokio::spawn(serve(Box::new(server), Arc::clone(&bridge)));
        for client in [&mut client, &mut other] {
            client.write_all(b"a LOGIN user pass\r\n").await.expect("open");
            said_until(client, "a OK").await;
        }
        client.write_all(b"b APPEND INBOX {600000}\r\n").await.expect("open");
        said_until(&mut client, "+ Ready").await;
        other.write_all(b"b APPEND INBOX {600000}\r\n").await.expect("open");
        said_until(&mut other, "b NO [UNAVAILABLE]").await;
        other.write_all(b"c APPEND INBOX {1+}\r\nx\r\n").await.expect("open");
        said_until(&mut other, "c OK").await;
        client.write_all(&[b'x'; 600_000]).await.expect("open");
        client.write_all(b"\r\n").await.expect("open");
        said_until(&mut client, "b OK").await;
        assert_eq!(bridge.room.available_permits(), 1_000_000);
        // Given up in the middle, it is free again too.
        client
            .write_all(b"c APPEND INBOX {600000}\r\nbegun")
            .await
            .expect("open");
        said_until(&mut client, "+ Ready").await;
        drop((client, other));
        for serving in [serving, other_serving] {
            serving.await.expect("no panic");
        }
        assert_eq!(bridge.room.available_permits(), 1_000_000);
        assert_eq!(bridge.store.inbox().entries.len(), 2);
    }

    /// Reads until a line begins so.
    async fn said_until(client: &mut tokio::io::DuplexStream, start: &str) {
        let mut said = String::new();
        while !said.lines().any(|line| line.starts_with(start)) {
            let mut bytes = [0; 1_000];
            let read = tokio::time::timeout(Duration::from_secs(60), client.read(&mut bytes));
            let read = read.await.expect("answers").expect("open");
            assert!(read > 0, "{start}: {said}");
            said.push_str(&String::from_utf8_lossy(&bytes[..read]));
        }
    }

    #[tokio::test]
    async fn an_appended_message_has_a_summary_that_lists_are_made_of() {
        let bridge = bridge().await;
        let (mut client, server) = tokio::io::duplex(64 << 10);
        let serving = tokio::spawn(serve(Box::new(server), Arc::clone(&bridge)));
        let text = "Subject: listed\r\nReceived: x\r\n\r\nbody\r\n";
        let unlisted = b"Subject: notice\r\n\r\nbody\r\n".to_vec();
        bridge
            .store
            .append(FolderId::INBOX, unlisted, Vec::new(), Flags::default(), 7)
            .await
            .expect("room");
        let commands = format!(
            "a LOGIN user pass\r\nb APPEND INBOX {{{}+}}\r\n{text}\r\nc SELECT INBOX\r\nd FETCH 1:* ENVELOPE\r\n\
             e FETCH 2 (ENVELOPE BODY.PEEK[])\r\nf LOGOUT\r\n",
            text.len()
        );
        client.write_all(commands.as_bytes()).await.expect("open");
        let mut said = String::new();
        let reading = client.read_to_string(&mut said);
        tokio::time::timeout(Duration::from_secs(60), reading)
            .await
            .expect("answers")
            .expect("open");
        serving.await.expect("no panic");
        let summaries = bridge.store.summaries(FolderId::INBOX, &[1, 2]).expect("readable");
        let summary = zeroize::Zeroizing::new(imap::summary(text.as_bytes()));
        assert_eq!(summaries, [None, Some(summary)]);
        let nil = "NIL NIL NIL NIL NIL NIL NIL NIL";
        for line in [
            format!("* 1 FETCH (ENVELOPE (NIL \"notice\" {nil}))\r\n"),
            format!("* 2 FETCH (ENVELOPE (NIL \"listed\" {nil}))\r\n"),
            format!(
                "* 2 FETCH (ENVELOPE (NIL \"listed\" {nil}) BODY[] {{{}}}\r\n{text})\r\n",
                text.len()
            ),
        ] {
            assert!(said.contains(&line), "{line}{said}");
        }
    }
}
