//! The stream to a server we deliver to, and what it says.
//!
//! Of a reply we keep its code, its enhanced code and what it offers; its text may name an address and is dropped.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::task::{Context, Waker};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::replies::Enhanced;

/// Octets of one reply line, CRLF included; RFC 5321 4.5.3.1.5 says 512.
const LINE_MAX: usize = 1_000;
/// Lines of one reply.
const LINES_MAX: usize = 100;

/// One reply of a server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct PeerReply {
    /// Three digits, the first of them 2 to 5.
    pub(super) code: u16,
    /// The enhanced code that its first line begins with.
    pub(super) enhanced: Option<Enhanced>,
    /// What it offers, if it answers EHLO.
    pub(super) offers: Offers,
}

/// Service extensions that make a difference to us.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(super) struct Offers {
    /// RFC 2920.
    pub(super) pipelining: bool,
    /// RFC 6152.
    pub(super) eight_bit_mime: bool,
    /// RFC 3207.
    pub(super) starttls: bool,
    /// RFC 4954, with the mechanisms that we can.
    pub(super) auth_plain: bool,
    pub(super) auth_login: bool,
}

/// A dialled stream, read reply by reply.
pub(super) struct Peer<S> {
    stream: S,
    input: Box<[u8; LINE_MAX]>,
    start: usize,
    end: usize,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Peer<S> {
    pub(super) fn new(stream: S) -> Self {
        Self {
            stream,
            input: Box::new([0; LINE_MAX]),
            start: 0,
            end: 0,
        }
    }

    /// Sends `octets` whole.
    pub(super) async fn write(&mut self, octets: &[u8]) -> io::Result<()> {
        self.stream.write_all(octets).await?;
        self.stream.flush().await
    }

    /// Reads one reply. [`io::ErrorKind::InvalidData`] is a server that does not speak SMTP, or says too much.
    pub(super) async fn reply(&mut self) -> io::Result<PeerReply> {
        let mut reply = Reading::default();
        loop {
            let line = self.line().await?;
            if let Some(reply) = reply.line(line)? {
                return Ok(reply);
            }
        }
    }

    /// Reads the greeting, and whether the server calls itself `own`, as only we do.
    pub(super) async fn greeting(&mut self, own: &str) -> io::Result<(PeerReply, bool)> {
        let mut reply = Reading::default();
        let mut is_own = None;
        loop {
            let line = self.line().await?;
            let name = line.get(4..).unwrap_or_default().split(|octet| *octet == b' ').next();
            is_own.get_or_insert(name.is_some_and(|name| name.eq_ignore_ascii_case(own.as_bytes())));
            if let Some(reply) = reply.line(line)? {
                return Ok((reply, is_own == Some(true)));
            }
        }
    }

    /// The stream, to begin anew on it. An error if the server said more than we have read: that was in the clear, and
    /// must not be taken for what comes under TLS.
    pub(super) fn into_stream(self) -> io::Result<S> {
        if self.start < self.end {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(self.stream)
    }

    /// Whether the server has said nothing, nor closed, since its latest reply.
    pub(super) async fn is_quiet(&mut self) -> bool {
        if self.start < self.end {
            return false;
        }
        let mut octet = [0];
        tokio::select! {
            biased;
            _ = self.stream.read(&mut octet) => false,
            () = std::future::ready(()) => true,
        }
    }

    /// The next line, without its CRLF.
    async fn line(&mut self) -> io::Result<&[u8]> {
        loop {
            let octets = &self.input[self.start..self.end];
            if let Some(length) = octets.windows(2).position(|pair| pair == b"\r\n") {
                let start = self.start;
                self.start += length + 2;
                return Ok(&self.input[start..start + length]);
            }
            if octets.len() == LINE_MAX {
                return Err(io::ErrorKind::InvalidData.into());
            }
            self.input.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
            let length = self.stream.read(&mut self.input[self.end..]).await?;
            if length == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.end += length;
        }
    }
}

/// A reply of which some lines came (RFC 5321 4.2).
#[derive(Default)]
struct Reading {
    first: Option<(u16, Option<Enhanced>)>,
    offers: Offers,
    lines: usize,
}

impl Reading {
    /// `Reply-line = *( Reply-code "-" [ textstring ] CRLF ) Reply-code [ SP textstring ] CRLF`
    fn line(&mut self, line: &[u8]) -> io::Result<Option<PeerReply>> {
        let nonsense = || io::Error::from(io::ErrorKind::InvalidData);
        let (code, text) = line.split_at_checked(3).ok_or_else(nonsense)?;
        let [b'2'..=b'5', b'0'..=b'9', b'0'..=b'9'] = code else {
            return Err(nonsense());
        };
        let code = code.iter().fold(0, |code, digit| code * 10 + u16::from(digit - b'0'));
        let (is_last, text) = match text {
            [] => (true, text),
            [b' ', text @ ..] => (true, text),
            [b'-', text @ ..] => (false, text),
            _ => return Err(nonsense()),
        };
        let mut words = text.split(|octet| *octet == b' ');
        let word = words.next().unwrap_or_default();
        self.offers.pipelining |= word.eq_ignore_ascii_case(b"PIPELINING");
        self.offers.eight_bit_mime |= word.eq_ignore_ascii_case(b"8BITMIME");
        self.offers.starttls |= word.eq_ignore_ascii_case(b"STARTTLS");
        if word.eq_ignore_ascii_case(b"AUTH") {
            for mechanism in words {
                self.offers.auth_plain |= mechanism.eq_ignore_ascii_case(b"PLAIN");
                self.offers.auth_login |= mechanism.eq_ignore_ascii_case(b"LOGIN");
            }
        }
        let (first, enhanced) = *self
            .first
            .get_or_insert_with(|| (code, str::from_utf8(word).ok().and_then(Enhanced::parse)));
        self.lines += 1;
        if first != code || self.lines > LINES_MAX {
            return Err(nonsense());
        }
        let offers = self.offers;
        Ok(is_last.then_some(PeerReply { code, enhanced, offers }))
    }
}

/// Reads arbitrary octets as the replies of a server, to the first that is none.
pub(super) fn fuzz(octets: &[u8]) {
    let mut peer = Peer::new(tokio::io::join(octets, tokio::io::sink()));
    let all = async {
        let _greeting = peer.greeting("relay.test").await;
        while peer.reply().await.is_ok() {}
    };
    // Octets in memory are always ready, so one poll reads them all.
    let _ended = pin!(all).poll(&mut Context::from_waker(Waker::noop()));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::duplex;

    use super::*;

    /// What the first reply of a server is that sends `pieces` and closes.
    async fn read(pieces: &[&[u8]]) -> io::Result<PeerReply> {
        let (ours, mut theirs) = duplex(64);
        let sending = async {
            for piece in pieces {
                // The reader may have had enough.
                let _ = theirs.write_all(piece).await;
            }
            drop(theirs);
        };
        let mut peer = Peer::new(ours);
        let reading = async {
            let reply = peer.reply().await;
            drop(peer);
            reply
        };
        tokio::join!(reading, sending).0
    }

    fn plain(code: u16) -> PeerReply {
        PeerReply {
            code,
            enhanced: None,
            offers: Offers::default(),
        }
    }

    #[tokio::test]
    async fn replies_of_every_form_are_read() {
        for text in ["250 ok\r\n", "250\r\n", "250 \r\n", "250-\r\n250-  \r\n250 x\r\n"] {
            assert_eq!(read(&[text.as_bytes()]).await.unwrap(), plain(250), "{text:?}");
        }
        assert_eq!(read(&[b"250 gr\xfc\xdfe\0\n\r\t\r\n"]).await.unwrap(), plain(250));
        assert_eq!(
            read(&[b"35", b"4-", b"go\r", b"\n354", b" on\r\n"]).await.unwrap(),
            plain(354)
        );
    }

    #[tokio::test]
    async fn the_first_line_has_the_enhanced_code() {
        let status = |text: &'static str| async { read(&[text.as_bytes()]).await.unwrap().enhanced };
        assert_eq!(status("550 5.1.1 no\r\n").await, Enhanced::parse("5.1.1"));
        assert_eq!(status("550-5.1.1 no\r\n550 really\r\n").await, Enhanced::parse("5.1.1"));
        assert_eq!(status("550-no\r\n550 5.1.1 really\r\n").await, None);
    }

    #[tokio::test]
    async fn offers_are_words_of_their_own() {
        let offers = |text: &'static str| async { read(&[text.as_bytes()]).await.unwrap().offers };
        let both = Offers {
            pipelining: true,
            eight_bit_mime: true,
            ..Offers::default()
        };
        assert_eq!(
            offers("250-mx.example\r\n250-pipelining\r\n250 8BITMIME\r\n").await,
            both
        );
        assert_eq!(
            offers("250-mx.example\r\n250-NOPIPELINING\r\n250 SIZE 8BITMIME\r\n").await,
            Offers::default()
        );
        let secure = Offers {
            starttls: true,
            auth_plain: true,
            auth_login: true,
            ..Offers::default()
        };
        assert_eq!(
            offers("250-mx.example\r\n250-StartTLS\r\n250 AUTH CRAM-MD5 login Plain\r\n").await,
            secure
        );
        assert_eq!(offers("250-x\r\n250 AUTH=PLAIN\r\n").await, Offers::default());
    }

    #[tokio::test]
    async fn a_greeting_of_our_own_is_known() {
        for (text, is_own) in [
            ("220 relay.test ESMTP\r\n", true),
            ("220-RELAY.test\r\n220 more\r\n", true),
            ("220 relay.test.example ESMTP\r\n", false),
            ("220 mx.example relay.test\r\n", false),
            ("220-mx.example\r\n220 relay.test\r\n", false),
            ("220\r\n", false),
        ] {
            let mut peer = Peer::new(tokio::io::join(text.as_bytes(), tokio::io::sink()));
            let (reply, own) = peer.greeting("relay.test").await.unwrap();
            assert_eq!((reply.code, own), (220, is_own), "{text:?}");
        }
    }

    #[tokio::test]
    async fn what_is_said_behind_a_reply_does_not_survive_a_new_beginning() {
        for (text, is_clean) in [
            ("220 go\r\n", true),
            ("220 go\r\n250 injected\r\n", false),
            ("220 go\r\n2", false),
        ] {
            let mut peer = Peer::new(tokio::io::join(text.as_bytes(), tokio::io::sink()));
            peer.reply().await.unwrap();
            assert_eq!(peer.into_stream().is_ok(), is_clean, "{text:?}");
        }
    }

    #[tokio::test]
    async fn what_is_no_reply_is_told_from_a_closed_connection() {
        for text in [
            "garbage\r\n",
            "\u{20ac}\r\n",
            "25\r\n",
            "250x\r\n",
            "650 x\r\n",
            "250-x\r\n251 y\r\n",
        ] {
            let kind = read(&[text.as_bytes()]).await.unwrap_err().kind();
            assert_eq!(kind, io::ErrorKind::InvalidData, "{text:?}");
        }
        for text in ["", "250", "250 ok\n", "250-ok\r\n"] {
            let kind = read(&[text.as_bytes()]).await.unwrap_err().kind();
            assert_eq!(kind, io::ErrorKind::UnexpectedEof, "{text:?}");
        }
    }

    #[tokio::test]
    async fn a_server_that_says_too_much_is_cut_off() {
        let line = |length: usize| format!("250 {}\r\n", "x".repeat(length - 6));
        assert!(read(&[line(LINE_MAX).as_bytes()]).await.is_ok());
        assert!(read(&[line(LINE_MAX + 1).as_bytes()]).await.is_err());
        let lines = |count: usize| "250-\r\n".repeat(count - 1) + "250 x\r\n";
        assert!(read(&[lines(LINES_MAX).as_bytes()]).await.is_ok());
        assert!(read(&[lines(LINES_MAX + 1).as_bytes()]).await.is_err());
    }

    #[tokio::test]
    async fn a_quiet_server_is_told_from_one_that_spoke_or_left() {
        let (ours, mut theirs) = duplex(64);
        let mut peer = Peer::new(ours);
        assert!(peer.is_quiet().await);
        theirs.write_all(b"250 ok\r\n").await.unwrap();
        assert_eq!(peer.reply().await.unwrap(), plain(250));
        assert!(peer.is_quiet().await);
        theirs.write_all(b"250 ok\r\n421 bye\r\n").await.unwrap();
        assert_eq!(peer.reply().await.unwrap(), plain(250));
        assert!(!peer.is_quiet().await);
        assert_eq!(peer.reply().await.unwrap(), plain(421));
        drop(theirs);
        assert!(!peer.is_quiet().await);
    }

    proptest! {
        #[test]
        fn a_reply_does_not_depend_on_how_it_is_cut(
            text in "(250[ -][ -~]{0,20}\r\n){1,4}",
            cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..4),
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime can be made");
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len())).chain([0, text.len()]).collect();
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|pair| &text.as_bytes()[pair[0]..pair[1]]).collect();
            let (whole, cut) = (runtime.block_on(read(&[text.as_bytes()])), runtime.block_on(read(&pieces)));
            prop_assert_eq!(whole.map_err(|error| error.kind()), cut.map_err(|error| error.kind()));
        }
    }
}
