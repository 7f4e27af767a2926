//! Load on servers, and a search for keys that should be gone, from processes of their own.
//!
//! A [`Session`] is a holder without a store: its chain lives in memory and dies with the process, so its packs must be
//! used for nothing else. Start at [`issue`], which gets a pack from a running relay's control socket.

pub mod keysearch;
pub mod load;

use std::path::Path;

use keypacks::cell::Kind;
use keypacks::chain::LinkChain;
use keypacks::link::{self, ClientEntropy, Confirm, PersistedIndex};
use keypacks::{CELL, Secret, deposit, kdf};
use mailbox::request::{self, Answer, Change, Envelope, Operation, Origin, Request};
use smtp_bridge::link::{LinkError, LinkReader, LinkWriter, Outgoing, read_cell};
use smtp_bridge::net::{BoxStream, Host};
use smtp_bridge::{control, names};
use tokio::io::{AsyncWriteExt, ReadHalf, WriteHalf};

/// Why a session failed, for the person who measures.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// A pack that lives in memory only.
pub struct MemoryPack {
    chain: LinkChain,
    relay_public: [u8; 32],
    relay_domain: String,
}

/// Issues a pack through the control socket in the relay's data folder.
pub async fn issue(host: &Host, data: &Path, keys: u64, value: u64) -> Result<MemoryPack, Failure> {
    let order = serde_json::json!({ "command": "issue", "keys": keys, "value": value, "operator": false });
    let issued = control::ask(host, data, &order).await?;
    let field = |name: &str| issued[name].as_str().unwrap_or_default().to_owned();
    let root = Secret::new(bytes(&field("root")).ok_or("unreadable root")?);
    Ok(MemoryPack {
        chain: LinkChain::from_root(&root),
        relay_public: bytes(&field("relay_public")).ok_or("unreadable key")?,
        relay_domain: field("relay_domain"),
    })
}

fn bytes(text: &str) -> Option<[u8; 32]> {
    let mut out = [0; 32];
    for (position, byte) in out.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * position..2 * position + 2)?, 16).ok()?;
    }
    Some(out)
}

/// An index that nothing stored: these packs do not outlive the process.
struct NotStored(u64);

impl PersistedIndex for NotStored {
    fn persisted_index(&self) -> u64 {
        self.0
    }
}

/// An established link that asks one thing at a time.
pub struct Session {
    host: Host,
    reader: LinkReader<ReadHalf<BoxStream>>,
    writer: LinkWriter<WriteHalf<BoxStream>>,
    seq: u64,
    stream: u32,
    alias: String,
    domain: String,
    prices: u32,
}

impl Session {
    /// Links, opens an alias to send from, and learns the price list's version.
    pub async fn open(host: &Host, relay: &str, pack: &mut MemoryPack) -> Result<Self, Failure> {
        let step = pack.chain.advance();
        let index = step.index;
        let mut stream = host.dial(relay).await?;
        let entropy = ClientEntropy {
            ephemeral: host.random(),
            nonce: host.random(),
        };
        let (dialling, cell1) = link::connect(step, &pack.relay_public, entropy);
        stream.write_all(&cell1[..]).await?;
        let mut cell2 = Box::new([0; CELL]);
        read_cell(&mut stream, &mut cell2).await?;
        let confirm = Confirm {
            token: [0; 16],
            answered: 0,
        };
        let hedge = Secret::new(host.random());
        let (cell3, link) = dialling
            .answer(&mut cell2)?
            .confirm(&NotStored(index), confirm, &hedge, host.random())?;
        stream.write_all(&cell3[..]).await?;
        let (read, write) = tokio::io::split(stream);
        let mut session = Session {
            host: host.clone(),
            reader: LinkReader::new(read, link.opener),
            writer: LinkWriter::new(write, link.sealer),
            seq: 0,
            stream: 0,
            alias: String::new(),
            domain: pack.relay_domain.clone(),
            prices: 0,
        };
        if session.reader.next().await?.kind != Kind::Linked {
            return Err("the relay did not answer cell 3".into());
        }
        if let Answer::Prices(list) = session.ask(&Request::Prices, &[]).await? {
            session.prices = list.version;
        }
        let local = names::random(host);
        let change = session.number(Operation::AliasOpen { local: local.clone() });
        session.ask_change(change, &[]).await?;
        session.alias = format!("{local}@{}", session.domain);
        Ok(session)
    }

    /// Submits `message`, the part behind the address fields, to one recipient and waits until it is accepted.
    pub async fn submit(&mut self, recipient: &str, message: &str) -> Result<(), Failure> {
        let envelope = Envelope {
            reverse_path: self.alias.clone(),
            recipients: vec![recipient.to_owned()],
            origin: Origin::Plain,
        };
        let text = format!("From: <{}>\r\nTo: <{recipient}>\r\n{message}", self.alias);
        let mut body = request::payload(&envelope, text.as_bytes());
        let length = body.len();
        let kilobytes = deposit::class_for(length).ok_or("too large")?;
        body.resize(deposit::class_bytes(kilobytes), 0);
        let change = self.number(Operation::Submit {
            prices: self.prices,
            debit_max: u64::MAX,
            recipients: 1,
            kilobytes,
            length: u32::try_from(length)?,
            body: kdf::hash(&[&body]),
        });
        self.ask_change(change, &body).await
    }

    /// The address it sends from.
    pub fn alias(&self) -> &str {
        &self.alias
    }

    /// Waits until the relay ends the link.
    pub async fn hold(&mut self) {
        while self.reader.next().await.is_ok() {}
    }

    fn number(&mut self, operation: Operation) -> Change {
        self.seq += 1;
        Change {
            seq: self.seq,
            id: self.host.random(),
            blind: self.host.random(),
            acknowledged: self.seq - 1,
            operation,
        }
    }

    async fn ask_change(&mut self, change: Change, body: &[u8]) -> Result<(), Failure> {
        match self.ask(&Request::Change(change), body).await? {
            Answer::Done { .. } => Ok(()),
            Answer::Refused { refusal, .. } => Err(format!("refused: {refusal:?}").into()),
            _ => Err("the answer does not fit the request".into()),
        }
    }

    async fn ask(&mut self, request: &Request, body: &[u8]) -> Result<Answer, LinkError> {
        self.stream += 1;
        let header = request::encode(request);
        self.writer
            .send(&Outgoing {
                kind: Kind::Request,
                stream: self.stream,
                header: &header,
                body,
            })
            .await?;
        loop {
            let head = self.reader.next().await?;
            if head.kind == Kind::Answer {
                return request::decode(&head.header).map_err(|_| LinkError::Broken);
            }
        }
    }
}
