//! Requests and their answers: one at a time, or several under way.

use std::future::Future;
use std::pin::{Pin, pin};
use std::time::Duration;

use keypacks::cell::Kind;
use mailbox::request::{self, Answer, Request};
use tokio::io::{ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};
use zeroize::Zeroizing;

use super::dial::Established;
use crate::link::{Head, LinkError, LinkReader, LinkWriter, Outgoing};
use crate::net::BoxStream;

/// A link that is asked one thing at a time, or through a [`Line`] several. News that come in between are noted.
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
        let stream = take_stream(&mut self.next_stream);
        let header = Zeroizing::new(request::encode(request));
        let message = Outgoing {
            kind: Kind::Request,
            stream,
            header: &header,
            body,
        };
        let Requests {
            reader,
            writer,
            timeout,
            news,
            ..
        } = self;
        let exchange = async {
            let mut answer = None;
            {
                // The relay's consent to a next key may be what the sending waits for.
                let mut sending = pin!(writer.send(&message));
                loop {
                    tokio::select! {
                        biased;
                        sent = &mut sending => break sent?,
                        head = reader.next() => take(&head?, stream, &mut answer, news)?,
                    }
                }
            }
            loop {
                if let Some(answer) = answer {
                    return Ok(answer);
                }
                tokio::select! {
                    biased;
                    head = reader.next() => take(&head?, stream, &mut answer, news)?,
                    () = writer.turn_wanted() => writer.turn_now().await?,
                }
            }
        };
        tokio::time::timeout(*timeout + transfer_time_max(body.len()), exchange)
            .await
            .map_err(|_| LinkError::Timeout)?
    }

    /// The same link with several requests under way at once, and what sends them, which ends when the line is dropped.
    pub(super) fn several(&mut self) -> (Line<'_>, impl Future<Output = Result<(), LinkError>> + Send) {
        let (bursts, mut orders) = mpsc::unbounded_channel::<Vec<(u32, Zeroizing<Vec<u8>>)>>();
        let line = Line {
            reader: &mut self.reader,
            bursts,
            timeout: self.timeout,
            deadline: Instant::now(),
            next_stream: &mut self.next_stream,
            news: &mut self.news,
        };
        let writer = &mut self.writer;
        // Beside the reading: the relay reads nothing while it answers.
        let sending = async move {
            loop {
                let requests = tokio::select! {
                    biased;
                    requests = orders.recv() => requests,
                    () = writer.turn_wanted() => {
                        writer.turn_now().await?;
                        continue;
                    }
                };
                let Some(requests) = requests else { return Ok(()) };
                let outgoing = requests.iter().map(|(stream, header)| Outgoing {
                    kind: Kind::Request,
                    stream: *stream,
                    header,
                    body: &[],
                });
                let burst: Vec<_> = outgoing.collect();
                writer.send_burst(&burst).await?;
            }
        };
        (line, sending)
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

    fn note(&mut self, head: &Head) -> Result<(), LinkError> {
        if head.kind == Kind::New && head.is_bare() {
            self.news = true;
            Ok(())
        } else {
            Err(LinkError::Broken)
        }
    }
}

/// A link with several requests under way, none of which has a body. How many is up to whoever asks.
pub(super) struct Line<'a> {
    reader: &'a mut LinkReader<ReadHalf<BoxStream>>,
    bursts: mpsc::UnboundedSender<Vec<(u32, Zeroizing<Vec<u8>>)>>,
    timeout: Duration,
    /// When the next answer must have begun.
    deadline: Instant,
    next_stream: &'a mut u32,
    news: &'a mut bool,
}

/// An answer, its body perhaps still under way.
pub(super) struct Incoming {
    pub(super) stream: u32,
    pub(super) answer: Answer,
    pub(super) head: Head,
}

impl Line<'_> {
    /// Sends requests as one burst. Returns their streams.
    pub(super) fn ask(&mut self, requests: &[Request]) -> Vec<u32> {
        let encoded = |request| (take_stream(self.next_stream), Zeroizing::new(request::encode(request)));
        let burst: Vec<_> = requests.iter().map(encoded).collect();
        let streams = burst.iter().map(|(stream, _)| *stream).collect();
        self.deadline = Instant::now() + self.timeout;
        // It fails when the sending has, which ends the link.
        let _ = self.bursts.send(burst);
        streams
    }

    /// Waits for the next answer, in whatever order the relay gives them. May be dropped and called again.
    pub(super) async fn next(&mut self) -> Result<Incoming, LinkError> {
        loop {
            let head = timeout_at(self.deadline, self.reader.next());
            let head = head.await.map_err(|_| LinkError::Timeout)??;
            match head.kind {
                Kind::Answer => {
                    self.deadline = Instant::now() + self.timeout;
                    let answer = request::decode(&head.header).map_err(|_| LinkError::Broken)?;
                    let stream = head.stream;
                    return Ok(Incoming { stream, answer, head });
                }
                Kind::New if head.is_bare() => *self.news = true,
                _ => return Err(LinkError::Broken),
            }
        }
    }

    /// Sends nothing more, and reads on while what was ordered before still leaves.
    pub(super) async fn end(
        &mut self,
        mut sending: Pin<&mut impl Future<Output = Result<(), LinkError>>>,
    ) -> Result<(), LinkError> {
        // Without anyone to order, the sending ends.
        self.bursts = mpsc::unbounded_channel().0;
        loop {
            let head = tokio::select! {
                biased;
                sent = &mut sending => return sent,
                head = self.reader.next() => head?,
            };
            if head.kind != Kind::New || !head.is_bare() {
                return Err(LinkError::Broken);
            }
            *self.news = true;
        }
    }

    /// Reads the rest of an answer whose body is so long. To be awaited to its end.
    pub(super) async fn body(&mut self, head: Head, expected: usize) -> Result<Zeroizing<Vec<u8>>, LinkError> {
        let time = self.timeout + transfer_time_max(expected);
        let body = tokio::time::timeout(time, self.reader.body(head, expected));
        let body = body.await.map_err(|_| LinkError::Timeout)??;
        self.deadline = Instant::now() + self.timeout;
        Ok(body)
    }
}

/// Takes what comes while the answer on a stream is waited for.
fn take(head: &Head, stream: u32, answer: &mut Option<Answer>, news: &mut bool) -> Result<(), LinkError> {
    match head.kind {
        Kind::Answer if head.stream == stream && head.is_bare() && answer.is_none() => {
            *answer = Some(request::decode(&head.header).map_err(|_| LinkError::Broken)?);
        }
        Kind::New if head.is_bare() => *news = true,
        _ => return Err(LinkError::Broken),
    }
    Ok(())
}

/// Stream numbers count up, and 0 is the link's own.
fn take_stream(next: &mut u32) -> u32 {
    let stream = *next;
    *next = stream.wrapping_add(1).max(1);
    stream
}

/// What a body may take on the slowest line that is still of use: 32 KiB a second.
fn transfer_time_max(bytes: usize) -> Duration {
    Duration::from_secs((bytes / (32 * 1024)) as u64)
}
