//! The answer to Thunderbird's account assistant: Mozilla's `config-v1.1.xml`. It holds no secret and no name.

use std::net::SocketAddr;

/// Settings for any `NAME@localhost`: the user's name is what stands before the `@`.
pub fn autoconfig(smtp: SocketAddr, imap: SocketAddr) -> String {
    let server = |kind: &str, element: &str, at: SocketAddr| {
        let (host, port) = (at.ip(), at.port());
        format!(
            "    <{element} type=\"{kind}\">\n      <hostname>{host}</hostname>\n      <port>{port}</port>\n      \
             <socketType>plain</socketType>\n      <username>%EMAILLOCALPART%</username>\n      \
             <authentication>password-cleartext</authentication>\n    </{element}>\n"
        )
    };
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<clientConfig version=\"1.1\">\n  \
         <emailProvider id=\"localhost\">\n    <domain>localhost</domain>\n    <displayName>Postern</displayName>\n    \
         <displayShortName>Postern</displayShortName>\n{}{}  </emailProvider>\n</clientConfig>\n",
        server("imap", "incomingServer", imap),
        server("smtp", "outgoingServer", smtp)
    )
}
