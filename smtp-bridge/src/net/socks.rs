//! A connection through a SOCKS5 proxy (RFC 1928) with a name and a password (RFC 1929).
//!
//! The proxy gets the target's name as it is and resolves it: nothing is asked of this machine's resolver. Tor gives
//! streams of different names and passwords circuits of their own.

use std::io;
use std::net::{IpAddr, SocketAddr};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use zeroize::Zeroizing;

/// What a proxy tells one user from another by. Each at most 255 bytes.
pub struct Credentials {
    /// The name.
    pub user: Zeroizing<String>,
    /// The password.
    pub password: Zeroizing<String>,
}

const VERSION: u8 = 5;
const METHOD_PASSWORD: u8 = 2;
const PASSWORD_VERSION: u8 = 1;
const CONNECT: u8 = 1;
const SUCCEEDED: u8 = 0;
const ADDRESS_V4: u8 = 1;
const ADDRESS_NAME: u8 = 3;
const ADDRESS_V6: u8 = 4;

/// Asks the proxy at the other end of `stream` for a connection to `target`, `host:port`. After it `stream` is that
/// connection. The caller bounds the time.
pub async fn connect<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    target: &str,
    credentials: &Credentials,
) -> io::Result<()> {
    let request = request(target)?;
    stream.write_all(&[VERSION, 1, METHOD_PASSWORD]).await?;
    stream.flush().await?;
    let [version, method] = read::<2, S>(stream).await?;
    expect(version == VERSION, "it is no SOCKS5 proxy")?;
    expect(method == METHOD_PASSWORD, "the proxy takes no name and password")?;

    stream.write_all(&login(credentials)?).await?;
    stream.flush().await?;
    let [_, status] = read::<2, S>(stream).await?;
    expect(status == 0, "the proxy refuses the name and password")?;

    stream.write_all(&request).await?;
    stream.flush().await?;
    let [version, reply, _, kind] = read::<4, S>(stream).await?;
    expect(version == VERSION, "the proxy answers in another version")?;
    // Where the proxy connects from is of no interest, but has to be read.
    let length = match kind {
        ADDRESS_V4 => 4,
        ADDRESS_V6 => 16,
        ADDRESS_NAME => usize::from(read::<1, S>(stream).await?[0]),
        _ => return Err(invalid("the proxy answers with an address of an unknown kind")),
    };
    let mut bound = [0; 255 + 2];
    stream.read_exact(&mut bound[..length + 2]).await?;
    expect(reply == SUCCEEDED, failure(reply))
}

/// RFC 1928 section 4.
fn request(target: &str) -> io::Result<Vec<u8>> {
    let mut request = vec![VERSION, CONNECT, 0];
    let port = match target.parse::<SocketAddr>() {
        Ok(address) => {
            match address.ip() {
                IpAddr::V4(v4) => {
                    request.push(ADDRESS_V4);
                    request.extend_from_slice(&v4.octets());
                }
                IpAddr::V6(v6) => {
                    request.push(ADDRESS_V6);
                    request.extend_from_slice(&v6.octets());
                }
            }
            address.port()
        }
        Err(_) => {
            let (name, port) = target
                .rsplit_once(':')
                .ok_or_else(|| invalid("the relay has no port"))?;
            let port = port.parse().map_err(|_| invalid("the relay's port is no number"))?;
            let length = u8::try_from(name.len()).map_err(|_| invalid("the relay's name is too long"))?;
            expect(length > 0, "the relay has no name")?;
            request.push(ADDRESS_NAME);
            request.push(length);
            request.extend_from_slice(name.as_bytes());
            port
        }
    };
    request.extend_from_slice(&port.to_be_bytes());
    Ok(request)
}

/// RFC 1929 section 2.
fn login(credentials: &Credentials) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut login = Zeroizing::new(Vec::with_capacity(3 + 2 * 255));
    login.push(PASSWORD_VERSION);
    for text in [&credentials.user, &credentials.password] {
        let length = u8::try_from(text.len()).map_err(|_| invalid("the proxy's name or password is too long"))?;
        login.push(length);
        login.extend_from_slice(text.as_bytes());
    }
    Ok(login)
}

/// RFC 1928 section 6.
fn failure(reply: u8) -> &'static str {
    match reply {
        2 => "the proxy's rules forbid the connection",
        3 => "the proxy cannot reach the network",
        4 => "the proxy cannot reach the host",
        5 => "the relay refuses the proxy's connection",
        6 => "the proxy's way is too long",
        _ => "the proxy cannot connect",
    }
}

async fn read<const N: usize, S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes).await?;
    Ok(bytes)
}

fn expect(holds: bool, otherwise: &'static str) -> io::Result<()> {
    if holds { Ok(()) } else { Err(invalid(otherwise)) }
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Lets a proxy answer with any octets, for the fuzzers.
pub fn fuzz(bytes: &[u8]) {
    let credentials = Credentials {
        user: Zeroizing::new("user".to_owned()),
        password: Zeroizing::new("password".to_owned()),
    };
    let mut stream = tokio::io::join(bytes, tokio::io::sink());
    let mut connecting = std::pin::pin!(connect(&mut stream, "relay.test:7025", &credentials));
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    // All octets are there: it ends at once, one way or the other.
    assert!(connecting.as_mut().poll(&mut context).is_ready());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credentials() -> Credentials {
        Credentials {
            user: Zeroizing::new("name".to_owned()),
            password: Zeroizing::new("word".to_owned()),
        }
    }

    /// What is said to a proxy that answers so, and how it ends; what follows its answers is left on the stream.
    async fn say(target: &str, answers: &[u8]) -> (Vec<u8>, io::Result<()>, Vec<u8>) {
        let (mut near, mut far) = tokio::io::duplex(1 << 16);
        far.write_all(answers).await.unwrap();
        let ended = connect(&mut near, target, &credentials()).await;
        near.shutdown().await.unwrap();
        let mut said = Vec::new();
        far.read_to_end(&mut said).await.unwrap();
        drop(far);
        let mut rest = Vec::new();
        near.read_to_end(&mut rest).await.unwrap();
        (said, ended, rest)
    }

    #[tokio::test]
    async fn a_name_goes_to_the_proxy_as_it_is() {
        let answers = [&[5, 2, 1, 0, 5, 0, 0, 1, 9, 9, 9, 9, 1, 2][..], b"rest"].concat();
        let (said, ended, rest) = say("relay.onion:7025", &answers).await;
        ended.unwrap();
        let expected = [
            &[5, 1, 2, 1, 4][..],
            b"name\x04word",
            &[5, 1, 0, 3, 11],
            b"relay.onion",
            &[0x1B, 0x71],
        ];
        assert_eq!(said, expected.concat());
        assert_eq!(rest, b"rest");
    }

    #[tokio::test]
    async fn addresses_go_as_addresses() {
        let answers = [5, 2, 1, 0, 5, 0, 0, 3, 2, b'x', b'y', 1, 2];
        for (target, tail) in [
            ("192.0.2.1:80", vec![5, 1, 0, 1, 192, 0, 2, 1, 0, 80]),
            ("[::1]:80", [vec![5, 1, 0, 4], vec![0; 15], vec![1, 0, 80]].concat()),
        ] {
            let (said, ended, rest) = say(target, &answers).await;
            ended.unwrap();
            assert!(said.ends_with(&tail), "{target}");
            assert!(rest.is_empty());
        }
    }

    #[tokio::test]
    async fn a_proxy_that_refuses_is_an_error() {
        let after_login = |reply| vec![5, 2, 1, 0, 5, reply, 0, 1, 0, 0, 0, 0, 0, 0];
        for answers in [
            vec![],
            vec![4, 2],
            vec![5, 0],
            vec![5, 0xFF],
            vec![5, 2, 1, 1],
            after_login(1),
            after_login(5),
            vec![5, 2, 1, 0, 5, 0, 0, 9],
            b"HTTP/1.1 400\r\n\r\n".to_vec(),
        ] {
            let mut stream = tokio::io::join(&answers[..], tokio::io::sink());
            let ended = connect(&mut stream, "relay.test:7025", &credentials()).await;
            assert!(ended.is_err(), "{answers:?}");
        }
        for target in ["relay.test", ":7025", "relay.test:x", &format!("{}:1", "x".repeat(256))] {
            assert!(request(target).is_err(), "{target}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_answer_ends(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..600)) {
            fuzz(&bytes);
            // Behind a good beginning too.
            fuzz(&[&[5, 2, 1, 0, 5, 0, 0][..], &bytes].concat());
        }
    }
}
