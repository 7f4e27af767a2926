//! Message-IDs: an identifier that got out by mistake names the user's other mailbox; one that is lost breaks a thread.

use super::*;
use crate::holder_store::{HolderAlias, MessageOf, SENT_REPORTS_MAX};

const ALIAS: &str = "first@relay.test";

fn here(id: &str) -> Result<Option<String>, StoreError> {
    Ok(Some(id.to_owned()))
}

fn named(id: &str) -> Vec<u8> {
    format!("Message-ID: <{id}>\r\n\r\ntext\r\n").into_bytes()
}

#[test]
fn a_sent_message_has_both_its_names_from_the_commit_of_its_row_on() {
    let disk = made(1);
    block_on(async {
        let running = Running::open(&disk, 2).expect("opens");
        running.store.enqueue(order("m", 5)).await.expect("taken in");
        let other = SentNames {
            own: None,
            ..sent("bare")
        };
        let bare = OutboxOrder {
            sent: other,
            ..order("bare", 5)
        };
        running.store.enqueue(bare).await.expect("taken in");
        running.stop().await;
        assert!(!holds(&disk, b"m@laptop") && !holds(&disk, b"m@relay.test"), "sealed");
        let running = Running::open(&disk, 3).expect("opens");
        let store = &running.store;
        assert_eq!(store.message_id_outside(ALIAS, "m@laptop"), here("m@relay.test"));
        assert_eq!(store.message_id_outside(ALIAS, "m@relay.test"), here("m@relay.test"));
        assert_eq!(
            store.message_id_outside(ALIAS, "bare@relay.test"),
            here("bare@relay.test")
        );
        assert_eq!(store.message_id_here(0, "m@relay.test"), here("m@laptop"));
        assert_eq!(
            store.message_id_here(1, "m@relay.test"),
            Ok(None),
            "mail for another alias"
        );
        for unknown in ["bare@relay.test", "m@laptop", "x@relay.test"] {
            assert_eq!(store.message_id_here(0, unknown), Ok(None), "{unknown}");
        }
        running.stop().await;
    });
}

#[test]
fn what_reports_are_to_name_is_known_under_the_alias_that_was_sent_under_and_not_for_ever() {
    let disk = made(1);
    let asked = |id: &str| SentReports {
        envelope_id: Some(id.to_owned()),
        originals: vec![("bob@example.org".to_owned(), "rfc822;robert@old.example".to_owned())],
    };
    block_on(async {
        let running = Running::open(&disk, 2).expect("opens");
        let with_reports = OutboxOrder {
            reports: asked("QQ314159"),
            ..order("m", 5)
        };
        running.store.enqueue(with_reports).await.expect("taken in");
        running.store.enqueue(order("n", 5)).await.expect("taken in");
        running.stop().await;
        assert!(!holds(&disk, b"QQ314159") && !holds(&disk, b"robert@old"), "sealed");
        let running = Running::open(&disk, 3).expect("opens");
        let store = &running.store;
        assert_eq!(store.sent_reports(0, "m@relay.test"), Ok(Some(asked("QQ314159"))));
        for (alias, id) in [
            (1, "m@relay.test"),
            (0, "n@relay.test"),
            (0, "m@laptop"),
            (0, "x@relay.test"),
        ] {
            assert_eq!(store.sent_reports(alias, id), Ok(None), "{alias} {id}");
        }
        let aged = store.run(|stage, write| {
            for number in 0..SENT_REPORTS_MAX {
                stage.keep_names(write, &sent(&format!("later{number}")), u64::MAX)?;
            }
            Ok(())
        });
        aged.await.expect("written");
        assert_eq!(store.sent_reports(0, "m@relay.test"), Ok(None));
        assert_eq!(
            store.message_id_here(0, "m@relay.test"),
            here("m@laptop"),
            "its name stays"
        );
        running.stop().await;
    });
}

#[test]
fn no_name_ties_two_aliases_together() {
    let disk = made(1);
    block_on(async {
        let running = Running::open(&disk, 2).expect("opens");
        let store = &running.store;
        store.enqueue(order("m", 5)).await.expect("taken in");
        for id in ["m@laptop", "m@relay.test"] {
            assert_eq!(store.message_id_outside("second@relay.test", id), Ok(None), "{id}");
        }
        running.stop().await;
    });
}

#[test]
fn what_came_in_keeps_its_name_and_what_a_mail_program_stored_has_none() {
    let disk = made(1);
    block_on(async {
        let running = super::inbox::pending(&disk, 1).await;
        let store = &running.store;
        let stored = store.store_deposits(vec![opened(0, named("in@x"), 9)]).await;
        assert_eq!(stored, Ok(vec![1]));
        let append = async |id: &str| {
            store
                .append(FolderId::INBOX, named(id), Vec::new(), Flags::default(), 7)
                .await
        };
        assert_eq!(append("other@account").await, Ok(2));
        store.enqueue(order("m", 5)).await.expect("taken in");
        assert_eq!(append("m@laptop").await, Ok(3), "a copy of what was sent");
        assert_eq!(store.message_id_outside(ALIAS, "in@x"), here("in@x"));
        assert_eq!(store.expunge(FolderId::INBOX, vec![1]).await, Ok(vec![1]));
        assert_eq!(store.message_id_outside(ALIAS, "in@x"), here("in@x"), "it was there");
        let second = HolderAlias::new(1, "second@relay.test".to_owned());
        store.put_alias(second).await.expect("kept");
        for stranger in ["second@relay.test", "third@relay.test"] {
            let tied = store.message_id_outside(stranger, "in@x");
            assert_eq!(tied, Ok(None), "it came for another alias");
        }
        for known in ["in@x", "m@laptop", "m@relay.test"] {
            assert_eq!(
                store.alias_of_message(known),
                Ok(MessageOf::Alias(ALIAS.to_owned())),
                "{known}"
            );
        }
        assert_eq!(store.alias_of_message("other@account"), Ok(MessageOf::Nobody));
        assert_eq!(store.message_id_outside(ALIAS, "other@account"), Ok(None));
        assert_eq!(store.message_id_outside(ALIAS, "m@laptop"), here("m@relay.test"));
        assert_eq!(store.message_id_outside("second@relay.test", "m@laptop"), Ok(None));
        running.stop().await;
    });
}

#[test]
fn the_oldest_names_go_first_and_a_name_used_again_is_the_later_message() {
    let disk = made(1);
    block_on(async {
        let running = Running::open(&disk, 2).expect("opens");
        let store = &running.store;
        let keep = async |names: SentNames| {
            let kept = store.run(move |stage, write| stage.keep_names(write, &names, 3)).await;
            kept.expect("written");
        };
        let again = SentNames {
            outside: "again@relay.test".to_owned(),
            ..sent("0")
        };
        for names in [sent("0"), sent("1"), again, sent("2")] {
            keep(names).await;
        }
        assert_eq!(store.message_id_here(0, "0@relay.test"), Ok(None), "the oldest of four");
        assert_eq!(store.message_id_outside(ALIAS, "0@laptop"), here("again@relay.test"));
        assert_eq!(store.message_id_here(0, "again@relay.test"), here("0@laptop"));
        for label in ["3", "4", "5"] {
            keep(sent(label)).await;
        }
        for gone in ["0@laptop", "1@laptop", "2@laptop", "again@relay.test"] {
            assert_eq!(store.message_id_outside(ALIAS, gone), Ok(None), "{gone}");
        }
        assert_eq!(store.message_id_outside(ALIAS, "3@laptop"), here("3@relay.test"));
        running.stop().await;
    });
}
