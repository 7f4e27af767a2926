//! OpenPGP that GnuPG made: what names the alias alone leaves, what names somebody else is refused.
//!
//! The keys are heron's (`own`) and Alice's (`other`); `certified` is heron's key with Alice's signature on it, `packed` a
//! text that Alice signed inside a compressed packet. Each armour has a Version and a Comment, `canary`.

use super::super::Warning;
use super::*;

macro_rules! armour {
    ($name:literal) => {
        include_str!(concat!("openpgp/", $name, ".asc"))
    };
}

fn refusal(raw: &str) -> Option<Refusal> {
    rebuilt(raw).err()
}

/// A letter with this text below a greeting, inline.
fn inline(armour: &str) -> String {
    format!("Subject: x\r\n\r\nHello,\r\n\r\n{armour}")
}

/// A letter with this file attached.
fn attached(media_type: &str, name: &str, file: &str) -> String {
    format!(
        "Content-Type: multipart/mixed; boundary=x\r\n\r\n--x\r\n\r\nhello\r\n--x\r\nContent-Type: {media_type}\r\n\
        Content-Disposition: attachment; filename=\"{name}\"\r\n\r\n{file}\r\n--x--\r\n"
    )
}

/// The octets inside an armour.
fn binary(armour: &str) -> String {
    let lines = armour.lines().skip_while(|line| !line.is_empty()).skip(1);
    lines
        .take_while(|line| !line.starts_with('=') && !line.starts_with('-'))
        .collect()
}

#[test]
fn what_names_the_alias_alone_leaves_without_the_name_of_the_program() {
    for armour in [armour!("key-own"), armour!("clear-own"), armour!("encrypted")] {
        let letter = rebuilt(inline(armour)).expect("nobody else is named");
        assert_eq!(letter.warnings, [Warning::OpenPgpInText]);
        let text = String::from_utf8(letter.message).expect("ASCII");
        assert!(!text.contains("canary") && !text.contains("GnuPG"), "{text}");
        let kept = armour
            .lines()
            .filter(|line| !line.starts_with("Comment: ") && !line.starts_with("Version: "));
        let kept: Vec<&str> = kept.collect();
        assert!(text.replace("\r\n", "\n").contains(&kept.join("\n")), "{text}");
    }
}

#[test]
fn what_names_another_identity_is_refused() {
    for (armour, expected) in [
        (armour!("key-other"), Refusal::Identity),
        (armour!("key-certified"), Refusal::Identity),
        (armour!("clear-other"), Refusal::Signed),
        (armour!("sig-other"), Refusal::Signed),
        (armour!("packed"), Refusal::Signed),
    ] {
        assert_eq!(refusal(&inline(armour)), Some(expected), "{armour}");
        let file = attached("application/octet-stream", "a.asc", armour);
        assert_eq!(refusal(&file), Some(expected), "{armour}");
        assert_eq!(refusal(&attached("text/plain", "a.txt", armour)), Some(expected));
        let both = inline(&(armour!("encrypted").to_owned() + armour));
        assert_eq!(refusal(&both), Some(expected), "the second armour of a text");
        let escaped = armour.replace("\n-----", "\n- -----");
        assert_eq!(refusal(&inline(&escaped)), Some(expected), "inside another signed text");
        // Binary, by its type and by its name.
        let encoded = |media_type: &str, name: &str| {
            attached(media_type, name, &binary(armour)).replace(
                "Content-Disposition: ",
                "Content-Transfer-Encoding: base64\r\nContent-Disposition: ",
            )
        };
        if !armour.contains("SIGNED MESSAGE") {
            assert_eq!(
                refusal(&encoded("application/pgp-keys", "x")),
                Some(expected),
                "{armour}"
            );
            assert_eq!(
                refusal(&encoded("application/octet-stream", "x.GPG")),
                Some(expected),
                "{armour}"
            );
        }
    }
}

#[test]
fn what_cannot_be_read_is_refused() {
    let own = armour!("key-own");
    for broken in [
        "-----BEGIN PGP MESSAGE-----\r\n\r\nxx\r\n".to_owned(),
        "-----BEGIN PGP SIGNATURE-----\r\n".to_owned(),
        own.replace("\n\n", "\n"),
        own.replace("END PGP PUBLIC", "END PGP PRIVATE"),
        own.lines().take(8).collect::<Vec<_>>().join("\n"),
        own.replacen("mDM", "m", 1),
    ] {
        assert_eq!(refusal(&inline(&broken)), Some(Refusal::Identity), "{broken}");
    }
    let empty = attached("application/pgp-keys", "a", "");
    assert_eq!(refusal(&empty), Some(Refusal::Identity));
    // Not all that has one of the names is OpenPGP.
    assert_eq!(
        refusal(&attached("application/octet-stream", "page.asc", "= Title")),
        None
    );
    assert_eq!(
        refusal(&inline("> -----BEGIN PGP MESSAGE-----\r\n")),
        None,
        "another's, quoted"
    );
}

#[test]
fn files_of_smime_are_refused_by_any_type() {
    for (name, expected) in [
        ("smime.p7s", Refusal::Signed),
        ("a.P7M", Refusal::Encrypted),
        ("me.p12", Refusal::Encrypted),
        ("me.pfx", Refusal::Encrypted),
    ] {
        assert_eq!(
            refusal(&attached("application/octet-stream", name, "x")),
            Some(expected),
            "{name}"
        );
    }
}

#[test]
fn a_signature_passes_when_that_is_asked_for_and_a_key_does_not() {
    let asked = |letter: &str| rebuilt(format!("X-Postern-Pass: signed\r\n{letter}"));
    for armour in [armour!("clear-other"), armour!("packed")] {
        let letter = asked(&inline(armour)).expect("a signature");
        assert_eq!(letter.warnings, [Warning::OpenPgpInText, Warning::SignaturePassed]);
    }
    let detached = asked(&attached("application/pgp-signature", "a.sig", armour!("sig-other"))).expect("a signature");
    assert_eq!(detached.warnings, [Warning::SignaturePassed]);
    let smime = attached("application/pkcs7-signature", "smime.p7s", "x");
    assert!(asked(&smime).is_ok());
    let key = asked(&inline(armour!("key-other")));
    assert_eq!(key.err(), Some(Refusal::Identity));
}

/// PGP/MIME as a mail program makes it, around this text.
fn pgp_mime(part: &str) -> String {
    format!(
        "Subject: x\r\nContent-Type: multipart/signed; micalg=PGP-SHA512; x=CANARY;\r\n protocol=\"application/pgp-signature\";\r\n \
        boundary=\"CANARY1\"\r\n\r\nCANARY preamble\r\n--CANARY1\r\n{part}\r\n--CANARY1\r\n\
        Content-Type: application/pgp-signature; name=\"CANARY.asc\"\r\nContent-Description: CANARY\r\n\r\n{}\r\n--CANARY1--\r\n",
        armour!("sig-other").replace("canary", "CANARY").replace('\n', "\r\n")
    )
}

#[test]
fn a_signed_part_keeps_every_octet_and_all_around_it_is_written_anew() {
    let part = "Content-Type: text/plain; charset=us-ascii; x-odd=1\r\nX-Odd:  yes \r\n\r\n  two  spaces \t \r\n--=_part\r\nFrom me\r\n\r\n";
    assert_eq!(refusal(&pgp_mime(part)), Some(Refusal::Signed));
    let letter = rebuilt(format!("X-Postern-Pass: Signed,\ttraces\r\n{}", pgp_mime(part))).expect("it passes");
    assert_eq!(letter.warnings, [Warning::SignaturePassed]);
    let text = String::from_utf8(letter.message).expect("ASCII");
    let (head, rest) = text.split_once("--=_signed\r\n").expect("a delimiter");
    assert_eq!(
        head,
        "From: heron@relay.test\r\nSubject: x\r\nMIME-Version: 1.0\r\nContent-Type: multipart/signed;\r\n \
        protocol=\"application/pgp-signature\"; micalg=pgp-sha512; boundary=\"=_signed\"\r\n\r\n"
    );
    let (signed, signature) = rest.split_once("\r\n--=_signed\r\n").expect("a delimiter");
    assert_eq!(signed, part);
    assert!(!text.to_lowercase().contains("canary"), "{text}");
    assert_eq!(
        signature.split_once("\r\n\r\n").map(|(head, _)| head),
        Some("Content-Type: application/pgp-signature; name=\"signature.asc\"")
    );
    let octets = |armour: &str| binary(&armour.replace("\r\n", "\n"));
    let armour = signature.split_once("\r\n\r\n").expect("a header").1;
    assert_eq!(octets(armour), octets(armour!("sig-other")));
}

#[test]
fn a_signed_part_that_could_not_stay_as_it_is_is_refused() {
    let asked = |part: &str| rebuilt(format!("X-Postern-Pass: signed\r\n{}", pgp_mime(part))).err();
    assert_eq!(asked("\r\ntext"), None);
    for (part, expected) in [
        ("\r\ncaf\u{e9}", Refusal::Structure),
        ("\r\n--=_signed\r\n", Refusal::Structure),
        ("\r\n--=_signed-\r\n", Refusal::Structure),
        (&("\r\n".to_owned() + &"x".repeat(1_000)), Refusal::Structure),
        ("\r\na\u{c}b", Refusal::Structure),
        (
            "Content-Type: message/rfc822\r\n\r\nFrom: a@b\r\n\r\n",
            Refusal::AttachedMessage,
        ),
        (
            "Content-Type: multipart/signed; boundary=y\r\n\r\n--y\r\n\r\n",
            Refusal::Signed,
        ),
    ] {
        assert_eq!(asked(part), Some(expected), "{part}");
    }
    let with_key = format!(
        "Content-Type: multipart/mixed; boundary=y\r\n\r\n--y\r\n\r\nhello\r\n--y\r\nContent-Type: application/pgp-keys\r\n\r\n{}\r\n--y--",
        armour!("key-other").replace('\n', "\r\n")
    );
    assert_eq!(asked(&with_key), Some(Refusal::Identity), "a key inside");
    let one_part =
        "X-Postern-Pass: signed\r\nContent-Type: multipart/signed; boundary=y\r\n\r\n--y\r\n\r\nx\r\n--y--\r\n";
    assert_eq!(refusal(one_part), Some(Refusal::Structure));
}

#[test]
fn the_switch_knows_two_words() {
    assert_eq!(refusal("X-Postern-Pass: everything\r\n\r\nx\r\n"), Some(Refusal::Pass));
    assert!(!text("X-Postern-Pass: traces signed\r\nSubject: x\r\n\r\ny\r\n").contains("Pass"));
}
