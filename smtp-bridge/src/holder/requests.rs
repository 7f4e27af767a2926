//! One request, one answer.

use std::time::Duration;

use keypacks::cell::Kind;
use mailbox::request::{self, Answer, Request};
use tokio::io::{ReadHalf, WriteHalf};
use zeroize::Zeroizing;

use super::dial::Established;
use crate::link::{Head, LinkError, LinkReader, LinkWriter, Outgoing};
use crate::net::BoxStream;

/// A link that is asked one thing at a time. News that come in between are noted.
pub(super) struct Requests {
    reader: LinkReader<ReadHalf<BoxStream>>,
    writer: LinkWriter<WriteHalf<BoxStream>>,
    timeout: Duration,
    next_stream: u32,
    /// Whether the relay said that something waits since this was last cleared.
    pub(super) news: bool,
}

impl Requests {
    pub(super) fn new(link: Established, timeout: Duration) -> Self {
        Requests {
            reader: link.reader,
            writer: link.writer,
            timeout,
            next_stream: 1,
            news: false,
        }
    }

    /// Asks, and waits for the answer. `body` is empty for requests that have none.
    pub(super) async fn ask(&mut self, request: &Request, body: &[u8]) -> Result<Answer, LinkError> {
        let (answer, head) = self.ask_for_head(request, body).await?;
        if head.is_bare() {
            Ok(answer)
        } else {
            Err(LinkError::Broken)
        }
    }

    /// Asks for something whose answer has a body of `expected(answer)` bytes; `None` where it has none.
    pub(super) async fn ask_for_body(
        &mut self,
        request: &Request,
        expected: impl FnOnce(&Answer) -> Option<usize>,
    ) -> Result<(Answer, Zeroizing<Vec<u8>>), LinkError> {
        let (answer, head) = self.ask_for_head(request, &[]).await?;
        let Some(expected) = expected(&answer) else {
            return if head.is_bare() {
                Ok((answer, Zeroizing::default()))
            } else {
                Err(LinkError::Broken)
            };
        };
        let body = tokio::time::timeout(
            self.timeout + transfer_time_max(expected),
            self.reader.body(head, expected),
        )
        .await
        .map_err(|_| LinkError::Timeout)??;
        Ok((answer, body))
    }

    /// Waits until the relay has news, which never ends otherwise than by an error or by news.
    pub(super) async fn wait_for_news(&mut self) -> Result<(), LinkError> {
        let head = self.reader.next().await?;
        self.note(&head)
    }

    /// Says goodbye; whether it arrives does not matter.
    pub(super) async fn close(&mut self) {
        let _ = tokio::time::timeout(Duration::from_secs(1), self.writer.close()).await;
    }

    async fn ask_for_head(&mut self, request: &Request, body: &[u8]) -> Result<(Answer, Head), LinkError> {
        let stream = self.next_stream;
        self.next_stream = self.next_stream.wrapping_add(1).max(1);
        let header = Zeroizing::new(request::encode(request));
        let exchange = async {
            self.writer
                .send(&Outgoing {
                    kind: Kind::Request,
                    stream,
                    header: &header,
                    body,
                })
                .await?;
            loop {
                let head = self.reader.next().await?;
                if head.kind == Kind::Answer && head.stream == stream {
                    let answer = request::decode(&head.header).map_err(|_| LinkError::Broken)?;
                    return Ok((answer, head));
                }
                if head.kind != Kind::New {
                    return Err(LinkError::Broken);
                }
                self.news = true;
            }
        };
        tokio::time::timeout(self.timeout + transfer_time_max(body.len()), exchange)
            .await
            .map_err(|_| LinkError::Timeout)?
    }

    fn note(&mut self, head: &Head) -> Result<(), LinkError> {
        if head.kind == Kind::New && head.is_bare() {
            self.news = true;
            Ok(())
        } else {
            Err(LinkError::Broken)
        }
    }
}

/// What a body may take on the slowest line that is still of use: 32 KiB a second.
fn transfer_time_max(bytes: usize) -> Duration {
    Duration::from_secs((bytes / (32 * 1024)) as u64)
}
