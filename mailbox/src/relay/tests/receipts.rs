//! Reports of success are mail that whoever sends can have as much of as they pay for: they fill no mailbox beyond its bound.

use super::*;

#[test]
fn a_receipt_fills_no_mailbox_and_a_failure_is_told_to_a_full_one() {
    run(async {
        let mut files = Files::new();
        files.config.deposits_max = 2;
        let store = files.open().await;
        let account = issue(&store).await.account;
        for seq in 1..=4 {
            assert!(matches!(
                submit(&store, account, seq, b"x").await,
                Ok(Answer::Done { .. })
            ));
        }
        let waiting = || store.collect(account, 0, 64).expect("readable").0.len();
        let ids = store.due(NOW, 9).expect("readable");
        assert_eq!(ids.len(), 4);
        for (id, expected) in ids.iter().zip([1, 2, 2]) {
            let report = mail_for(account, 0);
            assert_eq!(store.finish(*id, Outcome::Receipted { report }).await, Ok(()));
            assert_eq!(waiting(), expected);
        }
        assert_eq!(store.due(NOW, 9).expect("readable").len(), 1, "all three are delivered");
        let report = Some(mail_for(account, 0));
        assert_eq!(store.finish(ids[3], Outcome::Failed { report }).await, Ok(()));
        assert_eq!(waiting(), 3);
        assert_eq!(store.audit().expect("readable").findings, Vec::<String>::new());
        store.close().await;
    });
}
