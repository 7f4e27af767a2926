//! Requests and their answers: one at a time, or several under way.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use keypacks::cell::Kind;
use mailbox::pad::PadFile;
use mailbox::request::{self, Answer, Rate, Request};
use tokio::io::{ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};
use zeroize::Zeroizing;

use super::dial::Established;
use super::pad;
use crate::link::cover::bytes_per_second;
use crate::link::{Head, LinkError, LinkReader, LinkWriter, Outgoing, PadCost, pad_cost};
use crate::net::BoxStream;

/// Stream of what is asked on a link before anything else is.
pub(super) const FIRST_STREAM: u32 = 1;

/// Asks something without a body on a link that nothing else is under way on. News that come in between are passed over:
/// whoever collects looks first.
pub(super) async fn ask_first(link: &mut Established, request: &Request) -> Result<Answer, LinkError> {
    let header = Zeroizing::new(request::encode(request));
    let message = Outgoing {
        kind: Kind::Request,
        stream: FIRST_STREAM,
        header: &header,
        body: &[],
    };
    link.writer.send(&message).await?;
    loop {
        let head = link.reader.next().await?;
        if head.kind == Kind::New {
            continue;
        }
        if head.kind != Kind::Answer || head.stream != FIRST_STREAM || !head.is_bare() {
            return Err(LinkError::Broken);
        }
        return request::decode(&head.header).map_err(|_| LinkError::Broken);
    }
}

/// A link that is asked one thing at a time, or through a [`Line`] several. News that come in between are noted.
pub(super) struct Requests {
    reader: LinkReader<ReadHalf<BoxStream>>,
    writer: LinkWriter<WriteHalf<BoxStream>>,
    timeout: Duration,
    /// What the slowest line that is served carries, or the rate of the link's cover.
    bytes_per_second: usize,
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
            bytes_per_second: BYTES_PER_SECOND,
            next_stream: 1,
            pad: link.pad,
            news: false,
        }
    }

    /// The same on a link that is covered at this rate.
    pub(super) fn covered(mut self, rate: Option<Rate>) -> Self {
        let by_rate = rate.map_or(BYTES_PER_SECOND, bytes_per_second);
        self.bytes_per_second = self.bytes_per_second.min(by_rate);
        self
    }

    /// Asks, and waits for the answer. `body` is empty for requests that have none.
    pub(super) async fn ask(&mut self, request: &Request, body: &[u8]) -> Result<Answer, LinkError> {
        if let (Some(file), Some(room)) = (self.pad.clone(), self.writer.room()) {
            let length = request::encode(request).len() + body.len();
            for is_short in [false, true] {
                let Some(lease) = pad::wanted(room, pad_cost([length]), is_short) else {
                    break;
                };
                pad::asking(&file, &lease)?;
                let answer = self.exchange(&lease, &[]).await?;
                if is_short || !pad::is_refused(&answer) {
                    pad::extend(&file, &answer)?;
                    break;
                }
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
            bytes_per_second,
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
        let transfer = transfer_time_max(body.len(), *bytes_per_second);
        tokio::time::timeout(*timeout + transfer, exchange)
            .await
            .map_err(|_| LinkError::Timeout)?
    }

    /// The same link with several requests under way at once, and what sends them, which ends when the line is dropped.
    pub(super) fn several(&mut self) -> (Line<'_>, impl Future<Output = Result<(), LinkError>> + Send) {
        let (bursts, mut orders) = mpsc::unbounded_channel::<Ordered>();
        let room = self.writer.room();
        let line = Line {
            leasing: self.pad.clone().zip(room).map(|(pad, room)| Leasing::new(pad, room)),
            reader: &mut self.reader,
            bursts,
            timeout: self.timeout,
            bytes_per_second: self.bytes_per_second,
            deadline: Instant::now(),
            next_stream: &mut self.next_stream,
            news: &mut self.news,
            failed: None,
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
                let requests = match requests {
                    None => return Ok(()),
                    Some(Ordered::Burst(requests)) => requests,
                    Some(Ordered::Message(stream, header, body)) => {
                        let message = Outgoing {
                            kind: Kind::Request,
                            stream,
                            header: &header,
                            body: &body,
                        };
                        writer.send(&message).await?;
                        continue;
                    }
                };
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

    /// Whether bodies may be sent while answers are under way: nothing has to be leased for them, and no key ends on the way.
    pub(super) fn may_stream(&self) -> bool {
        self.pad.is_none() && !self.writer.turns()
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

/// What leaves next.
enum Ordered {
    /// Requests without bodies, together.
    Burst(Burst),
    /// One with a body, by itself.
    Message(u32, Zeroizing<Vec<u8>>, Zeroizing<Vec<u8>>),
}

/// What several requests at once take of a pad. What has not been leased yet is asked for, and waited for.
struct Leasing {
    pad: Arc<PadFile>,
    /// Leased, and not taken by a burst.
    room: (u64, u64),
    /// Stream of the request for more.
    asked: Option<u32>,
    held: Vec<Burst>,
    /// The relay has refused what the bursts needed together: from then on each request leaves by itself.
    is_short: bool,
}

impl Leasing {
    fn new(pad: Arc<PadFile>, room: (u64, u64)) -> Self {
        Self {
            pad,
            room,
            asked: None,
            held: Vec::new(),
            is_short: false,
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
    fn fitting(&mut self, burst: Burst, next_stream: &mut u32) -> Result<Option<Burst>, LinkError> {
        if self.asked.is_some() {
            self.held.push(burst);
            return Ok(None);
        }
        let Some(lease) = pad::wanted(self.room, Self::cost(&burst), self.is_short) else {
            return Ok(Some(self.take(burst)));
        };
        self.held.push(burst);
        pad::asking(&self.pad, &lease)?;
        let stream = take_stream(next_stream);
        self.asked = Some(stream);
        Ok(Some(self.take(vec![(stream, Zeroizing::new(request::encode(&lease)))])))
    }

    /// As [`Self::fitting`], of requests that leave together or, near the end of the pad, one by one.
    fn fit(&mut self, burst: Burst, next_stream: &mut u32) -> Result<Vec<Burst>, LinkError> {
        let parts: Vec<Burst> = match self.is_short {
            false => vec![burst],
            true => burst.into_iter().map(|request| vec![request]).collect(),
        };
        let mut fitting = Vec::new();
        for part in parts {
            fitting.extend(self.fitting(part, next_stream)?);
        }
        Ok(fitting)
    }

    /// What may be sent now: of what was held back as much as fits, and the request for the rest.
    fn granted(&mut self, answer: &Answer, next_stream: &mut u32) -> Result<Vec<Burst>, LinkError> {
        if pad::is_refused(answer) && !self.is_short {
            self.is_short = true;
        } else {
            let before = self.pad.lease_end();
            pad::extend(&self.pad, answer)?;
            let end = self.pad.lease_end();
            self.room.0 += end.record - before.record;
            self.room.1 += end.offset - before.offset;
        }
        self.asked = None;
        let mut fitting = Vec::new();
        for burst in std::mem::take(&mut self.held) {
            fitting.extend(self.fit(burst, next_stream)?);
        }
        Ok(fitting)
    }
}

/// A link with several requests under way. How many is up to whoever asks.
pub(super) struct Line<'a> {
    reader: &'a mut LinkReader<ReadHalf<BoxStream>>,
    bursts: mpsc::UnboundedSender<Ordered>,
    /// Under a pad: what holds bursts back until it is leased.
    leasing: Option<Leasing>,
    timeout: Duration,
    bytes_per_second: usize,
    /// When the next answer must have begun.
    deadline: Instant,
    next_stream: &'a mut u32,
    news: &'a mut bool,
    /// Why something could not be ordered, which ends the link.
    failed: Option<LinkError>,
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

    /// Sends a request with a body, behind what was asked before. Not under a pad, where it would have to be leased. Returns
    /// its stream.
    pub(super) fn submit(&mut self, request: &Request, body: Zeroizing<Vec<u8>>) -> u32 {
        let stream = take_stream(self.next_stream);
        self.deadline = Instant::now() + self.timeout + transfer_time_max(body.len(), self.bytes_per_second);
        let header = Zeroizing::new(request::encode(request));
        // It fails when the sending has, which ends the link.
        let _ = self.bursts.send(Ordered::Message(stream, header, body));
        stream
    }

    fn send(&mut self, burst: Burst) {
        let bursts = match &mut self.leasing {
            None => Ok(vec![burst]),
            Some(leasing) => leasing.fit(burst, self.next_stream),
        };
        match bursts {
            Ok(bursts) => {
                for burst in bursts {
                    // It fails when the sending has, which ends the link.
                    let _ = self.bursts.send(Ordered::Burst(burst));
                }
            }
            Err(error) => self.failed = Some(error),
        }
    }

    /// Sends what was held back, if this is the answer that it waited for.
    fn leased(&mut self, stream: u32, answer: &Answer) -> Result<bool, LinkError> {
        let Some(leasing) = self.leasing.as_mut().filter(|leasing| leasing.asked == Some(stream)) else {
            return Ok(false);
        };
        for burst in leasing.granted(answer, self.next_stream)? {
            let _ = self.bursts.send(Ordered::Burst(burst));
        }
        Ok(true)
    }

    /// Waits for the next answer, in whatever order the relay gives them. May be dropped and called again.
    pub(super) async fn next(&mut self) -> Result<Incoming, LinkError> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
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
        let time = self.timeout + transfer_time_max(expected, self.bytes_per_second);
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

/// The slowest line that is still of use.
const BYTES_PER_SECOND: usize = 32 * 1024;

/// What a body may take on a line of so many bytes a second.
fn transfer_time_max(bytes: usize, bytes_per_second: usize) -> Duration {
    Duration::from_secs((bytes / bytes_per_second) as u64)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use keypacks::pad::{Direction, FileHeader, Layout, Made, PAD_MIN};
    use mailbox::disk::{Disk, MemoryDisk};
    use mailbox::request::Refusal;

    use super::*;

    fn pad() -> Arc<PadFile> {
        let layout = Layout::of_size(PAD_MIN).expect("the smallest");
        let header = FileHeader::fresh(Made { name: [1; 16], layout }).encode();
        let disk = MemoryDisk::new();
        disk.create_dir_all(Path::new("/p")).expect("made");
        let file = disk.open(Path::new("/p/pad"), true).expect("made");
        file.set_len(layout.file_bytes()).expect("grown");
        for copy in 0..2 {
            file.write_at(copy * header.len() as u64, &header[..]).expect("written");
        }
        Arc::new(PadFile::open(&disk, Path::new("/p/pad"), Direction::Up).expect("opens"))
    }

    fn requests(burst: &Burst) -> Vec<Request> {
        let decoded = |(_, header): &(u32, Zeroizing<Vec<u8>>)| request::decode(header).ok();
        burst.iter().filter_map(decoded).collect()
    }

    /// At the end of a pad a burst that does not fit whole is no reason to end the link, and burn a key for the next.
    #[test]
    fn near_the_end_of_a_pad_what_was_to_leave_together_leaves_one_by_one() {
        let (mut leasing, mut stream) = (Leasing::new(pad(), (2, 200)), 1);
        let fetches: Burst = (0..8)
            .map(|index| {
                let header = request::encode(&Request::Fetch { index });
                (take_stream(&mut stream), Zeroizing::new(header))
            })
            .collect();
        let lease = |bursts: &[Burst]| match &bursts.iter().flat_map(requests).collect::<Vec<_>>()[..] {
            [.., Request::Lease { records, .. }] => Some(*records),
            _ => None,
        };
        let asked = leasing.fit(fetches, &mut stream).expect("works");
        assert!(
            asked.len() == 1 && lease(&asked) > Some(8),
            "for all of them, and more ahead"
        );
        let refused = Answer::Refused {
            seq: 0,
            refusal: Refusal::Pad,
        };
        let mut left = 0;
        let mut bursts = leasing.granted(&refused, &mut stream).expect("not the end yet");
        let mut end = leasing.pad.lease_end();
        while left < 8 {
            let records = lease(&bursts);
            left += bursts
                .iter()
                .flat_map(requests)
                .filter(|sent| matches!(sent, Request::Fetch { .. }))
                .count();
            assert!(bursts.iter().all(|burst| burst.len() == 1));
            let Some(records) = records else { break };
            assert!(records <= 2, "what one request needs");
            end.record += records;
            end.offset += 40;
            let granted = Answer::Leased {
                records: end.record,
                bytes: end.offset,
            };
            bursts = leasing.granted(&granted, &mut stream).expect("leased");
        }
        assert_eq!(left, 8);
        leasing.room = (1, 32);
        let last: Burst = vec![(99, Zeroizing::new(request::encode(&Request::Fetch { index: 9 })))];
        assert!(leasing.fit(last, &mut stream).is_ok());
        assert!(leasing.granted(&refused, &mut stream).is_err(), "nothing is left");
    }
}
