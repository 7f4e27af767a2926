//! Statements about the configuration.

use super::*;

fn minimal() -> RelayConfig {
    let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
    RelayConfig::new("relay.test", "/nowhere".into(), at(1), at(2), at(3))
}

#[test]
fn a_configuration_survives_being_written_and_read() {
    let text = toml::to_string(&minimal()).unwrap();
    let read: RelayConfig = toml::from_str(&text).unwrap();
    assert_eq!(read.retry_s, minimal().retry_s);
    assert_eq!(read.public_link(), "127.0.0.1:1");
}

#[test]
fn an_unknown_key_is_refused() {
    let text = format!("{}\nsmart_host = \"x:25\"\n", toml::to_string(&minimal()).unwrap());
    assert!(toml::from_str::<RelayConfig>(&text).is_err());
}

#[test]
fn every_problem_is_named_by_its_key() {
    let mut config = minimal();
    assert!(config.problems().is_empty());
    config.domain = "Relay.Test".into();
    config.tick_ms = 0;
    config.unconfirmed_max = 1;
    config.memory_mib = MEMORY_MIB_MIN - 1;
    config.mx_key = Some("key.pem".into());
    config.mix = Some(MixConfig {
        hold_s: 1,
        ..MixConfig::default()
    });
    let keys: Vec<&str> = config.problems().iter().map(|problem| problem.key).collect();
    assert_eq!(
        keys,
        [
            "domain",
            "tick_ms",
            "unconfirmed_max",
            "memory_mib",
            "mx_certificate",
            "mix"
        ]
    );
}

#[test]
fn the_own_domain_goes_to_the_own_mx_and_the_rest_to_the_smarthost_if_there_is_one() {
    let mut config = minimal();
    assert_eq!(config.ways("Relay.Test"), [Route::Own("127.0.0.1:2".into())]);
    assert_eq!(config.ways("elsewhere.example"), []);
    config.smarthost = Some("out.example:25".into());
    config.routes.insert("near.example".into(), "near.example:26".into());
    let host = |target: &str| vec![Route::Host(target.into())];
    assert_eq!(config.ways("elsewhere.example"), host("out.example:25"));
    assert_eq!(config.ways("NEAR.example"), host("near.example:26"));
    assert!(!config.asks_names());
}

#[test]
fn mx_records_are_asked_where_that_was_said() {
    let mut config = minimal();
    let exchangers = |domain: &str| vec![Route::Exchangers(domain.into())];
    config.smarthost = Some("out.example:25".into());
    config.routes.insert("far.example".into(), "mx".into());
    assert!(config.asks_names());
    assert_eq!(config.ways("Far.Example"), exchangers("far.example"));
    assert!(matches!(config.ways("else.example")[..], [Route::Host(_)]));
    config.smarthost = None;
    config.delivery = Delivery::Mx;
    assert_eq!(config.ways("Else.example"), exchangers("else.example"));
    assert!(matches!(config.ways("relay.test")[..], [Route::Own(_)]));
    assert!(config.problems().is_empty());
}

#[test]
fn mail_goes_by_another_relay_where_that_was_said() {
    let mut config = minimal();
    let peer = |name: &str| vec![Route::Peer(name.into())];
    config.routes.insert("far.example".into(), "peer:x".into());
    config.smarthost = Some("peer:y-2".into());
    assert_eq!(config.ways("Far.example"), peer("x"));
    assert_eq!(config.ways("else.example"), peer("y-2"));
    assert!(matches!(config.ways("relay.test")[..], [Route::Own(_)]));
    assert!(config.peer_names().into_iter().eq(["x", "y-2"]));
    assert!(config.problems().is_empty());
    config.routes.insert("far.example".into(), "peer:../x".into());
    assert_eq!(config.problems().len(), 1);
}

#[test]
fn what_contradicts_itself_is_refused_by_its_key() {
    for (text, key) in [
        ("smarthost = \"x:25\"\ndelivery = \"mx\"", "delivery"),
        ("[routes]\n\"Far.example\" = \"mx\"", "routes"),
        ("[routes]\n\"far.example\" = \"somewhere\"", "routes"),
        ("[routes]\n\"far.example\" = [\"mx\", \"peer:a\"]", "routes"),
        ("smarthost = []", "smarthost"),
        ("[procure]\npeers = []", "procure"),
        ("[procure]\npeers = [\"A\"]", "procure"),
        (
            "[procure]\npeers = [\"a\"]\nsizes = [{ keys = 15, value = 1 }]",
            "procure",
        ),
        ("[procure]\npeers = [\"a\"]\nhold_s = 86401", "procure"),
        ("[peers.\"x:25\"]\nca_file = \"ca.pem\"", "peers"),
        ("[peers.\"x:25\"]\ntls = \"require\"\nuser = \"me\"", "peers"),
        ("[peers.\"x:25\"]\nuser = \"me\"\npassword_file = \"p\"", "peers"),
        (
            "[peers.\"x.example\"]\ntls = \"require\"\nuser = \"me\"\npassword_file = \"p\"",
            "peers",
        ),
    ] {
        let least = "domain = \"relay.test\"\ndata = \"/nowhere\"\nlink = \"127.0.0.1:1\"\nmx = \"127.0.0.1:2\"";
        let read: RelayConfig = toml::from_str(&format!("{least}\nstatus = \"127.0.0.1:3\"\n{text}")).unwrap();
        let problems = read.problems();
        assert!(!problems.is_empty(), "{text}");
        assert!(problems.iter().all(|problem| problem.key == key), "{text}");
    }
}

#[test]
fn a_host_is_told_from_its_port() {
    for (target, host) in [
        ("a.example:25", Some("a.example")),
        ("192.0.2.1:25", Some("192.0.2.1")),
        ("[2001:db8::1]:25", Some("2001:db8::1")),
        ("a.example", None),
        (":25", None),
        ("a.example:smtp", None),
    ] {
        assert_eq!(host_of(target), host);
    }
}

#[test]
fn a_failed_delivery_is_given_up_after_five_days() {
    let total: u64 = minimal().retry_s.iter().sum();
    assert!((4 * 86_400..6 * 86_400).contains(&total), "{total}");
}
