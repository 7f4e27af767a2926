//! Where mail for a domain goes, as the domain name system says. For a relay that delivers by itself; nothing else asks.
//!
//! An error is always something that may pass: no answer, SERVFAIL, nonsense. What the system does say, that there is no
//! such domain for instance, is an answer.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::net::{NetError, runtime::TokioRuntimeProvider};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use hickory_resolver::system_conf::read_system_conf;

use super::{Exchanger, Exchangers, Names, Promise, Resolver};

/// Longest wait for one answer of a server, and for all that a question takes.
const ANSWER_MAX: Duration = Duration::from_secs(4);
const QUESTION_MAX: Duration = Duration::from_secs(15);
/// Longest that an answer is remembered, so that a server that moved is found again.
const REMEMBERED_MAX: Duration = Duration::from_secs(3_600);
/// Exchangers and addresses that are looked at, the best first.
const EXCHANGERS_MAX: usize = 20;
const ADDRESSES_MAX: usize = 8;

/// Asks the servers given, or those of `/etc/resolv.conf` if there are none.
pub struct Dns {
    resolver: TokioResolver,
}

impl Dns {
    /// Opens no socket yet.
    pub fn new(servers: &[SocketAddr]) -> io::Result<Self> {
        let (config, mut options) = if servers.is_empty() {
            let (config, options) = read_system_conf().map_err(io::Error::other)?;
            (
                ResolverConfig::from_name_servers(config.name_servers().to_vec()),
                options,
            )
        } else {
            let servers = servers.iter().map(|server| name_server(*server)).collect();
            (ResolverConfig::from_name_servers(servers), ResolverOpts::default())
        };
        options.timeout = ANSWER_MAX;
        options.positive_max_ttl = Some(REMEMBERED_MAX);
        options.negative_max_ttl = Some(REMEMBERED_MAX);
        // What the relay delivers to is said by the domain's owner alone.
        options.use_hosts_file = ResolveHosts::Never;
        let resolver = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
            .with_options(options)
            .build()
            .map_err(io::Error::other)?;
        Ok(Self { resolver })
    }

    async fn records(&self, name: &str, record_type: RecordType) -> io::Result<Answer> {
        let mut name = Name::from_ascii(name).map_err(io::Error::other)?;
        // No search list: `mx` is a name at the root and nothing else.
        name.set_fqdn(true);
        let answer = tokio::time::timeout(QUESTION_MAX, self.resolver.lookup(name, record_type)).await?;
        match answer {
            Ok(lookup) => Ok(Answer::Records(lookup.answers().to_vec())),
            Err(error) if error.is_nx_domain() => Ok(Answer::NoName),
            Err(error) if error.is_no_records_found() && has_answered(&error) => Ok(Answer::Records(Vec::new())),
            Err(error) => Err(io::Error::other(error)),
        }
    }
}

/// The relay's address, asked of the servers in `/etc/resolv.conf` directly. A program that is linked statically does so: the C
/// library would load parts of itself from the machine that it happens to run on.
pub struct ByServers;

impl Resolver for ByServers {
    fn resolve<'a>(&'a self, target: &'a str) -> Promise<'a, io::Result<Vec<SocketAddr>>> {
        Box::pin(async move {
            if let Ok(address) = target.parse() {
                return Ok(vec![address]);
            }
            let (host, port) = target.rsplit_once(':').ok_or(io::ErrorKind::InvalidInput)?;
            let port = port.parse().map_err(io::Error::other)?;
            // Read anew each time: a machine that sleeps wakes up in another network.
            let addresses = Dns::new(&[])?.addresses(host).await?;
            Ok(addresses.into_iter().map(|ip| SocketAddr::new(ip, port)).collect())
        })
    }
}

enum Answer {
    NoName,
    Records(Vec<Record>),
}

/// No records, and no trouble either.
fn has_answered(error: &NetError) -> bool {
    use hickory_resolver::net::DnsError;
    matches!(error, NetError::Dns(DnsError::NoRecordsFound(none)) if none.response_code == ResponseCode::NoError)
}

fn name_server(at: SocketAddr) -> NameServerConfig {
    let mut server = NameServerConfig::udp_and_tcp(at.ip());
    server.connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].into();
    for connection in &mut server.connections {
        connection.port = at.port();
    }
    server
}

impl Names for Dns {
    fn exchangers<'a>(&'a self, domain: &'a str) -> Promise<'a, io::Result<Exchangers>> {
        Box::pin(async move {
            Ok(match self.records(domain, RecordType::MX).await? {
                Answer::NoName => Exchangers::NoDomain,
                Answer::Records(records) => exchangers(&records),
            })
        })
    }

    fn addresses<'a>(&'a self, host: &'a str) -> Promise<'a, io::Result<Vec<IpAddr>>> {
        Box::pin(async move {
            let (six, four) = tokio::join!(self.records(host, RecordType::AAAA), self.records(host, RecordType::A));
            let found = |answer: &io::Result<Answer>| match answer {
                Ok(Answer::Records(records)) => addresses(records),
                _ => Vec::new(),
            };
            let addresses = [found(&six), found(&four)].concat();
            if addresses.is_empty() {
                // Nothing of one family and no answer about the other is no answer.
                six?;
                four?;
            }
            Ok(addresses)
        })
    }
}

/// What MX records say (RFC 5321 section 5.1, RFC 7505), the best first.
fn exchangers(records: &[Record]) -> Exchangers {
    let mut listed = Vec::new();
    let (mut any, mut refuses) = (false, false);
    for record in records {
        let RData::MX(mx) = &record.data else { continue };
        any = true;
        if mx.exchange.is_root() {
            refuses = true;
        } else if let Some(host) = host_name(&mx.exchange) {
            listed.push(Exchanger {
                preference: mx.preference,
                host,
            });
        }
    }
    if !any {
        return Exchangers::Unlisted;
    }
    if listed.is_empty() && refuses {
        return Exchangers::NoMail;
    }
    listed.sort_by_key(|exchanger| exchanger.preference);
    listed.truncate(EXCHANGERS_MAX);
    Exchangers::Listed(listed)
}

/// In lower case and without the dot at the end. Nothing that could be read as something else than a name.
fn host_name(name: &Name) -> Option<String> {
    let text = name.to_ascii().to_ascii_lowercase();
    let text = text.trim_end_matches('.');
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    let is_name = !text.is_empty() && text.bytes().all(is_plain) && text.parse::<IpAddr>().is_err();
    is_name.then(|| text.to_owned())
}

fn addresses(records: &[Record]) -> Vec<IpAddr> {
    let address = |record: &Record| match &record.data {
        RData::A(a) => Some(IpAddr::V4(a.0)),
        RData::AAAA(aaaa) => Some(IpAddr::V6(aaaa.0)),
        _ => None,
    };
    records.iter().filter_map(address).take(ADDRESSES_MAX).collect()
}

/// Whether an address is one of the public Internet: none of this machine, of a private network, or set aside
/// (RFC 6890). What an outsider may have the relay dial is one of these.
pub fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => is_public_v4(v4),
        IpAddr::V6(v6) => is_public_v6(v6),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    !(a == 0
        || a >= 224
        || address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_documentation()
        || (a == 100 && b & 0xc0 == 64)
        || (a == 192 && b == 0 && c == 0)
        || (a == 192 && b == 88 && c == 99)
        || (a == 198 && b & 0xfe == 18))
}

/// Global unicast without what stands for another address or for none.
fn is_public_v6(address: Ipv6Addr) -> bool {
    let segments = address.segments();
    let embedded = |high: u16, low: u16| {
        let [a, b] = high.to_be_bytes();
        let [c, d] = low.to_be_bytes();
        is_public_v4(Ipv4Addr::new(a, b, c, d))
    };
    match segments {
        // NAT64 (RFC 6052) and 6to4 (RFC 3056).
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => embedded(high, low),
        [0x2002, high, low, ..] => embedded(high, low),
        // Protocol assignments, Teredo among them, and documentation.
        [0x2001, 0..=0x1ff | 0xdb8, ..] | [0x3fff, 0..=0xfff, ..] => false,
        [first, ..] => first & 0xe000 == 0x2000,
    }
}

#[cfg(test)]
mod tests {
    use hickory_resolver::proto::op::Message;
    use hickory_resolver::proto::rr::rdata::{A, AAAA, CNAME, MX, SOA};
    use hickory_resolver::proto::serialize::binary::{BinDecodable, BinEncodable};
    use tokio::net::UdpSocket;

    use super::*;

    fn name(text: &str) -> Name {
        Name::from_ascii(text).unwrap()
    }

    fn mx(preference: u16, host: &str) -> Record {
        record("d.test.", RData::MX(MX::new(preference, name(host))))
    }

    fn record(owner: &str, data: RData) -> Record {
        Record::from_rdata(name(owner), 60, data)
    }

    fn listed(hosts: &[(u16, &str)]) -> Exchangers {
        let exchanger = |(preference, host): &(u16, &str)| Exchanger {
            preference: *preference,
            host: (*host).to_owned(),
        };
        Exchangers::Listed(hosts.iter().map(exchanger).collect())
    }

    #[test]
    fn mx_records_are_read_as_rfc_5321_and_7505_say() {
        for (records, meaning) in [
            (vec![], Exchangers::Unlisted),
            (vec![mx(0, ".")], Exchangers::NoMail),
            (
                vec![mx(20, "B.test."), mx(10, "a.test.")],
                listed(&[(10, "a.test"), (20, "b.test")]),
            ),
            // A null MX beside others is the domain owner's slip.
            (vec![mx(0, "."), mx(10, "a.test.")], listed(&[(10, "a.test")])),
            (
                vec![mx(10, "192.0.2.1."), mx(10, "*.test."), mx(10, "a.test.")],
                listed(&[(10, "a.test")]),
            ),
            (vec![mx(10, "192.0.2.1.")], listed(&[])),
            (
                vec![
                    record("d.test.", RData::CNAME(CNAME(name("e.test.")))),
                    mx(1, "a.test."),
                ],
                listed(&[(1, "a.test")]),
            ),
        ] {
            assert_eq!(exchangers(&records), meaning);
        }
        let many: Vec<Record> = (0..1_000)
            .map(|number| mx(number, &format!("mx{number}.test.")))
            .collect();
        assert!(matches!(exchangers(&many), Exchangers::Listed(hosts) if hosts.len() == EXCHANGERS_MAX));
    }

    #[test]
    fn addresses_of_machines_and_private_networks_are_told_from_public_ones() {
        for public in [
            "8.8.8.8",
            "100.63.0.1",
            "100.128.0.1",
            "172.32.0.1",
            "198.20.0.1",
            "2a00:1450::1",
            "2606:4700::1",
            "::ffff:8.8.8.8",
            "64:ff9b::808:808",
            "2002:808:808::1",
        ] {
            assert!(is_public(public.parse().unwrap()), "{public}");
        }
        for inside in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "100.64.0.1",
            "127.0.0.1",
            "127.200.0.1",
            "169.254.169.254",
            "172.16.0.1",
            "192.0.0.8",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.0.1",
            "198.18.0.1",
            "198.51.100.1",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::7f00:1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "64:ff9b::7f00:1",
            "2001::1",
            "2001:db8::1",
            "2002:7f00:1::",
            "3fff::1",
            "fc00::1",
            "fd12::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ] {
            assert!(!is_public(inside.parse().unwrap()), "{inside}");
        }
    }

    /// A name server on loopback that answers from these records. `broken.test` is SERVFAIL, what is not there NXDOMAIN,
    /// or no records if the name has others; `silent.test` gets nothing.
    async fn server(records: Vec<Record>) -> Dns {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let at = socket.local_addr().unwrap();
        tokio::spawn(async move {
            let mut datagram = [0; 2_048];
            loop {
                let (length, from) = socket.recv_from(&mut datagram).await.unwrap();
                let question = Message::from_bytes(&datagram[..length]).unwrap();
                let query = question.queries[0].clone();
                let mut answer = Message::response(question.metadata.id, question.metadata.op_code);
                answer.metadata.recursion_available = true;
                answer.add_query(query.clone());
                let of_name = |record: &&Record| record.name == *query.name();
                let is_wanted = |record: &&Record| record.record_type() == query.query_type();
                let found: Vec<Record> = records.iter().filter(of_name).filter(is_wanted).cloned().collect();
                if *query.name() == name("silent.test.") {
                    continue;
                }
                if *query.name() == name("broken.test.") {
                    answer.metadata.response_code = ResponseCode::ServFail;
                } else if found.is_empty() {
                    let soa = SOA::new(name("ns.test."), name("h.test."), 1, 60, 60, 60, 60);
                    answer.add_authorities([record("test.", RData::SOA(soa))]);
                    if !records.iter().any(|record| of_name(&record)) {
                        answer.metadata.response_code = ResponseCode::NXDomain;
                    }
                }
                answer.add_answers(found);
                socket.send_to(&answer.to_bytes().unwrap(), from).await.unwrap();
            }
        });
        Dns::new(&[at]).unwrap()
    }

    #[tokio::test]
    async fn answers_are_told_from_trouble() {
        let six: Ipv6Addr = "2a00::1".parse().unwrap();
        let dns = server(vec![
            mx(10, "a.test."),
            record("a.test.", RData::A(A::new(192, 0, 2, 1))),
            record("a.test.", RData::AAAA(AAAA(six))),
            record("null.test.", RData::MX(MX::new(0, Name::root()))),
        ])
        .await;
        assert_eq!(dns.exchangers("d.test").await.unwrap(), listed(&[(10, "a.test")]));
        assert_eq!(dns.exchangers("D.Test.").await.unwrap(), listed(&[(10, "a.test")]));
        assert_eq!(dns.exchangers("null.test").await.unwrap(), Exchangers::NoMail);
        assert_eq!(dns.exchangers("a.test").await.unwrap(), Exchangers::Unlisted);
        assert_eq!(dns.exchangers("none.test").await.unwrap(), Exchangers::NoDomain);
        assert!(dns.exchangers("broken.test").await.is_err());
        let both = [IpAddr::from(six), IpAddr::from([192, 0, 2, 1])];
        assert_eq!(dns.addresses("a.test").await.unwrap(), both);
        assert!(dns.addresses("d.test").await.unwrap().is_empty());
        assert!(dns.addresses("none.test").await.unwrap().is_empty());
        assert!(dns.addresses("broken.test").await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_says_nothing_is_trouble_that_ends() {
        let dns = server(vec![]).await;
        let question = tokio::time::timeout(QUESTION_MAX + Duration::from_secs(1), dns.exchangers("silent.test"));
        assert!(question.await.expect("it ends").is_err());
    }
}
