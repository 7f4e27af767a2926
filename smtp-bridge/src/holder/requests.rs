//! Requests and their answers: one at a time, or several under way.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use keypacks::cell::Kind;
use mailbox::pad::PadFile;
use mailbox::request::{self, Answer, Request};
use tokio::io::{ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};
use zeroize::Zeroizing;

use super::dial::Established;
use super::pad;
use crate::link::{Head, LinkError, LinkReader, LinkWriter, Outgoing, PadCost, pad_cost};
use crate::net::BoxStream;

/// A link that is asked one thing at a time, or through a [`Line`] several. News that come in between are noted.
pub(super) struct Requests {
    reader: LinkReader<ReadHalf<BoxStream>>,
    writer: LinkWriter<WriteHalf<BoxStream>>,
    timeout: Duration,
    next_stream: u32,
    /// What the link is under, if not under keys.
    pad: Option<Arc<PadFile>>,
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
            pad: link.pad,
            news: false,
        }
    }

    /// Asks, and waits for the answer. `body` is empty for requests that have none.
    pub(super) async fn ask(&mut self, request: &Request, body: &[u8]) -> Result<Answer, LinkError> {
        if let (Some(file), Some(room)) = (self.pad.clone(), self.writer.room()) {
            let length = request::encode(request).len() + body.len();
            if let Some(lease) = pad::wanted(room, pad_cost([length])) {
                pad::asking(&file, &lease);
                let answer = self.exchange(&lease, &[]).await?;
                pad::extend(&file, &answer)?;
            }
        }
        self.exchange(request, body).await
    }

    async fn exchange(&mut self, request: &Request, body: &[u8]) -> Result<Answer, LinkError> {
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
        let (bursts, mut orders) = mpsc::unbounded_channel::<Burst>();
        let room = self.writer.room();
        let line = Line {
            leasing: self.pad.clone().zip(room).map(|(pad, room)| Leasing::new(pad, room)),
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

/// Requests that leave together, encoded, each with its stream.
type Burst = Vec<(u32, Zeroizing<Vec<u8>>)>;

/// What several requests at once take of a pad. What has not been leased yet is asked for, and waited for.
struct Leasing {
    pad: Arc<PadFile>,
    /// Leased, and not taken by a burst.
    room: (u64, u64),
    /// Stream of the request for more.
    asked: Option<u32>,
    held: Vec<Burst>,
}

impl Leasing {
    fn new(pad: Arc<PadFile>, room: (u64, u64)) -> Self {
        Self {
            pad,
            room,
            asked: None,
            held: Vec::new(),
        }
    }

    fn cost(burst: &Burst) -> PadCost {
        pad_cost(burst.iter().map(|(_, header)| header.len()))
    }

    fn take(&mut self, burst: Burst) -> Burst {
        let cost = Self::cost(&burst);
        self.room = (
            self.room.0.saturating_sub(cost.records),
            self.room.1.saturating_sub(cost.bytes),
        );
        burst
    }

    /// The burst to be sent now: this one, the request for more, or none while that is under way.
    fn fitting(&mut self, burst: Burst, next_stream: &mut u32) -> Option<Burst> {
        if self.asked.is_some() {
            self.held.push(burst);
            return None;
        }
        let Some(lease) = pad::wanted(self.room, Self::cost(&burst)) else {
            return Some(self.take(burst));
        };
        self.held.push(burst);
        pad::asking(&self.pad, &lease);
        let stream = take_stream(next_stream);
        self.asked = Some(stream);
        Some(self.take(vec![(stream, Zeroizing::new(request::encode(&lease)))]))
    }

    /// What may be sent now: of what was held back as much as fits, and the request for the rest.
    fn granted(&mut self, answer: &Answer, next_stream: &mut u32) -> Result<Vec<Burst>, LinkError> {
        let before = self.pad.lease_end();
        pad::extend(&self.pad, answer)?;
        let end = self.pad.lease_end();
        self.room.0 += end.record - before.record;
        self.room.1 += end.offset - before.offset;
        self.asked = None;
        let held = std::mem::take(&mut self.held);
        Ok(held
            .into_iter()
            .filter_map(|burst| self.fitting(burst, next_stream))
            .collect())
    }
}

/// A link with several requests under way, none of which has a body. How many is up to whoever asks.
pub(super) struct Line<'a> {
    reader: &'a mut LinkReader<ReadHalf<BoxStream>>,
    bursts: mpsc::UnboundedSender<Burst>,
    /// Under a pad: what holds bursts back until it is leased.
    leasing: Option<Leasing>,
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
        let burst: Burst = requests.iter().map(encoded).collect();
        let streams = burst.iter().map(|(stream, _)| *stream).collect();
        self.deadline = Instant::now() + self.timeout;
        self.send(burst);
        streams
    }

    fn send(&mut self, burst: Burst) {
        let burst = match &mut self.leasing {
            None => Some(burst),
            Some(leasing) => leasing.fitting(burst, self.next_stream),
        };
        // It fails when the sending has, which ends the link.
        let _ = burst.map(|burst| self.bursts.send(burst));
    }

    /// Sends what was held back, if this is the answer that it waited for.
    fn leased(&mut self, stream: u32, answer: &Answer) -> Result<bool, LinkError> {
        let Some(leasing) = self.leasing.as_mut().filter(|leasing| leasing.asked == Some(stream)) else {
            return Ok(false);
        };
        for burst in leasing.granted(answer, self.next_stream)? {
            let _ = self.bursts.send(burst);
        }
        Ok(true)
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
                    if self.leased(stream, &answer)? {
                        continue;
                    }
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
