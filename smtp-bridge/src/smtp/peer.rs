//! The stream to a server we deliver to, its replies made harmless before lettre parses them.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use lettre::transport::smtp::client::AsyncTokioStream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Octets of one reply line; RFC 5321 4.5.3.1.5 says 512, lettre judges 1,000 only after the line is in memory.
const LINE_MAX: usize = 1_000;
/// Reply lines of a connection; lettre parses a reply anew for each of them.
const LINES_MAX: usize = 500;

/// A dialled stream in the form lettre takes.
pub(super) struct Peer<S> {
    stream: S,
    screen: Screen,
}

impl<S> Peer<S> {
    pub(super) fn new(stream: S) -> Self {
        Self {
            stream,
            screen: Screen::default(),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Peer<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        read.map(|outcome| outcome.and_then(|()| self.screen.pass(&mut buf.filled_mut()[before..])))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Peer<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, octets: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, octets)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl<S> std::fmt::Debug for Peer<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Peer")
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + Sync> AsyncTokioStream for Peer<S> {
    fn peer_addr(&self) -> io::Result<SocketAddr> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// Rewrites replies, octet for octet, into what lettre 0.11 parses safely and at bounded cost.
///
/// It reads a line into memory before it looks at its length, takes 8-bit text for a broken connection, and panics on
/// an EHLO line of nothing but blanks. Nobody reads these texts, so the offending octets become `?`.
#[derive(Default)]
pub(super) struct Screen {
    /// Octets of the current line so far.
    column: usize,
    lines: usize,
    /// A visible octet stood in the current line's text.
    inked: bool,
    after_cr: bool,
}

/// Where a reply line's text begins: behind three digits and a separator.
const TEXT_COLUMN: usize = 4;

impl Screen {
    /// Rewrites the next octets of the peer, or fails when it says too much.
    pub(super) fn pass(&mut self, octets: &mut [u8]) -> io::Result<()> {
        for octet in octets {
            let ends_line = *octet == b'\n' && self.after_cr;
            let is_visible = octet.is_ascii_graphic();
            let is_harmless = is_visible
                || ends_line
                || (*octet == b'\r' && !self.after_cr)
                || (*octet == b' ' && (self.column < TEXT_COLUMN || self.inked));
            if !is_harmless {
                *octet = b'?';
            }
            self.after_cr = *octet == b'\r';
            self.inked |= self.column >= TEXT_COLUMN && *octet != b'\r';
            self.column += 1;
            if ends_line {
                (self.column, self.inked) = (0, false);
                self.lines += 1;
            }
            if self.column > LINE_MAX || self.lines > LINES_MAX {
                return Err(io::ErrorKind::InvalidData.into());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use lettre::transport::smtp::{extension::ServerInfo, response::Response};
    use proptest::prelude::*;

    use super::*;

    fn screened(text: &[u8]) -> io::Result<String> {
        let mut octets = text.to_vec();
        Screen::default()
            .pass(&mut octets)
            .map(|()| String::from_utf8(octets).expect("only ASCII passes"))
    }

    #[test]
    fn ordinary_replies_pass_unchanged() {
        for text in [
            "220 mx.example ESMTP\r\n",
            "250-a b\r\n250-\r\n250 SIZE 5\r\n",
            "250 \r\n",
            "250\r\n",
        ] {
            assert_eq!(screened(text.as_bytes()).expect("short"), text);
        }
    }

    #[test]
    fn blanks_controls_and_8_bit_text_become_question_marks() {
        for (text, result) in [
            (&b"250-  \r\n250 x\r\n"[..], "250-? \r\n250 x\r\n"),
            (b"250 gr\xfc\xdfe\0\r\n", "250 gr??e?\r\n"),
            (b"250-\n   \r\n", "250-?   \r\n"),
            (b"250-\r\r\r\n", "250-\r?\r\n"),
            (b"250 a\rb\r\n", "250 a\rb\r\n"),
        ] {
            assert_eq!(screened(text).expect("short"), result);
        }
    }

    #[test]
    fn a_peer_that_says_too_much_is_cut_off() {
        assert!(screened(&[b'2'; LINE_MAX]).is_ok());
        assert!(screened(&[b'2'; LINE_MAX + 1]).is_err());
        assert!(screened(&b"250-\r\n".repeat(LINES_MAX)).is_ok());
        assert!(screened(&b"250-\r\n".repeat(LINES_MAX + 1)).is_err());
    }

    proptest! {
        #[test]
        fn no_greeting_makes_lettre_panic(
            lines in proptest::collection::vec("[ \t\r\n?A\u{a0}\u{2003}]{0,4}", 1..5),
        ) {
            let text: String = lines.iter().map(|line| format!("250-{line}\r\n")).collect();
            if let Ok(Ok(response)) = screened(format!("{text}250 x\r\n").as_bytes()).map(|text| text.parse::<Response>()) {
                let _parsed = ServerInfo::from_response(&response);
            }
        }
    }
}
